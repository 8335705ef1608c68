"""Masks against MONAI, where it is installed: by hand, because it needs PyTorch.

bash launch/setup.sh peers installs it into an environment of its own, without hypothesis and
pytest: add them there with pip.
"""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from bonescan_jax.metrics.segmentation import binary_overlap, overlap_scores
from bonescan_jax.metrics.surface import surface_scores

torch = pytest.importorskip("torch", reason="MONAI, which needs PyTorch, is not installed here")
monai = pytest.importorskip("monai.metrics", reason="MONAI is not installed here")

# Few pixels, so that classes are often missing in the truth, the prediction or both.
MASKS = hnp.arrays(np.bool_, (4, 3, 4), elements=st.sampled_from([False] * 6 + [True]), fill=None)


def channels(masks):
    """(B, 2, H, W) one-hot: background and the class."""
    return torch.from_numpy(np.stack([~masks, masks], axis=1).astype(np.float32))


def values(predicted, true):
    """By convention and score, NaN where it is undefined."""
    found = overlap_scores(binary_overlap(predicted, true), np.arange(len(true)), len(true))
    return {
        convention: {score: each.value() for score, each in scores.items()}
        for convention, scores in found.items()
    }


def mean(metric, predicted, true):
    """What MONAI's metric averages over images; NaN where it leaves out all of them."""
    metric(channels(predicted), channels(true))
    found = metric.aggregate("none")[:, 0].numpy()
    return np.mean(found[~np.isnan(found)]) if not np.isnan(found).all() else np.nan


@given(MASKS, MASKS)
@settings(max_examples=300, deadline=None)
def test_dice_and_iou_are_those_of_monai(predicted, true):
    found = values(predicted, true)
    for convention, ignore_empty in (("per_image", True), ("per_image_with_empty", False)):
        for score, metric in (("dice", monai.DiceMetric), ("iou", monai.MeanIoU)):
            expected = mean(
                metric(include_background=False, ignore_empty=ignore_empty), predicted, true
            )
            assert found[convention][score] == pytest.approx(expected, nan_ok=True)


@given(MASKS, MASKS)
@settings(max_examples=300, deadline=None)
def test_precision_and_recall_are_those_of_monai(predicted, true):
    found = values(predicted, true)
    holds = true.any((1, 2))
    for score in ("precision", "recall"):
        metric = monai.ConfusionMatrixMetric(include_background=False, metric_name=score)
        metric(channels(predicted), channels(true))
        (expected,) = metric.aggregate()
        assert found["pooled"][score] == pytest.approx(float(expected), nan_ok=True)
        # MONAI averages precision over images without the class too: here it gets the others.
        if holds.any():
            metric.reset()
            metric(channels(predicted[holds]), channels(true[holds]))
            (images,) = metric.aggregate(compute_sample=True, reduction="none")
            defined = images.numpy()[~np.isnan(images.numpy())]
            expected = defined.mean() if len(defined) else np.nan
            assert found["per_image"][score] == pytest.approx(expected, nan_ok=True)


def with_margin(size: int = 8) -> st.SearchStrategy[np.ndarray]:
    pixels = hnp.arrays(np.bool_, (size, size))
    return pixels.map(lambda mask: np.pad(mask, 1))


# Sums of squares of these are exact, also in MONAI's float32, so rounding decides nothing.
SIZES = st.sampled_from([1.0, 1.5, 2.25, 3.0])


@given(with_margin(), with_margin(), SIZES, SIZES, st.sampled_from(["height", "width"]))
@settings(max_examples=300, deadline=None)
def test_surface_dice_at_one_pixel_is_that_of_monai(predicted, true, height, width, side):
    assume(predicted.any() and true.any())
    tolerance = height if side == "height" else width
    expected = monai.compute_surface_dice(
        channels(predicted[None]),
        channels(true[None]),
        class_thresholds=[tolerance],
        spacing=(height, width),
        use_subvoxels=True,
    )
    found, _ = surface_scores(predicted, true, tolerance, (height, width))
    assert found == pytest.approx(float(expected), rel=1e-5)
