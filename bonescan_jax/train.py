"""The training loop: read it top to bottom."""

import gc
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import jax
import ml_collections

from bonescan_jax.aot.executable import Step, load_executable
from bonescan_jax.cluster.agreement import from_primary
from bonescan_jax.cluster.consensus import GO_ON, SAVE, STOP, Consensus
from bonescan_jax.cluster.distributed import is_primary
from bonescan_jax.cluster.mesh import make_mesh, to_every_device
from bonescan_jax.cluster.preemption import PREEMPTION
from bonescan_jax.cluster.watchdog import Watchdog
from bonescan_jax.config import resolve_steps
from bonescan_jax.hyperparameters import hyperparameters_of
from bonescan_jax.input_pipeline import training_batches
from bonescan_jax.models.build import views_per_example
from bonescan_jax.passes import make_validation
from bonescan_jax.runs.bad_numbers import NumberWatch
from bonescan_jax.runs.checkpoint import Checkpoints, Saved, disk_errors_told
from bonescan_jax.runs.progress import Progress
from bonescan_jax.runs.sample_log import SampleLog
from bonescan_jax.runs.start import record_start, started
from bonescan_jax.runs.workdir import MetricsLog, write_config, write_json
from bonescan_jax.tasks import build_network, task_of
from bonescan_jax.train_step import (
    TrainState,
    abstract_batch,
    make_initial_state,
    make_train_step,
)
from bonescan_jax.trained import BEST
from bonescan_jax.warm_start import start_from


def train(
    config: ml_collections.ConfigDict,
    workdir: Path,
    executable: Path | None = None,
    on_validation: Callable[[int], bool] = lambda step: True,
) -> dict[str, Any]:
    """Trains until config.train.num_steps, continuing what the workdir holds.

    Args:
        config: of the run.
        workdir: of the run.
        executable: the step, if `bonescan compile --out` has compiled it for these devices.
        on_validation: called after each validation with the number of steps done, when its scores
            are on disk; where it says False, the run ends there, saved.

    Returns:
        The last step, loss and validation scores, and images_per_second of training alone:
        without compilation, evaluation and saving.

    Raises:
        InputError: config, data, workdir or executable cannot be used; nothing was changed.
        BusyError: another run holds the workdir.
        RunError: the disk is full or read-only, or values are not finite.
        SystemExit: the process was told to stop, and all that was done is saved.
    """
    # ---- What to run, on what -------------------------------------------------------------------
    with disk_errors_told(workdir), started(workdir, config) as (saved, facts):
        try:
            return _train(config, workdir, saved, facts, executable, on_validation)
        finally:
            # What worker processes gave lies in shared memory, and Grain's reference cycles keep
            # it: left to the end of the program, it would be reported as leaked.
            gc.collect()


def _train(
    config: ml_collections.ConfigDict,
    workdir: Path,
    on_disk: Saved,
    facts: dict[str, Any],
    executable: Path | None,
    on_validation: Callable[[int], bool],
) -> dict[str, Any]:
    mesh = make_mesh(config)
    steps = {
        name: resolve_steps(config.train, name, facts["num_examples"])
        for name in ("num", "warmup", "eval_every", "save_every")
    }

    # ---- State, born sharded or restored onto the same shardings --------------------------------
    network = build_network(config)
    values = hyperparameters_of(config, steps["num"], steps["warmup"])
    hyperparameters = to_every_device(values, mesh)
    init, abstract = make_initial_state(config, mesh)
    checkpoints = Checkpoints(workdir, config.train.keep_checkpoints, on_disk)
    restored = checkpoints.restore(abstract)
    state, position = restored or (init(hyperparameters.seed), {"seconds": 0.0})
    origin = {}
    if not restored and config.train.init_from:
        source = Path(config.train.init_from)
        state, origin["init_from"] = start_from(source, config, state, abstract, mesh, facts)
    step = start = saved = int(state.step)
    PREEMPTION.start(start)

    # ---- Functions that compile once ------------------------------------------------------------
    jitted = make_train_step(config, network, abstract, mesh)
    train_step: Step = jitted
    if executable:
        arguments = (abstract, abstract_batch(config, mesh), values)
        train_step = load_executable(executable, jitted, arguments, mesh)
    validate_weights = make_validation(config, network, mesh)
    consensus = Consensus(mesh)

    # ---- What is written and watched: up to here nothing was, so that a refusal changes nothing -
    write_config(workdir, config)
    record_start(workdir, start, facts | origin)
    checkpoints.remove_unfinished()
    validated = start in checkpoints.validations
    scores = checkpoints.validations[start]["scores"] if validated else {}
    log = MetricsLog(workdir, start, position["seconds"], validated)
    samples = SampleLog(workdir, mesh, config.train.log_samples)
    watchdog = Watchdog(workdir, config.train.stall_minutes)
    clock = _Clock(config.train.batch_size * views_per_example(config))
    numbers = NumberWatch(config.train.on_nonfinite, workdir, abstract, network.heads, start)
    metrics = _Metrics(log, clock, numbers, config.train.log_every_steps, steps["num"])
    save_timer = _Timer(config.train.save_every_minutes)

    def stop_if_told() -> None:
        """Ends the run if a process was told to stop; all work must be being saved already."""
        if consensus(STOP if PREEMPTION.signal else GO_ON) == STOP:
            checkpoints.wait()
            PREEMPTION.leave()

    # ---- The loop: save and validate what was done so far, then do the next step ----------------
    # Saved before it is validated, so that nothing is lost while that takes its time; and a run
    # that is continued begins with the validation that its last step still lacks.
    batches = training_batches(config, mesh, start, steps["num"])
    progress = Progress("train", steps["num"], start, shown=is_primary())
    goes_on = True
    with closing(log), closing(samples), closing(checkpoints), closing(batches), progress, watchdog:
        while True:
            last = step == steps["num"]
            unseen = step not in checkpoints.validations
            validates = unseen and _due(step, steps["eval_every"], last)
            due = validates or _due(step, steps["save_every"], last)
            # Of several processes the answer comes a step later: asked once, by the first, and
            # not where the step is saved anyway, so that nothing is saved twice in a row.
            wishes_save = is_primary() and not due and save_timer.is_over()
            if wishes_save:
                save_timer.restart()
            agreed = consensus(STOP if PREEMPTION.signal else SAVE if wishes_save else GO_ON)
            saves = due or agreed != GO_ON
            if saves and step > saved:
                with clock.paused(state), watchdog.paused():
                    metrics.read()  # never save non-finite values
                    seconds = log.seconds()
                    checkpoints.save(step, state, _position(step, config, facts, seconds))
                    saved = step
                    save_timer.restart()
            if agreed == STOP:
                checkpoints.wait()
                PREEMPTION.leave()
            if validates:
                with clock.paused(state), watchdog.paused():
                    best, scores = validate_weights(state.average, stop_if_told)
                    log.write(step, "validation", scores)
                    write_json(workdir / "evaluation" / BEST, {"predictor": best, **scores})
                    found = {
                        "score": task_of(config).rank(scores),
                        "predictor": best,
                        "scores": scores,
                    }
                    checkpoints.record_validation(step, found)
                    goes_on = from_primary(lambda: on_validation(step))  # noqa: B023 - called now
            if last or not goes_on:
                break

            batch = next(batches)
            samples.write(step + 1, batch)
            state, new_metrics = train_step(state, batch, hyperparameters)
            step += 1
            PREEMPTION.done = step
            clock.step_begun(new_metrics)
            metrics.follow(step, new_metrics)
            watchdog.step_done(step)
            progress.advance(note=_note(metrics.scalars, scores))
    return {
        "step": step,
        **{n: metrics.scalars[n] for n in ("loss", "images_per_second") if n in metrics.scalars},
        **scores,
        "workdir": str(workdir),
    }


