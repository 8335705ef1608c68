"""Dice and IoU per class from overlap counts: pooled, and per image in both conventions."""

import numpy as np

from bonescan_jax.scans import CLASSES

Scores = dict[str, dict[str, float | int | None]]


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


def segmentation_scores(counts: np.ndarray) -> Scores:
    """Turn overlap counts into Dice = 2 TP / (2 TP + FP + FN) and IoU = TP / (TP + FP + FN).

    Papers on BS-80K average in three ways that differ by a factor of two, so all are given:

    - `*_pooled`: one ratio over the pixels of all images.
    - `*_per_image`: the mean over the images that hold the class. A false alarm on an image
      without the class costs nothing.
    - `dice_per_image_with_false_positives`: the mean over the images that hold the class or where
      it was predicted. An image with nothing but a false alarm counts 0.

    Args:
        counts: (num_images, num_classes - 1, 3) integers: true positives, false positives, false
            negatives of each foreground class, in the order of `scans.CLASSES`.

    Returns:
        For every foreground class its scores by name and `images_with_class`. A ratio over
        nothing (0 / 0, a mean over no image) is None.
    """
    return {name: _class_scores(counts[:, i]) for i, name in enumerate(CLASSES[1:])}


def _class_scores(counts: np.ndarray) -> dict[str, float | int | None]:
    true_positives, false_positives, false_negatives = counts.astype(np.float64).T
    union = true_positives + false_positives + false_negatives
    holds_class = true_positives + false_negatives > 0
    touched = union > 0
    iou = np.divide(true_positives, union, out=np.zeros_like(union), where=touched)
    dice = 2 * iou / (1 + iou)
    iou_pooled = _ratio(true_positives.sum(), union.sum())
    return {
        "dice_pooled": None if iou_pooled is None else 2 * iou_pooled / (1 + iou_pooled),
        "iou_pooled": iou_pooled,
        "dice_per_image": _ratio(dice[holds_class].sum(), holds_class.sum()),
        "iou_per_image": _ratio(iou[holds_class].sum(), holds_class.sum()),
        "dice_per_image_with_false_positives": _ratio(dice[touched].sum(), touched.sum()),
        "images_with_class": int(holds_class.sum()),
    }


def _ratio(numerator: float, denominator: float) -> float | None:
    return float(numerator / denominator) if denominator else None
