"""Claims: each trial belongs to one worker, and to another when that one is gone."""

import optuna
import pytest
from optuna.trial import TrialState

from bonescan_jax.sweep.sampling import OneOfEach, SeededSampler, make_pruner
from bonescan_jax.sweep.trials import (
    DONE,
    FAILED,
    FAILED_FOR_GOOD,
    MOST_DEATHS,
    PRUNED,
    RUNNING,
    SETTINGS,
    WAITING,
    WHY,
    Claims,
)


class Cluster:
    """Workers of a study of three trials, in memory."""

    def __init__(self, trials: int = 3) -> None:
        self.storage = optuna.storages.InMemoryStorage()
        self.study = optuna.create_study(
            storage=self.storage, study_name="one", direction="maximize"
        )
        self.trials, self.alive = trials, set()

    def worker(self, name: str) -> Claims:
        self.alive.add(name)
        return Claims(self.study, self.storage, self.trials, name, self.alive.__contains__)

    def states(self) -> list[str]:
        return [trial.state for trial in self.worker("reader").read()]

    def finish(self, attempt: optuna.trial.FrozenTrial, value: float = 1.0) -> None:
        self.study.tell(attempt.number, value)


def test_workers_get_one_trial_each_and_no_more_than_there_are():
    cluster = Cluster()
    a, b, c = (cluster.worker(name) for name in "abc")
    assert [a.claim()[0], b.claim()[0], c.claim()[0]] == [0, 1, 2]
    assert cluster.worker("d").claim() is None
    assert cluster.states() == [RUNNING] * 3


def test_a_trial_that_was_handed_back_goes_on_with_what_it_had():
    cluster = Cluster()
    a, b = cluster.worker("a"), cluster.worker("b")
    number, attempt = a.claim()
    cluster.storage.set_trial_user_attr(attempt._trial_id, SETTINGS, {"seed": 3})
    cluster.storage.set_trial_intermediate_value(attempt._trial_id, 8, 0.5)
    a.hand_back(attempt)
    assert cluster.states() == [WAITING]
    again, second = b.claim()
    assert again == number
    assert second.user_attrs[SETTINGS] == {"seed": 3}
    assert second.intermediate_values == {8: 0.5}
    cluster.finish(second)
    assert cluster.states() == [DONE]
    assert a.claim()[0] == 1


def test_the_trial_of_a_dead_worker_is_given_to_another():
    cluster = Cluster(trials=1)
    a, b = cluster.worker("a"), cluster.worker("b")
    _, first = a.claim()
    assert b.claim() is None
    cluster.alive.remove("a")
    assert cluster.states() == [WAITING]
    number, second = b.claim()
    assert number == 0
    assert cluster.study.trials[0].state == TrialState.FAIL
    # The dead one was only slow: what it tells does not count.
    with pytest.raises(ValueError, match="Cannot tell a FAIL trial"):
        cluster.finish(first)
    cluster.finish(second)
    assert cluster.states() == [DONE]


def test_of_two_workers_that_take_the_same_trial_at_once_one_gives_way():
    cluster = Cluster(trials=1)
    a, b, c = (cluster.worker(name) for name in "abc")
    _, first = a.claim()
    a.hand_back(first)
    waiting = b.read()[0]  # both look before either writes
    one, other = b._retry(waiting), c._retry(waiting)
    assert one is not None
    assert other is None
    assert cluster.states() == [RUNNING]
    assert c.claim() is None


def test_of_workers_that_begin_at_once_those_without_a_trial_give_way(monkeypatch):
    cluster = Cluster(trials=1)
    a, b = cluster.worker("a"), cluster.worker("b")
    monkeypatch.setattr(b, "read", lambda: [])  # b looked before a wrote
    assert a.claim()[0] == 0
    begun = b._begin({})
    assert begun.number == 1
    b.give_up(begun, "gave way", "")
    assert cluster.states() == [RUNNING]


