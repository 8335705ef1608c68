"""Scores of images and patients: ROC AUC, curves, and rates at a threshold, with intervals."""

from typing import NamedTuple

import numpy as np
from scipy.stats import binomtest, rankdata

from bonescan_jax.metrics import bootstrap, weighted


class Auc(NamedTuple):
    """Area under the ROC curve and its confidence interval."""

    auc: float
    low: float | None  # None: fewer than two patients of a class, the variance is undefined
    high: float | None


class PatientScores(NamedTuple):
    """One score and one label for each patient."""

    patients: np.ndarray  # (P,) ascending
    scores: np.ndarray  # (P,)
    labels: np.ndarray  # (P,) bool


class RocCurve(NamedTuple):
    """One point per distinct score, descending: call abnormal what scores at least it."""

    thresholds: np.ndarray  # (K,) the first is infinite: nothing is abnormal
    false_positive_rate: np.ndarray  # (K,) 1 - specificity, non-decreasing
    sensitivity: np.ndarray  # (K,) non-decreasing


class PrecisionRecallCurve(NamedTuple):
    """One point per distinct score, descending: call abnormal what scores at least it."""

    thresholds: np.ndarray  # (K,)
    precision: np.ndarray  # (K,)
    recall: np.ndarray  # (K,) non-decreasing


def roc_auc(
    scores: np.ndarray,
    labels: np.ndarray,
    confidence: float = 0.95,
    clusters: np.ndarray | None = None,
) -> Auc | None:
    """Estimate the ROC AUC and a confidence interval for it.

    The AUC is the Mann-Whitney statistic, the chance that an abnormal image scores higher than a
    normal one, ties counted half. Its variance is that of Obuchowski 1997, "Nonparametric analysis
    of clustered ROC curve data", Biometrics 53, doi 10.2307/2533958, which sums up the images of a
    patient before it squares. With a patient for each image it is that of DeLong, DeLong and
    Clarke-Pearson 1988, "Comparing the areas under two or more correlated receiver operating
    characteristic curves", Biometrics 44, doi 10.2307/2531595. Both are computed from midranks as
    in Sun and Xu 2014, doi 10.1109/LSP.2014.2337313. The interval is `bootstrap.share_interval`;
    where the classes are separated perfectly, the variance is 0 and the interval a single point,
    too narrow.

    Args:
        scores: (N,) floats, higher is more abnormal.
        labels: (N,) bool, the image is abnormal.
        confidence: the coverage of the interval.
        clusters: (N,) the patient of each image; None if no two images are of one.

    Returns:
        The AUC with its interval; None if all images are of one class.

    Raises:
        ValueError: a score is not finite, which has no rank.
    """
    scores, labels = np.asarray(scores, np.float64), np.asarray(labels, bool)
    if not np.isfinite(scores).all():
        raise ValueError("scores must be finite")
    positive, negative = scores[labels], scores[~labels]
    if not len(positive) or not len(negative):
        return None
    midrank = rankdata(scores)
    # DeLong's placements: for each image the share of the other class that scores lower.
    placed_positive = (midrank[labels] - rankdata(positive)) / len(negative)
    placed_negative = 1 - (midrank[~labels] - rankdata(negative)) / len(positive)
    auc = float(placed_positive.mean())
    placed = np.empty_like(scores)
    placed[labels], placed[~labels] = placed_positive, placed_negative
    names = np.arange(len(labels)) if clusters is None else np.asarray(clusters)
    rarest = min(len(np.unique(names[of_class])) for of_class in (labels, ~labels))
    if rarest < 2:
        return Auc(auc, None, None)
    if auc in (0, 1):
        return Auc(auc, auc, auc)
    error = np.sqrt(_auc_variance(placed - auc, labels, names))
    return Auc(auc, *bootstrap.share_interval(auc, error, rarest, confidence))


def patient_scores(scores: np.ndarray, labels: np.ndarray, patients: np.ndarray) -> PatientScores:
    """Take the greatest score over the views of each patient, abnormal if one of them is.

    Args:
        scores: (N,) floats, higher is more abnormal.
        labels: (N,) bool, the view is abnormal.
        patients: (N,) the patient of each view.
    """
    names, index = np.unique(patients, return_inverse=True)
    greatest = np.full(len(names), -np.inf)
    np.maximum.at(greatest, index, scores)
    return PatientScores(names, greatest, np.bincount(index, labels, len(names)) > 0)


def roc_curve(scores: np.ndarray, labels: np.ndarray) -> RocCurve | None:
    """Draw the ROC curve; arguments as for `roc_auc`. None if all images are of one class."""
    levels, positives, negatives = _levels(scores, labels)
    if not positives.sum() or not negatives.sum():
        return None
    return RocCurve(
        np.concatenate([[np.inf], levels]),
        np.concatenate([[0], np.cumsum(negatives)]) / negatives.sum(),
        np.concatenate([[0], np.cumsum(positives)]) / positives.sum(),
    )


