"""Cross-validation: one run a fold; every patient is scored by the run that never saw them."""

import contextlib
import copy
import json
import time
from pathlib import Path
from typing import Any

import ml_collections

from bonescan_jax.datasets.records import num_folds
from bonescan_jax.errors import InputError
from bonescan_jax.evaluate import evaluate
from bonescan_jax.runs.workdir import write_json
from bonescan_jax.tasks import task_of
from bonescan_jax.train import train


def crossvalidate(config: ml_collections.ConfigDict, workdir: Path) -> dict[str, Any]:
    """Trains and tests config.data.num_folds runs one after the other, continuing what is there.

    Each run lives in workdir/fold_<number>, a workdir like any other. The scores are those of all
    out-of-fold predictions together, each made by the one run whose training and validation did not
    hold the patient, and are written to workdir/evaluation/crossvalidation.json.

    Returns:
        The pooled scores, those of each fold, the number of images, and the minutes this call took.

    Raises:
        InputError: config, data or workdir cannot be used.
    """
    started = time.monotonic()
    _check_folds(config)
    folds = []
    for fold in range(config.data.num_folds):
        run = copy.deepcopy(config)
        run.data.fold = fold
        place = workdir / f"fold_{fold}"
        step = train(run, place)["step"]
        folds.append(_test_scores(place, step, run.evaluate.min_area))
    summary = {
        **task_of(config).pool_folds(folds),
        "folds": len(folds),
        "images": sum(fold["num_images"] for fold in folds),
        "minutes": round((time.monotonic() - started) / 60, 1),
        "workdir": str(workdir),
    }
    write_json(workdir / "evaluation" / "crossvalidation.json", summary)
    return summary


def _test_scores(workdir: Path, step: int, min_area: int) -> dict[str, Any]:
    """The scores of a fold's test split; those of a call before this one, if they still hold."""
    path = workdir / "evaluation" / "test.json"
    with contextlib.suppress(OSError, ValueError):
        found = json.loads(path.read_text())
        if (found.get("step"), found.get("min_area")) == (step, min_area):
            return found
    evaluate(workdir, "test", "best")
    return json.loads(path.read_text())


def _check_folds(config: ml_collections.ConfigDict) -> None:
    data = config.data
    if data.fold != -1:
        raise InputError(f"config: data.fold is {data.fold}, expected -1: every fold gets its turn")
    prepared = num_folds(Path(data.dir), data.name)
    if data.num_folds != prepared:
        raise InputError(
            f"config: data.num_folds is {data.num_folds}, expected {prepared} as "
            f"{data.dir}/{data.name} was prepared with"
        )
