"""Scores under weights against scikit-learn and definitions on repeated items."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, brier_score_loss, roc_auc_score

from bonescan_jax.metrics import bootstrap, weighted
from bonescan_jax.metrics.calibration import equal_mass_bins
from tests.metrics.studies import random_study, studies


def under_weights(statistic, study):
    """The score with the study's weights, second of three draws."""
    ones = np.ones(study.num_patients)
    first, found, last = statistic.of_weights(np.stack([ones, study.weights, ones]))
    np.testing.assert_array_equal([first, last], statistic.value())
    return found


@given(studies())
@settings(max_examples=100, deadline=None)
def test_auc_is_that_of_repeated_items(study):
    found = under_weights(weighted.auc(*study[:4]), study)
    kept = study.repeated()
    labels = study.labels[kept]
    if labels.all() or not labels.any():
        assert np.isnan(found)
    else:
        assert found == pytest.approx(roc_auc_score(labels, study.scores[kept]))


@given(studies())
@settings(max_examples=100, deadline=None)
def test_average_precision_is_that_of_repeated_items(study):
    abnormal = np.bincount(study.patients, study.labels, study.num_patients)
    missed = np.arange(study.num_patients)  # lesions that no candidate hits
    kept = study.repeated()
    labels = study.labels[kept]
    for lesions in (abnormal, abnormal + missed):
        statistic = weighted.average_precision(
            study.scores, study.labels, ~study.labels, study.patients, lesions=lesions
        )
        found, total = under_weights(statistic, study), lesions @ study.weights
        if not total:
            assert np.isnan(found)
        elif not labels.any():
            assert found == 0
        else:
            expected = average_precision_score(labels, study.scores[kept])
            assert found == pytest.approx(expected * labels.sum() / total)


@given(studies(), st.sampled_from([0, 0.1, 0.3, 1, 2]), st.data())
@settings(max_examples=200, deadline=None)
def test_sensitivity_is_that_of_repeated_patients(study, rate, data):
    """Thresholds tried one by one, on candidates that may be neither hit nor false positive."""
    ignored = np.array(data.draw(st.lists(st.booleans(), min_size=25, max_size=25)))
    false_positive = ~study.labels & ~ignored[: len(study.labels)]
    lesions = np.bincount(study.patients, study.labels, study.num_patients) + 1
    scans = 1 + np.arange(study.num_patients) % 2
    found = under_weights(
        weighted.sensitivities(
            study.scores,
            study.labels,
            false_positive,
            study.patients,
            lesions=lesions,
            scans=scans,
            rates=[0.7, rate],
        ).statistics[1],
        study,
    )
    kept = study.repeated()
    scores, hit, wrong = study.scores[kept], study.labels[kept], false_positive[kept]
    if not study.weights.any():
        assert np.isnan(found)
        return
    accepted = [
        hit[scores >= threshold].sum()
        for threshold in [*scores, np.inf]
        if wrong[scores >= threshold].sum() / (scans @ study.weights) <= rate
    ]
    assert found == pytest.approx(max(accepted) / (lesions @ study.weights))


@given(studies())
@settings(max_examples=100, deadline=None)
def test_means_and_brier_score_are_those_of_repeated_items(study):
    errors = (study.scores - study.labels) ** 2
    found = under_weights(weighted.mean(errors, study.patients, study.num_patients), study)
    kept = study.repeated()
    if not len(kept):
        assert np.isnan(found)
        return
    expected = brier_score_loss(study.labels[kept], study.scores[kept], pos_label=True)
    assert found == pytest.approx(expected)


@given(studies())
@settings(max_examples=100, deadline=None)
def test_calibration_error_is_that_of_repeated_items_in_the_same_bins(study):
    found = under_weights(weighted.calibration_error(*study[:4], num_bins=3), study)
    bins, kept = equal_mass_bins(study.scores, 3), study.repeated()
    if not len(kept):
        assert np.isnan(found)
        return
    distances = [
        abs(study.scores[members].mean() - study.labels[members].mean()) * len(members)
        for members in (kept[bins[kept] == each] for each in range(3))
        if len(members)
    ]
    assert found == pytest.approx(sum(distances) / len(kept))


def test_more_draws_than_fit_at_once_give_the_same(monkeypatch):
    study = random_study(0)
    weights = bootstrap.draw_weights(study.num_patients, 50)
    expected = weighted.auc(*study[:4]).of_weights(weights)
    monkeypatch.setattr(weighted, "CHUNK", 100)
    np.testing.assert_allclose(weighted.auc(*study[:4]).of_weights(weights), expected)


def test_scores_computed_together_are_those_computed_one_by_one():
    study = random_study(0)
    weights = bootstrap.draw_weights(study.num_patients)
    of_patients = (study.patients, study.num_patients)
    ratios = [
        weighted.mean(study.scores, *of_patients),
        weighted.mean(9 * study.labels, *of_patients, is_share=False),
        weighted.mean(np.ones(3), np.arange(3), study.num_patients),
        weighted.mean(np.zeros(0), np.zeros(0, int), study.num_patients),
    ]
    one_by_one = [bootstrap.estimate(each, weights) for each in ratios]
    together = bootstrap.estimate_jointly(weighted.together(ratios), weights)
    for found, expected in zip(together, one_by_one, strict=True):
        assert found[:3] == pytest.approx(expected[:3])
        assert found.reason == expected.reason
    assert one_by_one[2].reason == "3 patients with a value, an interval needs 10"
    assert one_by_one[3].reason == "nothing to compute it from"


def test_average_of_scores_is_that_of_their_values_in_each_resample():
    study = random_study(0)
    parts = [weighted.mean(study.labels, study.patients, study.num_patients) for _ in range(2)]
    few = weighted.mean(np.ones(3), np.arange(3), study.num_patients)
    weights = bootstrap.draw_weights(study.num_patients, 20)
    joint = weighted.with_average(weighted.together([*parts, few]))
    expected = np.mean([each.of_weights(weights) for each in [*parts, few]], axis=0)
    np.testing.assert_allclose(joint.of_weights(weights)[-1], expected)
    np.testing.assert_allclose(joint.statistics[-1].of_weights(weights), expected)
    found = bootstrap.estimate_jointly(joint, weights)[-1]
    assert found.reason == "3 patients with a value, an interval needs 10"
