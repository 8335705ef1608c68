"""Baseline without learning: everything brighter than a threshold is a hot spot.

Each foreground class has a detector of its own, `intensity >= threshold of the class`, with the one
threshold that gives the best pooled Dice on the training scans. The detectors are
independent, so their regions overlap: brightness alone does not tell abnormal from normal.
"""

from typing import NamedTuple

import numpy as np

from bonescan_jax.metrics.segmentation import binary_overlap
from bonescan_jax.scans import CLASSES


class BestThreshold(NamedTuple):
    """One class's detector and the pooled Dice that it reaches on the scans it was fitted to."""

    threshold: float | None  # None: no scan contained the class, and it is never predicted
    training_dice: float | None


class ThresholdBaseline:
    """Fits the thresholds in one pass: histograms of intensity by true class, summed over batches.

    The best threshold is then exact among the left edges of the bins.

    Attributes:
        counts: (num_classes, num_bins) int64, pixels by true class and intensity.
        edges: (num_bins + 1,) float32, bounds of the bins from 0 to the limit.
    """

    def __init__(self, limit: float, num_bins: int = 1024) -> None:
        self.edges = np.linspace(0, limit, num_bins + 1, dtype=np.float32)
        self.counts = np.zeros((len(CLASSES), num_bins), np.int64)

    def accumulate(self, intensity: np.ndarray, mask: np.ndarray) -> None:
        """Add a batch.

        Args:
            intensity: (B, H, W) floats in [0, limit]; values outside are clipped.
            mask: (B, H, W) integers, true classes.
        """
        low, high = self.edges[[0, -1]]
        intensity = np.clip(np.asarray(intensity, np.float32), low, high)
        num_bins = len(self.edges) - 1
        for label in range(len(CLASSES)):
            pixels = intensity[mask == label]
            self.counts[label] += np.histogram(pixels, num_bins, (low, high))[0]

    def best_thresholds(self) -> dict[str, BestThreshold]:
        """Find for every foreground class the threshold of the greatest pooled Dice.

        Returns:
            By name of the class its threshold and the Dice that it has on what was accumulated.
            Among equally good thresholds, the lowest.
        """
        # Pixels at or above each edge, by class: what a threshold there would predict.
        above = np.cumsum(self.counts[:, ::-1], axis=1)[:, ::-1]
        predicted = above.sum(axis=0)
        best = {}
        for label, name in enumerate(CLASSES[1:], start=1):
            num_true = above[label, 0]
            if not num_true:
                best[name] = BestThreshold(None, None)
                continue
            dice = 2 * above[label] / (predicted + num_true)
            k = int(np.argmax(dice))
            best[name] = BestThreshold(float(self.edges[k]), float(dice[k]))
        return best


def detect(intensity: np.ndarray, threshold: float | None) -> np.ndarray:
    """Return, shaped like `intensity`, True where a class's detector predicts that class."""
    if threshold is None:
        return np.zeros(intensity.shape, bool)
    return np.asarray(intensity, np.float32) >= np.float32(threshold)


def threshold_overlap_counts(
    intensity: np.ndarray, mask: np.ndarray, thresholds: dict[str, BestThreshold]
) -> np.ndarray:
    """Count the overlap of every class's own detector with the truth.

    Args:
        intensity: (B, H, W) floats, normalised as for `accumulate`.
        mask: (B, H, W) integers, true classes.
        thresholds: as `best_thresholds` gives them.

    Returns:
        (B, num_classes - 1, 3) int64, as `segmentation.segmentation_scores` takes them.
    """
    overlaps = [
        binary_overlap(detect(intensity, thresholds[name].threshold), mask == label)
        for label, name in enumerate(CLASSES[1:], start=1)
    ]
    return np.stack(overlaps, axis=1)
