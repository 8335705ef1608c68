"""Dice and IoU against sets of pixels and values worked out by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from bonescan_jax.metrics.segmentation import binary_overlap, segmentation_scores

MASKS = hnp.arrays(np.uint8, (3, 4, 5), elements=st.integers(0, 2))


def overlap_counts(prediction, mask):
    return np.stack([binary_overlap(prediction == label, mask == label) for label in (1, 2)], 1)


def pixel_set(mask, label, image=None):
    """The class as a set of places, the textbook's view of a mask."""
    places = zip(*np.nonzero(mask == label), strict=True)
    return {place for place in places if image is None or place[0] == image}


def set_dice(a, b):
    return 2 * len(a & b) / (len(a) + len(b)) if a or b else None


@given(MASKS, MASKS)
@settings(max_examples=50, deadline=None)
def test_scores_agree_with_pixel_sets(prediction, mask):
    scores = segmentation_scores(overlap_counts(prediction, mask))
    for label, name in ((1, "abnormal"), (2, "normal")):
        a, b = pixel_set(prediction, label), pixel_set(mask, label)
        assert scores[name]["dice_pooled"] == pytest.approx(set_dice(a, b))
        assert scores[name]["iou_pooled"] == pytest.approx(
            len(a & b) / len(a | b) if a | b else None
        )
        images = [(pixel_set(prediction, label, i), pixel_set(mask, label, i)) for i in range(3)]
        holding = [set_dice(p, t) for p, t in images if t]
        touched = [set_dice(p, t) for p, t in images if p or t]
        ious = [len(p & t) / len(p | t) for p, t in images if t]
        assert scores[name]["images_with_class"] == len(holding)
        for key, values in (
            ("dice_per_image", holding),
            ("dice_per_image_with_false_positives", touched),
            ("iou_per_image", ious),
        ):
            assert scores[name][key] == pytest.approx(np.mean(values) if values else None)


def test_conventions_differ_as_worked_by_hand():
    # Abnormal: found by half; missed; only a false alarm; quiet. Normal: nowhere.
    counts = np.array([[10, 0, 20], [0, 0, 10], [0, 5, 0], [0, 0, 0]])
    counts = np.stack([counts, np.zeros_like(counts)], axis=1)
    scores = segmentation_scores(counts)
    assert scores["abnormal"] == {
        "dice_pooled": pytest.approx(20 / 55),
        "iou_pooled": pytest.approx(10 / 45),
        "dice_per_image": pytest.approx(0.5 / 2),
        "iou_per_image": pytest.approx(1 / 6),
        "dice_per_image_with_false_positives": pytest.approx(0.5 / 3),
        "images_with_class": 2,
    }
    assert scores["normal"] == dict.fromkeys(scores["normal"], None) | {"images_with_class": 0}


def test_false_alarms_alone_have_no_per_image_dice():
    scores = segmentation_scores(np.array([[[0, 7, 0], [0, 0, 0]]]))["abnormal"]
    assert scores["dice_per_image"] is None
    assert scores["dice_pooled"] == scores["dice_per_image_with_false_positives"] == 0


def test_perfect_and_empty_predictions():
    mask = np.zeros((2, 8, 8), np.uint8)
    mask[0, :2], mask[1, 5:] = 1, 2
    for prediction, dice in ((mask, 1), (np.zeros_like(mask), 0)):
        scores = segmentation_scores(overlap_counts(prediction, mask))
        for name in ("abnormal", "normal"):
            assert scores[name]["dice_pooled"] == scores[name]["dice_per_image"] == dice


def test_overlap_of_different_shapes_is_refused():
    with pytest.raises(ValueError, match="shape"):
        binary_overlap(np.zeros((1, 3, 3), bool), np.zeros((1, 1, 3), bool))
