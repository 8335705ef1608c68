"""Scores under weights against scikit-learn on repeated items, intervals against SciPy."""

from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import logit
from scipy.stats import bootstrap as scipy_bootstrap
from scipy.stats import norm, t, ttest_1samp
from sklearn.metrics import average_precision_score, brier_score_loss, roc_auc_score
from statsmodels.stats.proportion import proportion_confint

from bonescan_jax.metrics import bootstrap
from bonescan_jax.metrics.calibration import equal_mass_bins


class Study(NamedTuple):
    """Items of a few patients, with scores many of which are equal."""

    scores: np.ndarray
    labels: np.ndarray
    patients: np.ndarray
    num_patients: int
    weights: np.ndarray  # (patients,) how often each is counted

    def repeated(self):
        """The numbers of the items, each as often as its patient is counted."""
        return np.repeat(np.arange(len(self.scores)), self.weights[self.patients])


@st.composite
def studies(draw):
    num_patients = draw(st.integers(1, 6))
    item = st.tuples(st.integers(0, 4), st.booleans(), st.integers(0, num_patients - 1))
    items = draw(st.lists(item, min_size=1, max_size=25))
    scores, labels, patients = (np.array(column) for column in zip(*items, strict=True))
    weights = np.array(
        draw(st.lists(st.integers(0, 3), min_size=num_patients, max_size=num_patients))
    )
    return Study(scores / 4, labels, patients, num_patients, weights)


def under_weights(statistic, study):
    """The score with the study's weights, second of three draws."""
    ones = np.ones(study.num_patients)
    first, found, last = statistic.of_weights(np.stack([ones, study.weights, ones]))
    np.testing.assert_array_equal([first, last], statistic.value())
    return found


def random_study(seed, num_patients=40):
    rng = np.random.default_rng(seed)
    patients = np.sort(rng.integers(0, num_patients, 3 * num_patients))
    labels = rng.random(len(patients)) < 0.4
    scores = np.clip(rng.normal(0.4 + 0.2 * labels, 0.2), 0, 1).round(2)
    return Study(scores, labels, patients, num_patients, np.ones(num_patients, int))


@given(studies())
@settings(max_examples=100, deadline=None)
def test_auc_is_that_of_repeated_items(study):
    found = under_weights(bootstrap.auc(*study[:4]), study)
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
        statistic = bootstrap.average_precision(
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
        bootstrap.sensitivity(
            study.scores,
            study.labels,
            false_positive,
            study.patients,
            lesions=lesions,
            scans=scans,
            rate=rate,
        ),
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
    found = under_weights(bootstrap.mean(errors, study.patients, study.num_patients), study)
    kept = study.repeated()
    if not len(kept):
        assert np.isnan(found)
        return
    expected = brier_score_loss(study.labels[kept], study.scores[kept], pos_label=True)
    assert found == pytest.approx(expected)


@given(studies())
@settings(max_examples=100, deadline=None)
def test_pooled_overlap_is_that_of_repeated_views(study):
    counts = np.stack([study.labels * 3, study.scores * 8, study.patients % 3], axis=1)
    dice = under_weights(bootstrap.pooled_dice(counts, *study[2:4]), study)
    iou = under_weights(bootstrap.pooled_iou(counts, *study[2:4]), study)
    true, invented, missed = counts[study.repeated()].sum(axis=0)
    if not true + invented + missed:
        assert np.isnan([dice, iou]).all()
        return
    assert dice == pytest.approx(2 * true / (2 * true + invented + missed))
    assert iou == pytest.approx(true / (true + invented + missed))


@given(studies())
@settings(max_examples=100, deadline=None)
def test_calibration_error_is_that_of_repeated_items_in_the_same_bins(study):
    found = under_weights(bootstrap.calibration_error(*study[:4], num_bins=3), study)
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


def expanded(number):
    """The confidence level of Hesterberg's expanded percentile interval."""
    return 1 - 2 * norm.cdf(-t.ppf(0.975, number - 1) * np.sqrt(number / (number - 1)))


@pytest.mark.parametrize("seed", [0, 1])
def test_resamples_and_percentiles_are_those_of_scipy(seed):
    study = random_study(seed)
    items = [np.flatnonzero(study.patients == each) for each in range(study.num_patients)]

    def auc_of(drawn):
        kept = np.concatenate([items[each] for each in drawn])
        return roc_auc_score(study.labels[kept], study.scores[kept])

    expected = scipy_bootstrap(
        (np.arange(study.num_patients),),
        auc_of,
        n_resamples=200,
        vectorized=False,
        method="percentile",
        confidence_level=expanded(30),
        rng=np.random.default_rng(seed),
    )
    weights = bootstrap.draw_weights(study.num_patients, 200, seed)
    values = bootstrap.auc(*study[:4]).of_weights(weights)
    np.testing.assert_allclose(values, expected.bootstrap_distribution)
    found = bootstrap.percentile_interval(values, 30, 0.95)
    assert found == pytest.approx(tuple(expected.confidence_interval))


@pytest.mark.parametrize("right", [30, 70, 90])
def test_interval_of_one_answer_a_patient_is_near_wilsons(right):
    answers = np.arange(100) < right
    found = bootstrap.estimate(
        bootstrap.mean(answers, np.arange(100), 100), bootstrap.draw_weights(100)
    )
    low, high = proportion_confint(right, 100, method="wilson")
    assert found.value == right / 100
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.012)