class _Clock:
    """Images (views) per second of training steps, without compilation, evaluation and saving."""

    def __init__(self, images: int) -> None:
        self.images, self.seconds = images, 0.0
        self.steps = -1  # done, but for the first
        self.since: float | None = None

    def step_begun(self, metrics: dict[str, jax.Array]) -> None:
        """The first step of a process compiles, and the clock runs from its end."""
        if self.since is None:
            jax.block_until_ready(metrics)
            self.since = time.monotonic()

    def step_done(self) -> None:
        """Counts a step that is over, not one that was only queued."""
        self.steps += 1

    @contextmanager
    def paused(self, state: TrainState) -> Iterator[None]:
        """Excludes everything but steps; waits for the steps in progress."""
        if self.since is None:
            yield
            return
        jax.block_until_ready(state)
        now = time.monotonic()
        self.seconds, self.since = self.seconds + now - self.since, now
        yield
        self.since = time.monotonic()

    def images_per_second(self) -> float | None:
        """None until a second step is done."""
        if self.since is None or self.steps < 1:
            return None
        seconds = self.seconds + time.monotonic() - self.since
        return round(self.images * self.steps / seconds, 3)


class _Timer:
    """Tells when the given minutes are over; 0 minutes: never."""

    def __init__(self, minutes: float) -> None:
        self.seconds = 60 * minutes
        self.restart()

    def restart(self) -> None:
        self.since = time.monotonic()

    def is_over(self) -> bool:
        return 0 < self.seconds < time.monotonic() - self.since


class _Metrics:
    """Reads the metrics of a step when the next one is under way, so that no step waits for it."""

    def __init__(
        self, log: MetricsLog, clock: _Clock, numbers: NumberWatch, every: int, last: int
    ) -> None:
        self.log, self.clock, self.numbers, self.every, self.last = log, clock, numbers, every, last
        self.scalars: dict[str, float | None] = {}
        self.unread: tuple[int, dict[str, Any]] | None = None

    def follow(self, step: int, metrics: dict[str, Any]) -> None:
        """Takes the metrics of the step that has just begun, and reads those of the one before."""
        self.read()
        self.unread = step, metrics

    def read(self) -> None:
        """Waits for the step taken last, and writes its metrics if their turn has come."""
        if self.unread is None:
            return
        (step, metrics), self.unread = self.unread, None
        self.numbers.read(step, metrics.pop("health"))  # waits for the step
        self.clock.step_done()
        if step % self.every == 0 or step == self.last:
            self.scalars = {name: float(value) for name, value in jax.device_get(metrics).items()}
            self.scalars["images_per_second"] = self.clock.images_per_second()
            self.log.write(step, "train", self.scalars)


def _note(scalars: dict[str, float | None], scores: dict[str, float | None]) -> str:
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
    return last or (every > 0 and step > 0 and step % every == 0)


def _position(
    step: int, config: ml_collections.ConfigDict, facts: dict[str, Any], seconds: float
) -> dict[str, Any]:
    """The position of the run, apart from its weights.

    Nothing random has a state: orders, crops, augmentation and dropout are functions of the seed
    and the number of the step or sample. So the next global sample index is where the data stands,
    and the data set, known by its size and fingerprint, what gives the index its meaning.
    """
    return {
        "seed": config.seed,
        "next_sample": step * config.train.batch_size,
        **facts,
        "seconds": seconds,  # of work on the run, before and after interruptions
    }
