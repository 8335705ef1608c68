"""Measures how long figures and page of many patients take, without a network.

    python -m tests.accuracy.many_patients [--patients=600] [--simulated=12]

A few patients are simulated and prepared, and stand for all: each time under another number. What
a network would say is made up from brightness and noise. Then, one after the other:

- rows: both views of each patient are decoded, and candidates in them compared with the truth;
- files: the rows are written as JSON and CSV, and read again;
- summary: thresholds are chosen on a quarter of the patients, all figures computed, with their
  intervals, for 16 predictors;
- comparison: with a second run of other scores, 10,000 draws;
- page: the report with the pictures of all scans.

Progress goes to standard error; of each part its seconds, the seconds that all cores together
worked on it, and the peak memory up to its end, and the size of the page, as one line of JSON to
standard output. Simulating and preparing do not count.
"""

import argparse
import json
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import cv2
import ml_collections
import numpy as np
from scipy.special import expit

from bonescan_jax.cli.main import main as bonescan
from bonescan_jax.config import default_config
from bonescan_jax.datasets.bs80k import prepare
from bonescan_jax.datasets.decode import decode
from bonescan_jax.datasets.records import Record, data_fingerprint
from bonescan_jax.input_pipeline import view_records
from bonescan_jax.metrics.candidates import view_findings
from bonescan_jax.metrics.paired import compare_runs
from bonescan_jax.metrics.rows import ViewRow, read_rows, write_rows, write_tables
from bonescan_jax.metrics.segmentation import binary_overlap
from bonescan_jax.metrics.summary import choose_thresholds, summarize
from bonescan_jax.phantom.files import write_bs80k
from bonescan_jax.scans import ABNORMAL, CLASSES, VIEWS
from bonescan_jax.scans.masks import most_probable_mask

HOT = 3.0  # times as bright as bone: what is taken for a hot spot
PREDICTORS = [
    f"{name}{kind}"
    for name in ("head_1", "head_2", "head_3", "head_4", "mean")
    for kind in ("", " mirrored", " unaveraged")
]


class Timer:
    """Of each part its seconds, those of all cores together, and the peak memory up to its end."""

    def __init__(self) -> None:
        self.parts: dict[str, dict[str, float]] = {}
        self.started, self.worked = time.monotonic(), time.process_time()

    def end(self, name: str) -> None:
        """The part of this name ends here, and the next begins."""
        self.parts[name] = {
            "seconds": round(time.monotonic() - self.started, 1),
            "core_seconds": round(time.process_time() - self.worked, 1),
            "peak_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
        }
        print(f"{name}: {self.parts[name]}", file=sys.stderr, flush=True)
        self.started, self.worked = time.monotonic(), time.process_time()


def prepared(folder: Path, simulated: int) -> ml_collections.ConfigDict:
    """The config of a run on simulated patients, most of whom are in the test split."""
    write_bs80k(folder / "source", simulated, seed=1)
    fractions = (1 / simulated, 1 / simulated, 1 - 2 / simulated)
    prepare(
        folder / "source",
        folder / "data",
        name="phantom",
        split_seed=0,
        split_fractions=fractions,
    )
    config = default_config()
    config.data.update({"name": "phantom", "dir": str(folder / "data")})
    return config


