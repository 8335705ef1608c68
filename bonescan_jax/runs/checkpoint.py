"""Saves and restores a run with Orbax; everything needed to continue is in one folder per step."""

import contextlib
import json
import logging
import os
import re
import shutil
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import jax
import orbax.checkpoint as ocp

from bonescan_jax.cluster.agreement import from_primary
from bonescan_jax.cluster.distributed import is_primary
from bonescan_jax.cluster.preemption import PREEMPTION
from bonescan_jax.errors import DISK_ERRORS, InputError, RunError
from bonescan_jax.models.build import Tree
from bonescan_jax.models.transfer import path_name
from bonescan_jax.runs import manifest
from bonescan_jax.train_step import TrainState

# One checkpoint step holds three items. The averaged weights lie apart from the rest so that
# `evaluate` and `predict` can read them without knowing the optimizer.
TRAIN, AVERAGE, POSITION = "train", "average", "position"
# What the manifest of a step says once it was validated.
VALIDATION = "validation"


class Saved(NamedTuple):
    """What a workdir holds, as process 0 saw it; JSON, so that it can tell the others."""

    step: int | None  # the newest that is whole; None where none was saved
    damaged: list[int]  # those after it
    validations: list[tuple[int, dict[str, Any]]]  # step, and what its validation found
    position: dict[str, Any]  # of `step`: what was given to `Checkpoints.save`


def look_for_saved(workdir: Path) -> Saved:
    """Looks which steps a workdir holds, in this process alone: see `from_primary`.

    Each damaged one is named in a sentence on standard error.

    Raises:
        InputError: steps were saved, but none of them is whole any more.
    """
    folder = _folder(workdir)
    step, damaged = _newest_good(folder)
    for each, reason in damaged.items():
        print(
            f"bonescan: {folder / str(each)} is damaged and skipped: {reason}; "
            f"step {step} is used instead",
            file=sys.stderr,
        )
    if step is None:
        return Saved(None, [], [], {})
    validations = []
    for other in _steps(folder):
        with contextlib.suppress(manifest.DamagedError):
            record = manifest.read(folder / str(other))
            if other <= step and VALIDATION in record:
                validations.append((other, record[VALIDATION]))
    # Orbax would read it in all processes, and let each wait for the others.
    position = json.loads((folder / str(step) / POSITION / "metadata").read_text())
    return Saved(step, list(damaged), validations, position)


