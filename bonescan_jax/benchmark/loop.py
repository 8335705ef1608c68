"""Speed of the whole training loop (data, logging, checkpoints) relative to the bare step."""

import json
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import ml_collections
import numpy as np

from bonescan_jax.benchmark.measure import print_table, spread
from bonescan_jax.benchmark.step import PreparedStep
from bonescan_jax.config import DURATION_UNITS
from bonescan_jax.input_pipeline import example_records
from bonescan_jax.models.build import views_per_example
from bonescan_jax.runs.progress import Progress
from bonescan_jax.train import train

SAVE_EVERY = 100
LOG_EVERY = 20
STEPS = 220  # timed from the first line of the log to the last: 200 steps with two checkpoints
BARE_STEPS = 20  # queued at once, as the loop queues them


def benchmark_loop(
    config: ml_collections.ConfigDict, peer: str | None, rounds: int, seconds: float
) -> dict[str, Any]:
    """Images a second of `bonescan train` over those of its step alone, on one batch on the device.

    Each round trains anew in a temporary workdir, and measures the bare step right before and after
    for `seconds` at least. Neither compiling nor validation count.
    """
    del peer
    example_records(config, "train")  # raises if the data are missing, before anything compiles
    _shorten(config)
    bare, loop = [], []
    with tempfile.TemporaryDirectory() as folder, Progress("benchmark loop", rounds) as progress:
        step = PreparedStep(config)
        for number in range(rounds):
            around = [_bare_seconds(step, seconds)]
            loop.append(_loop_seconds(config, Path(folder) / str(number)))
            around.append(_bare_seconds(step, seconds))
            bare.append(np.mean(around))
            progress.advance()
    images = config.train.batch_size * views_per_example(config)
    rates = {"bare step": images / np.array(bare), "whole loop": images / np.array(loop)}
    print_table(
        ("training", "images/s", "lowest", "highest"),
        [[name, *(f"{value:.3f}" for value in spread(found))] for name, found in rates.items()],
    )
    return {
        # Images a second of the loop over those of the step: 1 where nothing but steps takes time.
        "loop_over_step": round(float(np.median(rates["whole loop"] / rates["bare step"])), 3),
        "images_per_second": round(spread(rates["whole loop"]).median, 3),
        "bare_images_per_second": round(spread(rates["bare step"]).median, 3),
        "steps": STEPS - LOG_EVERY,
    }


def _shorten(config: ml_collections.ConfigDict) -> None:
    """As many steps as are timed, with the logging and saving of a long run."""
    steps = {"num": STEPS, "warmup": LOG_EVERY, "eval_every": 0, "save_every": SAVE_EVERY}
    for name, count in steps.items():
        for unit in DURATION_UNITS:
            config.train[f"{name}_{unit}"] = type(config.train[f"{name}_{unit}"])(0)
        config.train[f"{name}_steps"] = count
    config.train.log_every_steps = LOG_EVERY


def _bare_seconds(step: PreparedStep, seconds: float) -> float:
    """A step on a batch that stays on the device, without waiting for each to end."""
    started, done = time.monotonic(), 0
    while not done or time.monotonic() - started < seconds:
        for _ in range(BARE_STEPS):
            step.start()
        jax.block_until_ready(step.state)
        done += BARE_STEPS
    return (time.monotonic() - started) / done


def _loop_seconds(config: ml_collections.ConfigDict, workdir: Path) -> float:
    """A step of a run of its own, from the first to the last line of its log."""
    train(config, workdir)
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    first, *_, last = (line for line in lines if line["kind"] == "train")
    return (last["seconds"] - first["seconds"]) / (last["step"] - first["step"])