def repeated(records: list[Record], num_patients: int) -> Iterator[Record]:
    """Both views of each of so many patients, from the records of a few."""
    for place in range(2 * num_patients):
        yield records[place % len(records)] | {"patient": place // 2 + 1}


def made_up(image: np.ndarray, reference: float, noise: np.random.Generator) -> np.ndarray:
    """(H, W, 3) probabilities: what is bright is a hot spot, in most places an abnormal one."""
    blurred = cv2.GaussianBlur(image.astype(np.float32) / np.float32(reference), (0, 0), 1.5)
    coarse = noise.normal(size=(2, 64, 16)).astype(np.float32)
    rough = [
        cv2.resize(each, blurred.shape[::-1], interpolation=cv2.INTER_CUBIC) for each in coarse
    ]
    hot = expit(3 * (blurred - HOT + 0.5 * rough[0]))
    abnormal = expit(0.5 + rough[1])
    return np.stack([1 - hot, hot * abnormal, hot * (1 - abnormal)], axis=-1)


def scored(record: Record, config: ml_collections.ConfigDict) -> ViewRow:
    """The row of a view; every predictor of it draws the same mask."""
    view = decode(record, config.data.mask)
    noise = np.random.default_rng([record["patient"], record["view"]])
    scan = made_up(view["image"], float(view["reference"]), noise)
    drawn = most_probable_mask(scan)
    pixels = [
        binary_overlap((drawn == label)[None], (view["mask"] == label)[None])[0].tolist()
        for label in range(1, len(CLASSES))
    ]
    found = view_findings(scan, record["boxes"], config.data.mask, 4, view["image"])
    return ViewRow(
        patient=int(record["patient"]),
        view=VIEWS[record["view"]],
        region=None,
        abnormal=bool(record["abnormal"]),
        score=float(scan[..., ABNORMAL].max()),
        counts=float(view["image"].sum(dtype=np.int64) / view["gain"]),
        overflow=bool(len(record["overflow"])),
        pixels=dict.fromkeys([*PREDICTORS, "threshold"], pixels),
        candidates=found[0],
        lesions=found[1],
    )


def another(rows: list[ViewRow]) -> list[ViewRow]:
    """The rows of a second run: candidates at the same places with other scores."""
    noise = np.random.default_rng(2)
    return [
        row._replace(
            score=float(np.clip(row.score + 0.1 * noise.normal(), 0, 1)),
            candidates=tuple(
                each._replace(score=float(np.clip(each.score + 0.1 * noise.normal(), 0.05, 1)))
                for each in row.candidates
            ),
        )
        for row in rows
    ]


def measure(folder: Path, config: ml_collections.ConfigDict, num_patients: int) -> dict[str, Any]:
    """All parts, one after the other; the page is folder/run/report.html."""
    workdir = folder / "run"
    evaluation = workdir / "evaluation"
    evaluation.mkdir(parents=True)
    (workdir / "config.json").write_text(config.to_json())
    records = list(view_records(config, "test"))
    timer = Timer()

    rows = [scored(record, config) for record in repeated(records, num_patients)]
    timer.end("rows")

    about = {"split": "test", "step": 1, "selected": "mean", "data": "phantom"}
    about["data_fingerprint"] = data_fingerprint(Path(config.data.dir), "phantom")
    write_rows(evaluation / "test.rows.jsonl", about, rows)
    write_tables(evaluation / "test", rows)
    rows = read_rows(evaluation / "test.rows.jsonl")[1]
    timer.end("files")

    thresholds = choose_thresholds(rows[: len(rows) // 4])
    figures = summarize(rows, "mean", thresholds)
    written = about | {"num_images": len(rows)} | figures
    (evaluation / "test.json").write_text(json.dumps(written))
    timer.end("summary")

    found = compare_runs(rows, another(rows), ("mean", "mean"), (thresholds, thresholds))
    (evaluation / "test_against.json").write_text(json.dumps({"against": "another", **found}))
    timer.end("comparison")

    def views(*_: object) -> Iterator[Record]:
        return repeated(records, num_patients)

    arguments = ["bonescan", "report", f"--workdir={workdir}"]
    with (
        mock.patch("bonescan_jax.report.pictures.view_records", views),
        mock.patch.object(sys, "argv", arguments),
        mock.patch("builtins.print"),
    ):
        bonescan()
    timer.end("page")
    return {
        "patients": num_patients,
        "views": len(rows),
        "candidates": sum(len(row.candidates) for row in rows),
        "lesions": sum(len(row.lesions) for row in rows),
        "parts": timer.parts,
        **{
            unit: round(sum(part[unit] for part in timer.parts.values()), 1)
            for unit in ("seconds", "core_seconds")
        },
        "page_megabytes": round((workdir / "report.html").stat().st_size / 1e6, 1),
    }


def main() -> None:
    """Reads the flags, measures, prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--patients", type=int, default=600)
    parser.add_argument("--simulated", type=int, default=12)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        config = prepared(Path(name), arguments.simulated)
        print(json.dumps(measure(Path(name), config, arguments.patients)))


if __name__ == "__main__":
    main()
