"""FROC against curves worked out by hand and against matching at every threshold anew."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bonescan_jax.metrics.detection import (
    ScoredBoxes,
    detection_scores,
    froc,
    sensitivity_at,
)

NOTHING = np.zeros((0, 4))


def around(x, y, half=3):
    """A box with its centre at (x, y)."""
    return [x - half, y - half, x + half, y + half]


def predicted(*centres_and_scores):
    boxes = np.array([around(x, y) for x, y, _ in centres_and_scores]).reshape(-1, 4)
    return ScoredBoxes(boxes, np.array([score for *_, score in centres_and_scores]))


def test_worked_example():
    truths = [np.array([around(10, 10), around(50, 50)]), np.array([around(20, 20)])]
    predictions = [
        predicted((11, 11, 0.9), (90, 90, 0.8), (10, 9, 0.7), (50, 52, 0.4)),
        predicted((80, 80, 0.6), (20, 20, 0.6), (5, 90, 0.1)),
    ]
    curve = froc(predictions, truths)
    # 0.9 hit · 0.8 false · 0.7 again on the first lesion, ignored · 0.6 one hit and one false
    # together · 0.4 hit · 0.1 false; 3 lesions, 2 scans.
    np.testing.assert_allclose(curve.scores, [0.9, 0.8, 0.7, 0.6, 0.4, 0.1])
    np.testing.assert_allclose(curve.false_positives_per_scan, [0, 0.5, 0.5, 1, 1, 1.5])
    np.testing.assert_allclose(curve.sensitivity, np.array([1, 1, 1, 2, 3, 3]) / 3)
    assert sensitivity_at(curve, (0.3, 0.5, 0.9, 1.0)) == pytest.approx(
        {"0.3": 1 / 3, "0.5": 1 / 3, "0.9": 1 / 3, "1.0": 1.0}
    )
    scores = detection_scores(predictions, truths)
    assert scores["num_lesions"] == 3
    assert (scores["sensitivity"], scores["false_positives_per_scan"]) == (1.0, 1.5)


def test_curve_that_ends_early_is_none_beyond_its_end():
    truths = [np.array([around(10, 10), around(50, 50)])] * 2
    curve = froc([predicted((10, 10, 0.9), (90, 90, 0.8)), predicted()], truths)
    assert sensitivity_at(curve) == {"0.3": 0.25, "0.5": 0.25, "1.0": None}


def test_perfect_and_empty_predictions():
    truths = [np.array([around(10, 10), around(50, 50)]), NOTHING]
    perfect = detection_scores([predicted((10, 10, 0.9), (50, 50, 0.8)), predicted()], truths)
    assert perfect["sensitivity_at"] == {"0.3": 1.0, "0.5": 1.0, "1.0": 1.0}
    assert perfect["false_positives_per_scan"] == 0
    empty = detection_scores([predicted()] * 2, truths)
    assert empty["sensitivity_at"] == {"0.3": None, "0.5": None, "1.0": None}
    assert empty["sensitivity"] == 0


def test_hit_needs_the_centre_inside():
    truth = [np.array([[10, 10, 20, 20]])]
    for box, sensitivity in (
        ([8, 8, 13, 13], 1),  # centre 10.5
        ([7, 8, 12, 13], 0),  # centre x 9.5: overlaps, but points beside the lesion
        ([0, 0, 30, 30], 1),  # much too large, yet centred on it
        ([18, 12, 22, 16], 0),  # centre x 20 lies outside: xmax is exclusive
    ):
        curve = froc([ScoredBoxes(np.array([box]), np.array([1.0]))], truth)
        assert curve.sensitivity[-1] == sensitivity


def test_overlapping_lesions_are_found_one_prediction_each():
    truth = [np.array([[0, 0, 20, 20], [10, 10, 30, 30]])]
    curve = froc([predicted((19, 19, 0.9), (18, 18, 0.8))], truth)
    np.testing.assert_allclose(curve.sensitivity, [0.5, 1.0])
    # In both but nearer to the second, which leaves the first to a prediction on it alone.
    curve = froc([predicted((18, 18, 0.9), (2, 2, 0.8))], truth)
    np.testing.assert_allclose(curve.sensitivity, [0.5, 1.0])


def test_no_lesion_has_no_curve():
    assert detection_scores([predicted((1, 1, 0.5))], [NOTHING]) is None
    with pytest.raises(ValueError, match="true box"):
        froc([predicted((1, 1, 0.5))], [NOTHING])


# Lesions on a grid, apart, so that "the lesions whose boxes hold some centre" is the whole truth.
PLACES = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=8)
SCORES = st.lists(st.integers(1, 5), min_size=8, max_size=8)


def boxes_on_grid(places):
    return np.array([around(10 * x, 10 * y) for x, y in places]).reshape(-1, 4)


@given(st.lists(st.tuples(PLACES, PLACES, SCORES), min_size=1, max_size=3))
@settings(max_examples=50, deadline=None)
def test_every_point_is_what_its_threshold_alone_would_give(scans):
    truths = [boxes_on_grid(sorted(set(lesions))) for lesions, _, _ in scans]
    predictions = [
        ScoredBoxes(boxes_on_grid(places), np.array(scores[: len(places)]) / 5)
        for _, places, scores in scans
    ]
    num_lesions = sum(map(len, truths))
    if not num_lesions:
        return
    curve = froc(predictions, truths)
    assert set(curve.scores) == {s for p in predictions for s in p.scores}
    for score, false_positives, sensitivity in zip(*curve, strict=True):
        hits = alarms = 0
        for lesions, places, scores in scans:
            kept = [p for p, s in zip(places, scores, strict=False) if s / 5 >= score]
            hits += len(set(lesions) & set(kept))
            alarms += sum(place not in lesions for place in kept)
        assert false_positives == pytest.approx(alarms / len(scans))
        assert sensitivity == pytest.approx(hits / num_lesions)
