"""All figures of a split from its rows, with 95 % intervals over patients; needs no network."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from bonescan_jax.metrics import bootstrap, calibration
from bonescan_jax.metrics.bootstrap import Statistic, draw_weights, estimate
from bonescan_jax.metrics.classification import (
    best_threshold,
    patient_scores,
    precision_recall_curve,
    rates_at,
    roc_auc,
    roc_curve,
)
from bonescan_jax.metrics.detection import (
    FALSE_POSITIVES,
    IOUS,
    RULES,
    Events,
    best_f1_threshold,
    events,
    froc,
    operating_point,
    sensitivity_at,
)
from bonescan_jax.metrics.rows import Lesion, ViewRow, pixel_counts
from bonescan_jax.metrics.segmentation import segmentation_scores
from bonescan_jax.scans import CLASSES

FOREGROUND = tuple(enumerate(CLASSES[1:], start=1))
# The rule by which candidates are calibrated, thresholds chosen and groups compared.
MAIN_RULE = "centre"
# Counts of a view in millions; pixels of a lesion; lesions of the class in a patient (the last as
# in Liu et al. 2021, PMC8417997).
COUNT_BOUNDS = (0.0, 1.0, 2.0, np.inf)
AREA_BOUNDS = (0, 50, 151, np.inf)
NUMBER_BOUNDS = (1, 4, 7, np.inf)


class Thresholds(NamedTuple):
    """What was chosen on the validation split, never on the one that is scored."""

    candidates: dict[str, float | None]  # of each class, best F1 by the main rule
    temperatures: dict[str, float | None]  # of the candidates of each class
    controlled: dict[str, dict[str, Any]]  # of each class, `calibration.RiskControl`
    image: float | None  # best sum of sensitivity and specificity
    patient: float | None


def choose_thresholds(rows: Sequence[ViewRow]) -> Thresholds:
    """Chooses all thresholds on the rows of the validation split."""
    found = {name: events(rows, label, MAIN_RULE) for label, name in FOREGROUND}
    image = _Images(rows)
    patient = patient_scores(image.scores, image.labels, image.patients)
    return Thresholds(
        candidates={name: best_f1_threshold(each) for name, each in found.items()},
        temperatures={
            name: calibration.fit_temperature(each.scores, each.hit) if len(each.scores) else None
            for name, each in found.items()
        },
        controlled={
            name: calibration.control_missed_lesions(
                each.scores, each.hit, each.patients, each.lesions
            )._asdict()
            for name, each in found.items()
        },
        image=best_threshold(image.scores, image.labels),
        patient=best_threshold(patient.scores, patient.labels),
    )


def summarize(
    rows: Sequence[ViewRow], selected: str, thresholds: Thresholds, seed: int = 0
) -> dict[str, Any]:
    """All figures of a split.

    Args:
        rows: of all its views.
        selected: the predictor that candidates and scores come from.
        thresholds: chosen on the validation split.
        seed: of the resamples of patients.

    Returns:
        "image_auc", "images" and "patients"; of masks and boxes also "predictors", "masks",
        "lesions", "calibration" and "groups". A score with an interval is {"value", "low", "high"},
        with a "reason" where there is none.
    """
    weights = draw_weights(len({row.patient for row in rows}), seed=seed)
    images = _Images(rows)
    auc = roc_auc(images.scores, images.labels, clusters=images.patients)
    figures = {
        "num_patients": weights.shape[1],
        "draws": len(weights),
        "image_auc": auc and auc._asdict(),
        "images": _image_scores(images, thresholds.image, weights),
        "patients": _image_scores(images.by_patient(), thresholds.patient, weights),
        "thresholds": thresholds._asdict(),
    }
    if not rows[0].pixels:
        return figures
    found = {
        name: {rule: events(rows, label, rule) for rule in RULES} for label, name in FOREGROUND
    }
    return figures | {
        "predictors": {
            name: segmentation_scores(pixel_counts(rows, name)) for name in rows[0].pixels
        },
        "masks": {
            name: {
                score: _json(statistic, weights)
                for score, statistic in mask_statistics(
                    rows, label, selected, weights.shape[1]
                ).items()
            }
            for label, name in FOREGROUND
        },
        "lesions": {
            name: _lesion_scores(rows, label, found[name], thresholds.candidates[name], weights)
            for label, name in FOREGROUND
        },
        "calibration": {
            name: _calibration(found[name][MAIN_RULE], thresholds.temperatures[name], weights)
            for _, name in FOREGROUND
        },
        "groups": {name: _groups(rows, label, selected) for label, name in FOREGROUND},
    }


def headline_statistics(rows: Sequence[ViewRow], selected: str) -> dict[str, Statistic]:
    """The scores by which two runs are compared, by name; arguments as for `summarize`."""
    images = _Images(rows)
    patients, number = images.by_patient(), len(set(images.patients))
    statistics = {
        f"{what}_auc": bootstrap.auc(each.scores, each.labels, each.patients, number)
        for what, each in (("image", images), ("patient", patients))
    }
    if not rows[0].pixels:
        return statistics
    scans = np.bincount(images.patients, minlength=number)
    for label, name in FOREGROUND:
        masks = mask_statistics(rows, label, selected, number)
        found = events(rows, label, MAIN_RULE)
        statistics |= {f"{score}_{name}": masks[score] for score in ("dice", "iou", "lesion_dice")}
        statistics[f"average_precision_{name}"] = _average_precision(found)
        for rate in FALSE_POSITIVES:
            statistics[f"sensitivity_at_{rate:g}_{name}"] = bootstrap.sensitivity(
                *found.of_candidates(), lesions=found.lesions, scans=scans, rate=rate
            )
    return statistics


# ---- Images and patients -------------------------------------------------------------------------


class _Images:
    """Scores and labels as arrays; `patients` counts from 0."""

    def __init__(self, rows: Sequence[ViewRow]) -> None:
        self.scores = np.array([row.score for row in rows], np.float64)
        self.labels = np.array([row.abnormal for row in rows], bool)
        self.patients = _patients(rows)

    def by_patient(self) -> "_Images":
        """One item for each patient."""
        found = patient_scores(self.scores, self.labels, self.patients)
        images = _Images(())
        images.scores, images.labels = found.scores, found.labels
        images.patients = np.arange(len(found.scores))
        return images


def _patients(rows: Sequence[ViewRow]) -> np.ndarray:
    """(rows,) numbers of patients, from 0 in ascending order of their names."""
    return np.unique([row.patient for row in rows], return_inverse=True)[1]


def _image_scores(images: _Images, threshold: float | None, weights: np.ndarray) -> dict[str, Any]:
    auc = roc_auc(images.scores, images.labels, clusters=images.patients)
    of_patients = (images.patients, weights.shape[1])
    errors = (images.scores - images.labels) ** 2
    scores: dict[str, Any] = {
        "number": len(images.scores),
        "abnormal": int(images.labels.sum()),
        "auc": auc and dict(zip(("value", "low", "high"), auc, strict=True)),
        "brier": _json(bootstrap.mean(errors, *of_patients), weights),
        "reliability": [
            each._asdict() for each in calibration.reliability(images.scores, images.labels)
        ],
        "roc": _points(roc_curve, images),
        "precision_recall": _points(precision_recall_curve, images),
        "threshold": threshold,
    }
    if threshold is not None:
        rates = rates_at(images.scores, images.labels, threshold, images.patients)
        scores |= {name: _of_estimate(rate) for name, rate in rates.items()}
    return scores


def _points(draw: Callable[..., Any], images: _Images) -> dict[str, list[float]] | None:
    """The axes of a curve; its thresholds, of which one may be infinite, are no JSON."""
    curve = draw(images.scores, images.labels)
    if curve is None:
        return None
    axes = curve._asdict()
    del axes["thresholds"]
    return {name: values.tolist() for name, values in axes.items()}


# ---- Masks ---------------------------------------------------------------------------------------


def mask_statistics(
    rows: Sequence[ViewRow], label: int, selected: str, number: int
) -> dict[str, Statistic]:
    """Of pixels, of the selected predictor; and of lesions, those not found counting 0."""
    patients = _patients(rows)
    counts = pixel_counts(rows, selected)[:, label - 1].astype(np.float64)
    found, extra, lost = (np.bincount(patients, each, number) for each in counts.T)
    lesions = [
        (lesion, owner)
        for row, owner in zip(rows, patients, strict=True)
        for lesion in row.lesions
        if lesion.label == label
    ]
    near = [pair for pair in lesions if pair[0].surface_distance is not None]
    return {
        "dice": bootstrap.pooled_dice(counts, patients, number),
        "iou": bootstrap.pooled_iou(counts, patients, number),
        "precision": bootstrap.ratio(found, found + extra, "patients with a prediction"),
        "recall": bootstrap.ratio(found, found + lost, "patients with the class"),
        "lesion_dice": _lesion_mean(lesions, "dice", number),
        "lesion_surface_dice": _lesion_mean(lesions, "surface_dice", number),
        "surface_distance_mm": _lesion_mean(near, "surface_distance", number, is_share=False),
    }


def _lesion_mean(
    lesions: Sequence[tuple[Lesion, int]], name: str, number: int, is_share: bool = True
) -> Statistic:
    values = np.array([getattr(lesion, name) for lesion, _ in lesions], np.float64)
    owners = np.array([owner for _, owner in lesions], np.int64)
    return bootstrap.mean(values, owners, number, is_share)


# ---- Lesions -------------------------------------------------------------------------------------


def _lesion_scores(
    rows: Sequence[ViewRow],
    label: int,
    found: dict[str, Events],
    threshold: float | None,
    weights: np.ndarray,
) -> dict[str, Any] | None:
    """By both rules; None if the split holds no lesion of the class."""
    if not found[MAIN_RULE].lesions.sum():
        return None
    scores: dict[str, Any] = {"num_lesions": int(found[MAIN_RULE].lesions.sum())}
    scans = np.bincount(_patients(rows), minlength=weights.shape[1])
    for rule, each in found.items():
        scores[rule] = {
            "per_view": _sensitivities(each, scans, weights),
            "per_patient": _sensitivities(each, np.ones_like(scans), weights),
            "average_precision": _json(_average_precision(each), weights),
            "curve": _curve(each, int(scans.sum())),
        }
        if threshold is not None:
            scores[rule]["at_threshold"] = {
                "threshold": threshold,
                **operating_point(each, threshold),
            }
    scores["average_precision_at_iou"] = {
        str(iou): _json(_average_precision(events(rows, label, "overlap", iou=iou)), weights)
        for iou in IOUS
    }
    return scores


def _sensitivities(found: Events, scans: np.ndarray, weights: np.ndarray) -> dict[str, Any]:
    """Sensitivity at each rate of false positives, whether the curve gets there, and the mean."""
    curve = froc(found, int(scans.sum()))
    statistics = {
        rate: bootstrap.sensitivity(
            *found.of_candidates(), lesions=found.lesions, scans=scans, rate=rate
        )
        for rate in FALSE_POSITIVES
    }
    return {
        str(rate): _json(statistic, weights) | {"reached": sensitivity_at(curve, rate).reached}
        for rate, statistic in statistics.items()
    } | {"mean": _json(bootstrap.average([*statistics.values()]), weights)}


def _average_precision(found: Events) -> Statistic:
    return bootstrap.average_precision(*found.of_candidates(), lesions=found.lesions)


def _curve(found: Events, num_scans: int) -> dict[str, list[float]]:
    curve = froc(found, num_scans)
    return {name: values.tolist() for name, values in curve._asdict().items()}


# ---- Calibration and groups ----------------------------------------------------------------------


def _calibration(found: Events, temperature: float | None, weights: np.ndarray) -> dict[str, Any]:
    """Of candidates: whether one of score p hits a lesion in a share p of cases."""
    if not len(found.scores):
        return {}
    ways = {"as_predicted": found.scores}
    if temperature is not None:
        ways["with_temperature"] = calibration.apply_temperature(found.scores, temperature)
    number = weights.shape[1]
    result: dict[str, Any] = {"temperature": temperature}
    for way, scores in ways.items():
        errors = (scores - found.hit) ** 2
        error = bootstrap.calibration_error(scores, found.hit, found.patients, number)
        result[way] = {
            "brier": _json(bootstrap.mean(errors, found.patients, number), weights),
            "calibration_error": _json(error, weights),
            "reliability": [each._asdict() for each in calibration.reliability(scores, found.hit)],
        }
    return result


def _groups(rows: Sequence[ViewRow], label: int, selected: str) -> list[dict[str, Any]]:
    """Dice and sensitivity at 1 false positive a view, by counts, overflow, size and number."""
    lesions = dict.fromkeys((row.patient for row in rows), 0)
    for row in rows:
        lesions[row.patient] += sum(each.label == label for each in row.lesions)
    groups = []
    for low, high in itertools.pairwise(COUNT_BOUNDS):
        name = f"{low:g} M counts or more" if high == np.inf else f"{low:g} to {high:g} M counts"
        chosen = [row for row in rows if low <= (row.counts or 0) / 1e6 < high]
        groups.append(_group(name, chosen, label, selected))
    for overflow, name in ((False, "no pixel above 255"), (True, "pixels above 255")):
        chosen = [row for row in rows if row.overflow == overflow]
        groups.append(_group(name, chosen, label, selected))
    for low, high in itertools.pairwise(NUMBER_BOUNDS):
        name = f"{low} lesions or more" if high == np.inf else f"{low} to {high - 1} lesions"
        chosen = [row for row in rows if low <= lesions[row.patient] < high]
        groups.append(_group(name, chosen, label, selected))
    for low, high in itertools.pairwise(AREA_BOUNDS):
        name = f"{low} pixels or more" if high == np.inf else f"{low} to {high - 1} pixels"
        area = lambda each, low=low, high=high: low <= each.area < high  # noqa: E731
        found = events(rows, label, MAIN_RULE, counted=area)
        groups.append({"group": name, **_sensitivity_of(found, len(rows))})
    return [group for group in groups if group["num_lesions"]]


def _group(name: str, rows: list[ViewRow], label: int, selected: str) -> dict[str, Any]:
    if not rows:
        return {"group": name, "num_lesions": 0}
    dice = segmentation_scores(pixel_counts(rows, selected))[CLASSES[label]]["dice_pooled"]
    scores = _sensitivity_of(events(rows, label, MAIN_RULE), len(rows))
    return {"group": name, "num_views": len(rows), "dice": dice, **scores}


def _sensitivity_of(found: Events, num_views: int) -> dict[str, Any]:
    number = int(found.lesions.sum())
    if not number:
        return {"num_lesions": 0}
    at = sensitivity_at(froc(found, num_views), 1.0)
    return {"num_lesions": number, "sensitivity_at_1": at.sensitivity, "reached": at.reached}


# ---- JSON ----------------------------------------------------------------------------------------


def _json(statistic: Statistic, weights: np.ndarray) -> dict[str, Any]:
    return _of_estimate(estimate(statistic, weights))


def _of_estimate(found: bootstrap.Estimate) -> dict[str, Any]:
    values = found._asdict()
    return values if found.reason else {name: values[name] for name in ("value", "low", "high")}
