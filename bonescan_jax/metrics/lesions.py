"""Which lesions are found at what price: figures with intervals, from rows."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bonescan_jax.metrics import weighted
from bonescan_jax.metrics.bootstrap import Joint, Statistic, estimate, estimate_jointly
from bonescan_jax.metrics.detection import (
    FALSE_POSITIVES,
    IOUS,
    MAIN_RULE,
    Events,
    events,
    froc,
    operating_point,
    sensitivity_at,
)
from bonescan_jax.metrics.rows import ViewRow, patient_numbers


def lesion_figures(
    rows: Sequence[ViewRow],
    label: int,
    found: Mapping[str, Events],
    threshold: float | None,
    weights: np.ndarray,
) -> dict[str, Any] | None:
    """Sensitivities, average precision, FROC curve and operating point of a class.

    Args:
        rows: of all views.
        label: of the class.
        found: the events by each of `detection.RULES`.
        threshold: of a candidate, chosen on the validation split.
        weights: (draws, patients) resamples.

    Returns:
        "num_lesions", by name of the rule its figures, and "average_precision_at_iou"; None if
        there is no lesion of the class.
    """
    number = int(found[MAIN_RULE].lesions.sum())
    if not number:
        return None
    scans = np.bincount(patient_numbers(rows), minlength=weights.shape[1])
    figures: dict[str, Any] = {"num_lesions": number}
    for rule, each in found.items():
        figures[rule] = {
            "per_view": _sensitivities(each, scans, weights),
            "per_patient": _sensitivities(each, np.ones_like(scans), weights),
            "average_precision": estimate(average_precision(each), weights).to_json(),
            "curve": _curve(each, int(scans.sum())),
        }
        if threshold is not None:
            figures[rule]["at_threshold"] = at_threshold(each, threshold, weights)
    at_iou = {iou: events(rows, label, "overlap", iou=iou) for iou in IOUS}
    figures["average_precision_at_iou"] = {
        str(iou): estimate(average_precision(each), weights).to_json()
        for iou, each in at_iou.items()
    }
    return figures


def sensitivities(found: Events, scans: np.ndarray, rates: Sequence[float]) -> Joint:
    """`weighted.sensitivities` of events; `scans` (patients,) is what rates count by."""
    return weighted.sensitivities(
        *found.of_candidates(), lesions=found.lesions, scans=scans, rates=rates
    )


def average_precision(found: Events) -> Statistic:
    """`weighted.average_precision` of events."""
    return weighted.average_precision(*found.of_candidates(), lesions=found.lesions)


def at_threshold(found: Events, threshold: float, weights: np.ndarray) -> dict[str, Any]:
    """Precision, recall and F1 at a threshold, and the numbers that they are made from."""
    ratios = operating_point(found, threshold)
    estimates = estimate_jointly(weighted.together([*ratios.values()]), weights)
    hits, kept = (
        int(part.sum()) for part in (ratios["recall"].numerator, ratios["precision"].denominator)
    )
    return {
        "threshold": threshold,
        "found": hits,
        "missed": int(found.lesions.sum()) - hits,
        "false_positives": kept - hits,
        **{name: each.to_json() for name, each in zip(ratios, estimates, strict=True)},
    }


def _sensitivities(found: Events, scans: np.ndarray, weights: np.ndarray) -> dict[str, Any]:
    """Sensitivity at each rate of false positives, whether the curve gets there, and the mean."""
    curve = froc(found, int(scans.sum()))
    joint = weighted.with_average(sensitivities(found, scans, FALSE_POSITIVES))
    *at_rates, mean = (each.to_json() for each in estimate_jointly(joint, weights))
    return {
        str(rate): each | {"reached": sensitivity_at(curve, rate).reached}
        for rate, each in zip(FALSE_POSITIVES, at_rates, strict=True)
    } | {"mean": mean}


def _curve(found: Events, num_scans: int) -> dict[str, list[float]]:
    curve = froc(found, num_scans)
    return {name: values.tolist() for name, values in curve._asdict().items()}
