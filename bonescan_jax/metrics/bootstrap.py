"""Bootstrap over patients: the interval of any score, with all resamples in one matrix.

The views, regions and lesions of a patient are not independent, so what is drawn again and again
is patients, each with all that belongs to it (the cluster bootstrap; Davison and Hinkley 1997,
"Bootstrap Methods and their Application", section 3.8, doi 10.1017/CBO9780511802843). A resample
is a vector that says how often each patient was drawn, and a score is a function of such weights
(`weighted`). Two runs on the same patients are compared on the same resamples.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.special import expit, logit
from scipy.stats import norm, t

DRAWS = 2000
# With fewer patients of a kind the resamples say little of how such patients differ.
FEWEST_PATIENTS = 10
NOTHING = "nothing to compute it from"

# (draws, patients) weights to (draws,) values.
OfWeights = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Statistic:
    """A score as a function of how often each patient is counted.

    Attributes:
        of_weights: takes (draws, patients) weights and returns (draws,) float64 values, NaN where
            the score is undefined, as a share of no lesions is.
        support: how many patients there are of each kind that the score cannot do without, by a
            name in the plural.
        is_share: its values lie between 0 and 1.
    """

    of_weights: OfWeights
    support: Mapping[str, int]
    is_share: bool = True

    def value(self) -> float:
        """The score itself, every patient counted once; NaN if it is undefined."""
        num_patients = self.support["patients"]
        return float(self.of_weights(np.ones((1, num_patients)))[0])


class Joint(NamedTuple):
    """Scores of the same patients that are cheaper to compute together than one by one."""

    statistics: Sequence[Statistic]
    of_weights: OfWeights  # to (scores, draws) values


class Estimate(NamedTuple):
    """A score and its interval."""

    value: float | None  # None: undefined
    low: float | None  # None: no interval
    high: float | None
    reason: str | None  # why there is no value or no interval

    def to_json(self) -> dict[str, float | str | None]:
        """{"value", "low", "high"}, and "reason" where there is one."""
        values = self._asdict()
        if self.reason is None:
            del values["reason"]
        return values


def draw_weights(num_patients: int, draws: int = DRAWS, seed: int = 0) -> np.ndarray:
    """Draw as many patients as there are, with replacement, again and again.

    Args:
        num_patients: how many patients there are, at least one.
        draws: how many resamples to make.
        seed: equal seeds give equal weights.

    Returns:
        (draws, num_patients) float64, how often each patient was drawn; each row sums up to the
        number of patients. The resamples are those of `scipy.stats.bootstrap` with
        `rng=np.random.default_rng(seed)`.
    """
    drawn = np.random.default_rng(seed).integers(0, num_patients, (draws, num_patients))
    drawn += num_patients * np.arange(draws)[:, None]
    counts = np.bincount(drawn.ravel(), minlength=draws * num_patients)
    return counts.reshape(draws, num_patients).astype(np.float64)


def estimate(statistic: Statistic, weights: np.ndarray, confidence: float = 0.95) -> Estimate:
    """Give a score its interval.

    That of a share is `share_interval` with the standard deviation of the resamples as its standard
    error, that of another score `percentile_interval`; so is that of a share of 0 or 1.

    Args:
        statistic: the score.
        weights: (draws, patients), as `draw_weights` makes them.
        confidence: the coverage of the interval.

    Returns:
        The score and its interval. No interval if there are fewer than `FEWEST_PATIENTS` of a kind
        that the score needs, or if all resamples agree: a sensitivity of 1 is not certain because
        no lesion was missed among those at hand.
    """
    joint = Joint([statistic], lambda some: statistic.of_weights(some)[None])
    return estimate_jointly(joint, weights, confidence)[0]


def estimate_jointly(joint: Joint, weights: np.ndarray, confidence: float = 0.95) -> list[Estimate]:
    """Give scores that are computed together their intervals, each as `estimate` does."""
    observed = joint.of_weights(np.ones((1, weights.shape[1])))[:, 0]
    estimates = []
    for statistic, value, values in zip(
        joint.statistics, observed, joint.of_weights(weights), strict=True
    ):
        reason = NOTHING if np.isnan(value) else missing_support(statistic)
        if reason is None:
            estimates.append(_with_interval(statistic, float(value), values, confidence))
        else:
            known = None if np.isnan(value) else float(value)
            estimates.append(Estimate(known, None, None, reason))
    return estimates


def _with_interval(
    statistic: Statistic, value: float, values: np.ndarray, confidence: float
) -> Estimate:
    """The interval from the (draws,) values of the resamples; as `estimate` says."""
    number = rarest(statistic)
    # A resample without any patient of a kind has no value and does not count.
    if np.nanmax(values) - np.nanmin(values) < 1e-12:  # but for rounding
        return Estimate(value, None, None, "all resamples agree")
    if statistic.is_share and 0 < value < 1:
        error = float(np.nanstd(values)) * np.sqrt(number / (number - 1))
        return Estimate(value, *share_interval(value, error, number, confidence), None)
    return Estimate(value, *percentile_interval(values, number, confidence), None)


def missing_support(statistic: Statistic) -> str | None:
    """Says which kind of patients is too rare for an interval; None if none is."""
    for kind, number in statistic.support.items():
        if number < FEWEST_PATIENTS:
            return f"{number} {kind}, an interval needs {FEWEST_PATIENTS}"
    return None


def rarest(statistic: Statistic) -> int:
    """How many patients there are of the kind that limits what is known."""
    return min(statistic.support.values())


def share_interval(
    value: float, error: float, number: int, confidence: float
) -> tuple[float, float]:
    """An interval of a share that is symmetric in its logit and so stays between 0 and 1.

    One that is symmetric in the share itself, or that percentiles give, is too high too often for
    shares near 1 (docs/evaluation.md). Qin and Hotilovac 2008, "Comparison of
    non-parametric confidence intervals for the area under the ROC curve of a continuous-scale
    diagnostic test", Statistical Methods in Medical Research 17.

    Args:
        value: the share, above 0 and below 1.
        error: its standard error.
        number: of patients that the error is known from, at least 2; the quantile is Student's.
        confidence: the coverage of the interval.
    """
    margin = t.ppf((1 + confidence) / 2, number - 1) * error / (value * (1 - value))
    low, high = expit(logit(value) + np.array([-margin, margin]))
    return float(low), float(high)


def percentile_interval(values: np.ndarray, number: int, confidence: float) -> tuple[float, float]:
    """The middle of (draws,) values, a little more than the share that it is to cover.

    Percentiles alone are too narrow by as much as a normal interval without n / (n - 1) in its
    variance; the expanded ones make up for it. Hesterberg 2015, "What teachers should know about
    the bootstrap", The American Statistician 69, doi 10.1080/00031305.2015.1089789.

    Args:
        values: of the resamples, NaN where undefined.
        number: of patients that they are known from, at least 2.
        confidence: the coverage of the interval.
    """
    expansion = np.sqrt(number / (number - 1))
    outside = norm.cdf(t.ppf((1 - confidence) / 2, number - 1) * expansion)
    low, high = np.nanquantile(values, [outside, 1 - outside])
    return float(low), float(high)


def difference(first: Statistic, second: Statistic) -> Statistic:
    """The first score minus the second, of the same patients in the same order."""
    return Statistic(
        lambda weights: first.of_weights(weights) - second.of_weights(weights),
        rarest_support([first, second]),
        is_share=False,
    )


def rarest_support(statistics: Sequence[Statistic]) -> dict[str, int]:
    """Of each kind the least number of patients that one of some scores has."""
    kinds: dict[str, list[int]] = {}
    for each in statistics:
        for kind, number in each.support.items():
            kinds.setdefault(kind, []).append(number)
    return {kind: min(numbers) for kind, numbers in kinds.items()}