def precision_recall_curve(scores: np.ndarray, labels: np.ndarray) -> PrecisionRecallCurve | None:
    """Draw the precision-recall curve; arguments as for `roc_auc`. None if nothing is abnormal."""
    levels, positives, negatives = _levels(scores, labels)
    if not positives.sum():
        return None
    found = np.cumsum(positives)
    return PrecisionRecallCurve(
        levels, found / (found + np.cumsum(negatives)), found / positives.sum()
    )


def best_threshold(scores: np.ndarray, labels: np.ndarray) -> float | None:
    """Find the threshold with the greatest sum of sensitivity and specificity.

    Youden 1950, "Index for rating diagnostic tests", Cancer 3, doi
    10.1002/1097-0142(1950)3:1<32::AID-CNCR2820030106>3.0.CO;2-3.

    Args:
        scores: (N,) floats of the validation split: never of what is evaluated.
        labels: (N,) bool, the image or patient is abnormal.

    Returns:
        A score, at or above which is abnormal; of equally good ones the highest. None if all are
        of one class.
    """
    levels, positives, negatives = _levels(scores, labels)
    if not positives.sum() or not negatives.sum():
        return None
    # Whole numbers, of which equal ones are equal.
    index = np.cumsum(positives) * negatives.sum() - np.cumsum(negatives) * positives.sum()
    return float(levels[np.argmax(index)])


def rates_at(
    scores: np.ndarray,
    labels: np.ndarray,
    threshold: float,
    clusters: np.ndarray | None = None,
    seed: int = 0,
) -> dict[str, bootstrap.Estimate]:
    """Sensitivity, specificity and accuracy at a threshold that was fixed beforehand.

    Where no two images are of one patient, intervals are those of Wilson 1927, "Probable inference,
    the law of succession, and statistical inference", JASA 22, doi
    10.1080/01621459.1927.10502953, which also bound a share of 0 or 1. Else they come from
    resampled patients.

    Args:
        scores: (N,) floats, higher is more abnormal.
        labels: (N,) bool, the image or patient is abnormal.
        threshold: at or above it is abnormal; chosen on other patients.
        clusters: (N,) the patient of each image; None if no two images are of one.
        seed: of the resamples.

    Returns:
        By name of the rate its value and 95 % interval.
    """
    labels = np.asarray(labels, bool)
    right = (np.asarray(scores) >= threshold) == labels
    chosen = {"sensitivity": labels, "specificity": ~labels, "accuracy": np.ones_like(labels)}
    names, patients = np.unique(
        np.arange(len(labels)) if clusters is None else clusters, return_inverse=True
    )
    if len(names) == len(labels):
        return {rate: _wilson(right[which]) for rate, which in chosen.items()}
    weights = bootstrap.draw_weights(len(names), seed=seed)
    return {
        rate: bootstrap.estimate(weighted.mean(right[which], patients[which], len(names)), weights)
        for rate, which in chosen.items()
    }


def _wilson(right: np.ndarray) -> bootstrap.Estimate:
    if not len(right):
        return bootstrap.Estimate(None, None, None, bootstrap.NOTHING)
    test = binomtest(int(right.sum()), len(right))
    low, high = test.proportion_ci(0.95, method="wilson")
    return bootstrap.Estimate(float(right.mean()), float(low), float(high), None)


def _auc_variance(deviations: np.ndarray, labels: np.ndarray, clusters: np.ndarray) -> float:
    """Obuchowski's variance from (N,) placements less the AUC."""
    names, patient = np.unique(clusters, return_inverse=True)
    sums, variance = [], 0.0
    for of_class in (labels, ~labels):
        # Of each patient the mean over all images of the class: S_10 / M and S_01 / N of the paper.
        each = np.bincount(patient[of_class], deviations[of_class], len(names)) / of_class.sum()
        patients = len(np.unique(patient[of_class]))
        variance += patients / (patients - 1) * np.sum(each**2)
        sums.append(each)
    covariance = len(names) / (len(names) - 1) * np.sum(sums[0] * sums[1])
    # It is negative where a patient's images score high or low together, with few patients more so.
    return max(0.0, variance + 2 * covariance)


def _levels(scores: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Distinct scores, descending, and how many positive and negative items have each."""
    labels = np.asarray(labels, bool)
    levels, level = np.unique(-np.asarray(scores, np.float64), return_inverse=True)
    positives = np.bincount(level, labels, len(levels))
    return -levels, positives, np.bincount(level, ~labels, len(levels))
