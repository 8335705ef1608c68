"""One row for each view that was scored: all figures, intervals and comparisons come from rows."""

import csv
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bonescan_jax.errors import InputError
from bonescan_jax.scans import CLASSES

FORMAT = "bonescan rows 1"
FOREGROUND = tuple(enumerate(CLASSES[1:], start=1))  # labels and names of what lesions can be

Box = tuple[int, int, int, int]  # xmin, ymin, xmax, ymax in pixels; xmax and ymax are outside


class Lesion(NamedTuple):
    """A true hot spot: a box of the annotator, of either class."""

    label: int  # ABNORMAL or NORMAL
    box: Box
    area: int  # pixels of its mask
    dice: float  # of its mask with the predicted hot spot of its class that it overlaps most, or 0
    surface_dice: float  # of the same two, at 1 pixel
    surface_distance: float | None  # of the same two, mean in mm; None where nothing overlaps it


class Candidate(NamedTuple):
    """A predicted hot spot, found at a low threshold; most of them are to be rejected by score."""

    label: int  # ABNORMAL or NORMAL
    score: float  # probability, higher is more certain
    box: Box
    area: int  # pixels
    overlaps: tuple[tuple[int, float], ...]  # lesions of the row that it overlaps, with their IoU


class ViewRow(NamedTuple):
    """A view of a patient. Of classification `pixels`, `candidates` and `lesions` are empty."""

    patient: int
    view: str  # "anterior", "posterior", or "anterior and posterior" of a network that says it once
    region: str | None  # of a crop
    abnormal: bool  # by the annotator
    score: float  # that the view is abnormal
    counts: float | None  # that the camera recorded, estimated from a JPEG
    overflow: bool  # pixels ran over 255 and were set right
    pixels: dict[str, list[list[int]]]  # by predictor: of each class TP, FP, FN pixels
    candidates: tuple[Candidate, ...]
    lesions: tuple[Lesion, ...]


def write_rows(path: Path, about: dict[str, Any], rows: Iterable[ViewRow]) -> None:
    """Writes a line of JSON about all rows, then a line for each; whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    path.parent.mkdir(parents=True, exist_ok=True)
    with partial.open("w") as file:
        file.write(json.dumps({"format": FORMAT, "classes": CLASSES, **about}) + "\n")
        for row in rows:
            file.write(json.dumps(_to_json(row)) + "\n")
    partial.replace(path)


def write_tables(stem: Path, rows: Sequence[ViewRow]) -> None:
    """Writes the same as CSV: STEM_views, STEM_candidates and STEM_lesions, a line for each."""
    views, candidates, lesions = [], [], []
    for row in rows:
        place = {"patient": row.patient, "view": row.view, "region": row.region or ""}
        view = place | {name: getattr(row, name) for name in _VIEW_COLUMNS}
        for predictor, counts in row.pixels.items():
            for name, of_class in zip(CLASSES[1:], counts, strict=True):
                columns = (f"{predictor}_{name}_{kind}" for kind in ("found", "invented", "missed"))
                view |= dict(zip(columns, of_class, strict=True))
        views.append(view)
        for each in row.candidates:
            overlaps = " ".join(f"{lesion}:{iou:.4f}" for lesion, iou in each.overlaps)
            candidates.append(place | _spot(each) | {"score": each.score, "overlaps": overlaps})
        for number, lesion in enumerate(row.lesions):
            drawn = {name: getattr(lesion, name) for name in _DRAWN_COLUMNS}
            lesions.append(place | {"number": number} | _spot(lesion) | drawn)
    for kind, lines in (("views", views), ("candidates", candidates), ("lesions", lesions)):
        path = stem.with_name(f"{stem.name}_{kind}.csv")
        partial = path.with_name(path.name + ".partial")
        with partial.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(lines[0]) if lines else [*place])
            writer.writeheader()
            writer.writerows(lines)
        partial.replace(path)


_VIEW_COLUMNS = ("abnormal", "score", "counts", "overflow")
_DRAWN_COLUMNS = ("dice", "surface_dice", "surface_distance")


def _spot(spot: Lesion | Candidate) -> dict[str, Any]:
    box = dict(zip(("xmin", "ymin", "xmax", "ymax"), spot.box, strict=True))
    return {"class": CLASSES[spot.label], **box, "area": spot.area}


def read_rows(path: Path) -> tuple[dict[str, Any], list[ViewRow]]:
    """What `write_rows` wrote: what it says about all rows, and the rows.

    Raises:
        InputError: there is no such file, or it is incomplete or of another format.
    """
    try:
        first, *lines = path.read_text().splitlines()
        about = json.loads(first)
        if about.get("format") != FORMAT:
            raise ValueError(f"its format is {about.get('format')!r}, expected {FORMAT!r}")
        return about, [_from_json(json.loads(line)) for line in lines]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: {error}, expected what `bonescan evaluate` writes") from error


def pixel_counts(rows: Sequence[ViewRow], predictor: str) -> np.ndarray:
    """(rows, classes - 1, 3) true positive, false positive and false negative pixels."""
    return np.array([row.pixels[predictor] for row in rows]).reshape(-1, len(CLASSES) - 1, 3)


def patient_numbers(rows: Sequence[ViewRow]) -> np.ndarray:
    """(rows,) the number of each row's patient, from 0 in ascending order of their names."""
    return np.unique([row.patient for row in rows], return_inverse=True)[1]


def _to_json(row: ViewRow) -> dict[str, Any]:
    return row._asdict() | {
        "candidates": [each._asdict() for each in row.candidates],
        "lesions": [each._asdict() for each in row.lesions],
    }


def _from_json(values: dict[str, Any]) -> ViewRow:
    candidates = (
        Candidate(
            **each | {"box": tuple(each["box"]), "overlaps": tuple(map(tuple, each["overlaps"]))}
        )
        for each in values["candidates"]
    )
    lesions = (Lesion(**each | {"box": tuple(each["box"])}) for each in values["lesions"])
    return ViewRow(**values | {"candidates": tuple(candidates), "lesions": tuple(lesions)})
