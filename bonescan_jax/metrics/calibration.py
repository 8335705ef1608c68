"""Whether scores are the probabilities they look like, and thresholds with a guarantee."""

from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import expit, logit

# Scores of 0 and 1 have no finite logit; float32 tells 1 - 1e-7 from 1.
CLEAR = 1e-7
# What a temperature can be: beyond these all scores are 1/2, or 0 and 1.
TEMPERATURES = (0.01, 100.0)


class ReliabilityPoint(NamedTuple):
    """A bin of a reliability diagram: scores that are calibrated have `score` equal to `share`."""

    score: float  # mean score
    share: float  # of items that are positive
    number: int  # of items


class RiskControl(NamedTuple):
    """A threshold with a bound on what it misses, or the reason why there is none."""

    threshold: float | None  # keep candidates of at least this score
    missed: float | None  # mean share of missed lesions of the patients that it was chosen on
    num_patients: int  # with a lesion, that it was chosen on
    guarantee: str | None
    reason: str | None  # why there is no threshold


def equal_mass_bins(scores: np.ndarray, num_bins: int = 10) -> np.ndarray:
    """Sort scores into bins that hold equally many of them.

    Bounds are the quantiles of the scores. Equal scores share a bin, so that the order of items
    does not matter; where many are equal, bins differ in size and some may be empty.

    Args:
        scores: (N,).
        num_bins: how many bins.

    Returns:
        (N,) numbers of bins from 0 to `num_bins - 1`, ascending with the score.
    """
    if not len(scores):
        return np.zeros(0, np.int64)
    bounds = np.quantile(scores, np.linspace(0, 1, num_bins + 1)[1:-1])
    return np.searchsorted(bounds, scores)


def reliability(
    scores: np.ndarray, labels: np.ndarray, num_bins: int = 10
) -> list[ReliabilityPoint]:
    """Draw the reliability diagram with bins of equal mass.

    Bins of equal width would hold nearly all candidates in the first and a handful in the others.

    Args:
        scores: (N,) probabilities.
        labels: (N,) bool, what they are probabilities of.
        num_bins: how many bins at most.

    Returns:
        The bins that hold an item, by ascending score.
    """
    bins = equal_mass_bins(scores, num_bins)
    count, score, share = (np.bincount(bins, values, num_bins) for values in (None, scores, labels))
    return [
        ReliabilityPoint(float(score[i] / count[i]), float(share[i] / count[i]), int(count[i]))
        for i in np.flatnonzero(count)
    ]


def fit_temperature(scores: np.ndarray, labels: np.ndarray) -> float | None:
    """Find the temperature by which validation says that logits are to be divided.

    It minimizes the cross-entropy, which is convex in 1 / temperature. Guo et al. 2017, "On
    calibration of modern neural networks", arXiv:1706.04599.

    Args:
        scores: (N,) probabilities, of the validation split: never of what is evaluated.
        labels: (N,) bool, what they are probabilities of.

    Returns:
        A number within `TEMPERATURES`, above 1 where the scores are too sure; None if all labels
        are equal, which any temperature can only make surer.
    """
    labels = np.asarray(labels, bool)
    if not labels.any() or labels.all():
        return None
    # Of the label that is true: cross-entropy is the mean of log(1 + exp(-logit)).
    logits = _logit(scores) * np.where(labels, 1, -1)

    def cross_entropy(log_temperature: float) -> float:
        return float(np.logaddexp(0, -logits / np.exp(log_temperature)).mean())

    found = minimize_scalar(
        cross_entropy, bounds=np.log(TEMPERATURES), method="bounded", options={"xatol": 1e-8}
    )
    return float(np.exp(found.x))


def apply_temperature(scores: np.ndarray, temperature: float) -> np.ndarray:
    """Divide the logits of (N,) probabilities by a temperature; their order stays."""
    return expit(_logit(scores) / temperature)


def control_missed_lesions(
    scores: np.ndarray,
    hit: np.ndarray,
    patients: np.ndarray,
    lesions: np.ndarray,
    allowed: float = 0.2,
) -> RiskControl:
    """Choose the highest threshold at which new patients are expected to lose few lesions.

    Conformal risk control: with the loss of a patient the share of lesions that no kept
    candidate hits, the threshold is the highest at which (Σ losses + 1) / (n + 1) is at most what
    is allowed. Angelopoulos, Bates, Fisch, Lei and Schuster 2022, "Conformal risk control",
    arXiv:2208.02814, equation 4 with B = 1. Patients without a lesion have no share and do not
    count.

    The expectation is over the patients chosen on and the new one, all drawn alike: it holds on
    average over validation sets and new patients, not for each, and not at another hospital.

    Args:
        scores: (candidates,) higher is more certain, of the validation split.
        hit: (candidates,) bool, it found a lesion that none of a higher score found.
        patients: (candidates,) number of the patient.
        lesions: (patients,) how many lesions each has.
        allowed: the share that may be missed.

    Returns:
        The threshold with what it guarantees. None with a reason if the patients are too few or
        more lesions are missed even with all candidates kept.
    """
    lesions = np.asarray(lesions)
    number = int(np.count_nonzero(lesions))
    if allowed * (number + 1) < 1:
        needed = int(np.ceil(1 / allowed)) - 1
        reason = f"{number} patients with a lesion, a miss rate of {allowed:g} needs {needed}"
        return RiskControl(None, None, number, None, reason)
    hit = np.asarray(hit, bool)
    levels, level = np.unique(-scores[hit], return_inverse=True)
    # What a hit takes from the sum of losses is its share of the patient's lesions.
    gained = np.bincount(level, 1 / lesions[patients[hit]], len(levels))
    missed = number - np.cumsum(gained)
    enough = np.flatnonzero((missed + 1) / (number + 1) <= allowed + 1e-12)
    if not len(enough):
        share = (missed[-1] if len(missed) else number) / number
        reason = f"with all candidates kept, a mean share of {share:.3f} is missed"
        return RiskControl(None, None, number, None, reason)
    k = int(enough[0])
    guarantee = (
        f"of a new patient with lesions, drawn like the {number} validation patients, at most "
        f"{allowed:g} of them are missed in expectation; another hospital's are not drawn like them"
    )
    return RiskControl(float(-levels[k]), float(missed[k] / number), number, guarantee, None)


def _logit(scores: np.ndarray) -> np.ndarray:
    return logit(np.clip(np.asarray(scores, np.float64), CLEAR, 1 - CLEAR))