class Checkpoints:
    """The saved steps of the run in a workdir: the last few, and the best.

    A step is written to a temporary folder in the background, gets a manifest with the checksum of
    every file, and is renamed at the end. So a folder named by a number was once complete, and its
    manifest tells whether it still is.

    Args:
        workdir: of the run.
        keep: number of latest steps to keep, in addition to the best.
        saved: what the workdir holds; the same in every process of a job.
    """

    def __init__(self, workdir: Path, keep: int, saved: Saved) -> None:
        self.folder, self.keep, self._saved = _folder(workdir), keep, saved
        self.validations = dict(saved.validations)  # by step: what `record_validation` got
        self._damaged = set(saved.damaged)
        self._orbax = ocp.AsyncCheckpointer(ocp.CompositeCheckpointHandler())
        self._background = ThreadPoolExecutor(1)
        self._pending: Future[None] | None = None

    def restore(self, abstract: TrainState) -> tuple[TrainState, dict[str, Any]] | None:
        """The newest good state and its position, or None where nothing was saved yet.

        Args:
            abstract: shapes, types and the shardings to restore onto, whatever they were at saving.

        Raises:
            InputError: the saved state has other shapes.
        """
        if self._saved.step is None:
            return None
        arguments = {
            TRAIN: ocp.args.StandardRestore(_train_items(abstract)),
            AVERAGE: ocp.args.StandardRestore(abstract.average),
        }
        items = _restore_items(self.folder / str(self._saved.step), arguments)
        return TrainState(**items[TRAIN], average=items[AVERAGE]), self._saved.position

    def remove_unfinished(self) -> None:
        """Removes what a run left that was killed while it saved."""
        if is_primary():
            for path in self.folder.glob("*.unfinished*"):
                shutil.rmtree(path, ignore_errors=True)

    def save(self, step: int, state: TrainState, position: dict[str, Any]) -> None:
        """Starts saving a state; PREEMPTION.saved tells when it is on disk.

        Args:
            step: that the state has reached.
            state: what to save; it may be donated as soon as this returns.
            position: where data and clocks stand, plain JSON.

        Raises:
            RunError: this, or the save before it, cannot be written.
        """
        self.wait()
        arguments = {
            TRAIN: ocp.args.StandardSave(_train_items(state)),
            AVERAGE: ocp.args.StandardSave(state.average),
            POSITION: ocp.args.JsonSave(position),
        }
        with self._told(step):
            self._orbax.save(
                self._unfinished(step), args=ocp.args.Composite(**arguments), force=True
            )
        self._pending = self._background.submit(self._commit, step)

    def wait(self) -> None:
        """Returns when nothing is being saved any more.

        Raises:
            RunError: the last save could not be written.
        """
        pending, self._pending = self._pending, None
        if pending:
            pending.result()

    def record_validation(self, step: int, validation: dict[str, Any]) -> None:
        """Adds the result of its validation to a saved step; "score" decides which is best."""
        self.wait()
        self.validations[step] = validation
        if is_primary():
            manifest.amend(self.folder / str(step), {VALIDATION: validation})

    def close(self) -> None:
        """Waits for saves in progress and releases threads."""
        self.wait()
        self._background.shutdown()
        self._orbax.close()

    def _commit(self, step: int) -> None:
        with self._told(step):
            self._orbax.wait_until_finished()
            if is_primary():
                unfinished, place = self._unfinished(step), self.folder / str(step)
                manifest.seal(unfinished, {"step": step})
                shutil.rmtree(place, ignore_errors=True)  # this step, damaged since
                unfinished.rename(place)
                self._damaged.discard(step)
                self._remove_old(step)
        PREEMPTION.saved = step

    def _remove_old(self, newest: int) -> None:
        """Removes all but the last few good ones and the best."""
        steps = _steps(self.folder)
        good = [step for step in steps if step <= newest and step not in self._damaged]
        kept = {*good[-self.keep :], best_step(self.validations)}
        for step in set(steps) - kept:
            shutil.rmtree(self.folder / str(step), ignore_errors=True)
            self.validations.pop(step, None)

    def _unfinished(self, step: int) -> Path:
        return self.folder / f"{step}.unfinished"

    @contextlib.contextmanager
    def _told(self, step: int) -> Iterator[None]:
        """Reports a failed save in one sentence, whatever Orbax or TensorStore raise."""
        try:
            yield
        except Exception as error:
            place, remains = self.folder / str(step), last_good(self.folder.parent)
            raise RunError(f"{place}: cannot be saved: {_reason(error)}; {remains}") from error


