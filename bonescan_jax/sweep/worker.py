"""One worker of a study: takes a trial, runs it, tells the result, takes the next."""

import contextlib
import gc
import json
import os
import secrets
import shutil
import socket
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import ml_collections
import optuna
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from bonescan_jax.aot.compile import compile_at
from bonescan_jax.aot.tpu import GIB
from bonescan_jax.cluster.preemption import PREEMPTION, PreemptedError
from bonescan_jax.config import resolve_steps
from bonescan_jax.crossvalidate import crossvalidate
from bonescan_jax.errors import BusyError, InputError, RunError
from bonescan_jax.input_pipeline import example_records
from bonescan_jax.runs.lock import claimed, silent_seconds
from bonescan_jax.sweep.results import (
    Scores,
    images_per_second,
    run_seconds,
    score_of,
    validations,
)
from bonescan_jax.sweep.sampling import OneOfEach, make_pruner, make_sampler
from bonescan_jax.sweep.storage import StorageAwayError, hidden_password, open_storage, patiently
from bonescan_jax.sweep.study import Settings, Study, as_choice, read_study
from bonescan_jax.sweep.trials import (
    DIED,
    DONE,
    FAILED,
    FAILED_FOR_GOOD,
    GAVE_WAY,
    PRUNED,
    RUNNING,
    SETTINGS,
    TO_BE_PRUNED,
    TRIAL,
    Claims,
    Trial,
)
from bonescan_jax.train import train

FILE, BASE = "file", "base"  # attributes of a study: its text, and what all trials share
RECORD = "study.json"
MEASURED, WORKDIR = "measured", "workdir"  # attributes of an attempt
TAKEN_OVER = "another worker has taken it over, because this one stood still"
BUSY_SECONDS = 60.0  # after a look at a trial whose workdir somebody else holds
POLL_SECONDS = 5.0  # between looks at the study, while all that is left is in other hands


def workers_folder(out: Path) -> Path:
    """Where each worker holds a folder of its name while it works."""
    return out / "workers"


def trial_workdir(out: Path, number: int) -> Path:
    """The workdir of a trial, whichever attempt at it this is."""
    return out / "trials" / f"{number:05}"


def join_study(study: Study, storage: optuna.storages.BaseStorage) -> optuna.Study:
    """The study in its storage; the first worker creates it.

    Raises:
        InputError: the storage holds another study of this name.
    """
    joined = optuna.create_study(
        storage=storage,
        study_name=study.name,
        directions=[StudyDirection[each.upper()] for each in study.objectives.values()],
        load_if_exists=True,
    )
    for name, found in ((FILE, study.text), (BASE, study.base)):
        if name not in joined.user_attrs:
            joined.set_user_attr(name, found)
    stored = joined.user_attrs
    if stored[FILE] != study.text:
        raise InputError(
            f"--study: the storage holds another study of the name {study.name!r}, begun with "
            "another text of the file; give the file another name for a new study"
        )
    for name, value in study.base.items():
        if stored[BASE].get(name) != value:
            raise InputError(
                f"--study: {name} is {value!r}, expected {stored[BASE].get(name)!r} as when the "
                f"study {study.name!r} was begun; the file that CONFIG names has changed"
            )
    return joined


def work(
    study_file: Path,
    out: Path,
    url: str | None = None,
    changes: Mapping[str, Any] | None = None,
    limit: int = 0,
    wait: bool = True,
) -> dict[str, Any]:
    """Works on the trials of a study until none is left.

    Args:
        study_file: such as configs/sweeps/rates.py.
        out: the folder of the sweep, on a disk that all workers share.
        url: of the storage; a journal in `out` without one.
        changes: settings that do not touch what is computed, such as {"data.dir": "elsewhere"}.
        limit: ends after so many trials; 0: none.
        wait: for trials of other workers, one of which may die.

    Returns:
        How many trials this worker ended, what has become of all, and the best.

    Raises:
        InputError: the study, its storage or its data cannot be used.
        RunError: the disk is full or the like; the trial is handed back.
        SystemExit: the process was told to stop; the trial is saved and handed back.
    """
    study = read_study(study_file, changes)
    make_sampler(study.sampler, study.seed, 0)  # says what it lacks
    example_records(study.config, "train")  # as without data every trial would fail
    out = out.absolute()
    name = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"
    with claimed(workers_folder(out) / name):
        try:
            storage = open_storage(url, out)
            worker = Worker(study, join_study(study, storage), storage, out, name)
            _record(study, out, url, name)
            return worker.run(limit, wait)
        finally:
            PREEMPTION.farewell = lambda: None
            shutil.rmtree(workers_folder(out) / name, ignore_errors=True)


