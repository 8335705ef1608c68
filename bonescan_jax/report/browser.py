"""The part of the page in which every scan of a split can be looked at, as each run sees it."""

import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from bonescan_jax.datasets.records import ALL, data_fingerprint
from bonescan_jax.errors import InputError
from bonescan_jax.metrics.rows import ViewRow, read_rows
from bonescan_jax.report.asset import asset
from bonescan_jax.report.pictures import Picture, choose_patients, scan_pictures
from bonescan_jax.report.runs import CROSSVALIDATION, Run
from bonescan_jax.report.scan_data import (
    FOREGROUND,
    by_patient,
    found_by_run,
    in_order_of,
    scans_of,
    worst_first,
)
from bonescan_jax.runs.workdir import change, read_config
from bonescan_jax.scans import ABNORMAL, CLASSES

DEFAULT_THRESHOLD = 0.5  # where evaluation chose none
LEAD_BOXES = "Boxes drawn by the annotator beside what the network found."
LEAD_IMAGES = "What the network says of every image, beside the annotator's label."
WHICH_SCANS = {CROSSVALIDATION: "scan of all folds", ALL: "scan"}
# Bytes: of the section with its notes, and of what stands for and around each picture.
_SECTION, _AROUND = 10_000, 150


class Browser(NamedTuple):
    """Parts of the page."""

    section: str  # HTML of the main content
    data: str  # JSON for the script
    pictures: dict[str, str]  # text by the name of its element


class _Browsed(NamedTuple):
    """A run with the rows that are browsed."""

    run: Run
    about: dict[str, Any]
    rows: list[ViewRow]


def scan_browser(
    runs: Sequence[Run], max_bytes: int, changes: Mapping[str, Any] | None = None
) -> Browser | None:
    """Makes the browser of the scans that the rows of runs are of.

    Scans are those of the first run with rows; the reader chooses among all runs that were scored
    on the same views. Candidates count from the thresholds that evaluation chose, 0.5 where it
    chose none, until the reader moves them.

    Args:
        runs: whose config.json names the data set that has the pixels.
        max_bytes: of this part of the page; where it would be more, pictures are left out.
        changes: settings by name that differ from the runs', such as {"data.dir": "elsewhere"}.

    Returns:
        None if no run has rows.

    Raises:
        InputError: rows cannot be read, or a setting is part of what a run has computed.
    """
    browsed = [
        _Browsed(run, *read_rows(run.rows_file)) for run in runs if run.rows_file is not None
    ]
    if not browsed:
        return None
    first = browsed[0]._replace(rows=by_patient(browsed[0].rows))
    boxes = any(row.pixels for row in first.rows)  # or images were classified
    scans = scans_of(first.rows)
    found: list[dict[str, Any]] = []
    elsewhere: list[str] = []
    for each in browsed:
        rows = in_order_of(first.rows, each.rows)
        if rows is None:
            elsewhere.append(each.run.name)
            continue
        said = found_by_run(rows, each.about.get("selected"))
        chosen = _thresholds(each.run, boxes)
        found.append({"name": each.run.name, "thresholds": chosen, "scans": said})
    content = {"boxes": boxes, "classes": list(found[0]["thresholds"])}
    content |= {"scans": scans, "runs": found}
    encoded = json.dumps(content, separators=(",", ":"), allow_nan=False)
    pictures, missing = _pictures(first, changes or {})
    worst = worst_first(scans, found[0]["scans"], found[0]["thresholds"])
    shown, left_out = _within_budget(pictures, worst, max_bytes - len(encoded) - _SECTION)
    if left_out:
        missing = (
            "To keep this page below the size that was asked for (--max_megabytes), it has the "
            f"pictures of {len(pictures) - left_out} of {len(pictures)} patients: those with the "
            "most mistakes, and a random choice of the others. All are in the list and in the "
            "counts."
        )
    levels = {name: picture.level for name, picture in shown.items()}
    return Browser(
        _section(first, boxes, [missing, _elsewhere(elsewhere)]),
        f'{{"levels":{json.dumps(levels, separators=(",", ":"))},{encoded[1:]}',
        {name: picture.text for name, picture in shown.items()},
    )


def _section(browsed: _Browsed, boxes: bool, notes: Sequence[str]) -> str:
    split = str(browsed.about.get("split", ""))
    note = "".join(f'<p class="missing">{escape(each)}</p>' for each in notes if each)
    section = asset("browser.html").replace("{lead}", LEAD_BOXES if boxes else LEAD_IMAGES)
    section = section.replace("{scans}", escape(WHICH_SCANS.get(split, f"{split} scan")))
    return section.replace("{note}", note)


def _elsewhere(names: Sequence[str]) -> str:
    if not names:
        return ""
    return f"Scored on other views, and so not to be chosen here: {', '.join(names)}."


def _thresholds(run: Run, boxes: bool) -> dict[str, float]:
    """By class; of a cross-validation the median of the folds."""
    if run.folds and not run.evaluation.get("thresholds"):
        each = [_thresholds(fold, boxes) for fold in run.folds]
        return {name: median(fold[name] for fold in each) for name in each[0]}
    given = run.evaluation.get("thresholds") or {}
    if not boxes:
        return {CLASSES[ABNORMAL]: given.get("image") or DEFAULT_THRESHOLD}
    candidates = given.get("candidates") or {}
    return {name: candidates.get(name) or DEFAULT_THRESHOLD for _, name in FOREGROUND}


def _pictures(
    browsed: _Browsed, changes: Mapping[str, Any]
) -> tuple[dict[int, dict[str, Picture]], str]:
    """Pictures by patient and name; and, where there are none, a sentence on why."""
    run, about = browsed.run, browsed.about
    if run.config_folder is None:
        return {}, "The scans are not shown: no config.json of the run was found."
    pictures: dict[int, dict[str, Picture]] = {}
    try:
        config = read_config(run.config_folder)
    except InputError as error:
        return {}, f"The scans are not shown: {error}"
    expected = about.get("data_fingerprint") or run.trained_on
    config.data.name = about.get("data", config.data.name)
    config.data.dir = about.get("data_dir", config.data.dir)
    if run.trained_on not in (None, expected):
        config.data.fold = -1  # an external test set, which has its own
    change(config, dict(changes))
    split = str(about.get("split")).replace(CROSSVALIDATION, ALL)
    try:
        here = data_fingerprint(Path(config.data.dir), config.data.name)
        if expected not in (None, here):
            # The same numbers may be other patients there.
            return {}, (
                f"The scans are not shown: {config.data.name} in {config.data.dir} is not the data "
                "set that was evaluated."
            )
        patients = {row.patient for row in browsed.rows}
        for patient, picture_id, picture in scan_pictures(config, split, patients):
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
