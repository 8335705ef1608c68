"""A run of patients that nobody has, whose report holds scans: rows, and pictures without files."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bonescan_jax.metrics.rows import Candidate, ViewRow, write_rows
from bonescan_jax.report import browser
from bonescan_jax.report.page import write_report
from bonescan_jax.report.pictures import Picture, encode_picture, picture_name
from bonescan_jax.scans import ABNORMAL, HEIGHT, VIEWS, WIDTH
from tests.metrics.random_rows import random_rows

THRESHOLDS = {"abnormal": 0.6, "normal": 0.45}
OVERFLOWED = (500, 60), 700  # row and column, grey value


def rows_with_further_marks(num_patients: int, noise: float = 0.3) -> list[ViewRow]:
    """Random rows in which the first lesion of a view has a second, weaker mark on it.

    Args:
        num_patients: always the same ones.
        noise: of what is said of them.
    """
    rows = []
    for row in random_rows(num_patients, seed=3, noise=noise):
        marks = tuple(
            Candidate(each.label, 0.4, each.box, each.area, ()) for each in row.lesions[:1]
        )
        rows.append(row._replace(candidates=(*marks, *row.candidates)))
    return rows


def image(patient: int, view: str) -> np.ndarray:
    """Noise, a body that is brighter on the left of the image, and a pixel that had overflowed."""
    random = np.random.default_rng([patient, VIEWS.index(view)])
    pixels = random.poisson(3, (HEIGHT, WIDTH))
    pixels[100:900, 40:120] += 60
    pixels[100:900, 120:210] += 20
    pixels[OVERFLOWED[0]] = OVERFLOWED[1]
    return pixels.astype(np.uint16)


def write_evaluation(
    folder: Path,
    rows: list[ViewRow],
    details: dict[str, Any] | None = None,
    about: dict[str, Any] | None = None,
) -> None:
    """Writes what evaluation leaves in a folder: rows, scores, and `details` of them.

    Args:
        folder: gets evaluation/.
        rows: of the split.
        details: what `summarize` gives; None: thresholds alone.
        about: where it differs from that of a run on its own test split.
    """
    about = {"split": "test", "selected": "mean", **(about or {})}
    path = folder / "evaluation" / f"{about['split']}.rows.jsonl"
    write_rows(path, about, rows)
    details = details or {"thresholds": {"candidates": THRESHOLDS}}
    evaluation = {**about, "num_images": len(rows), **details}
    path.with_name(f"{about['split']}.json").write_text(json.dumps(evaluation))


def write_training(workdir: Path, settings: dict[str, Any] | None = None) -> None:
    """Writes what training leaves: settings and the loss of a few steps."""
    workdir.mkdir(parents=True, exist_ok=True)
    (workdir / "config.json").write_text(json.dumps(settings or {}))
    lines = [{"step": step, "kind": "train", "loss": 1 / step} for step in range(1, 9)]
    (workdir / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)))


def show_pictures(
    monkeypatch: pytest.MonkeyPatch,
    rows: list[ViewRow],
    pictures: dict[str, Picture] | None = None,
) -> None:
    """Gives the page pictures of these rows; `pictures` by view saves encoding each."""

    def scan_pictures(*_: object) -> Iterator[tuple[int, str, Picture]]:
        for row in rows:
            for view in row.view.split(" and "):
                picture = (pictures or {}).get(view) or encode_picture(image(row.patient, view))
                yield row.patient, picture_name(row.patient, view, row.region), picture

    monkeypatch.setattr(browser, "scan_pictures", scan_pictures)
    monkeypatch.setattr(browser, "data_fingerprint", lambda *_: "")


def write_run(
    workdir: Path,
    monkeypatch: pytest.MonkeyPatch,
    rows: list[ViewRow],
    pictures: dict[str, Picture] | None = None,
    max_megabytes: float = 64,
) -> Path:
    """Writes a run that was evaluated, and its report."""
    write_training(workdir)
    write_evaluation(workdir, rows)
    show_pictures(monkeypatch, rows, pictures)
    return Path(str(write_report([workdir], max_megabytes)["report"]))


def counts_of(rows: list[ViewRow], least: float, label: int = ABNORMAL) -> tuple[int, int, int]:
    """Hits, missed lesions and false alarms, by the definition: mark by mark, best first."""
    hits = lesions = alarms = 0
    for row in rows:
        boxes = [each.box for each in row.lesions if each.label == label]
        lesions += len(boxes)
        marks = [each for each in row.candidates if each.label == label and each.score >= least]
        found = set()
        for mark in sorted(marks, key=lambda each: -each.score):
            x, y = (mark.box[0] + mark.box[2]) / 2, (mark.box[1] + mark.box[3]) / 2
            on = {b for b in boxes if b[0] <= x < b[2] and b[1] <= y < b[3]}
            alarms += not on
            found |= set(list(on - found)[:1])
        hits += len(found)
    return hits, lesions - hits, alarms
