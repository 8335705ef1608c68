"""Masks against sets of pixels, scikit-learn, and values worked out by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.metrics import f1_score, jaccard_score, precision_score, recall_score

from bonescan_jax.metrics.bootstrap import draw_weights, estimate
from bonescan_jax.metrics.segmentation import (
    CONVENTIONS,
    SCORES,
    binary_overlap,
    overlap_scores,
    pooled_dice,
)

MASKS = hnp.arrays(np.uint8, (3, 4, 5), elements=st.integers(0, 2))
LIBRARY = {
    "dice": f1_score,
    "iou": jaccard_score,
    "precision": precision_score,
    "recall": recall_score,
}


def values(counts):
    """The scores of one class over images of which each is another patient's, NaN as None."""
    number = len(counts)
    found = overlap_scores(counts, np.arange(number), number)
    return {
        convention: {
            score: None if np.isnan(each.value()) else each.value()
            for score, each in scores.items()
        }
        for convention, scores in found.items()
    }


def mean(numbers):
    numbers = [each for each in numbers if each is not None]
    return np.mean(numbers) if numbers else None


def defined(library, predicted, true):
    """A score of scikit-learn; None where it is 0 / 0, so what scikit-learn is told to say."""
    zero, one = (
        library(true.ravel(), predicted.ravel(), zero_division=each) for each in (0.0, 1.0)
    )
    return zero if zero == one else None


@given(MASKS, MASKS)
@settings(max_examples=50, deadline=None)
def test_scores_are_those_of_scikit_learn_in_every_convention(prediction, mask):
    for label in (1, 2):
        predicted, true = prediction == label, mask == label
        found = values(binary_overlap(predicted, true))
        holds, touched = true.any((1, 2)), (true | predicted).any((1, 2))
        for score, library in LIBRARY.items():
            whole = defined(library, predicted, true)
            images = [defined(library, *pair) for pair in zip(predicted, true, strict=True)]
            kept = range(len(images))
            expected = {
                "pooled": whole,
                "per_image": mean(images[i] for i in kept if holds[i]),
                "per_image_with_false_positives": mean(
                    images[i] or 0.0 for i in kept if touched[i]
                ),
                "per_image_with_empty": mean(
                    (images[i] or 0.0) if touched[i] else 1.0 for i in kept
                ),
            }
            for convention in CONVENTIONS:
                assert found[convention][score] == pytest.approx(expected[convention])


def test_conventions_differ_as_worked_by_hand():
    # Found by half; missed; only a false alarm; quiet.
    found = values(np.array([[10, 0, 20], [0, 0, 10], [0, 5, 0], [0, 0, 0]]))
    expected = {
        "pooled": (20 / 55, 10 / 45, 10 / 15, 10 / 40),
        "per_image": (0.5 / 2, 1 / 6, 1, 1 / 6),
        "per_image_with_false_positives": (0.5 / 3, 1 / 9, 1 / 3, 1 / 9),
        "per_image_with_empty": (1.5 / 4, (1 + 1 / 3) / 4, 2 / 4, (1 + 1 / 3) / 4),
    }
    for convention, numbers in expected.items():
        assert list(found[convention].values()) == pytest.approx(numbers)
    nothing = values(np.zeros((4, 3)))
    assert nothing.pop("per_image_with_empty") == dict.fromkeys(SCORES, 1)
    assert all(score is None for scores in nothing.values() for score in scores.values())


def test_false_alarms_alone_count_0_where_they_count():
    found = values(np.array([[0, 7, 0], [0, 0, 0]]))
    assert found["per_image"] == dict.fromkeys(SCORES)
    assert set(found["per_image_with_false_positives"].values()) == {0}
    assert found["pooled"] == {"dice": 0, "iou": 0, "precision": 0, "recall": None}


def test_false_alarms_do_not_stand_in_for_patients_with_the_class():
    """Nine patients have the class; in all twenty it was predicted."""
    counts = np.stack([np.zeros(20), np.ones(20), np.arange(20) < 9], axis=1)
    found = overlap_scores(counts, np.arange(20), 20)
    reason = "9 patients with the class, an interval needs 10"
    for convention in CONVENTIONS:
        assert estimate(found[convention]["dice"], draw_weights(20)) == (0, None, None, reason)
    assert estimate(found["pooled"]["precision"], draw_weights(20)).reason == "all resamples agree"


def test_views_of_a_patient_are_drawn_together():
    rng = np.random.default_rng(0)
    counts, patients = rng.integers(0, 9, (60, 3)), np.repeat(np.arange(30), 2)
    weights = draw_weights(30, 5)
    found = overlap_scores(counts, patients, 30)
    for weight, pooled, per_image in zip(
        weights,
        found["pooled"]["dice"].of_weights(weights),
        found["per_image_with_empty"]["recall"].of_weights(weights),
        strict=True,
    ):
        drawn = counts[np.repeat(np.arange(60), weight[patients].astype(int))]
        true, invented, missed = drawn.sum(0)
        assert pooled == pytest.approx(2 * true / (2 * true + invented + missed))
        assert per_image == pytest.approx(values(drawn)["per_image_with_empty"]["recall"])


def test_pooled_dice_by_class_of_perfect_and_empty_predictions():
    mask = np.zeros((2, 8, 8), np.uint8)
    mask[0, :2], mask[1, 5:] = 1, 2
    for prediction, dice in ((mask, 1), (np.zeros_like(mask), 0)):
        counts = np.stack([binary_overlap(prediction == each, mask == each) for each in (1, 2)], 1)
        assert pooled_dice(counts) == {"abnormal": dice, "normal": dice}
    assert pooled_dice(np.zeros((3, 2, 3), int)) == {"abnormal": None, "normal": None}


def test_overlap_of_different_shapes_is_refused():
    with pytest.raises(ValueError, match="shape"):
        binary_overlap(np.zeros((1, 3, 3), bool), np.zeros((1, 1, 3), bool))
