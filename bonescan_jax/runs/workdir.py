"""What a run leaves in its folder: config.json, metrics.jsonl and TensorBoard files."""

import json
import math
import os
import time
from pathlib import Path
from typing import Any

import ml_collections
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.summary import scalar

from bonescan_jax.cluster.distributed import is_primary
from bonescan_jax.config import default_config, validate
from bonescan_jax.errors import InputError

# A continued run may change these: they say where it is computed and how it is watched, not what.
# `data.dir` is among them because data sets move; that it is the same data is checked by its
# fingerprint. So are `model.packed` and `model.remat`, which like the mesh change rounding alone.
MAY_CHANGE = (
    "data.dir",
    "data.num_workers",
    "data.num_threads",
    "data.prefetch_batches",
    "train.log_every_steps",
    "train.keep_checkpoints",
    "train.save_every_minutes",
    "train.on_nonfinite",  # what is computed differs only where the run could not go on
    "train.log_samples",
    "train.deterministic",  # other rounding, as another mesh
    "train.stall_minutes",
    *(f"train.{name}_{unit}" for name in ("eval_every", "save_every")
      for unit in ("steps", "epochs", "examples")),
    "evaluate.batch_size",
    "evaluate.min_area",
    "model.packed",
    "model.remat",
    "mesh.data",
    "mesh.spatial",
    "mesh.shard_parameters",
)  # fmt: skip


CONFIG = "config.json"


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Writes a JSON file atomically; in a job of several processes, only the first does."""
    if not is_primary():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    torn = path.with_suffix(".tmp")
    torn.write_text(json.dumps(content, indent=2) + "\n")
    torn.replace(path)


def flatten(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"model": {"levels": 4}} to {"model.levels": 4}."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except ValueError as error:
        raise InputError(f"{path}: cannot be read as JSON: {error}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: holds {type(content).__name__}, expected names and values")
    return content


def check_config(workdir: Path, config: ml_collections.ConfigDict) -> None:
    """Checks that the run already in a workdir, if there is one, is the same one.

    A setting that the run was started without, by an older program, counts as its default: new
    settings get defaults that do what was done before there were any.

    Raises:
        InputError: the run there has another setting that changes what is computed.
    """
    path = workdir / CONFIG
    if not path.exists():
        return
    before, now = flatten(_read_json(path)), flatten(json.loads(config.to_json()))
    defaults = flatten(json.loads(default_config().to_json()))
    for name in sorted(before.keys() - now.keys()):
        raise InputError(
            f"{path}: {name} is {before[name]!r} in the run to continue, expected a setting that "
            "this program has; use the one that the run was started with"
        )
    for name in sorted(now.keys() - set(MAY_CHANGE)):
        expected = before.get(name, defaults.get(name))
        if expected != now[name]:
            raise InputError(
                f"{path}: {name} is {expected!r} in the run to continue, found {now[name]!r}; use "
                "the same value, or another --workdir"
            )


def write_config(workdir: Path, config: ml_collections.ConfigDict) -> None:
    """Writes config.json: every setting of the run."""
    write_json(workdir / CONFIG, json.loads(config.to_json()))


def read_config(workdir: Path) -> ml_collections.ConfigDict:
    """The config of the run in a workdir.

    Raises:
        InputError: there is no run, or its config.json does not hold this program's settings.
    """
    path = workdir / CONFIG
    if not os.path.isfile(path):  # unlike Path.is_file, says no to a name that is too long
        raise InputError(f"{workdir}: holds no config.json; expected the workdir of bonescan train")
    return parse_config(_read_json(path), str(path))


def parse_config(settings: dict[str, Any], place: str) -> ml_collections.ConfigDict:
    """The config that settings were written from.

    Args:
        settings: as config.json holds them; what is missing gets its default.
        place: where they stand, for messages.

    Raises:
        InputError: they are not this program's settings.
    """
    config = default_config()
    try:
        config.update_from_flattened_dict(flatten(settings))
        validate(config)
    except InputError as error:
        raise InputError(f"{place}: {str(error).removeprefix('config: ')}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{place}: {error}") from error
    return config


def change(config: ml_collections.ConfigDict, changes: dict[str, Any]) -> None:
    """Changes settings that do not touch what a run has computed, such as where its data lies now.

    Args:
        config: of the run, changed in place.
        changes: values by name, such as {"data.dir": "elsewhere"}.

    Raises:
        InputError: a setting is part of what the run has computed.
    """
    for name in changes:
        if name not in MAY_CHANGE:
            raise InputError(
                f"--config.{name}: belongs to the run, expected one of {', '.join(MAY_CHANGE)}"
            )
    config.update_from_flattened_dict(changes)


class MetricsLog:
    """Appends lines to metrics.jsonl and the same scalars to TensorBoard.

    Both are written at once and not by a thread: a full disk is an error here, and what was logged
    is there however the process ends.

    Args:
        workdir: of the run.
        start_step: the step to continue from; lines of later steps are dropped.
        seconds: of work on the run so far.
        validated: whether the validation of start_step counts as done, or will be done again.
    """

    def __init__(
        self, workdir: Path, start_step: int, seconds: float = 0.0, validated: bool = True
    ) -> None:
        writes = is_primary()  # of a job of several processes, the others write nowhere
        self.path = workdir / "metrics.jsonl" if writes else Path(os.devnull)
        if writes:
            self._forget_after(start_step, validated)
        self.file = self.path.open("a", buffering=1)
        board = workdir / "tensorboard"
        if writes:
            board.mkdir(exist_ok=True)
        self.board = EventsWriter(str(board / "events") if writes else os.devnull)
        # When a run continues, TensorBoard drops the steps that will be repeated.
        session = SessionLog(status=SessionLog.START)
        self.board.write_event(
            Event(wall_time=time.time(), step=start_step + 1, session_log=session)
        )
        self.started = time.monotonic() - seconds

    def _forget_after(self, step: int, validated: bool) -> None:
        """Drops lines of steps that will be repeated, and an incomplete last line."""
        kept = []
        for line in self.path.read_text().splitlines() if self.path.exists() else ():
            try:
                entry = json.loads(line)
                again = entry["kind"] == "validation" and not validated
                if entry["step"] < step or (entry["step"] == step and not again):
                    kept.append(line + "\n")
            except (ValueError, KeyError, TypeError):
                continue
        torn = self.path.with_suffix(".tmp")
        torn.write_text("".join(kept))
        torn.replace(self.path)

    def seconds(self) -> float:
        """Of work on the run, before and after interruptions."""
        return round(time.monotonic() - self.started, 3)

    def write(self, step: int, kind: str, scalars: dict[str, float | None]) -> None:
        """One line: `kind` is train or validation; missing and non-finite values become null."""
        finite = {
            name: value if value is not None and math.isfinite(value) else None  # JSON has no NaN
            for name, value in scalars.items()
        }
        line = {"step": step, "seconds": self.seconds(), "kind": kind, **finite}
        self.file.write(json.dumps(line) + "\n")
        for name, value in finite.items():
            if value is not None:
                summary = scalar(f"{kind}/{name}", value)
                self.board.write_event(Event(wall_time=time.time(), step=step, summary=summary))
        self.board.flush()

    def close(self) -> None:
        """Closes both."""
        self.file.close()
        self.board.close()