def test_interval_of_a_mean_in_other_units_is_near_students():
    distances = np.random.default_rng(0).normal(4, 1.5, 60)
    found = bootstrap.estimate(
        bootstrap.mean(distances, np.arange(60), 60, is_share=False), bootstrap.draw_weights(60)
    )
    expected = ttest_1samp(distances, 0).confidence_interval()
    assert (found.low, found.high) == pytest.approx(tuple(expected), abs=0.05)


def test_interval_of_a_share_is_even_in_its_logit():
    study = random_study(0)
    statistic, weights = bootstrap.auc(*study[:4]), bootstrap.draw_weights(study.num_patients)
    found = bootstrap.estimate(statistic, weights)
    low, value, high = logit([found.low, found.value, found.high])
    assert high - value == pytest.approx(value - low)
    # The delta method: a logit changes 1 / (v (1 - v)) times as fast as v.
    number = min(len(np.unique(study.patients[of])) for of in (study.labels, ~study.labels))
    error = statistic.of_weights(weights).std() * np.sqrt(number / (number - 1))
    step = 1e-6
    slope = (logit(found.value + step) - logit(found.value - step)) / (2 * step)
    assert high - value == pytest.approx(t.ppf(0.975, number - 1) * error * slope, rel=1e-4)


def test_weights_draw_as_many_patients_as_there_are():
    weights = bootstrap.draw_weights(30, 500, seed=3)
    assert weights.shape == (500, 30)
    np.testing.assert_array_equal(weights.sum(axis=1), 30)
    np.testing.assert_array_equal(weights, bootstrap.draw_weights(30, 500, seed=3))
    assert (weights != bootstrap.draw_weights(30, 500, seed=4)).any()
    # Multinomial: each weight has mean 1 and variance 1 - 1/30.
    assert weights.var() == pytest.approx(1 - 1 / 30, rel=0.03)


def test_more_draws_than_fit_at_once_give_the_same(monkeypatch):
    study = random_study(0)
    weights = bootstrap.draw_weights(study.num_patients, 50)
    expected = bootstrap.auc(*study[:4]).of_weights(weights)
    monkeypatch.setattr(bootstrap, "CHUNK", 100)
    np.testing.assert_allclose(bootstrap.auc(*study[:4]).of_weights(weights), expected)