@contextlib.contextmanager
def disk_errors_told(workdir: Path) -> Iterator[None]:
    """Reports a full or read-only disk in one sentence, with the last good checkpoint.

    Raises:
        RunError: in the place of such an OSError.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in DISK_ERRORS:
            raise
        place = error.filename or workdir
        raise RunError(f"{place}: {error.strerror}; {last_good(workdir)}") from error


def last_good(workdir: Path) -> str:
    """Half a sentence that names the newest saved step that can be restored."""
    folder = _folder(workdir)
    with contextlib.suppress(InputError, OSError):
        step, _ = _newest_good(folder)
        if step is not None:
            return f"the last good checkpoint is {folder / str(step)}"
    return "no checkpoint is left to continue from"


def _newest_good(folder: Path) -> tuple[int | None, dict[int, str]]:
    damaged: dict[int, str] = {}
    for step in reversed(_steps(folder)):
        try:
            if manifest.verify(folder / str(step))["step"] != step:
                raise manifest.DamagedError(f"{manifest.NAME} is that of another step")
            return step, damaged
        except manifest.DamagedError as error:
            damaged[step] = str(error)
    if damaged:
        reasons = ", ".join(f"step {step}: {reason}" for step, reason in damaged.items())
        raise InputError(f"{folder}: holds no good checkpoint; {reasons}")
    return None, damaged


def best_step(validations: dict[int, dict[str, Any]]) -> int | None:
    """The step with the highest score, the last of equals; None where none was validated."""
    return max(validations, key=lambda step: (validations[step]["score"], step), default=None)


def find_step(workdir: Path, which: str) -> tuple[int, dict[str, Any] | None]:
    """A saved step that is whole, and what its validation found, or None if it had none.

    Args:
        workdir: of the run.
        which: "newest", or "best" in validation.

    Raises:
        InputError: there is no such step.
    """
    step, validation = from_primary(lambda: _find_step(workdir, which))
    return step, validation


def _find_step(workdir: Path, which: str) -> tuple[int, dict[str, Any] | None]:
    folder = _folder(workdir)
    if which == "newest":
        saved = look_for_saved(workdir)
        if saved.step is None:
            raise InputError(f"{folder}: holds no finished checkpoint; train first: bonescan train")
        return saved.step, dict(saved.validations).get(saved.step)
    validations = {}
    for step in _steps(folder):
        with contextlib.suppress(manifest.DamagedError):
            validations[step] = manifest.verify(folder / str(step)).get(VALIDATION)
    validated = {step: found for step, found in validations.items() if found}
    best = best_step(validated)
    if best is None:
        raise InputError(f"{folder}: holds no good checkpoint that was validated, so none is best")
    return best, validated[best]


def restore_weights(
    workdir: Path, abstract: Tree, which: str, averaged: bool = True
) -> tuple[Tree, int]:
    """The weights, {"params", "stats"}, of the "newest" or "best" step, and that step.

    Args:
        workdir: of the run.
        abstract: shapes and shardings of the weights.
        which: "newest", or "best" in validation.
        averaged: their moving average, and not those of the step itself.

    Raises:
        InputError: as `find_step`.
    """
    step, _ = find_step(workdir, which)
    place = _folder(workdir) / str(step)
    _check_shapes(place, abstract)
    chosen = ocp.args.PyTreeRestore(
        item=abstract,
        restore_args=ocp.checkpoint_utils.construct_restore_args(abstract),
        partial_restore=True,  # beside the weights of a step lies its optimizer
    )
    with ocp.PyTreeCheckpointer() as checkpointer:
        return checkpointer.restore(place / (AVERAGE if averaged else TRAIN), args=chosen), step


def _restore_items(place: Path, arguments: dict[str, Any]) -> Any:  # noqa: ANN401 - Orbax' own
    _check_shapes(place, arguments[AVERAGE].item)
    with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as checkpointer:
        return checkpointer.restore(place, args=ocp.args.Composite(**arguments))


def _check_shapes(place: Path, abstract: Tree) -> None:
    """Raises InputError unless the averaged weights of a step are those of this network.

    Before they are restored: Orbax would say it in hundreds of lines.
    """
    handler = ocp.StandardCheckpointHandler()
    saved = shapes_by_path(handler.metadata(place / AVERAGE).tree)
    handler.close()
    compare_shapes(place, saved, shapes_by_path(abstract), str(place.parents[1] / "config.json"))


def compare_shapes(
    place: Path,
    saved: dict[str, tuple[int, ...]],
    wanted: dict[str, tuple[int, ...]],
    config_place: str,
) -> None:
    """Raises InputError unless saved weights have the shapes of a network, by path.

    Args:
        place: where the weights are.
        saved: their shapes.
        wanted: those of the network.
        config_place: where the settings of the network stand.
    """
    for name in sorted(saved.keys() | wanted.keys()):
        if saved.get(name) != wanted.get(name):
            raise InputError(
                f"{place}: {name} is {saved.get(name, 'missing')}, expected "
                f"{wanted.get(name, 'none')} for the network of {config_place}"
            )


def shapes_by_path(tree: Tree) -> dict[str, tuple[int, ...]]:
    """The shapes of a tree of arrays, by their paths."""
    return {path_name(path): leaf.shape for path, leaf in jax.tree.leaves_with_path(tree)}


def _reason(error: Exception) -> str:
    """What went wrong, in the words of the operating system where it was the disk."""
    code = re.search(r"os_error_code='(\d+)'", str(error))  # in TensorStore's messages
    return os.strerror(int(code[1])) if code else str(error).splitlines()[0]


def _logged_by_orbax(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.ERROR and "orbax" in record.pathname


# Where a disk is full, Orbax logs several stacks for every array, and so does asyncio for its
# tasks: thousands of lines around the one sentence of the RunError.
logging.getLogger("absl").addFilter(lambda record: not _logged_by_orbax(record))
logging.getLogger("asyncio").setLevel(logging.CRITICAL)

# Writes that were under way when the first one failed still report to Orbax' loop, which is closed
# by then: a stack for each of them, from where nothing can be raised.
_report_unraisable = sys.unraisablehook


def _report_but_closed_loops(unraisable: Any) -> None:  # noqa: ANN401 - sys does not name it
    if str(unraisable.exc_value) != "Event loop is closed":
        _report_unraisable(unraisable)


sys.unraisablehook = _report_but_closed_loops


def _train_items(state: TrainState) -> dict[str, Any]:
    names = ("step", "params", "stats", "optimizer")
    return {name: getattr(state, name) for name in names}


def _folder(workdir: Path) -> Path:
    return (workdir / "checkpoints").absolute()


def _steps(folder: Path) -> list[int]:
    """The steps in a checkpoints folder, ascending, whole or not."""
    if not folder.is_dir():
        return []
    return sorted(int(path.name) for path in folder.iterdir() if path.name.isdigit())