def test_a_trial_that_kills_its_workers_fails_in_the_end():
    cluster = Cluster(trials=1)
    for number in range(MOST_DEATHS):
        assert cluster.worker(f"w{number}").claim() is not None
        cluster.alive.remove(f"w{number}")
    assert cluster.worker("last").claim() is None
    assert cluster.states() == [FAILED]
    assert "perhaps the machine has too little memory" in cluster.study.trials[-1].user_attrs[WHY]


def test_a_claim_whose_answer_was_lost_is_found_again():
    """The database wrote the attempt and went away before it could say so."""
    cluster = Cluster(trials=1)
    worker = cluster.worker("a")
    worker._begin({})
    number, attempt = worker.claim()
    assert number == 0
    cluster.finish(attempt)
    assert cluster.states() == [DONE]


def test_handing_back_does_not_count_as_failing():
    cluster = Cluster(trials=1)
    worker = cluster.worker("a")
    for _ in range(3 * MOST_DEATHS):
        worker.hand_back(worker.claim()[1])
    assert cluster.states() == [WAITING]


def test_bad_settings_are_not_tried_again():
    cluster = Cluster(trials=1)
    worker = cluster.worker("a")
    worker.give_up(worker.claim()[1], FAILED_FOR_GOOD, "no such thing")
    assert cluster.states() == [FAILED]
    assert worker.claim() is None


def test_pruned_counts_as_ended():
    cluster = Cluster(trials=1)
    worker = cluster.worker("a")
    cluster.study.tell(worker.claim()[1].number, state=TrialState.PRUNED)
    assert cluster.states() == [PRUNED]
    assert worker.claim() is None


def test_random_settings_are_a_function_of_seed_and_trial():
    def drawn(seed: int, trial: int) -> list[object]:
        study = optuna.create_study(sampler=SeededSampler(seed, trial))
        asked = study.ask()
        return [
            asked.suggest_float("rate", 1e-4, 1.0, log=True),
            asked.suggest_int("levels", 1, 4),
            asked.suggest_categorical("name", ["a", "b", "c", "d"]),
        ]

    assert drawn(0, 5) == drawn(0, 5)
    assert len({str(drawn(0, trial)) for trial in range(20)}) == 20
    assert drawn(0, 5) != drawn(1, 5)


def test_random_settings_cover_their_range_evenly():
    values = []
    for trial in range(400):
        study = optuna.create_study(sampler=SeededSampler(3, trial))
        values.append(study.ask().suggest_float("rate", 0.0, 1.0))
    counts = [sum(k <= value * 4 < k + 1 for value in values) for k in range(4)]
    assert min(counts) > 70  # of 100; below 66 once in 10,000


def test_a_rung_counts_every_trial_once_whatever_its_attempts():
    """Halving by two: of two trials the better goes on, also where one of them was interrupted."""
    cluster = Cluster(trials=3)
    worker = cluster.worker("a")
    pruner = make_pruner("successive_halving", 2, 8, 64)

    def prunes(attempt: optuna.trial.FrozenTrial, value: float) -> bool:
        cluster.storage.set_trial_intermediate_value(attempt._trial_id, 8, value)
        view = OneOfEach("one", cluster.storage)
        return pruner.prune(view, cluster.storage.get_trial(attempt._trial_id))

    _, first = worker.claim()
    assert not prunes(first, 0.9)
    worker.hand_back(first)
    _, again = worker.claim()
    assert not pruner.prune(OneOfEach("one", cluster.storage), again)  # of the same rung
    _, second = cluster.worker("b").claim()
    _, third = cluster.worker("c").claim()
    # 0.9 once, 0.8 and 0.85: of three one goes on, which is 0.9. Counted twice, 0.9 and 0.9 would
    # be two of four.
    assert prunes(second, 0.8)
    view = OneOfEach("one", cluster.storage)
    assert len(view.get_trials()) == 3
    assert prunes(third, 0.85)