def test_copies_of_an_image_do_not_narrow_the_interval():
    study = random_study(2)
    weights = bootstrap.draw_weights(study.num_patients)
    once = bootstrap.estimate(bootstrap.auc(*study[:4]), weights)
    copied = (np.tile(each, 13) for each in study[:3])
    copies = bootstrap.estimate(bootstrap.auc(*copied, study.num_patients), weights)
    assert copies == pytest.approx(once)


def test_too_few_patients_of_a_kind_have_no_interval_and_it_says_why():
    labels = np.arange(60) < 9
    scores, patients = np.linspace(0, 1, 60), np.arange(60)
    weights = bootstrap.draw_weights(60)
    found = bootstrap.estimate(bootstrap.auc(scores, labels, patients, 60), weights)
    assert found == (0.0, None, None, "9 abnormal patients, an interval needs 10")
    # Many lesions of few patients are no better.
    found = bootstrap.estimate(
        bootstrap.sensitivity(
            np.ones(60),
            np.arange(60) < 50,
            np.zeros(60, bool),
            patients % 9,
            lesions=np.repeat([10, 0], [9, 30]),
            scans=np.ones(39),
            rate=1,
        ),
        bootstrap.draw_weights(39),
    )
    assert found.value == pytest.approx(50 / 90)
    assert found[1:] == (None, None, "9 patients with a lesion, an interval needs 10")


def test_false_alarms_do_not_stand_in_for_patients_with_the_class():
    """Nine patients have the class; in all twenty it was predicted."""
    counts = np.stack([np.zeros(20), np.ones(20), np.arange(20) < 9], axis=1)
    found = bootstrap.estimate(
        bootstrap.pooled_dice(counts, np.arange(20), 20), bootstrap.draw_weights(20)
    )
    assert found == (0.0, None, None, "9 patients with the class, an interval needs 10")


def test_average_of_scores_is_that_of_their_values_in_each_resample():
    study = random_study(0)
    scores = [bootstrap.auc(*study[:4]), bootstrap.calibration_error(*study[:4])]
    weights = bootstrap.draw_weights(study.num_patients, 20)
    np.testing.assert_allclose(
        bootstrap.average(scores).of_weights(weights),
        (scores[0].of_weights(weights) + scores[1].of_weights(weights)) / 2,
    )
    few = bootstrap.mean(np.ones(3), np.arange(3), study.num_patients)
    found = bootstrap.estimate(bootstrap.average([*scores, few]), weights)
    assert found.reason == "3 patients with a value, an interval needs 10"


def test_undefined_and_certain_scores_have_no_interval():
    weights = bootstrap.draw_weights(20)
    nothing = bootstrap.pooled_dice(np.zeros((20, 3)), np.arange(20), 20)
    assert bootstrap.estimate(nothing, weights) == (None, None, None, "nothing to compute it from")
    for same in (1.0, 0.3):
        statistic = bootstrap.mean(np.full(20, same), np.arange(20), 20)
        found = bootstrap.estimate(statistic, weights)
        assert found == (pytest.approx(same), None, None, "all resamples agree")


def test_a_share_of_one_that_resamples_doubt_has_an_interval():
    """All lesions are found, but a resample with more false positives has a higher threshold."""
    scores = np.concatenate([np.linspace(0.3, 1, 20), np.full(20, 0.5)])
    hit = np.arange(40) < 20
    patients = np.tile(np.arange(20), 2)
    statistic = bootstrap.sensitivity(
        scores, hit, ~hit, patients, lesions=np.ones(20), scans=np.ones(20), rate=1
    )
    assert bootstrap.estimate(statistic, bootstrap.draw_weights(20)).reason is not None
    uneven = bootstrap.sensitivity(
        scores, hit, ~hit & (patients % 2 == 0), patients,
        lesions=np.ones(20), scans=np.ones(20), rate=0.5,
    )  # fmt: skip
    found = bootstrap.estimate(uneven, bootstrap.draw_weights(20))
    assert found.value == found.high == 1
    assert found.low < 0.9
