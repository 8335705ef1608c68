"""What the run of a trial has reached, read from its workdir."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ml_collections

from bonescan_jax.errors import InputError
from bonescan_jax.tasks import task_of

_OF_A_LINE = ("step", "seconds", "kind")

Scores = dict[str, float | None]


def validations(workdir: Path, config: ml_collections.ConfigDict) -> dict[int, Scores]:
    """The scores of each validation of a run, as `validation.NAME`, by examples seen."""
    found: dict[int, Scores] = {}
    for line in _lines(workdir):
        if line["kind"] == "validation":
            scores = {name: value for name, value in line.items() if name not in _OF_A_LINE}
            found[line["step"] * config.train.batch_size] = {
                "validation.score": task_of(config).rank(scores),
                **{f"validation.{name}": value for name, value in scores.items()},
            }
    return found


def run_seconds(workdir: Path) -> float:
    """Seconds of work on a run so far, before and after interruptions."""
    return max((line["seconds"] for line in _lines(workdir)), default=0.0)


def images_per_second(workdir: Path) -> float | None:
    """Of training alone, as the run has told it last."""
    told = [line.get("images_per_second") for line in _lines(workdir) if line["kind"] == "train"]
    return next((rate for rate in reversed(told) if rate), None)


def score_of(scores: Scores, name: str, workdir: Path) -> float:
    """One of the scores.

    Raises:
        InputError: it has no value.
    """
    value = scores.get(name)
    if value is None:
        raise InputError(f"{workdir}: {name} has no value, expected a number")
    return value


def _lines(workdir: Path) -> Iterator[dict[str, Any]]:
    """The lines of metrics.jsonl; the last one may be torn."""
    path = workdir / "metrics.jsonl"
    for text in path.read_text().splitlines() if path.exists() else ():
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if isinstance(line, dict) and line.keys() >= set(_OF_A_LINE):
            yield line
