"""Dice, IoU, precision and recall of masks from overlap counts, averaged in every usual way."""

import numpy as np

from bonescan_jax.metrics.weighted import Ratio, by_patient, ratio
from bonescan_jax.scans import CLASSES

# Of (true positive, false positive, false negative) pixels: what is divided by what.
SCORES = {
    "dice": ((2, 0, 0), (2, 1, 1)),
    "iou": ((1, 0, 0), (1, 1, 1)),
    "precision": ((1, 0, 0), (1, 1, 0)),
    "recall": ((1, 0, 0), (1, 0, 1)),
}
CONVENTIONS = ("pooled", "per_image", "per_image_with_false_positives", "per_image_with_empty")
# What patients are called that hold the class, and those where it was predicted.
HOLDING, PREDICTED = "patients with the class", "patients with a prediction"


def binary_overlap(predicted: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Count the pixels two sets of regions share and do not share, image by image.

    Args:
        predicted: (B, H, W) bool, where the class was predicted.
        true: (B, H, W) bool, where the class is.

    Returns:
        (B, 3) int64, pixels: true positives, false positives, false negatives.

    Raises:
        ValueError: the two shapes differ.
    """
    if predicted.shape != true.shape:
        raise ValueError(f"prediction has shape {predicted.shape}, mask {true.shape}")
    pairs = (predicted & true, predicted & ~true, ~predicted & true)
    return np.stack([np.count_nonzero(pixels, axis=(1, 2)) for pixels in pairs], axis=-1)


def overlap_scores(
    counts: np.ndarray, patients: np.ndarray, num_patients: int
) -> dict[str, dict[str, Ratio]]:
    """Scores of the masks of one class, in each of the conventions that papers follow.

    With TP, FP and FN pixels, Dice is 2 TP / (2 TP + FP + FN), IoU TP / (TP + FP + FN), precision
    TP / (TP + FP) and recall TP / (TP + FN). Papers on BS-80K average in ways that differ by a
    factor of two, and a ratio of 0 / 0 is settled in ways that differ as much:

    - `pooled`: one ratio over the pixels of all images; undefined where it is 0 / 0.
    - `per_image`: the mean over the images that hold the class. A false alarm on an image without
      it costs nothing. The precision of an image where nothing was predicted is left out, as in
      MONAI, whose DiceMetric is this with `ignore_empty=True`.
    - `per_image_with_false_positives`: the mean over the images that hold the class or where it
      was predicted, as in nnU-Net v2. One with nothing but a false alarm counts 0, and so does a
      precision or recall of 0 / 0.
    - `per_image_with_empty`: as before, and an image that holds nothing and where nothing was
      predicted counts 1. MONAI's DiceMetric with `ignore_empty=False`.

    Args:
        counts: (images, 3) true positive, false positive and false negative pixels.
        patients: (images,) number of the patient.
        num_patients: how many there are.

    Returns:
        By name of the convention and of the score, a ratio over patients.
    """
    counts = np.asarray(counts, np.float64)
    true_positives, false_positives, false_negatives = counts.T
    holds, predicted = true_positives + false_negatives > 0, true_positives + false_positives > 0
    found: dict[str, dict[str, Ratio]] = {convention: {} for convention in CONVENTIONS}
    for name in SCORES:
        kind, of_kind = (PREDICTED, predicted) if name == "precision" else (HOLDING, holds)
        rare = by_patient(of_kind, patients, num_patients)
        for convention, parts in _of_images(counts, holds, predicted, name).items():
            top, bottom = (by_patient(part, patients, num_patients) for part in parts)
            found[convention][name] = ratio(top, bottom, kind, of_kind=rare * bottom)
    return found


def _of_images(
    counts: np.ndarray, holds: np.ndarray, predicted: np.ndarray, name: str
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """By convention what (images,) numbers of a score are summed up, above and below the line."""
    top, bottom = (counts @ np.array(parts) for parts in SCORES[name])
    values = np.divide(top, bottom, out=np.zeros_like(top), where=bottom > 0)
    touched, defined = holds | predicted, holds & (bottom > 0)
    return {
        "pooled": (top, bottom),
        "per_image": (values * defined, defined),
        "per_image_with_false_positives": (values, touched),
        "per_image_with_empty": (np.where(touched, values, 1.0), np.ones_like(top)),
    }


def pooled_dice(counts: np.ndarray) -> dict[str, float | None]:
    """Dice over the pixels of all images by class, None where a class is nowhere and not predicted.

    Args:
        counts: (images, classes - 1, 3) true positive, false positive and false negative pixels of
            each foreground class, in the order of `scans.CLASSES`.
    """
    true, invented, missed = np.asarray(counts, np.float64).sum(axis=0).T
    both = 2 * true + invented + missed
    return {
        name: float(2 * true[i] / both[i]) if both[i] else None
        for i, name in enumerate(CLASSES[1:])
    }
