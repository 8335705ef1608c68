"""The brightness baseline against trying every threshold."""

import numpy as np
import pytest

from bonescan_jax.metrics.segmentation import pooled_dice
from bonescan_jax.metrics.threshold import (
    BestThreshold,
    ThresholdBaseline,
    detect,
    threshold_overlap_counts,
)


def scans(seed, num_images=6):
    """Noise in which abnormal pixels are brightest on average and normal ones bright."""
    rng = np.random.default_rng(seed)
    mask = rng.choice(3, (num_images, 16, 16), p=[0.8, 0.1, 0.1])
    level = np.array([1.0, 3.0, 2.0])[mask]
    return rng.gamma(4, level / 4).astype(np.float32).clip(0, 5), mask


def test_best_of_all_thresholds():
    intensity, mask = scans(0)
    baseline = ThresholdBaseline(limit=5.0, num_bins=64)
    baseline.accumulate(intensity, mask)
    for label, (threshold, dice) in enumerate(baseline.best_thresholds().values(), start=1):
        true = mask == label
        dices = []
        for edge in baseline.edges[:-1]:
            predicted = intensity >= edge
            dices.append(2 * (predicted & true).sum() / (predicted.sum() + true.sum()))
        assert threshold == baseline.edges[np.argmax(dices)]
        assert dice == pytest.approx(max(dices))


def test_training_dice_is_what_prediction_reaches_and_streams():
    batches = [scans(seed) for seed in range(4)]
    baseline = ThresholdBaseline(limit=5.0)
    for intensity, mask in batches:
        baseline.accumulate(intensity, mask)
    best = baseline.best_thresholds()
    counts = np.concatenate([threshold_overlap_counts(*batch, best) for batch in batches])
    dice = pooled_dice(counts)
    for name in ("abnormal", "normal"):
        assert dice[name] == pytest.approx(best[name].training_dice, abs=1e-12)
    together = ThresholdBaseline(limit=5.0)
    together.accumulate(*(np.concatenate(arrays) for arrays in zip(*batches, strict=True)))
    assert together.best_thresholds() == best


def test_pixels_on_an_edge_and_beyond_the_limit_are_not_lost():
    intensity = np.array([[[0.0, 0.1, 0.2, 0.3, 0.7, 1.0, 3.0, -1.0]]], np.float32)
    mask = np.array([[[0, 0, 0, 1, 1, 1, 1, 0]]])
    baseline = ThresholdBaseline(limit=1.0, num_bins=10)
    baseline.accumulate(intensity, mask)
    assert baseline.counts.sum() == intensity.size
    threshold, dice = baseline.best_thresholds()["abnormal"]
    assert (threshold, dice) == (pytest.approx(0.3), 1.0)
    np.testing.assert_array_equal(detect(intensity, threshold), mask == 1)


def test_class_that_never_occurs_is_never_predicted():
    baseline = ThresholdBaseline(limit=1.0)
    baseline.accumulate(np.ones((1, 4, 4)), np.zeros((1, 4, 4), int))
    assert baseline.best_thresholds()["normal"] == BestThreshold(None, None)
    assert not detect(np.ones((1, 4, 4)), None).any()
