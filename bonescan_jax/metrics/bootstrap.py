"""Bootstrap over patients: the interval of any score, with all resamples in one matrix.

The views, regions and lesions of a patient are not independent, so what is drawn again and again
is patients, each with all that belongs to it (the cluster bootstrap; Davison and Hinkley 1997,
"Bootstrap Methods and their Application", section 3.8, doi 10.1017/CBO9780511802843). A resample
is a vector that says how often each patient was drawn, and a score is a function of such weights:
2,000 resamples are then a few products of matrices instead of 2,000 evaluations. Two runs on the
same patients are compared on the same resamples.

Arrays about items (views, regions, candidates) have an array `patients` beside them, the number
of each item's patient, which counts from 0 to `num_patients - 1`; `np.unique` with
`return_inverse=True` makes it from names.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy import sparse
from scipy.special import expit, logit
from scipy.stats import norm, t

from bonescan_jax.metrics.calibration import equal_mass_bins

DRAWS = 2000
# With fewer patients of a kind the resamples say little of how such patients differ.
FEWEST_PATIENTS = 10
NOTHING = "nothing to compute it from"
# Numbers of a matrix that is computed at once, 32 MB.
CHUNK = 2**22

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


@dataclass(frozen=True, kw_only=True)
class Ratio(Statistic):
    """A sum over patients divided by another one.

    Attributes:
        numerator: (patients,).
        denominator: (patients,), not negative.
    """

    numerator: np.ndarray
    denominator: np.ndarray


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
    value = statistic.value()
    if np.isnan(value):
        return Estimate(None, None, None, NOTHING)
    reason = missing_support(statistic)
    if reason is not None:
        return Estimate(value, None, None, reason)
    return _with_interval(statistic, value, statistic.of_weights(weights), confidence)


def estimate_ratios(
    ratios: Sequence[Ratio], weights: np.ndarray, confidence: float = 0.95
) -> list[Estimate]:
    """Give many ratios of the same patients their intervals, all with two products of matrices.

    Arguments are as for `estimate`, and so is what comes of each ratio.
    """
    if not ratios:
        return []
    tops, bottoms = (
        np.stack([getattr(each, part) for each in ratios], axis=1).astype(np.float64)
        for part in ("numerator", "denominator")
    )
    observed = _divide(tops.sum(axis=0), bottoms.sum(axis=0))
    resampled = np.ascontiguousarray(_divide(weights @ tops, weights @ bottoms).T)
    estimates = []
    for each, value, values in zip(ratios, observed, resampled, strict=True):
        reason = NOTHING if np.isnan(value) else missing_support(each)
        if reason is not None:
            estimates.append(
                Estimate(None if np.isnan(value) else float(value), None, None, reason)
            )
        else:
            estimates.append(_with_interval(each, float(value), values, confidence))
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
        _rarest_support([first, second]),
        is_share=False,
    )


def average(statistics: Sequence[Statistic]) -> Statistic:
    """The mean of some scores of the same patients, such as sensitivities at several rates."""
    return Statistic(
        lambda weights: np.mean([each.of_weights(weights) for each in statistics], axis=0),
        _rarest_support(statistics),
        is_share=all(each.is_share for each in statistics),
    )


def ratio(
    numerator: np.ndarray,
    denominator: np.ndarray,
    kind: str,
    is_share: bool = True,
    of_kind: np.ndarray | None = None,
) -> Ratio:
    """A sum over patients divided by another one.

    Args:
        numerator: (patients,).
        denominator: (patients,), not negative.
        kind: what those patients are called that it cannot do without, in the plural.
        is_share: the ratio is between 0 and 1.
        of_kind: (patients,) not 0 for patients of that kind; by default the denominator.
    """
    support = _support(len(denominator), {kind: denominator if of_kind is None else of_kind})
    return Ratio(
        lambda weights: _divide(weights @ numerator, weights @ denominator),
        support,
        is_share,
        numerator=numerator,
        denominator=denominator,
    )


def mean(
    values: np.ndarray, patients: np.ndarray, num_patients: int, is_share: bool = True
) -> Ratio:
    """The mean over items, of those views, lesions or patients that the caller chose.

    The Brier score is the mean of squared errors, accuracy the mean of right answers.

    Args:
        values: (items,).
        patients: (items,) number of the patient.
        num_patients: how many there are, those without an item included.
        is_share: values are between 0 and 1, as millimetres are not.
    """
    return ratio(
        by_patient(values, patients, num_patients),
        np.bincount(patients, minlength=num_patients),
        "patients with a value",
        is_share,
    )


def sensitivity(
    scores: np.ndarray,
    hit: np.ndarray,
    false_positive: np.ndarray,
    patients: np.ndarray,
    *,
    lesions: np.ndarray,
    scans: np.ndarray,
    rate: float,
) -> Statistic:
    """The share of lesions found at the lowest threshold with no more false positives than a rate.

    It is read off the free-response ROC curve without interpolation. Where the curve ends before
    the rate is reached, it is the share found with all candidates kept. The threshold is read off
    anew in each resample, so the interval includes its uncertainty.

    Args:
        scores: (candidates,) higher is more certain.
        hit: (candidates,) bool, it found a lesion that none of a higher score found.
        false_positive: (candidates,) bool. A candidate may be neither.
        patients: (candidates,) number of the patient.
        lesions: (patients,) how many lesions each has.
        scans: (patients,) how many views each has, or ones for a rate per patient.
        rate: false positives per scan that are accepted.
    """
    hits, false_positives = _curve(scores, hit, false_positive, patients, len(lesions))

    def of_columns(columns: np.ndarray) -> np.ndarray:
        # 3 of 10 are no more than 0.3 each, whatever 0.3 * 10 is rounded to.
        allowed = rate * (scans @ columns) * (1 + 1e-12)
        within = np.cumsum(false_positives @ columns, axis=0) <= allowed
        return _divide((within * (hits @ columns)).sum(axis=0), lesions @ columns)

    return Statistic(
        _in_chunks(of_columns, hits.shape[0]),
        _support(len(lesions), {"patients with a lesion": lesions}),
    )


def average_precision(
    scores: np.ndarray,
    hit: np.ndarray,
    false_positive: np.ndarray,
    patients: np.ndarray,
    *,
    lesions: np.ndarray,
) -> Statistic:
    """The precision at each hit, averaged over all lesions; a missed lesion counts 0.

    This is Σ (R_k − R_{k−1}) P_k over the distinct scores, without interpolation, as scikit-learn
    defines it. Of patients or views, `hit` are the abnormal ones and `false_positive` all others,
    and `lesions` counts the abnormal ones of each patient.

    Args:
        scores: (candidates,) higher is more certain.
        hit: (candidates,) bool, it found a lesion that none of a higher score found.
        false_positive: (candidates,) bool. A candidate may be neither.
        patients: (candidates,) number of the patient.
        lesions: (patients,) how many lesions each has.
    """
    hits, false_positives = _curve(scores, hit, false_positive, patients, len(lesions))

    def of_columns(columns: np.ndarray) -> np.ndarray:
        gained = hits @ columns
        found = np.cumsum(gained, axis=0)
        kept = found + np.cumsum(false_positives @ columns, axis=0)
        precision = np.divide(found, kept, out=np.zeros_like(found), where=kept > 0)
        return _divide((gained * precision).sum(axis=0), lesions @ columns)

    return Statistic(
        _in_chunks(of_columns, hits.shape[0]),
        _support(len(lesions), {"patients with a lesion": lesions}),
    )


def auc(
    scores: np.ndarray, labels: np.ndarray, patients: np.ndarray, num_patients: int
) -> Statistic:
    """Area under the ROC curve: the share of pairs in the right order, ties counted half.

    Args:
        scores: (items,) higher is more abnormal.
        labels: (items,) bool, the view or patient is abnormal.
        patients: (items,) number of the patient.
        num_patients: how many there are.
    """
    labels = np.asarray(labels, bool)
    levels, level = np.unique(scores[labels], return_inverse=True)
    positives = _matrix(level, patients[labels], len(levels), num_patients)
    # Summed up to a level, the first half counts all normal items up to it, the second those below.
    normal, owners = scores[~labels], np.tile(patients[~labels], 2)
    place = np.concatenate([np.searchsorted(levels, normal, side) for side in ("left", "right")])
    within = place < len(levels)
    halves = _matrix(place[within], owners[within], len(levels), num_patients) / 2
    num_normal = np.bincount(patients[~labels], minlength=num_patients)
    num_abnormal = np.bincount(patients[labels], minlength=num_patients)

    def of_columns(columns: np.ndarray) -> np.ndarray:
        below = np.cumsum(halves @ columns, axis=0)
        ordered = ((positives @ columns) * below).sum(axis=0)
        return _divide(ordered, (num_abnormal @ columns) * (num_normal @ columns))

    kinds = {"abnormal patients": num_abnormal, "patients with something normal": num_normal}
    return Statistic(_in_chunks(of_columns, len(levels)), _support(num_patients, kinds))


def calibration_error(
    scores: np.ndarray,
    labels: np.ndarray,
    patients: np.ndarray,
    num_patients: int,
    num_bins: int = 10,
) -> Statistic:
    """Expected calibration error (see `calibration.expected_calibration_error`).

    The bins are those of all items, the same in each resample. The error is a sum of absolute
    values, which chance alone makes positive and resampling raises once more: its interval is one
    of the estimate and not of what the error would be with patients without end.

    Args:
        scores: (items,) probabilities.
        labels: (items,) bool, what they are probabilities of.
        patients: (items,) number of the patient.
        num_patients: how many there are.
        num_bins: how many bins of equal mass.
    """
    surplus = _matrix(
        equal_mass_bins(scores, num_bins), patients, num_bins, num_patients, scores - labels
    )
    number = np.bincount(patients, minlength=num_patients)

    def of_columns(columns: np.ndarray) -> np.ndarray:
        return _divide(np.abs(surplus @ columns).sum(axis=0), number @ columns)

    return Statistic(
        _in_chunks(of_columns, num_bins), _support(num_patients, {"patients with a value": number})
    )


def _curve(
    scores: np.ndarray,
    hit: np.ndarray,
    false_positive: np.ndarray,
    patients: np.ndarray,
    num_patients: int,
) -> tuple[sparse.csr_array, sparse.csr_array]:
    """Matrices (levels, patients) of hits and false positives, by the distinct scores of hits.

    Levels descend. The sum of the rows down to a level is what is kept with its score as threshold.
    A curve need not be known elsewhere: between two levels only false positives are added, which
    lower its sensitivity at a rate and its precision.
    """
    hit, false_positive = np.asarray(hit, bool), np.asarray(false_positive, bool)
    levels, level = np.unique(-scores[hit], return_inverse=True)
    place = np.searchsorted(levels, -scores[false_positive], "left")
    within = place < len(levels)
    return (
        _matrix(level, patients[hit], len(levels), num_patients),
        _matrix(place[within], patients[false_positive][within], len(levels), num_patients),
    )


def _matrix(
    rows: np.ndarray,
    patients: np.ndarray,
    num_rows: int,
    num_patients: int,
    values: np.ndarray | None = None,
) -> sparse.csr_array:
    """(num_rows, num_patients) sums of values, or numbers, of items by row and patient."""
    values = np.ones(len(rows)) if values is None else np.asarray(values, np.float64)
    return sparse.coo_array((values, (rows, patients)), (num_rows, num_patients)).tocsr()


def _in_chunks(of_columns: OfWeights, num_rows: int) -> OfWeights:
    """A function of weights from one of (patients, draws) columns that holds so many rows each."""

    def of_weights(weights: np.ndarray) -> np.ndarray:
        step = max(1, CHUNK // max(1, num_rows))
        parts = (weights[start : start + step] for start in range(0, len(weights), step))
        return np.concatenate([of_columns(np.ascontiguousarray(part.T)) for part in parts])

    return of_weights


def by_patient(values: np.ndarray, patients: np.ndarray, num_patients: int) -> np.ndarray:
    """(num_patients,) sums of the values of each patient's items."""
    return np.bincount(patients, weights=values, minlength=num_patients)


def _support(num_patients: int, kinds: Mapping[str, np.ndarray]) -> dict[str, int]:
    """Numbers of patients: all, and by kind those whose number is not 0."""
    counted = {kind: int(np.count_nonzero(numbers)) for kind, numbers in kinds.items()}
    return {"patients": num_patients, **counted}


def _rarest_support(statistics: Sequence[Statistic]) -> dict[str, int]:
    """Of each kind the least number of patients that one of some scores has."""
    kinds: dict[str, list[int]] = {}
    for each in statistics:
        for kind, number in each.support.items():
            kinds.setdefault(kind, []).append(number)
    return {kind: min(numbers) for kind, numbers in kinds.items()}


def _divide(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Quotients as float64, NaN where the denominator is 0."""
    undefined = np.full(np.shape(denominator), np.nan)
    return np.divide(numerator, denominator, out=undefined, where=denominator > 0)
