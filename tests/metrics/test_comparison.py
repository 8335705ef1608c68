"""Comparisons against statsmodels and SciPy."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import bootstrap as scipy_bootstrap
from scipy.stats import norm, t
from statsmodels.stats.contingency_tables import mcnemar as reference_mcnemar
from statsmodels.stats.multitest import multipletests

from bonescan_jax.metrics import weighted
from bonescan_jax.metrics.bootstrap import draw_weights
from bonescan_jax.metrics.comparison import holm, mcnemar, paired_difference


@given(*(st.integers(0, 40) for _ in range(4)))
@settings(max_examples=200, deadline=None)
def test_mcnemar_is_that_of_statsmodels(both, only_first, only_second, neither):
    table = np.array([[both, only_first], [only_second, neither]])
    first = np.repeat([True, True, False, False], table.ravel())
    second = np.repeat([True, False, True, False], table.ravel())
    found = mcnemar(first, second)
    assert (found.only_first, found.only_second) == (only_first, only_second)
    exact = only_first + only_second < 25
    # Of an even split statsmodels' correction goes beyond 0.
    expected = reference_mcnemar(table, exact=exact, correction=only_first != only_second)
    assert found.p_value == pytest.approx(expected.pvalue)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
@settings(max_examples=30, deadline=None)  # statsmodels collects garbage in each
def test_holm_is_that_of_statsmodels(p_values):
    _, expected, _, _ = multipletests(p_values, method="holm")
    np.testing.assert_allclose(holm(p_values), expected)


def test_no_tests_have_no_p_values():
    assert holm([]).shape == (0,)


def of_patients(values):
    return weighted.mean(values, np.arange(len(values)), len(values))


def test_difference_is_that_of_scipy_on_the_same_resamples():
    rng = np.random.default_rng(0)
    first = rng.normal(0.7, 0.2, 50)
    second = first - 0.02 + rng.normal(0, 0.1, 50)
    expected = scipy_bootstrap(
        (first, second),
        lambda a, b, axis: a.mean(axis) - b.mean(axis),
        paired=True,
        method="percentile",
        n_resamples=2000,
        confidence_level=1 - 2 * norm.cdf(-t.ppf(0.975, 49) * np.sqrt(50 / 49)),
        rng=np.random.default_rng(1),
    )
    found = paired_difference(of_patients(first), of_patients(second), draw_weights(50, seed=1))
    assert (found.low, found.high) == pytest.approx(tuple(expected.confidence_interval))
    assert found.value == pytest.approx(first.mean() - second.mean())


def test_pairs_see_what_two_intervals_hide():
    rng = np.random.default_rng(0)
    first = rng.normal(0.7, 0.2, 50)
    weights = draw_weights(50)
    paired = paired_difference(of_patients(first), of_patients(first - 0.02), weights)
    assert (paired.low, paired.high) == pytest.approx((0.02, 0.02))
    assert paired.p_value == pytest.approx(2 * t.cdf(norm.ppf(1 / 2001) * np.sqrt(49 / 50), 49))
    shuffled = paired_difference(
        of_patients(first), of_patients(rng.permutation(first - 0.02)), weights
    )
    assert shuffled.low < 0 < shuffled.high


def test_p_value_is_small_where_the_interval_leaves_out_zero():
    rng = np.random.default_rng(0)
    weights = draw_weights(40)
    seen = set()
    for effect in np.linspace(0, 0.6, 40):
        values = rng.normal(effect, 1, 40)
        found = paired_difference(of_patients(values), of_patients(np.zeros(40)), weights)
        outside = found.low > 0 or found.high < 0
        seen.add(outside)
        if abs(found.p_value - 0.05) > 0.003:  # the quantiles lie between two draws
            assert (found.p_value < 0.05) == outside
    assert seen == {True, False}


def test_p_values_are_even_where_networks_are_alike():
    rng = np.random.default_rng(0)
    weights = draw_weights(60, 400)
    p_values = [
        paired_difference(*map(of_patients, rng.normal(size=(2, 60))), weights).p_value
        for _ in range(400)
    ]
    for level in (0.05, 0.2, 0.5):
        assert np.mean(np.array(p_values) < level) == pytest.approx(level, abs=0.06)


def test_a_network_does_not_differ_from_itself():
    values = np.random.default_rng(0).random(30)
    found = paired_difference(of_patients(values), of_patients(values), draw_weights(30))
    assert found == (0, 0, 0, 1.0, None)


def test_too_few_patients_have_a_difference_without_interval():
    found = paired_difference(of_patients(np.ones(5)), of_patients(np.zeros(5)), draw_weights(5))
    assert found == (1.0, None, None, None, "5 patients, an interval needs 10")
