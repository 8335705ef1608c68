"""What a run leaves in its folder: config.json, metrics.jsonl and TensorBoard files."""

import json
import time
from pathlib import Path
from typing import Any

import ml_collections
from tensorboardX import SummaryWriter

from bonescan_jax.config import default_config
from bonescan_jax.errors import InputError

# A continued run may change these: they do not touch what is computed. `data.dir` is among them
# because data sets move; that it is the same data is checked by its size.
MAY_CHANGE = (
    "data.dir",
    "data.num_workers",
    "data.num_threads",
    "data.prefetch_batches",
    "train.log_every_steps",
    "train.keep_checkpoints",
    *(f"train.{name}_{unit}" for name in ("eval_every", "save_every")
      for unit in ("steps", "epochs", "examples")),
    "evaluate.batch_size",
    "evaluate.min_area",
    "mesh.data",
    "mesh.spatial",
    "mesh.shard_parameters",
)  # fmt: skip


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Writes a JSON file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    torn = path.with_suffix(".tmp")
    torn.write_text(json.dumps(content, indent=2) + "\n")
    torn.replace(path)


def flatten(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"model": {"levels": 4}} to {"model.levels": 4}."""
    flat = {}
    for key, value in settings.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def start_workdir(workdir: Path, config: ml_collections.ConfigDict) -> None:
    """Writes config.json, or checks that the run already there is the same one.

    Raises:
        InputError: the run there has another setting that changes what is computed.
    """
    path = workdir / "config.json"
    new = json.loads(config.to_json())
    if path.exists():
        before, now = flatten(json.loads(path.read_text())), flatten(new)
        for name in sorted(before.keys() | now.keys()):
            if name not in MAY_CHANGE and before.get(name) != now.get(name):
                raise InputError(
                    f"{path}: {name} is {before.get(name)!r} in the run to continue, found "
                    f"{now.get(name)!r}; use the same value, or another --workdir"
                )
    write_json(path, new)


def read_config(workdir: Path) -> ml_collections.ConfigDict:
    """The config of the run in a workdir.

    Raises:
        InputError: there is no run, or its config.json does not hold this program's settings.
    """
    path = workdir / "config.json"
    if not path.is_file():
        raise InputError(f"{workdir}: holds no config.json; expected the workdir of bonescan train")
    config = default_config()
    try:
        config.update_from_flattened_dict(flatten(json.loads(path.read_text())))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: {error}") from error
    return config


class MetricsLog:
    """Appends lines to metrics.jsonl and the same scalars to TensorBoard."""

    def __init__(self, workdir: Path, start_step: int) -> None:
        self.path = workdir / "metrics.jsonl"
        before = self._forget_after(start_step)
        self.file = self.path.open("a", buffering=1)
        self.board = SummaryWriter(str(workdir / "tensorboard"), purge_step=start_step + 1)
        self.started = time.monotonic() - before

    def _forget_after(self, step: int) -> float:
        """Drops lines of steps that will be done again, and one torn by a crash.

        Returns:
            Seconds of training up to the last line kept.
        """
        kept, seconds = [], 0.0
        for line in self.path.read_text().splitlines() if self.path.exists() else ():
            try:
                entry = json.loads(line)
                if entry["step"] <= step:
                    kept.append(line + "\n")
                    seconds = entry["seconds"]
            except (ValueError, KeyError):
                continue
        self.path.write_text("".join(kept))
        return seconds

    def write(self, step: int, kind: str, scalars: dict[str, float | None]) -> None:
        """One line: `kind` is train or validation; a score that is not defined is None."""
        seconds = round(time.monotonic() - self.started, 3)
        self.file.write(
            json.dumps({"step": step, "seconds": seconds, "kind": kind, **scalars}) + "\n"
        )
        for name, value in scalars.items():
            if value is not None:
                self.board.add_scalar(f"{kind}/{name}", value, step)

    def close(self) -> None:
        """Flushes and closes both."""
        self.file.close()
        self.board.close()
