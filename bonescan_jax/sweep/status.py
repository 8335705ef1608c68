"""What has become of the trials of a study, as a table."""

import json
from pathlib import Path
from typing import Any

import optuna
import rich.console
import rich.table
import rich.text

from bonescan_jax.errors import InputError
from bonescan_jax.runs.lock import silent_seconds
from bonescan_jax.sweep.storage import open_storage
from bonescan_jax.sweep.study import Study, read_study
from bonescan_jax.sweep.trials import (
    FAILED,
    RUNNING,
    SETTINGS,
    WAITING,
    WHY,
    WORKER,
    Claims,
    Trial,
)
from bonescan_jax.sweep.worker import RECORD, in_words, is_alive, summary, workers_folder

SHOWN = 20  # trials of a state


def recorded(out: Path) -> tuple[Path, str | None]:
    """The file and the storage of the study that workers have begun in this folder.

    Raises:
        InputError: none has.
    """
    path = out / RECORD
    try:
        about = json.loads(path.read_text())
        return out / f"{about['study']}.py", about["storage"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"--study: {path}: {error}; expected the folder that was --out of bonescan sweep"
        ) from error


def load(study_file: Path, out: Path, url: str | None) -> tuple[Study, list[Trial]]:
    """A study and those of its trials that were begun, without working on it.

    Raises:
        InputError: the file or the storage cannot be used, or no worker has begun.
    """
    study = read_study(study_file)
    storage = open_storage(url, out) if url or out.is_dir() else None
    try:
        if storage is None:
            raise KeyError
        stored = optuna.load_study(study_name=study.name, storage=storage)
    except KeyError as error:
        where = url.partition(":")[0] if url else str(out)
        raise InputError(
            f"--study: {where} holds no study of the name {study.name!r}; no worker has begun it"
        ) from error
    claims = Claims(stored, storage, study.trials, "", lambda worker: is_alive(out, worker))
    return study, claims.read()


def status(study_file: Path, out: Path, url: str | None) -> dict[str, Any]:
    """Prints a table of the trials on standard error.

    Args:
        study_file: of the study.
        out: the folder of the sweep.
        url: of its storage.

    Returns:
        How many trials are in each state, and the best.

    Raises:
        InputError: see `load`.
    """
    study, trials = load(study_file, out, url)
    counts = summary(study, trials, out)
    table = rich.table.Table("", "trials", "which, and what is known of them")
    table.columns[1].justify = "right"
    for state in (WAITING, RUNNING, "done", "pruned", FAILED):
        rows = [_row(trial, state, study, out) for trial in trials if trial.state == state]
        more = [f"and {len(rows) - SHOWN} more"] if len(rows) > SHOWN else []
        never = counts[WAITING] - len(rows) if state == WAITING else 0
        lines = [*rows[:SHOWN], *more, *([f"{never} never begun"] if never else [])]
        text = rich.text.Text("\n".join(lines), overflow="fold")
        table.add_row(state, str(counts[state]), text)
    console = rich.console.Console(stderr=True)
    if not console.is_terminal:  # a log file has no width of its own
        console.width = 160
    console.print(table)
    return counts


def _row(trial: Trial, state: str, study: Study, out: Path) -> str:
    last = trial.last
    parts = [f"{trial.number}"]
    if len(trial.attempts) > 1:
        parts.append(f"(attempt {len(trial.attempts)})")
    if state == RUNNING:
        worker = next(a for a in reversed(trial.attempts) if a.state.name == "RUNNING")
        name = worker.user_attrs.get(WORKER, "?")
        silent = silent_seconds(workers_folder(out) / name)
        parts.append(f"{name}, heartbeat {silent or 0:.0f} s ago")
        if worker.intermediate_values:
            examples, score = max(worker.intermediate_values.items())
            parts.append(f"{score:.4g} after {examples} examples")
    elif state in (FAILED, WAITING):
        parts.append(str(last.user_attrs.get(WHY, "its worker is gone")))
    elif last.values:
        names = study.objectives
        parts += [f"{n} {v:.4g}" for n, v in zip(names, last.values, strict=True)]
        parts.append(in_words(last.user_attrs.get(SETTINGS, {})))
    return " ".join(parts)
