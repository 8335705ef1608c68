"""Intervals against those of SciPy, statsmodels and what can be worked out."""

import numpy as np
import pytest
from scipy.special import logit
from scipy.stats import bootstrap as scipy_bootstrap
from scipy.stats import norm, t, ttest_1samp
from sklearn.metrics import roc_auc_score
from statsmodels.stats.proportion import proportion_confint

from bonescan_jax.metrics import bootstrap, weighted
from tests.metrics.studies import random_study


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
    values = weighted.auc(*study[:4]).of_weights(weights)
    np.testing.assert_allclose(values, expected.bootstrap_distribution)
    found = bootstrap.percentile_interval(values, 30, 0.95)
    assert found == pytest.approx(tuple(expected.confidence_interval))


@pytest.mark.parametrize("right", [30, 70, 90])
def test_interval_of_one_answer_a_patient_is_near_wilsons(right):
    answers = np.arange(100) < right
    found = bootstrap.estimate(
        weighted.mean(answers, np.arange(100), 100), bootstrap.draw_weights(100)
    )
    low, high = proportion_confint(right, 100, method="wilson")
    assert found.value == right / 100
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.012)


def test_interval_of_a_mean_in_other_units_is_near_students():
    distances = np.random.default_rng(0).normal(4, 1.5, 60)
    found = bootstrap.estimate(
        weighted.mean(distances, np.arange(60), 60, is_share=False), bootstrap.draw_weights(60)
    )
    expected = ttest_1samp(distances, 0).confidence_interval()
    assert (found.low, found.high) == pytest.approx(tuple(expected), abs=0.05)


def test_interval_of_a_share_is_even_in_its_logit():
    study = random_study(0)
    statistic, weights = weighted.auc(*study[:4]), bootstrap.draw_weights(study.num_patients)
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


def test_copies_of_an_image_do_not_narrow_the_interval():
    study = random_study(2)
    weights = bootstrap.draw_weights(study.num_patients)
    once = bootstrap.estimate(weighted.auc(*study[:4]), weights)
    copied = (np.tile(each, 13) for each in study[:3])
    copies = bootstrap.estimate(weighted.auc(*copied, study.num_patients), weights)
    assert copies == pytest.approx(once)


def test_too_few_patients_of_a_kind_have_no_interval_and_it_says_why():
    labels = np.arange(60) < 9
    scores, patients = np.linspace(0, 1, 60), np.arange(60)
    weights = bootstrap.draw_weights(60)
    found = bootstrap.estimate(weighted.auc(scores, labels, patients, 60), weights)
    assert found == (0.0, None, None, "9 abnormal patients, an interval needs 10")
    # Many lesions of few patients are no better.
    found = bootstrap.estimate(
        weighted.sensitivities(
            np.ones(60),
            np.arange(60) < 50,
            np.zeros(60, bool),
            patients % 9,
            lesions=np.repeat([10, 0], [9, 30]),
            scans=np.ones(39),
            rates=[1],
        ).statistics[0],
        bootstrap.draw_weights(39),
    )
    assert found.value == pytest.approx(50 / 90)
    assert found[1:] == (None, None, "9 patients with a lesion, an interval needs 10")


def test_undefined_and_certain_scores_have_no_interval():
    weights = bootstrap.draw_weights(20)
    nothing = weighted.ratio(np.zeros(20), np.zeros(20), "patients")
    assert bootstrap.estimate(nothing, weights) == (None, None, None, "nothing to compute it from")
    for same in (1.0, 0.3):
        statistic = weighted.mean(np.full(20, same), np.arange(20), 20)
        found = bootstrap.estimate(statistic, weights)
        assert found == (pytest.approx(same), None, None, "all resamples agree")


def test_a_share_of_one_that_resamples_doubt_has_an_interval():
    """All lesions are found, but a resample with more false positives has a higher threshold."""
    scores = np.concatenate([np.linspace(0.3, 1, 20), np.full(20, 0.5)])
    hit = np.arange(40) < 20
    patients = np.tile(np.arange(20), 2)
    (statistic,) = weighted.sensitivities(
        scores, hit, ~hit, patients, lesions=np.ones(20), scans=np.ones(20), rates=[1]
    ).statistics
    assert bootstrap.estimate(statistic, bootstrap.draw_weights(20)).reason is not None
    (uneven,) = weighted.sensitivities(
        scores, hit, ~hit & (patients % 2 == 0), patients,
        lesions=np.ones(20), scans=np.ones(20), rates=[0.5],
    ).statistics  # fmt: skip
    found = bootstrap.estimate(uneven, bootstrap.draw_weights(20))
    assert found.value == found.high == 1
    assert found.low < 0.9
