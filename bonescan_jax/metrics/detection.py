"""Lesion-level detection from rows: which candidates are hits, and the free-response ROC curve.

Two rules of what a hit is, because published results differ by them:

- **centre**: the centre of the predicted box lies inside the true box, the rule of lesion-marking
  studies, where a mark is correct if it falls on the lesion (Setio et al. 2017, the LUNA16
  challenge, doi 10.1016/j.media.2017.06.015; Chakraborty 2011, doi 10.1016/j.nima.2010.11.042). A
  lesion counts once, by the best-scored candidate on it.
- **overlap**: the IoU of the pixels of candidate and lesion is 0.1 or more; candidates and lesions
  of a view are paired so that as many as possible are, and of those ways with the largest sum of
  IoU (Saha et al. 2024, the PI-CAI challenge, doi 10.1016/S1470-2045(24)00220-1). 0.1 and not 0.5:
  a box of the median 9×10 pixels that is shifted by 3 pixels both ways, which still points at the
  right spot, has an IoU of 0.3.

By both, a further candidate on a lesion that has its hit is neither hit nor false positive.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from scipy.optimize import linear_sum_assignment

from bonescan_jax.metrics.rows import Box, Candidate, Lesion, ViewRow
from bonescan_jax.metrics.weighted import Ratio, ratio

RULES = ("centre", "overlap")
# The rule by which candidates are calibrated, thresholds chosen and groups and runs compared.
MAIN_RULE = "centre"
# The operating points that results on BS-80K are quoted at; per view or per patient.
FALSE_POSITIVES = (0.3, 0.5, 1.0, 2.0)
IOU = 0.1  # of a hit by overlap
IOUS = (0.1, 0.3, 0.5)  # of average precision


class Events(NamedTuple):
    """The candidates of one class over a set of rows, and how many lesions there are to find.

    Patients are numbered from 0 in ascending order of their names in the rows.
    """

    scores: np.ndarray  # (N,) higher is more certain
    hit: np.ndarray  # (N,) bool, it found a lesion
    false_positive: np.ndarray  # (N,) bool; a candidate may be neither
    patients: np.ndarray  # (N,) number of the patient
    lesions: np.ndarray  # (patients,) lesions of each

    def of_candidates(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """All but the lesions, in order."""
        return self[:4]


class FrocCurve(NamedTuple):
    """One point per distinct score, descending: keep the candidates that score at least it."""

    scores: np.ndarray  # (K,)
    false_positives: np.ndarray  # (K,) per scan, non-decreasing
    sensitivity: np.ndarray  # (K,) share of all lesions that were found, non-decreasing


class SensitivityAt(NamedTuple):
    """What a curve reaches at a rate of false positives."""

    sensitivity: float
    reached: bool  # False: the curve ends before the rate, and this is what it had reached


def events(
    rows: Sequence[ViewRow],
    label: int,
    rule: str,
    *,
    iou: float = IOU,
    counted: Callable[[Lesion], bool] = lambda lesion: True,
) -> Events:
    """Matches the candidates of a class with the lesions of the same class, view by view.

    Args:
        rows: of all views.
        label: of the class.
        rule: one of `RULES`.
        iou: the least of a hit by overlap.
        counted: whether a lesion is to be found; hits on others are ignored.
    """
    names, patients = np.unique([row.patient for row in rows], return_inverse=True)
    lesions = np.zeros(len(names), np.int64)
    found: list[tuple[float, bool, bool, int]] = []
    for row, patient in zip(rows, patients, strict=True):
        true = {i: each for i, each in enumerate(row.lesions) if each.label == label}
        candidates = sorted(
            (each for each in row.candidates if each.label == label), key=lambda each: -each.score
        )
        lesions[patient] += sum(map(counted, true.values()))
        matched = (
            _match_by_centre(candidates, true)
            if rule == "centre"
            else _match_by_overlap(candidates, true, iou)
        )
        for candidate, (lesion, touches) in zip(candidates, matched, strict=True):
            hit = lesion is not None and counted(true[lesion])
            found.append((candidate.score, hit, not touches, int(patient)))
    scores, hits, false_positives, owners = np.array(found, np.float64).reshape(-1, 4).T
    return Events(
        scores, hits.astype(bool), false_positives.astype(bool), owners.astype(np.int64), lesions
    )


# The lesion that a candidate is the hit of, and whether it is on any lesion.
Match = tuple[int | None, bool]


def _match_by_centre(candidates: Sequence[Candidate], lesions: dict[int, Lesion]) -> list[Match]:
    """Best score first; of overlapping lesions the one with the nearest centre."""
    free, matches = set(lesions), []
    for candidate in candidates:
        centre = _centre(candidate.box)
        on = [i for i, lesion in lesions.items() if _holds(lesion.box, centre)]
        nearest = min(
            free.intersection(on),
            key=lambda i: math.dist(_centre(lesions[i].box), centre),
            default=None,
        )
        free.discard(nearest)
        matches.append((nearest, bool(on)))
    return matches


def _match_by_overlap(
    candidates: Sequence[Candidate], lesions: dict[int, Lesion], least: float
) -> list[Match]:
    """As many pairs as possible, of these the largest sum of IoU (the Hungarian method)."""
    columns = {lesion: column for column, lesion in enumerate(lesions)}
    overlap = np.zeros((len(candidates), len(lesions)))
    for number, candidate in enumerate(candidates):
        for lesion, iou in candidate.overlaps:
            if lesion in columns and iou >= least:
                overlap[number, columns[lesion]] = iou
    # A pair is worth more than all that a better choice of IoU can add.
    gain = np.where(overlap > 0, 1 + min(overlap.shape, default=0) + overlap, 0.0)
    pairs = dict(zip(*linear_sum_assignment(gain, maximize=True), strict=True))
    names = list(lesions)
    return [
        (
            names[pairs[number]] if number in pairs and overlap[number, pairs[number]] else None,
            bool(overlap[number].any()),
        )
        for number in range(len(candidates))
    ]


def _centre(box: Box) -> tuple[float, float]:
    return (box[0] + box[2]) / 2, (box[1] + box[3]) / 2


def _holds(box: Box, point: tuple[float, float]) -> bool:
    return box[0] <= point[0] < box[2] and box[1] <= point[1] < box[3]


def froc(found: Events, num_scans: int) -> FrocCurve:
    """The FROC curve; it has no points if there are no candidates.

    Args:
        found: hits and false positives.
        num_scans: what false positives are counted per: views, or patients.

    Raises:
        ValueError: there is no lesion.
    """
    num_lesions = int(found.lesions.sum())
    if not num_lesions:
        raise ValueError("a FROC curve needs at least one lesion")
    order = np.argsort(-found.scores, kind="stable")
    scores = found.scores[order]
    # Candidates of equal score share one threshold: only the last of them is a point.
    points = np.flatnonzero(np.diff(scores, append=-np.inf))
    return FrocCurve(
        scores[points],
        np.cumsum(found.false_positive[order])[points] / num_scans,
        np.cumsum(found.hit[order])[points] / num_lesions,
    )


def sensitivity_at(curve: FrocCurve, rate: float) -> SensitivityAt:
    """The sensitivity of the most sensitive point with no more false positives than a rate.

    Nothing is interpolated. Once all lesions are found, a greater rate cannot find more, and counts
    as reached.
    """
    # 3 of 10 are no more than 0.3 each, whatever they are rounded to.
    within = curve.sensitivity[curve.false_positives <= rate * (1 + 1e-12)]
    best = float(within.max(initial=0.0))
    end = curve.false_positives.max(initial=0.0)
    return SensitivityAt(best, bool(end * (1 + 1e-12) >= rate or best == 1.0))


def operating_point(found: Events, threshold: float) -> dict[str, Ratio]:
    """Precision, recall and F1 of lesions where candidates of at least the threshold are kept.

    A candidate that is neither hit nor false positive counts for nothing.

    Returns:
        By name the score as a ratio over patients.
    """
    kept = found.scores >= threshold
    number = len(found.lesions)
    hits, extra = (
        np.bincount(found.patients[kept & each], minlength=number)
        for each in (found.hit, found.false_positive)
    )
    with_lesion = "patients with a lesion"
    return {
        "precision": ratio(hits, hits + extra, "patients with a candidate kept"),
        "recall": ratio(hits, found.lesions, with_lesion),
        "f1": ratio(2 * hits, hits + extra + found.lesions, with_lesion, of_kind=found.lesions),
    }


def best_f1_threshold(found: Events) -> float | None:
    """The score with the best F1, of equally good ones the highest; None if nothing is ever hit.

    Args:
        found: of the validation split, never of what is scored.
    """
    if not found.hit.any():
        return None
    curve = froc(found, 1)
    hits = curve.sensitivity * found.lesions.sum()
    f1 = 2 * hits / (hits + curve.false_positives + found.lesions.sum())
    return float(curve.scores[np.argmax(f1)])
