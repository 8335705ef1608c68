"""The figures of a class by counts, overflow, number and size of lesions, with intervals."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from bonescan_jax.metrics.bootstrap import draw_weights, estimate, estimate_jointly
from bonescan_jax.metrics.detection import MAIN_RULE, Events, events, froc, sensitivity_at
from bonescan_jax.metrics.lesions import at_threshold, sensitivities
from bonescan_jax.metrics.rows import Lesion, ViewRow, patient_numbers, pixel_counts
from bonescan_jax.metrics.segmentation import overlap_scores

# Counts of a view in millions: of BS-80K's whole-body views 0.28 to 0.98, at other sites up to 3.6.
COUNT_BOUNDS = (0.0, 0.3, 0.45, 0.6, 0.9, np.inf)
AREA_BOUNDS = (0, 50, 151, np.inf)  # pixels of a lesion
# Lesions of the class in a patient, as in Liu et al. 2021, PMC8417997.
NUMBER_BOUNDS = (1, 4, 7, np.inf)


def group_figures(
    rows: Sequence[ViewRow], label: int, selected: str, threshold: float | None, seed: int = 0
) -> list[dict[str, Any]]:
    """Figures of a class in each group that holds a lesion of it; those of its patients alone.

    Args:
        rows: of all views.
        label: of the class.
        selected: the predictor of masks and candidates.
        threshold: of a candidate, chosen on the validation split.
        seed: of the resamples of each group's patients.

    Returns:
        Of each group "kind" ("counts", "overflow", "number" or "size"), "group" in words,
        "num_lesions", "sensitivity_at_1" false positive a view and whether it is "reached", and
        "recall" at the threshold; of groups of views also "num_views", pooled "dice" and
        "precision". A lesion's size says nothing of a false positive, so sizes have no precision,
        and all false positives count.
    """
    groups = []
    for kind, name, chosen in _groups_of_views(rows, label):
        if any(lesion.label == label for row in chosen for lesion in row.lesions):
            weights = draw_weights(len({row.patient for row in chosen}), seed=seed)
            found = events(chosen, label, MAIN_RULE)
            counts = pixel_counts(chosen, selected)[:, label - 1]
            pooled = overlap_scores(counts, patient_numbers(chosen), weights.shape[1])["pooled"]
            groups.append(
                {
                    "kind": kind,
                    "group": name,
                    "num_views": len(chosen),
                    "dice": estimate(pooled["dice"], weights).to_json(),
                    **_detection(chosen, found, threshold, weights),
                }
            )
    weights = draw_weights(len({row.patient for row in rows}), seed=seed)
    for low, high in itertools.pairwise(AREA_BOUNDS):
        found = events(rows, label, MAIN_RULE, counted=_of_area(low, high))
        if found.lesions.any():
            figures = _detection(rows, found, threshold, weights)
            figures.pop("precision", None)
            groups.append({"kind": "size", "group": _words(low, high, "pixels"), **figures})
    return groups


def _groups_of_views(
    rows: Sequence[ViewRow], label: int
) -> Iterator[tuple[str, str, list[ViewRow]]]:
    """Kind, name in words and rows of each group, which may be empty."""
    lesions = dict.fromkeys((row.patient for row in rows), 0)
    for row in rows:
        lesions[row.patient] += sum(each.label == label for each in row.lesions)
    for low, high in itertools.pairwise(COUNT_BOUNDS):
        name = f"{low:g} to {high:g} M counts"
        name = f"{low:g} M counts or more" if high == np.inf else name
        counted = [row for row in rows if row.counts is not None]
        yield "counts", name, [row for row in counted if low <= (row.counts or 0) / 1e6 < high]
    for overflow, name in ((False, "no pixel above 255"), (True, "pixels above 255")):
        yield "overflow", name, [row for row in rows if row.overflow == overflow]
    for low, high in itertools.pairwise(NUMBER_BOUNDS):
        chosen = [row for row in rows if low <= lesions[row.patient] < high]
        yield "number", _words(low, high, "lesions"), chosen


def _words(low: float, high: float, what: str) -> str:
    return f"{low:g} {what} or more" if high == np.inf else f"{low:g} to {high - 1:g} {what}"


def _of_area(low: float, high: float) -> Callable[[Lesion], bool]:
    return lambda lesion: low <= lesion.area < high


def _detection(
    rows: Sequence[ViewRow], found: Events, threshold: float | None, weights: np.ndarray
) -> dict[str, Any]:
    scans = np.bincount(patient_numbers(rows), minlength=weights.shape[1])
    (sensitivity,) = estimate_jointly(sensitivities(found, scans, [1.0]), weights)
    figures = {
        "num_lesions": int(found.lesions.sum()),
        "sensitivity_at_1": sensitivity.to_json(),
        "reached": sensitivity_at(froc(found, len(rows)), 1.0).reached,
    }
    if threshold is not None:
        at = at_threshold(found, threshold, weights)
        figures |= {name: at[name] for name in ("precision", "recall")}
    return figures
