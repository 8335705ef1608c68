"""Scores of patients that count as often as weights say, so that they can be resampled.

A score is a function of (draws, patients) weights: 2,000 resamples are then a few products of
matrices instead of 2,000 evaluations. `bootstrap` draws weights and makes intervals.

Arrays about items (views, regions, candidates) have an array `patients` beside them, the number
of each item's patient, which counts from 0 to `num_patients - 1`; `np.unique` with
`return_inverse=True` makes it from names.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import sparse

from bonescan_jax.metrics.bootstrap import Joint, OfWeights, Statistic, rarest_support
from bonescan_jax.metrics.calibration import equal_mass_bins

# Numbers of a matrix that is computed at once, 32 MB.
CHUNK = 2**22


@dataclass(frozen=True, kw_only=True)
class Ratio(Statistic):
    """A sum over patients divided by another one.

    Attributes:
        numerator: (patients,).
        denominator: (patients,), not negative.
    """

    numerator: np.ndarray
    denominator: np.ndarray


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


def together(ratios: Sequence[Ratio]) -> Joint:
    """Ratios of the same patients, all as two products of matrices."""
    numerators, denominators = (
        np.stack([getattr(each, part) for each in ratios], axis=1).astype(np.float64)
        for part in ("numerator", "denominator")
    )

    def of_weights(weights: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(_divide(weights @ numerators, weights @ denominators).T)

    return Joint(ratios, of_weights)


def sensitivities(
    scores: np.ndarray,
    hit: np.ndarray,
    false_positive: np.ndarray,
    patients: np.ndarray,
    *,
    lesions: np.ndarray,
    scans: np.ndarray,
    rates: Sequence[float],
) -> Joint:
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
        scans: (patients,) how many views each has, or ones for rates per patient.
        rates: false positives per scan that are accepted.

    Returns:
        The share at each of the rates.
    """
    hits, false_positives = _curve(scores, hit, false_positive, patients, len(lesions))

    def of_columns(columns: np.ndarray) -> np.ndarray:
        found = np.zeros((hits.shape[0] + 1, columns.shape[1]))
        np.cumsum(hits @ columns, axis=0, out=found[1:])
        extra = np.cumsum(false_positives @ columns, axis=0)
        # 3 of 10 are no more than 0.3 each, whatever 0.3 * 10 is rounded to.
        allowed = np.multiply.outer(rates, scans @ columns) * (1 + 1e-12)
        kept = [np.count_nonzero(extra <= each, axis=0) for each in allowed]
        return _divide(np.take_along_axis(found, np.stack(kept), axis=0), lesions @ columns)

    of_weights = _in_chunks(of_columns, hits.shape[0])
    support = _support(len(lesions), {"patients with a lesion": lesions})

    def at(place: int) -> OfWeights:
        return lambda weights: of_weights(weights)[place]

    return Joint([Statistic(at(k), support) for k in range(len(rates))], of_weights)


def with_average(joint: Joint) -> Joint:
    """Scores, and their mean as one more."""

    def of_weights(weights: np.ndarray) -> np.ndarray:
        values = joint.of_weights(weights)
        return np.concatenate([values, values.mean(axis=0, keepdims=True)])

    mean_of_all = Statistic(
        lambda weights: joint.of_weights(weights).mean(axis=0),
        rarest_support(joint.statistics),
        is_share=all(each.is_share for each in joint.statistics),
    )
    return Joint([*joint.statistics, mean_of_all], of_weights)


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
    """Expected calibration error: the mean distance of score and share of positives over bins.

    Nixon et al. 2019, "Measuring calibration in deep learning", arXiv:1904.01685, with bins of
    equal mass, weighted by their size. It is the error of the probability of the positive class,
    not of the likelier one. The bins are those of all items, the same in each resample. The error
    is a sum of absolute values, which chance alone makes positive and resampling raises once more:
    its interval is one of the estimate and not of what the error would be with patients without
    end.

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
        return np.concatenate([of_columns(np.ascontiguousarray(part.T)) for part in parts], axis=-1)

    return of_weights


def by_patient(values: np.ndarray, patients: np.ndarray, num_patients: int) -> np.ndarray:
    """(num_patients,) sums of the values of each patient's items."""
    return np.bincount(patients, weights=values, minlength=num_patients)


def _support(num_patients: int, kinds: Mapping[str, np.ndarray]) -> dict[str, int]:
    """Numbers of patients: all, and by kind those whose number is not 0."""
    counted = {kind: int(np.count_nonzero(numbers)) for kind, numbers in kinds.items()}
    return {"patients": num_patients, **counted}


def _divide(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Quotients as float64, NaN where the denominator is 0."""
    undefined = np.full(np.shape(numerator), np.nan)
    return np.divide(numerator, denominator, out=undefined, where=denominator > 0)
