"""All figures of a split from its rows, with 95 % intervals over patients; needs no network."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from bonescan_jax.metrics import weighted
from bonescan_jax.metrics.bootstrap import Statistic, draw_weights
from bonescan_jax.metrics.calibration import control_missed_lesions, fit_temperature
from bonescan_jax.metrics.classification import best_threshold
from bonescan_jax.metrics.detection import (
    FALSE_POSITIVES,
    MAIN_RULE,
    RULES,
    best_f1_threshold,
    events,
)
from bonescan_jax.metrics.groups import group_figures
from bonescan_jax.metrics.images import image_figures, images_of
from bonescan_jax.metrics.lesions import average_precision, lesion_figures, sensitivities
from bonescan_jax.metrics.masks import images_with_class, lesion_scores, mask_figures
from bonescan_jax.metrics.reliability import calibration_figures
from bonescan_jax.metrics.rows import FOREGROUND, ViewRow, pixel_counts
from bonescan_jax.metrics.segmentation import overlap_scores


class Thresholds(NamedTuple):
    """What was chosen on the validation split, never on the one that is scored."""

    candidates: dict[str, float | None]  # of each class, best F1 by the main rule
    temperatures: dict[str, float | None]  # of the candidates of each class
    controlled: dict[str, dict[str, Any]]  # of each class, `calibration.RiskControl`
    image: float | None  # best sum of sensitivity and specificity
    patient: float | None
    image_temperature: float | None
    patient_temperature: float | None


def choose_thresholds(rows: Sequence[ViewRow]) -> Thresholds:
    """Chooses all thresholds and temperatures on the rows of the validation split."""
    found = {name: events(rows, label, MAIN_RULE) for label, name in FOREGROUND}
    images = images_of(rows)
    patients = images.by_patient()
    return Thresholds(
        candidates={name: best_f1_threshold(each) for name, each in found.items()},
        temperatures={name: fit_temperature(each.scores, each.hit) for name, each in found.items()},
        controlled={
            name: control_missed_lesions(
                each.scores, each.hit, each.patients, each.lesions
            )._asdict()
            for name, each in found.items()
        },
        image=best_threshold(images.scores, images.labels),
        patient=best_threshold(patients.scores, patients.labels),
        image_temperature=fit_temperature(images.scores, images.labels),
        patient_temperature=fit_temperature(patients.scores, patients.labels),
    )


def summarize(
    rows: Sequence[ViewRow], selected: str, thresholds: Thresholds, seed: int = 0
) -> dict[str, Any]:
    """All figures of a split; docs/evaluation.md says what is where.

    Args:
        rows: of all its views.
        selected: the predictor that candidates and scores come from.
        thresholds: chosen on the validation split.
        seed: of the resamples of patients.

    Returns:
        "images" and "patients"; of masks and boxes also "masks", "lesions",
        "calibration" and "groups". A score with an interval is {"value", "low", "high"}, with a
        "reason" where there is none.
    """
    weights = draw_weights(len({row.patient for row in rows}), seed=seed)
    images = images_of(rows)
    figures = {
        "selected": selected,
        "num_patients": weights.shape[1],
        "draws": len(weights),
        "images": image_figures(images, thresholds.image, thresholds.image_temperature, weights),
        "patients": image_figures(
            images.by_patient(), thresholds.patient, thresholds.patient_temperature, weights
        ),
        "thresholds": thresholds._asdict(),
    }
    if rows[0].pixels:
        figures |= _of_hot_spots(rows, selected, thresholds, weights, seed)
    return figures


def _of_hot_spots(
    rows: Sequence[ViewRow],
    selected: str,
    thresholds: Thresholds,
    weights: np.ndarray,
    seed: int,
) -> dict[str, Any]:
    figures: dict[str, Any] = {
        "images_with_class": images_with_class(rows),
        "masks": mask_figures(rows, selected, weights),
        "lesions": {},
        "calibration": {},
        "groups": {},
    }
    for label, name in FOREGROUND:
        threshold, temperature = thresholds.candidates[name], thresholds.temperatures[name]
        found = {rule: events(rows, label, rule) for rule in RULES}
        figures["lesions"][name] = lesion_figures(rows, label, found, threshold, weights)
        main = found[MAIN_RULE]
        figures["calibration"][name] = calibration_figures(
            main.scores, main.hit, main.patients, temperature, weights
        )
        figures["groups"][name] = group_figures(rows, label, selected, threshold, seed)
    return figures


def headline_statistics(rows: Sequence[ViewRow], selected: str) -> dict[str, Statistic]:
    """The scores by which two runs are compared, by name; arguments as for `summarize`."""
    images = images_of(rows)
    patients, number = images.by_patient(), len(set(images.patients))
    statistics: dict[str, Statistic] = {
        "image_auc": weighted.auc(*images, number),
        "patient_auc": weighted.auc(*patients, number),
    }
    if not rows[0].pixels:
        return statistics
    scans, counts = np.bincount(images.patients), pixel_counts(rows, selected)
    for label, name in FOREGROUND:
        pooled = overlap_scores(counts[:, label - 1], images.patients, number)["pooled"]
        found = events(rows, label, MAIN_RULE)
        statistics |= {f"{score}_{name}": pooled[score] for score in ("dice", "iou")}
        statistics[f"lesion_dice_{name}"] = lesion_scores(rows, label, number)["dice"]
        statistics[f"average_precision_{name}"] = average_precision(found)
        for rate in FALSE_POSITIVES:
            (at_rate,) = sensitivities(found, scans, [rate]).statistics
            statistics[f"sensitivity_at_{rate:g}_{name}"] = at_rate
    return statistics


def headline(rows: Sequence[ViewRow], selected: str) -> dict[str, float | None]:
    """The few figures that runs are ranked by, without intervals; arguments as for `summarize`.

    Returns:
        "image_auc" and "patient_auc"; of masks and boxes by class also "dice_…" over all pixels,
        "sensitivity_at_1_…" false positive a view, and "average_precision_…" by centres. None
        where a figure is undefined.
    """
    kinds = ("image_auc", "patient_auc", "dice_", "sensitivity_at_1_", "average_precision_")
    return {
        name: None if np.isnan(value) else value
        for name, statistic in headline_statistics(rows, selected).items()
        if name.startswith(kinds)
        for value in [statistic.value()]
    }
