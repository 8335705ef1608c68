"""Whether two networks differ, on the same patients: differences, lesions found, many at once."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import binomtest, chi2, norm, t

from bonescan_jax.metrics.bootstrap import (
    Statistic,
    difference,
    missing_support,
    percentile_interval,
    rarest,
)


class Difference(NamedTuple):
    """How much greater the first score is than the second."""

    value: float | None  # None: one of the two is undefined
    low: float | None
    high: float | None
    p_value: float | None  # of no difference
    reason: str | None  # why there is no value or no interval


class McNemar(NamedTuple):
    """Lesions that only one of two networks finds, and the chance of so uneven a split."""

    only_first: int
    only_second: int
    p_value: float


def paired_difference(
    first: Statistic, second: Statistic, weights: np.ndarray, confidence: float = 0.95
) -> Difference:
    """Compare two networks by a score on the same patients, and on the same resamples of them.

    The interval is `bootstrap.percentile_interval`, and the p-value 1 less the confidence at which
    its nearer end would be 0. It comes from the share of resamples on the rarer side of 0, the
    observed sample counted with them, so with 2,000 draws it cannot be much below 0.001: for a
    family of many scores draw more.

    Args:
        first: a score of the first network.
        second: the same score of the second, of the same patients in the same order.
        weights: (draws, patients), as `bootstrap.draw_weights` makes them.
        confidence: the coverage of the interval.

    Returns:
        First less second. No interval if there are too few patients of a kind that the score needs.
    """
    less = difference(first, second)
    value = less.value()
    if np.isnan(value):
        return Difference(None, None, None, None, "nothing to compute it from")
    reason = missing_support(less)
    if reason is not None:
        return Difference(value, None, None, None, reason)
    values, number = less.of_weights(weights), rarest(less)
    low, high = percentile_interval(values, number, confidence)
    return Difference(value, low, high, _p_value(values, number), None)


def mcnemar(first_found: np.ndarray, second_found: np.ndarray) -> McNemar:
    """Test whether two networks find equally many of the same lesions.

    McNemar 1947, "Note on the sampling error of the difference between correlated proportions or
    percentages", Psychometrika 12, doi 10.1007/BF02295996. Exact by the binomial distribution
    where fewer than 25 lesions are found by one network only, else by χ² with Edwards' correction
    for continuity.

    It takes lesions as independent. Those of a patient are not, so its p-values are too small where
    patients have many; `paired_difference` of the sensitivities draws patients.

    Args:
        first_found: (lesions,) bool, the first network finds it.
        second_found: (lesions,) bool, the second does.
    """
    first_found, second_found = np.asarray(first_found, bool), np.asarray(second_found, bool)
    only_first = int(np.count_nonzero(first_found & ~second_found))
    only_second = int(np.count_nonzero(second_found & ~first_found))
    discordant = only_first + only_second
    if discordant == 0:
        p_value = 1.0
    elif discordant < 25:
        p_value = binomtest(only_first, discordant).pvalue
    else:
        p_value = chi2.sf(max(0, abs(only_first - only_second) - 1) ** 2 / discordant, df=1)
    return McNemar(only_first, only_second, float(p_value))


def holm(p_values: Sequence[float]) -> np.ndarray:
    """Adjust the p-values of a family of tests: below α, one is wrong with a chance of α at most.

    Holm 1979, "A simple sequentially rejective multiple test procedure", Scandinavian Journal of
    Statistics 6. It assumes nothing about how the tests depend on each other.

    Args:
        p_values: of all tests that were made, in any order.

    Returns:
        The adjusted p-values in the same order.
    """
    values = np.asarray(p_values, np.float64)
    order = np.argsort(values, kind="stable")
    adjusted = np.empty_like(values)
    remaining = len(values) - np.arange(len(values))
    adjusted[order] = np.minimum(1, np.maximum.accumulate(values[order] * remaining))
    return adjusted


def _p_value(values: np.ndarray, number: int) -> float:
    """The inverse of `percentile_interval`: the confidence outside an interval that ends at 0."""
    rarer = min(np.count_nonzero(values <= 0), np.count_nonzero(values >= 0))
    share = min(0.5, (rarer + 1) / (np.count_nonzero(~np.isnan(values)) + 1))
    return float(2 * t.cdf(norm.ppf(share) * np.sqrt((number - 1) / number), number - 1))
