"""Image-level ROC AUC with its DeLong confidence interval."""

from typing import NamedTuple

import numpy as np
from scipy.stats import norm, rankdata


class Auc(NamedTuple):
    """Area under the ROC curve and its 95 % confidence interval."""

    auc: float
    low: float | None  # None: fewer than two images of a class, the variance is undefined
    high: float | None


def roc_auc(scores: np.ndarray, labels: np.ndarray, confidence: float = 0.95) -> Auc | None:
    """Estimate the ROC AUC and a confidence interval for it.

    The AUC is the Mann-Whitney statistic, the chance that an abnormal image scores higher than a
    normal one, ties counted half. Its variance is that of DeLong, DeLong and Clarke-Pearson 1988,
    "Comparing the areas under two or more correlated receiver operating characteristic curves",
    Biometrics 44, doi 10.2307/2531595, computed from midranks as in Sun and Xu 2014, doi
    10.1109/LSP.2014.2337313. The interval is the normal one, cut to [0, 1]; where the
    classes are separated perfectly, the variance is 0 and the interval a single point, too narrow.

    Args:
        scores: (N,) floats, higher is more abnormal.
        labels: (N,) bool, the image is abnormal.
        confidence: the coverage of the interval.

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
    placed_negative = (midrank[~labels] - rankdata(negative)) / len(positive)
    auc = float(placed_positive.mean())
    if min(len(positive), len(negative)) < 2:
        return Auc(auc, None, None)
    variance = placed_positive.var(ddof=1) / len(positive)
    variance += placed_negative.var(ddof=1) / len(negative)
    margin = float(norm.ppf((1 + confidence) / 2) * np.sqrt(variance))
    return Auc(auc, max(0.0, auc - margin), min(1.0, auc + margin))
