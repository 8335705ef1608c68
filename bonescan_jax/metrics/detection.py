"""Lesion-level detection: the free-response ROC curve (FROC) and the sensitivities read off it.

Hit criterion: **the centre of the predicted box lies inside the true box**. This is the rule
of lesion-marking studies, where a mark is correct if it falls on the lesion (Setio et al. 2017,
"Validation, comparison, and combination of algorithms for automatic detection of pulmonary nodules
in computed tomography images: the LUNA16 challenge", Med. Image Anal. 42, doi
10.1016/j.media.2017.06.015; Chakraborty 2011, doi 10.1016/j.nima.2010.11.042). Overlap would be the
wrong measure here: the median box drawn by hand has 9×10 pixels, and a box of the same size shifted
by three pixels in both directions, which still points at the right spot, has an IoU of only 0.3.

As in LUNA16 a lesion counts once, by the best-scored prediction on it; a further prediction on a
lesion that was found already is ignored, neither a hit nor a false positive.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

# The operating points that results on BS-80K are quoted at.
FALSE_POSITIVES_PER_SCAN = (0.3, 0.5, 1.0)


class ScoredBoxes(NamedTuple):
    """What was predicted on one scan for one class."""

    boxes: np.ndarray  # (N, 4) xmin, ymin, xmax, ymax in pixels; xmax and ymax are outside
    scores: np.ndarray  # (N,) higher is more confident


class FrocCurve(NamedTuple):
    """One point per distinct score, descending: keep the predictions that score at least it."""

    scores: np.ndarray  # (K,)
    false_positives_per_scan: np.ndarray  # (K,) non-decreasing
    sensitivity: np.ndarray  # (K,) share of all lesions that were found, non-decreasing


def froc(predictions: Sequence[ScoredBoxes], truths: Sequence[np.ndarray]) -> FrocCurve:
    """Draw the FROC curve of one class over a set of scans.

    Args:
        predictions: per scan the predicted boxes and scores.
        truths: per scan (M, 4), the true boxes, in the same order of scans.

    Returns:
        The curve; it has no points if nothing was predicted.

    Raises:
        ValueError: there are no scans, no scan holds a lesion, or the two numbers of scans differ.
    """
    num_lesions = sum(len(boxes) for boxes in truths)
    if not num_lesions:
        raise ValueError("a FROC curve needs at least one true box")
    scored = [
        (score, hit, false_positive)
        for prediction, boxes in zip(predictions, truths, strict=True)
        for score, hit, false_positive in _match(prediction, boxes)
    ]
    scores, hits, false_positives = np.array(scored, np.float64).reshape(-1, 3).T
    order = np.argsort(-scores, kind="stable")
    scores = scores[order]
    # Predictions of equal score share one threshold: only the last of them is a point.
    points = np.flatnonzero(np.diff(scores, append=-np.inf))
    return FrocCurve(
        scores[points],
        np.cumsum(false_positives[order])[points] / len(truths),
        np.cumsum(hits[order])[points] / num_lesions,
    )


def sensitivity_at(
    curve: FrocCurve, rates: Sequence[float] = FALSE_POSITIVES_PER_SCAN
) -> dict[str, float | None]:
    """Read the sensitivity at given numbers of false positives per scan, without interpolation.

    Args:
        curve: as `froc` gives it.
        rates: acceptable numbers of false positives per scan.

    Returns:
        For every rate, as a string, the sensitivity of the most sensitive point with no more false
        positives. None where the curve ends before the rate is reached; but once all lesions are
        found, a greater rate cannot find more and the sensitivity is 1.
    """
    end = curve.false_positives_per_scan.max(initial=0)
    found = {}
    for rate in rates:
        allowed = curve.sensitivity[curve.false_positives_per_scan <= rate]
        best = float(allowed.max(initial=0.0))
        found[str(rate)] = best if end >= rate or best == 1.0 else None
    return found


def detection_scores(
    predictions: Sequence[ScoredBoxes], truths: Sequence[np.ndarray]
) -> dict[str, object] | None:
    """Sum up the FROC curve of one class as JSON values.

    Args:
        predictions: per scan the predicted boxes and scores.
        truths: per scan (M, 4), the true boxes, in the same order of scans.

    Returns:
        `num_lesions`; `sensitivity_at` the standard rates; `sensitivity` and
        `false_positives_per_scan` with every prediction kept, which says where the curve ends; and
        `curve`, its points as two lists. None if no scan holds a lesion.
    """
    num_lesions = sum(len(boxes) for boxes in truths)
    if not num_lesions:
        return None
    curve = froc(predictions, truths)
    return {
        "num_lesions": num_lesions,
        "sensitivity_at": sensitivity_at(curve),
        "sensitivity": float(curve.sensitivity.max(initial=0)),
        "false_positives_per_scan": float(curve.false_positives_per_scan.max(initial=0)),
        "curve": {
            "false_positives_per_scan": curve.false_positives_per_scan.tolist(),
            "sensitivity": curve.sensitivity.tolist(),
        },
    }


def _match(prediction: ScoredBoxes, boxes: np.ndarray) -> list[tuple[float, bool, bool]]:
    """Match one scan greedily, best score first: (score, is a hit, is a false positive) each."""
    found = np.zeros(len(boxes), bool)
    matched = []
    for i in np.argsort(-prediction.scores, kind="stable"):
        distance = _distance_if_hit(prediction.boxes[i], boxes)
        free = np.where(found, np.inf, distance)
        hit = bool(np.isfinite(free).any())
        if hit:
            found[np.argmin(free)] = True  # of overlapping lesions the one with the nearest centre
        false_positive = not np.isfinite(distance).any()
        matched.append((float(prediction.scores[i]), hit, false_positive))
    return matched


def _distance_if_hit(predicted: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Return (M,) distances in pixels from centre to centre, infinite where it is not a hit."""
    boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
    centre = (np.asarray(predicted[:2], np.float64) + predicted[2:]) / 2
    low, high = boxes[:, :2], boxes[:, 2:]
    inside = ((low <= centre) & (centre < high)).all(axis=1)
    return np.where(inside, np.linalg.norm((low + high) / 2 - centre, axis=1), np.inf)
