"""Whether there is anything abnormal, by view and by patient: figures with intervals, from rows."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from bonescan_jax.metrics.classification import (
    patient_scores,
    precision_recall_curve,
    rates_at,
    roc_auc,
    roc_curve,
)
from bonescan_jax.metrics.reliability import calibration_figures
from bonescan_jax.metrics.rows import ViewRow, patient_numbers


class Images(NamedTuple):
    """A score and a label for each view, or for each patient."""

    scores: np.ndarray  # (items,) probability of something abnormal
    labels: np.ndarray  # (items,) bool
    patients: np.ndarray  # (items,) number of the patient, from 0

    def by_patient(self) -> "Images":
        """One item for each patient: the greatest score, abnormal if one view is."""
        found = patient_scores(self.scores, self.labels, self.patients)
        return Images(found.scores, found.labels, np.arange(len(found.scores)))


def images_of(rows: Sequence[ViewRow]) -> Images:
    """The views of rows."""
    scores = np.array([row.score for row in rows], np.float64)
    return Images(scores, np.array([row.abnormal for row in rows], bool), patient_numbers(rows))


def image_figures(
    images: Images, threshold: float | None, temperature: float | None, weights: np.ndarray
) -> dict[str, Any]:
    """AUC, curves and calibration, and rates at the threshold if there is one.

    Args:
        images: views or patients.
        threshold: chosen on the validation split.
        temperature: fitted on the validation split.
        weights: (draws, patients) resamples.
    """
    auc = roc_auc(images.scores, images.labels, clusters=images.patients)
    figures: dict[str, Any] = {
        "number": len(images.scores),
        "abnormal": int(images.labels.sum()),
        "auc": auc and dict(zip(("value", "low", "high"), auc, strict=True)),
        "calibration": calibration_figures(*images, temperature, weights),
        "roc": _points(roc_curve, images),
        "precision_recall": _points(precision_recall_curve, images),
        "threshold": threshold,
    }
    if threshold is not None:
        rates = rates_at(images.scores, images.labels, threshold, images.patients)
        figures |= {name: rate.to_json() for name, rate in rates.items()}
    return figures


def _points(draw: Callable[..., Any], images: Images) -> dict[str, list[float]] | None:
    """The axes of a curve; its thresholds, of which one may be infinite, are no JSON."""
    curve = draw(images.scores, images.labels)
    if curve is None:
        return None
    axes = curve._asdict()
    del axes["thresholds"]
    return {name: values.tolist() for name, values in axes.items()}
