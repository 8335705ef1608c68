"""How well masks were drawn, from rows: every predictor's pixels, and lesion by lesion."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from bonescan_jax.metrics import weighted
from bonescan_jax.metrics.bootstrap import estimate_jointly
from bonescan_jax.metrics.rows import FOREGROUND, ViewRow, patient_numbers, pixel_counts
from bonescan_jax.metrics.segmentation import overlap_scores
from bonescan_jax.metrics.weighted import Ratio

LESIONS = "lesions"  # the convention of what is averaged over lesions, not over pixels


def mask_figures(
    rows: Sequence[ViewRow], selected: str, weights: np.ndarray
) -> dict[str, dict[str, Any]]:
    """Scores of the masks of every predictor, and of the lesions as the selected one drew them.

    Args:
        rows: of all views, each with the pixels of the same predictors.
        selected: the predictor that lesions were drawn by.
        weights: (draws, patients) resamples.

    Returns:
        By predictor, class, convention (`segmentation.CONVENTIONS`, and "lesions" of the selected)
        and score {"value", "low", "high"}.
    """
    patients, number = patient_numbers(rows), weights.shape[1]
    ratios: dict[tuple[str, str, str, str], Ratio] = {}
    for predictor in rows[0].pixels:
        counts = pixel_counts(rows, predictor)
        for label, name in FOREGROUND:
            found = overlap_scores(counts[:, label - 1], patients, number)
            if predictor == selected:
                found[LESIONS] = lesion_scores(rows, label, number)
            for convention, scores in found.items():
                for score, ratio in scores.items():
                    ratios[predictor, name, convention, score] = ratio
    figures: dict[str, dict[str, Any]] = {}
    estimates = estimate_jointly(weighted.together([*ratios.values()]), weights)
    for (*path, score), each in zip(ratios, estimates, strict=True):
        place = figures
        for part in path:
            place = place.setdefault(part, {})
        place[score] = each.to_json()
    return figures


def lesion_scores(rows: Sequence[ViewRow], label: int, num_patients: int) -> dict[str, Ratio]:
    """Means over the true lesions of a class: of Dice, surface Dice and distance in mm.

    Those that no predicted hot spot overlaps have a Dice and a surface Dice of 0, and no distance.

    Args:
        rows: of all views.
        label: of the class.
        num_patients: how many there are.
    """
    lesions = [
        (lesion, patient)
        for row, patient in zip(rows, patient_numbers(rows), strict=True)
        for lesion in row.lesions
        if lesion.label == label
    ]
    overlapped = [pair for pair in lesions if pair[0].surface_distance is not None]

    def mean(name: str, pairs: list[Any], is_share: bool = True) -> Ratio:
        values = np.array([getattr(lesion, name) for lesion, _ in pairs], np.float64)
        owners = np.array([patient for _, patient in pairs], np.int64)
        return weighted.mean(values, owners, num_patients, is_share)

    return {
        "dice": mean("dice", lesions),
        "surface_dice": mean("surface_dice", lesions),
        "surface_distance_mm": mean("surface_distance", overlapped, is_share=False),
    }


def images_with_class(rows: Sequence[ViewRow]) -> dict[str, int]:
    """How many views hold each class, whatever was predicted."""
    counts = pixel_counts(rows, next(iter(rows[0].pixels)))
    holds = counts[..., [0, 2]].any(axis=-1).sum(axis=0)
    return {name: int(holds[label - 1]) for label, name in FOREGROUND}
