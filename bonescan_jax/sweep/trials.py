"""Who works on which trial: the claims of workers in a storage, and what has become of each trial.

A trial has a number in the study, 0 to N - 1, which its settings and its folder follow from. Each
attempt at it is a trial of Optuna. A first attempt takes the number that its rank among first
attempts gives: the storage hands out ranks one by one, so no two workers get the same. A later one
names the trial that it goes on with; of two that were begun at once, the one with the lower number
in the storage stays. What became of a trial follows from its attempts alone, so a worker may die at
any moment and leaves nothing half done.
"""

import contextlib
import random
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState

# What has become of a trial.
WAITING = "waiting"  # nobody works on it: it was never begun, handed back, or its worker died
RUNNING = "running"
DONE = "done"
PRUNED = "pruned"
FAILED = "failed"  # and is not tried again: its settings cannot be
STATES = (WAITING, RUNNING, DONE, PRUNED, FAILED)

# Attributes of an attempt.
WORKER = "worker"  # its name
RETRY = "retry"  # the trial that it goes on with; a first attempt has none
TRIAL = "trial"  # the number of its trial, for readers of the storage
END = "end"  # why an attempt ended without a result
WHY = "why"  # a sentence about that
SETTINGS = "settings"
TO_BE_PRUNED = "to be pruned"  # decided, if not told yet

# Values of END.
HANDED_BACK = "handed back"
DIED = "died"
GAVE_WAY = "gave way"  # another worker had the trial
FAILED_FOR_GOOD = "failed"

MOST_DEATHS = 5  # attempts at a trial that end with their worker, before it counts as failed


class Trial(NamedTuple):
    """One of the trials of a study, with all attempts at it."""

    number: int
    attempts: tuple[FrozenTrial, ...]  # as they were begun
    state: str  # one of STATES

    @property
    def last(self) -> FrozenTrial:
        """The attempt that its state follows from."""
        finished = [a for a in self.attempts if a.state in (TrialState.COMPLETE, TrialState.PRUNED)]
        return (finished or self.attempts)[-1 if not finished else 0]

    @property
    def orphans(self) -> tuple[FrozenTrial, ...]:
        """Attempts that count as running, and whose workers are gone (where nobody works on it)."""
        return tuple(a for a in self.attempts if a.state == TrialState.RUNNING)


