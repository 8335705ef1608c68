"""Rows as the data of the scan browser: what scans hold, and what became of every candidate."""

import functools
import operator
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any

from bonescan_jax.metrics.detection import events
from bonescan_jax.metrics.rows import ViewRow, pixel_counts
from bonescan_jax.report.pictures import picture_name
from bonescan_jax.scans import ABNORMAL, CLASSES

FOREGROUND = tuple(enumerate(CLASSES))[1:]
# What became of a candidate that is the hit of no lesion.
FALSE_ALARM, FURTHER = -1, -2


def by_patient(rows: Iterable[ViewRow]) -> list[ViewRow]:
    """In order of patients; those of one keep theirs."""
    return sorted(rows, key=operator.attrgetter("patient"))


def in_order_of(rows: Sequence[ViewRow], others: Sequence[ViewRow]) -> list[ViewRow] | None:
    """The others in the order of rows; None unless they are of the same views and lesions."""
    by_view = {_identity(row): row for row in others}
    if len(others) != len(rows) or by_view.keys() != {_identity(row) for row in rows}:
        return None
    return [by_view[_identity(row)] for row in rows]


def _identity(row: ViewRow) -> tuple[Any, ...]:
    """What the rows of two runs share."""
    lesions = ((lesion.label, lesion.box) for lesion in row.lesions)
    return row.patient, row.view, row.region, row.abnormal, bool(row.pixels), *lesions


def scans_of(rows: Sequence[ViewRow]) -> list[dict[str, Any]]:
    """Each patient, without what a network says; lesions are [class, box].

    Args:
        rows: of each patient one after the other.
    """
    return [_scan(list(views)) for _, views in groupby(rows, key=operator.attrgetter("patient"))]


def found_by_run(rows: Sequence[ViewRow], predictor: str | None) -> list[dict[str, Any]]:
    """What a run says of each patient, in the order of `scans_of`.

    Args:
        rows: of each patient one after the other.
        predictor: whose pixels give the Dice.
    """
    return [
        {"dice": _dice(views, predictor), "views": [_found(row) for row in views]}
        for _, each in groupby(rows, key=operator.attrgetter("patient"))
        for views in [list(each)]
    ]


def worst_first(
    scans: Sequence[Mapping[str, Any]],
    found: Sequence[Mapping[str, Any]],
    thresholds: Mapping[str, float],
) -> list[int]:
    """Patients by missed lesions, then false alarms, then lowest Dice of what is abnormal.

    Args:
        scans: of `scans_of`.
        found: of `found_by_run`.
        thresholds: of the classes.
    """

    def rank(scan: Mapping[str, Any], said: Mapping[str, Any]) -> tuple[float, ...]:
        missed = alarms = 0
        for view, of_view in zip(scan["views"], said["views"], strict=True):
            kept = [
                each
                for each in of_view["candidates"]
                if each[0] == ABNORMAL and each[1] >= thresholds[CLASSES[ABNORMAL]]
            ]
            alarms += sum(each[-1] == FALSE_ALARM for each in kept)
            missed += sum(lesion[0] == ABNORMAL for lesion in view["lesions"])
            missed -= sum(each[-1] >= 0 for each in kept)
        dice = said["dice"][0]
        return -missed, -alarms, 2 if dice is None else dice, scan["patient"]

    return [int(patient) for *_, patient in sorted(map(rank, scans, found))]


def _scan(views: Sequence[ViewRow]) -> dict[str, Any]:
    counted = [row.counts for row in views if row.counts is not None]
    return {
        "patient": views[0].patient,
        "counts": round(sum(counted)) if counted else None,
        "overflow": any(row.overflow for row in views),
        "views": [_view(row) for row in views],
    }


def _view(row: ViewRow) -> dict[str, Any]:
    """An image that was classified is one lesion, without a box, if it is abnormal."""
    lesions = [[lesion.label, *lesion.box] for lesion in row.lesions]
    if not row.pixels:
        lesions = [[ABNORMAL, 0, 0, 0, 0]] if row.abnormal else []
    return {
        "view": row.view,
        "region": row.region,
        "abnormal": row.abnormal,
        "pictures": [
            [view, picture_name(row.patient, view, row.region)] for view in row.view.split(" and ")
        ],
        "lesions": lesions,
    }


def _found(row: ViewRow) -> dict[str, Any]:
    """Candidates as [class, score, box, what became of it]; a classified image is one of them."""
    candidates = [each for label, _ in FOREGROUND for each in _outcomes(row, label)]
    if not row.pixels:
        candidates = [[ABNORMAL, row.score, 0, 0, 0, 0, 0 if row.abnormal else FALSE_ALARM]]
    return {"score": round(row.score, 4), "candidates": candidates}


def _dice(views: Sequence[ViewRow], predictor: str | None) -> list[float | None]:
    """Of each class over the pixels of all views; None where there are none, true or predicted."""
    if not all(predictor in row.pixels for row in views):
        return [None] * len(FOREGROUND)
    hits, extra, missed = pixel_counts(views, str(predictor)).sum(axis=0).T
    sums = 2 * hits + extra + missed
    return [
        round(2 * float(hit) / float(both), 4) if both else None
        for hit, both in zip(hits, sums, strict=True)
    ]


def _outcomes(row: ViewRow, label: int) -> list[list[float]]:
    """Candidates of a class, best first: class, score, box, and the lesion that it is a hit of."""
    # The same order as that of the events.
    candidates = sorted(
        (each for each in row.candidates if each.label == label), key=lambda each: -each.score
    )
    if not candidates:
        return []
    alarms = events([row], label, "centre").false_positive
    outcomes = [FALSE_ALARM if alarm else FURTHER for alarm in alarms]
    for number, lesion in enumerate(row.lesions):
        if lesion.label == label:
            only = functools.partial(operator.is_, lesion)
            for index in events([row], label, "centre", counted=only).hit.nonzero()[0]:
                outcomes[index] = number
    return [
        # Every digit of the score: the threshold may be one of them.
        [label, each.score, *each.box, outcome]
        for each, outcome in zip(candidates, outcomes, strict=True)
    ]
