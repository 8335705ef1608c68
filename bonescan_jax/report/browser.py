"""The part of the page in which every scan of a split can be looked at; its data, from rows."""

import functools
import json
import operator
from collections.abc import Mapping, Sequence
from html import escape
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from bonescan_jax.datasets.records import data_fingerprint
from bonescan_jax.errors import InputError
from bonescan_jax.metrics.detection import events
from bonescan_jax.metrics.rows import ViewRow, pixel_counts, read_rows
from bonescan_jax.report.asset import asset
from bonescan_jax.report.pictures import (
    Picture,
    choose_patients,
    picture_name,
    scan_pictures,
)
from bonescan_jax.runs.workdir import change, read_config
from bonescan_jax.scans import ABNORMAL, CLASSES

FOREGROUND = tuple(enumerate(CLASSES))[1:]
DEFAULT_THRESHOLD = 0.5  # where evaluation chose none
LEAD_BOXES = "Boxes drawn by the annotator beside what the network found."
LEAD_IMAGES = "What the network says of every image, beside the annotator's label."
# Bytes: of the page beside data and pictures, and of what the page writes around each picture.
_REST, _AROUND = 100_000, 150
# What became of a candidate that is the hit of no lesion.
FALSE_ALARM, FURTHER = -1, -2


class Browser(NamedTuple):
    """Parts of the page."""

    section: str  # HTML of the main content
    data: str  # JSON for the script
    pictures: dict[str, str]  # text by the name of its element


def scan_browser(
    workdir: Path,
    rows_path: Path,
    thresholds: Mapping[str, Any],
    max_megabytes: float,
    changes: dict[str, Any] | None = None,
) -> Browser:
    """Makes the browser of the scans that rows are of.

    Args:
        workdir: of the run, whose config.json names the data set that has the pixels.
        rows_path: what `bonescan evaluate` wrote.
        thresholds: that evaluation chose: by class in "candidates", of an image in "image". They
            hold until the reader moves them; what lacks is 0.5.
        max_megabytes: of the page; where it would be more, pictures are left out.
        changes: settings by name that differ from the run's, such as {"data.dir": "elsewhere"}.

    Raises:
        InputError: the rows cannot be read, or a setting is part of what the run has computed.
    """
    about, rows = read_rows(rows_path)
    rows = sorted(rows, key=lambda row: row.patient)
    boxes = any(row.pixels for row in rows)  # or images were classified
    if boxes:
        given = thresholds.get("candidates") or {}
        chosen = {name: given.get(name) or DEFAULT_THRESHOLD for _, name in FOREGROUND}
    else:
        chosen = {CLASSES[ABNORMAL]: thresholds.get("image") or DEFAULT_THRESHOLD}
    scans = [
        _scan_data(list(views), about.get("selected"))
        for _, views in groupby(rows, key=lambda row: row.patient)
    ]
    pictures, missing = _pictures(workdir, about, changes or {})
    encoded = json.dumps(scans, separators=(",", ":"))
    budget = int(max_megabytes * 1e6) - len(encoded) - _REST
    shown, left_out = _within_budget(pictures, worst_first(scans, chosen), budget)
    if left_out:
        missing = (
            f"To keep this page below {max_megabytes:g} megabytes, it has the pictures of "
            f"{len(pictures) - left_out} of {len(pictures)} patients: those with the most "
            "mistakes, and a random choice of the others. All are in the list and in the counts."
        )
    data = {
        "boxes": boxes,
        "classes": list(chosen),
        "thresholds": chosen,
        "levels": {name: picture.level for name, picture in shown.items()},
        "scans": scans,
    }
    note = f'<p class="missing">{escape(missing)}</p>' if missing else ""
    section = asset("browser.html").replace("{note}", note)
    section = section.replace("{lead}", LEAD_BOXES if boxes else LEAD_IMAGES)
    section = section.replace("{split}", escape(str(about.get("split", ""))))
    return Browser(
        section,
        json.dumps(data, separators=(",", ":"), allow_nan=False),
        {name: picture.text for name, picture in shown.items()},
    )


