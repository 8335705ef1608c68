"""The training loop: read it top to bottom."""

import time
from pathlib import Path
from typing import Any

import jax
import ml_collections

from bonescan_jax import checkpoint
from bonescan_jax.config import resolve_steps, validate
from bonescan_jax.errors import InputError
from bonescan_jax.evaluate import BEST, make_validation
from bonescan_jax.input_pipeline import example_records, training_batches
from bonescan_jax.models.build import build_network, views_per_example
from bonescan_jax.parallel import make_mesh
from bonescan_jax.progress import Progress
from bonescan_jax.train_step import (
    make_initial_state,
    make_optimizer,
    make_train_step,
)
from bonescan_jax.workdir import MetricsLog, start_workdir, write_json


def train(config: ml_collections.ConfigDict, workdir: Path) -> dict[str, Any]:
    """Trains until config.train.num_steps, continuing what the workdir holds.

    Returns:
        The last step, loss and validation scores, and images_per_second of training alone:
        without compilation, evaluation and saving.

    Raises:
        InputError: config, data or workdir cannot be used; nothing was changed.
    """
    # ---- What to run, on what -------------------------------------------------------------------
    validate(config)
    mesh = make_mesh(config)
    num_examples = len(example_records(config, "train"))
    steps = {
        name: resolve_steps(config.train, name, num_examples)
        for name in ("num", "warmup", "eval_every", "save_every")
    }
    start_workdir(workdir, config)

    # ---- State, born sharded or restored onto the same shardings --------------------------------
    network = build_network(config)
    optimizer, schedule = make_optimizer(config.train, steps["num"], steps["warmup"])
    init, abstract = make_initial_state(config, optimizer, mesh)
    checkpoints = checkpoint.open_checkpoints(workdir, config.train.keep_checkpoints)
    restored = checkpoint.restore(checkpoints, abstract)
    if restored:
        state, position = restored
        _check_position(position, config, num_examples)
    else:
        state = init()
    start = int(state.step)

    # ---- Functions that compile once ------------------------------------------------------------
    train_step = make_train_step(config, network, optimizer, schedule, abstract, mesh)
    validate_weights = make_validation(config, network, mesh)

    # ---- The loop -------------------------------------------------------------------------------
    batches = training_batches(config, mesh, start, steps["num"])
    log = MetricsLog(workdir, start)
    clock = _Clock(config.train.batch_size * views_per_example(config))
    scalars: dict[str, float] = {}
    scores: dict[str, float | None] = {}
    unread = None  # metrics of the step before: read when the next is under way, so none waits
    with Progress("train", steps["num"], start) as progress:
        for step, batch in zip(range(start + 1, steps["num"] + 1), batches, strict=True):
            state, metrics = train_step(state, batch)
            if unread:
                scalars = _write_metrics(log, unread, clock)
                unread = None
            if step == start + 1:
                jax.block_until_ready(metrics)  # compiled by now: the clock counts steps only
                clock.start()
            else:
                clock.steps += 1
            if step % config.train.log_every_steps == 0 or step == steps["num"]:
                unread = step, metrics
            progress.advance(note=_note(scalars, scores))

            last = step == steps["num"]
            if _due(step, steps["eval_every"], last):
                with clock.paused(metrics):
                    best, scores = validate_weights(state.average)
                    log.write(step, "validation", scores)
                    write_json(workdir / "evaluation" / BEST, {"predictor": best, **scores})
            if _due(step, steps["save_every"], last):
                with clock.paused(metrics):
                    checkpoint.save(checkpoints, state, _position(step, config, num_examples))
        if unread:
            scalars = _write_metrics(log, unread, clock)
    checkpoints.close()  # waits for the last save
    log.close()
    return {
        "step": int(state.step),
        **{name: scalars[name] for name in ("loss", "images_per_second") if name in scalars},
        **scores,
        "workdir": str(workdir),
    }


class _Clock:
    """Images (views) a second while steps run, without compilation, evaluation and saving."""

    def __init__(self, images: int) -> None:
        self.images, self.steps, self.seconds, self.since = images, 0, 0.0, None

    def start(self) -> None:
        self.since = time.monotonic()

    def paused(self, metrics: dict[str, jax.Array]) -> "_Clock":
        """Use as a context manager around what is no step; waits for the steps under way."""
        jax.block_until_ready(metrics)
        return self

    def __enter__(self) -> None:
        self.seconds += time.monotonic() - self.since

    def __exit__(self, *_: object) -> None:
        self.start()

    def images_per_second(self) -> float | None:
        """None until a second step is done."""
        seconds = self.seconds + time.monotonic() - self.since
        return round(self.images * self.steps / seconds, 3) if self.steps else None


def _write_metrics(log: MetricsLog, unread: tuple[int, Any], clock: _Clock) -> dict[str, float]:
    step, metrics = unread
    scalars = {name: float(value) for name, value in jax.device_get(metrics).items()}
    scalars["images_per_second"] = clock.images_per_second()
    log.write(step, "train", scalars)
    return scalars


def _note(scalars: dict[str, float], scores: dict[str, float | None]) -> str:
    parts = []
    if scalars:
        parts.append(f"loss {scalars['loss']:.3f}")
        if scalars["images_per_second"]:
            parts.append(f"{scalars['images_per_second']:.1f} images/s")
    if scores.get("auc") is not None:
        parts.append(f"AUC {scores['auc']:.3f}")
    if scores.get("dice_abnormal") is not None:
        parts.append(f"dice abnormal {scores['dice_abnormal']:.3f}")
    if scores.get("dice_normal") is not None:
        parts.append(f"normal {scores['dice_normal']:.3f}")
    return " ".join(parts)


def _due(step: int, every: int, last: bool) -> bool:
    return last or (every > 0 and step % every == 0)


def _position(step: int, config: ml_collections.ConfigDict, num_examples: int) -> dict[str, int]:
    """Where the data stands: the next global sample index, and what gives the index its meaning."""
    return {"next_sample": step * config.train.batch_size, "num_examples": num_examples}


def _check_position(
    position: dict[str, int], config: ml_collections.ConfigDict, num_examples: int
) -> None:
    if position["num_examples"] != num_examples:
        raise InputError(
            f"{config.data.dir}: the training split of {config.data.name} holds {num_examples} "
            f"examples, expected the {position['num_examples']} that the run was started on"
        )
