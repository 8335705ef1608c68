"""Cross-validation: one run a fold; every patient is scored by the run that never saw them."""

import contextlib
import copy
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_collections

from bonescan_jax.datasets.records import num_folds
from bonescan_jax.errors import InputError
from bonescan_jax.evaluate import evaluate, rows_file
from bonescan_jax.metrics.rows import ViewRow, read_rows, write_rows
from bonescan_jax.runs.workdir import write_json
from bonescan_jax.tasks import task_of
from bonescan_jax.train import train
from bonescan_jax.trained import USUAL, resolve_predictor

SELECTED = "selected"  # the predictor of each fold that did best on its validation split


def crossvalidate(
    config: ml_collections.ConfigDict,
    workdir: Path,
    on_fold: Callable[[int, Path], bool] = lambda fold, place: True,
) -> dict[str, Any]:
    """Trains and tests config.data.num_folds runs one after the other, continuing what is there.

    Each run lives in workdir/fold_<number>, a workdir like any other. Every patient is scored by
    the one run whose training and validation did not hold it. The headline is the mean of the
    folds, beside what all out-of-fold predictions together give; evaluation/ gets both in
    crossvalidation.json, and all rows in crossvalidation.rows.jsonl.

    Args:
        config: of all folds.
        workdir: for them.
        on_fold: called when a fold is trained and tested, with its number and workdir; where it
            says False, no other fold is begun, and the scores are those of the folds so far.

    Returns:
        Mean, pooled and single scores of the folds, the number of images, and the minutes this call
        took.

    Raises:
        InputError: config, data or workdir cannot be used.
    """
    started = time.monotonic()
    _check_folds(config)
    folds, rows = [], []
    headline = task_of(config).headline
    for fold in range(config.data.num_folds):
        run = copy.deepcopy(config)
        run.data.fold = fold
        place = workdir / f"fold_{fold}"
        step = train(run, place)["step"]
        selected, of_fold = _test_rows(place, step, run.evaluate.min_area)
        folds.append(headline(of_fold, selected))
        rows += [_under_one_name(row, selected) for row in of_fold]
        if not on_fold(fold, place):
            break
    summary = {
        **_mean_and_each(folds),
        **{f"pooled_{name}": value for name, value in headline(rows, SELECTED).items()},
        "folds": len(folds),
        "images": len(rows),
        "minutes": round((time.monotonic() - started) / 60, 1),
        "workdir": str(workdir),
    }
    about = {"split": "crossvalidation", "selected": SELECTED}
    write_rows(rows_file(workdir, "crossvalidation"), about, rows)
    write_json(workdir / "evaluation" / "crossvalidation.json", summary)
    return summary


def _test_rows(workdir: Path, step: int, min_area: int) -> tuple[str, list[ViewRow]]:
    """The predictor and rows of a fold's test split; those of an earlier call, if they hold."""
    path = rows_file(workdir, "test")
    with contextlib.suppress(InputError):
        about, rows = read_rows(path)
        wanted = {
            "step": step,
            "min_area": min_area,
            "selected": resolve_predictor(workdir, USUAL),
            "checkpoint": USUAL.checkpoint,
            "mirror": USUAL.mirror,
            "alone": USUAL.alone,
        }
        if all(about.get(name) == value for name, value in wanted.items()):
            return about["selected"], rows
    evaluate([workdir], "test")
    about, rows = read_rows(path)
    return about["selected"], rows


def _under_one_name(row: ViewRow, selected: str) -> ViewRow:
    """The row with the pixels of its fold's predictor under one name for all folds."""
    if not row.pixels:
        return row
    return row._replace(pixels=row.pixels | {SELECTED: row.pixels[selected]})


def _mean_and_each(folds: list[dict[str, Any]]) -> dict[str, Any]:
    """Of each score the mean over the folds that have one, and a list of all."""
    figures: dict[str, Any] = {}
    for name in folds[0]:
        if name != "num_images" and not name.endswith(("_low", "_high")):
            each = [fold[name] for fold in folds]
            known = [value for value in each if value is not None]
            figures[name] = sum(known) / len(known) if known else None
            figures[f"fold_{name}"] = each
    return figures


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