class Claims:
    """The trials of a study as one worker sees them.

    Args:
        study: in its storage.
        storage: that holds it.
        trials: how many the study has.
        worker: name of this worker, which no other has.
        is_alive: whether the worker of a name still works.
    """

    def __init__(
        self,
        study: optuna.Study,
        storage: optuna.storages.BaseStorage,
        trials: int,
        worker: str,
        is_alive: Callable[[str], bool],
    ) -> None:
        self._study, self._storage, self._count = study, storage, trials
        self._worker, self._is_alive = worker, is_alive

    def read(self) -> list[Trial]:
        """All trials that were begun, by number; called while this worker works on none.

        What counts as running here under its own name it has been given without hearing of it, by
        a database that went away before it could answer.
        """
        attempts = _by_trial(self._study.get_trials(deepcopy=False), self._count)
        alive: dict[str, bool] = {self._worker: False}

        def lives(attempt: FrozenTrial) -> bool:
            name = attempt.user_attrs.get(WORKER, "")
            if name not in alive:
                alive[name] = self._is_alive(name)
            return alive[name]

        return [
            Trial(number, tuple(each), _state(each, lives))
            for number, each in sorted(attempts.items())
        ]

    def claim(self) -> tuple[int, FrozenTrial] | None:
        """A trial for this worker and its attempt at it; None if there is none to be had now."""
        while True:
            trials = self.read()
            waiting = [trial for trial in trials if trial.state == WAITING]
            if waiting:
                # Workers that look at the same moment should not all choose the same.
                attempt = self._retry(random.choice(waiting))
                if attempt is not None:
                    return attempt.user_attrs[RETRY], attempt
                continue
            if len(trials) >= self._count:
                return None
            begun = self._begin({})
            for number, attempts in _by_trial(
                self._study.get_trials(deepcopy=False), self._count
            ).items():
                if begun.number in (attempt.number for attempt in attempts):
                    return number, begun
            self.give_up(begun, GAVE_WAY, "all trials have been begun")

    def _retry(self, trial: Trial) -> FrozenTrial | None:
        """A new attempt at a trial; None if it has died too often, or another worker was first."""
        died = sum(attempt.user_attrs.get(END) == DIED for attempt in trial.attempts)
        for orphan in trial.orphans:
            died += 1
            gone = f"its worker {orphan.user_attrs.get(WORKER)} was gone without a word"
            if died < MOST_DEATHS:
                self.give_up(orphan, DIED, gone)
            else:
                gone += f", as {died - 1} before; perhaps the machine has too little memory"
                self.give_up(orphan, FAILED_FOR_GOOD, gone)
                return None
        before = [a for a in trial.attempts if a.user_attrs.get(END) != GAVE_WAY][-1]
        attempt = self._begin({RETRY: trial.number}, before)
        others = [
            other
            for other in self._study.get_trials(deepcopy=False)
            if other.user_attrs.get(RETRY) == trial.number
            and other.state != TrialState.FAIL
            and before.number < other.number < attempt.number
        ]
        if others:
            self.give_up(attempt, GAVE_WAY, f"another worker took trial {trial.number}")
            return None
        return attempt

    def _begin(self, attributes: dict[str, Any], before: FrozenTrial | None = None) -> FrozenTrial:
        """A running attempt of this worker, which takes over what the one before has reached."""
        attributes = {WORKER: self._worker, **attributes}
        reached = before.user_attrs if before else {}
        for name in {SETTINGS, TO_BE_PRUNED} & reached.keys():
            attributes[name] = reached[name]
        template = optuna.create_trial(
            state=TrialState.RUNNING,
            params=before.params if before else None,
            distributions=before.distributions if before else None,
            user_attrs=attributes,
            system_attrs=before.system_attrs if before else None,
            intermediate_values=before.intermediate_values if before else None,
        )
        identity = self._storage.create_new_trial(self._study._study_id, template)
        return self._storage.get_trial(identity)

    def give_up(self, attempt: FrozenTrial, end: str, why: str) -> bool:
        """Ends an attempt without a result; False if it had ended before."""
        with contextlib.suppress(UpdateFinishedTrialError):
            self._storage.set_trial_user_attr(attempt._trial_id, END, end)
            self._storage.set_trial_user_attr(attempt._trial_id, WHY, why)
            return self._storage.set_trial_state_values(attempt._trial_id, TrialState.FAIL)
        return False

    def hand_back(self, attempt: FrozenTrial) -> None:
        """Lets other workers go on with a trial at once."""
        self.give_up(attempt, HANDED_BACK, f"handed back at {time.strftime('%Y-%m-%dT%H:%M:%S%z')}")


def _by_trial(attempts: Sequence[FrozenTrial], count: int) -> dict[int, list[FrozenTrial]]:
    """The attempts at each trial of a study of so many trials."""
    found: dict[int, list[FrozenTrial]] = {}
    for attempt in sorted(attempts, key=lambda attempt: attempt.number):
        number = attempt.user_attrs.get(RETRY)
        if number is None:
            number = len(found)
            if number >= count:
                continue
        found.setdefault(number, []).append(attempt)
    return found


def _state(attempts: Sequence[FrozenTrial], lives: Callable[[FrozenTrial], bool]) -> str:
    states = {attempt.state for attempt in attempts}
    if TrialState.COMPLETE in states:
        return DONE
    if TrialState.PRUNED in states:
        return PRUNED
    if any(attempt.user_attrs.get(END) == FAILED_FOR_GOOD for attempt in attempts):
        return FAILED
    if any(attempt.state == TrialState.RUNNING and lives(attempt) for attempt in attempts):
        return RUNNING
    return WAITING
