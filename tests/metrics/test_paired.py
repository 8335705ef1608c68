"""Two runs on the same views: the same run does not differ, a better one does."""

import pytest

from bonescan_jax.errors import InputError
from bonescan_jax.metrics.paired import compare_runs
from bonescan_jax.metrics.summary import choose_thresholds
from tests.metrics.random_rows import random_rows

ROWS, WORSE = random_rows(120), random_rows(120, noise=2.0)
THRESHOLDS = choose_thresholds(random_rows(30, seed=1))


def test_a_run_does_not_differ_from_itself():
    found = compare_runs(ROWS, ROWS[::-1], ("mean", "mean"), (THRESHOLDS, THRESHOLDS))
    assert found["num_patients"] == 120
    for name, difference in found["differences"].items():
        assert difference["value"] == 0, name
        assert difference["p_holm"] == 1, name
    assert found["lesions"]["abnormal"]["only_first"] == 0


def test_a_better_run_is_told_from_a_worse_one():
    found = compare_runs(ROWS, WORSE, ("mean", "mean"), (THRESHOLDS, THRESHOLDS))["differences"]
    assert found["average_precision_abnormal"]["low"] > 0
    assert found["average_precision_abnormal"]["p_holm"] < 0.05
    for difference in found.values():
        assert difference["value"] == pytest.approx(difference["first"] - difference["second"])
        assert difference["p_value"] <= difference["p_holm"]
    # Pixels are drawn at random for both, and differ by chance alone.
    assert found["dice_abnormal"]["low"] < 0 < found["dice_abnormal"]["high"]


def test_other_views_cannot_be_compared():
    with pytest.raises(InputError, match="2 views were scored by this run only and 0 by the other"):
        compare_runs(ROWS, ROWS[2:], ("mean", "mean"), (THRESHOLDS, THRESHOLDS))