def _record(study: Study, out: Path, url: str | None, worker: str) -> None:
    """Leaves in the folder of the sweep what `sweep.status.recorded` finds it again by."""
    about = {"study": study.name, "storage": hidden_password(url) if url else None}
    for name, text in ((f"{study.name}.py", study.text), (RECORD, json.dumps(about) + "\n")):
        unfinished = out / f"{name}.{worker}"  # workers write the same at the same moment
        unfinished.write_text(text)
        unfinished.replace(out / name)


class Worker:
    """Runs trials one after the other.

    Args:
        study: as its file tells it.
        joined: the same in its storage.
        storage: that holds it.
        out: the folder of the sweep.
        name: of this worker.
    """

    def __init__(
        self,
        study: Study,
        joined: optuna.Study,
        storage: optuna.storages.BaseStorage,
        out: Path,
        name: str,
    ) -> None:
        self.study, self.joined, self.storage, self.out = study, joined, storage, out
        self.claims = Claims(joined, storage, study.trials, name, lambda of: is_alive(out, of))
        self.pruner = _pruner(study)
        self.attempt: FrozenTrial | None = None  # that would have to be handed back
        PREEMPTION.farewell = self._hand_back

    def run(self, limit: int, wait: bool) -> dict[str, Any]:
        """See `work`."""
        ended = 0
        waits = False
        while not limit or ended < limit:
            claim = patiently(self.claims.claim)
            if claim is None:
                trials = patiently(self.claims.read)
                if not wait or all(trial.state in (DONE, PRUNED, FAILED) for trial in trials):
                    break
                if not waits:
                    running = sum(trial.state == RUNNING for trial in trials)
                    _say(f"waits for {running} trials of other workers, one of which may die")
                waits = True
                time.sleep(POLL_SECONDS)
                continue
            waits = False
            number, self.attempt = claim
            ended += self._try(number, self.attempt)
            self.attempt = None
            # Some hundred programs in one process are too many for LLVM, and the compilation cache
            # has them all.
            gc.collect()
            jax.clear_caches()
        return {"trials": ended, **summary(self.study, patiently(self.claims.read), self.out)}

    def _try(self, number: int, attempt: FrozenTrial) -> bool:
        """One attempt at a trial; whether the trial has ended with it."""
        try:
            said = self._run(number, attempt)
        except (PreemptedError, StorageAwayError):
            self._hand_back()
            raise
        except BusyError as error:
            why = str(error)
            patiently(lambda: self.claims.give_up(attempt, GAVE_WAY, why))
            _say(f"trial {number}: {why}")
            time.sleep(BUSY_SECONDS)
            return False
        except (InputError, RunError) as error:
            if isinstance(error.__cause__, OSError):  # the disk, and not the settings
                self._hand_back()
                raise
            self._check_machine()
            said = self._fail(attempt, str(error))
        except OSError:
            self._hand_back()
            raise
        except Exception as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                self.claims.give_up(attempt, DIED, f"{type(error).__name__}: {error}"[:2000])
                raise
            reason = str(error).splitlines()[0]
            said = self._fail(attempt, f"needs more memory than the device has: {reason}")
        _say(f"trial {number} of {self.study.trials}: {said}")
        return True

    def _fail(self, attempt: FrozenTrial, why: str) -> str:
        patiently(lambda: self.claims.give_up(attempt, FAILED_FOR_GOOD, why))
        return f"failed: {why}"

    def _check_machine(self) -> None:
        """Hands the trial back where not it is at fault: the data are gone.

        Raises:
            InputError: they are.
        """
        try:
            example_records(self.study.config, "train")
        except InputError:
            self._hand_back()
            raise

    def _run(self, number: int, attempt: FrozenTrial) -> str:
        """Trains, tells the result, and returns it in words."""
        trial = optuna.trial.Trial(self.joined, attempt._trial_id)
        workdir = trial_workdir(self.out, number)
        settings = patiently(lambda: self._settings(number, attempt))
        _say(f"trial {number} of {self.study.trials} begins: {in_words(settings)}")
        config = self.study.config_of(settings, f"trial {number}")
        reports = patiently(lambda: _Reports(self, trial, attempt._trial_id, workdir, config))
        if reports.goes_on():  # with what was validated before it was interrupted
            if self.study.folds:
                crossvalidate(config, workdir, reports.fold_done)
            else:
                train(config, workdir, on_validation=lambda step: reports.goes_on())
        measured = self._measure(workdir, config)
        values = [score_of(measured, name, workdir) for name in self.study.objectives]
        known = {MEASURED: measured, WORKDIR: str(workdir), **_machine()}
        return patiently(lambda: self._tell(trial, values, known, reports.pruned))

    def _settings(self, number: int, attempt: FrozenTrial) -> Settings:
        """What the trial sets; an attempt before this one may have sampled it already."""
        self.storage.set_trial_user_attr(attempt._trial_id, TRIAL, number)
        if SETTINGS in attempt.user_attrs:
            return attempt.user_attrs[SETTINGS]
        self.joined.sampler = make_sampler(self.study.sampler, self.study.seed, number)
        trial = optuna.trial.Trial(self.joined, attempt._trial_id)
        settings = self.study.settings(trial, number)
        if self.study.points is not None:
            for name, distribution in self.study.space().items():
                value = distribution.to_internal_repr(as_choice(settings[name]))
                self.storage.set_trial_param(attempt._trial_id, name, value, distribution)
        self.storage.set_trial_user_attr(attempt._trial_id, SETTINGS, settings)
        return settings

    def _measure(self, workdir: Path, config: ml_collections.ConfigDict) -> Scores:
        """All that the trial can be judged by."""
        places = _runs(workdir, self.study)
        last = [list(validations(place, config).values())[-1:] for place in places]
        known = [scores[0] for scores in last if scores]
        names = known[0].keys() if known else ()
        measured: Scores = {name: _mean([scores.get(name) for scores in known]) for name in names}
        measured["seconds"] = sum(run_seconds(place) for place in places)
        measured["images_per_second"] = _mean([images_per_second(place) for place in places])
        if "memory_gib" in (*self.study.objectives, *self.study.constraints):
            devices = jax.devices()
            compiled = compile_at(config, devices, config.train.batch_size // len(devices))
            measured["memory_gib"] = round(compiled.memory / GIB, 3)
        return measured

    def _tell(
        self, trial: optuna.Trial, values: list[float], known: Mapping[str, Any], pruned: bool
    ) -> str:
        words = ", ".join(
            f"{name} {value:.4g}" for name, value in zip(self.study.objectives, values, strict=True)
        )
        try:
            for name, value in known.items():
                trial.set_user_attr(name, value)
            for name, most in self.study.constraints.items():
                excess = score_of(known[MEASURED], name, known[WORKDIR]) - most
                trial.set_constraint(name, excess)
            if pruned:
                self.joined.tell(trial, state=TrialState.PRUNED)
                return f"pruned, {words}"
            self.joined.tell(trial, values)
        except (ValueError, UpdateFinishedTrialError) as error:
            # Told already, and only the answer was lost?
            told = self.storage.get_trial(trial._trial_id).state
            if told not in (TrialState.COMPLETE, TrialState.PRUNED):
                raise BusyError(TAKEN_OVER) from error
        return f"done, {words}"

    def _hand_back(self) -> None:
        attempt, self.attempt = self.attempt, None
        if attempt is not None:
            with contextlib.suppress(StorageInternalError):  # others see that this worker is gone
                self.claims.hand_back(attempt)


class _Reports:
    """Tells a study the scores of a trial on the way, and whether it goes on.

    Args:
        worker: of the study.
        trial: to report to.
        identity: of the trial in the storage.
        workdir: of its run, or of its folds.
        config: of its run.
    """

    def __init__(
        self,
        worker: Worker,
        trial: optuna.Trial,
        identity: int,
        workdir: Path,
        config: ml_collections.ConfigDict,
    ) -> None:
        self._worker, self._trial, self._identity = worker, trial, identity
        self._workdir, self._config = workdir, config
        self._name = next(iter(worker.study.objectives))
        self._told = set(worker.storage.get_trial(identity).intermediate_values)
        self.pruned = TO_BE_PRUNED in trial.user_attrs

    def goes_on(self) -> bool:
        """Reports what the run has validated and nobody has reported; whether it goes on."""
        if self.pruned:
            return False
        if len(self._worker.study.objectives) > 1 or self._worker.study.folds:
            return True  # Optuna takes reports of one objective only
        if not self._name.startswith("validation."):
            return True
        for examples, scores in sorted(validations(self._workdir, self._config).items()):
            if not self._report(examples, score_of(scores, self._name, self._workdir)):
                return False
        return True

    def fold_done(self, fold: int, workdir: Path) -> bool:
        """Reports the last score of a fold; whether the cross-validation goes on."""
        *_, scores = validations(workdir, self._config).values()
        return self._report(fold, score_of(scores, self._name, workdir))

    def _report(self, step: int, score: float) -> bool:
        if step in self._told:
            return True
        storage = self._worker.storage
        try:
            self._trial.report(score, step)
            view = OneOfEach(self._worker.joined.study_name, storage)
            self.pruned = self._worker.pruner.prune(view, storage.get_trial(self._identity))
            if self.pruned:
                self._trial.set_user_attr(TO_BE_PRUNED, step)
        except StorageInternalError:
            return True  # a storage that is away stops no run: it is told at the next validation
        except UpdateFinishedTrialError as error:
            raise BusyError(TAKEN_OVER) from error
        self._told.add(step)
        return not self.pruned


def summary(study: Study, trials: list[Trial], out: Path) -> dict[str, Any]:
    """How many trials are in each state, and the best one; of several objectives, the best ones."""
    counts = {
        state: sum(trial.state == state for trial in trials)
        for state in (RUNNING, DONE, PRUNED, FAILED)
    }
    waiting = study.trials - sum(counts.values())
    best = best_trials(study, trials)
    return {
        "study": study.name,
        "waiting": waiting,
        **counts,
        "best": [
            {
                "trial": trial.number,
                **dict(zip(study.objectives, trial.last.values, strict=True)),
                "settings": trial.last.user_attrs[SETTINGS],
                "workdir": str(trial_workdir(out, trial.number)),
            }
            for trial in best
        ],
    }


def best_trials(study: Study, trials: list[Trial]) -> list[Trial]:
    """The best trial that keeps to the constraints; of several objectives, all that none beats."""
    signs = [1 if direction == "maximize" else -1 for direction in study.objectives.values()]
    allowed = [
        trial
        for trial in trials
        if trial.state == DONE and all(value <= 0 for value in trial.last.constraints.values())
    ]

    def worth(trial: Trial) -> list[float]:
        return [sign * value for sign, value in zip(signs, trial.last.values, strict=True)]

    def beats(one: Trial, other: Trial) -> bool:
        pairs = list(zip(worth(one), worth(other), strict=True))
        return all(a >= b for a, b in pairs) and any(a > b for a, b in pairs)

    found = [one for one in allowed if not any(beats(other, one) for other in allowed)]
    return found[:1] if len(signs) == 1 else found


def is_alive(out: Path, worker: str) -> bool:
    """Whether a worker holds its folder, and has been heard of lately."""
    return silent_seconds(workers_folder(out) / worker) is not None


def in_words(settings: Settings) -> str:
    """Settings on one line, as flags have them."""
    return " ".join(f"{name}={value}" for name, value in settings.items())


def _pruner(study: Study) -> optuna.pruners.BasePruner:
    train_settings = study.config.train
    examples = len(example_records(study.config, "train"))
    every, total = (resolve_steps(train_settings, name, examples) for name in ("eval_every", "num"))
    batch = train_settings.batch_size
    return make_pruner(study.pruner, study.reduction, (every or total) * batch, total * batch)


def _runs(workdir: Path, study: Study) -> list[Path]:
    """The runs of a trial: one, or one a fold."""
    return sorted(workdir.glob("fold_*")) if study.folds else [workdir]


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _machine() -> dict[str, Any]:
    devices = jax.devices()
    return {
        "host": socket.gethostname(),
        "devices": len(devices),
        "device_kind": devices[0].device_kind,
    }


def _say(text: str) -> None:
    print(f"sweep: {text}", file=sys.stderr, flush=True)