def worst_first(scans: Sequence[Mapping[str, Any]], thresholds: Mapping[str, float]) -> list[int]:
    """Patients by missed lesions, then false alarms, then lowest Dice of what is abnormal.

    Args:
        scans: as in the data of the page.
        thresholds: of the classes.
    """

    def rank(scan: Mapping[str, Any]) -> tuple[float, ...]:
        missed = alarms = 0
        for view in scan["views"]:
            kept = [
                each
                for each in view["candidates"]
                if each[0] == ABNORMAL and each[1] >= thresholds[CLASSES[ABNORMAL]]
            ]
            alarms += sum(each[-1] == FALSE_ALARM for each in kept)
            missed += sum(lesion[0] == ABNORMAL for lesion in view["lesions"])
            missed -= sum(each[-1] >= 0 for each in kept)
        dice = scan["dice"][0]
        return -missed, -alarms, 2 if dice is None else dice, scan["patient"]

    return [scan["patient"] for scan in sorted(scans, key=rank)]


def _scan_data(views: Sequence[ViewRow], predictor: str | None) -> dict[str, Any]:
    counted = [row.counts for row in views if row.counts is not None]
    return {
        "patient": views[0].patient,
        "dice": _dice(views, predictor),
        "counts": round(sum(counted)) if counted else None,
        "overflow": any(row.overflow for row in views),
        "views": [_view_data(row) for row in views],
    }


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


def _view_data(row: ViewRow) -> dict[str, Any]:
    """Lesions as [class, box] and candidates as [class, score, box, what became of it].

    An image that was classified is one candidate without a box, and one lesion if it is abnormal.
    """
    lesions = [[lesion.label, *lesion.box] for lesion in row.lesions]
    candidates = [each for label, _ in FOREGROUND for each in _outcomes(row, label)]
    if not row.pixels:
        lesions = [[ABNORMAL, 0, 0, 0, 0]] if row.abnormal else []
        candidates = [[ABNORMAL, row.score, 0, 0, 0, 0, 0 if row.abnormal else FALSE_ALARM]]
    return {
        "view": row.view,
        "region": row.region,
        "abnormal": row.abnormal,
        "score": round(row.score, 4),
        "pictures": [
            [view, picture_name(row.patient, view, row.region)] for view in row.view.split(" and ")
        ],
        "lesions": lesions,
        "candidates": candidates,
    }


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


def _pictures(
    workdir: Path, about: Mapping[str, Any], changes: dict[str, Any]
) -> tuple[dict[int, dict[str, Picture]], str]:
    """Pictures by patient and name; and, where there are none, a sentence on why."""
    pictures: dict[int, dict[str, Picture]] = {}
    try:
        config = read_config(workdir)
    except InputError as error:
        return {}, f"The scans are not shown: {error}"
    change(config, changes)
    name, folder = config.data.name, Path(config.data.dir)
    try:
        here = data_fingerprint(folder, name)
        if about.get("data_fingerprint", here) != here:
            # The same numbers may be other patients there.
            return {}, (
                f"The scans are not shown: {name} in {folder} is not the data set that was "
                "evaluated."
            )
        for patient, picture_id, picture in scan_pictures(config, str(about.get("split"))):
            pictures.setdefault(patient, {})[picture_id] = picture
    except InputError as error:
        return {}, f"The scans are not shown: {error}"
    return pictures, ""


def _within_budget(
    pictures: Mapping[int, Mapping[str, Picture]], worst: Sequence[int], budget: int
) -> tuple[dict[str, Picture], int]:
    """The pictures that fit, by name, and the number of patients whose pictures do not."""
    sizes = {
        patient: sum(len(picture.text) + _AROUND for picture in views.values())
        for patient, views in pictures.items()
    }
    chosen = choose_patients(worst, sizes, budget)
    shown = {
        name: picture
        for patient in pictures
        if patient in chosen
        for name, picture in pictures[patient].items()
    }
    return shown, len(pictures) - len(chosen)
