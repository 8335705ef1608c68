"""A worker runs trials as ordinary runs, and tells the study what became of each."""

import json
from pathlib import Path

import optuna
import pytest

from bonescan_jax.cluster.preemption import PREEMPTION, PreemptedError
from bonescan_jax.errors import InputError, RunError
from bonescan_jax.runs.workdir import read_config
from bonescan_jax.sweep import worker as module
from bonescan_jax.sweep.page import write_study_report
from bonescan_jax.sweep.status import load, recorded, status
from bonescan_jax.sweep.storage import open_storage
from bonescan_jax.sweep.trials import WHY
from bonescan_jax.sweep.worker import trial_workdir, work
from bonescan_jax.train import train
from tests.faults.sweep import SHORT

ROOT = Path(__file__).parents[2]
HEAD = f'CONFIG = "{ROOT}/configs/phantom.py"\n'
SMALL = SHORT | {"train.num_steps": 4, "train.eval_every_steps": 2, "mesh.data": 1}


@pytest.fixture
def study(tmp_path: Path, data_dir: Path):
    """Writes a study on the small data set; works on it in tmp_path/out."""

    def write(text: str, **settings: object) -> Path:
        path = tmp_path / "mine.py"
        given = SMALL | {"data.dir": str(data_dir)} | settings
        path.write_text(f"{HEAD}SETTINGS = {given!r}\n{text}")
        return path

    return write


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch):
    """Runs that only write scores, given by learning rate: what a worker does around them."""
    calls = []

    def runs(score):
        def fake(config, workdir, executable=None, on_validation=lambda step: True):
            calls.append((workdir.name, config.train.learning_rate))
            workdir.mkdir(parents=True, exist_ok=True)
            log = (workdir / "metrics.jsonl").open("a")
            for step in (2, 4):
                said = score(config, step)
                line = {"step": step, "seconds": step, "kind": "validation", **said}
                log.write(json.dumps(line) + "\n")
                log.flush()
                if not on_validation(step):
                    break
            return {}

        monkeypatch.setattr(module, "train", fake)
        return calls

    return runs


def by_rate(config, step: int) -> dict[str, float]:
    score = config.train.learning_rate * step
    return {"dice_abnormal": score, "dice_normal": score}


RATES = (
    "def sweep(add):\n    for rate in {rates}:\n        add(**{{'train.learning_rate': rate}})\n"
)


def test_a_trial_is_an_ordinary_run(tmp_path: Path, study):
    path = study(RATES.format(rates=(1e-3, 3e-3)))
    said = work(path, tmp_path / "out")
    assert (said["trials"], said["done"], said["waiting"]) == (2, 2, 0)
    workdir = trial_workdir(tmp_path / "out", 1)
    config = read_config(workdir)
    assert config.train.learning_rate == 3e-3
    train(config, tmp_path / "alone")

    def scores(place: Path) -> list[float]:
        lines = map(json.loads, (place / "metrics.jsonl").read_text().splitlines())
        return [line["dice_normal"] for line in lines if line["kind"] == "validation"]

    assert scores(workdir) == scores(tmp_path / "alone")
    best = said["best"][0]
    assert best["validation.score"] >= scores(workdir)[-1] / 2
    assert not list((tmp_path / "out" / "workers").iterdir())
    again = work(path, tmp_path / "out")
    assert again["trials"] == 0
    assert again["best"] == said["best"]


def test_another_text_of_the_file_is_another_study(tmp_path: Path, study, quick):
    quick(by_rate)
    work(study(RATES.format(rates=(0.1,))), tmp_path / "out")
    with pytest.raises(InputError, match="begun with another text of the file"):
        work(study(RATES.format(rates=(0.2,))), tmp_path / "out")


def test_a_worker_may_change_where_data_lie_and_nothing_asked(tmp_path: Path, study, quick):
    quick(by_rate)
    path = study(RATES.format(rates=(0.1,)))
    with pytest.raises(InputError, match="learning_rate: belongs to the run"):
        work(path, tmp_path / "out", changes={"train.learning_rate": 1.0})
    work(path, tmp_path / "out", changes={"data.num_threads": 1})
    with pytest.raises(InputError, match="eval_every_steps is 1, expected 2"):
        work(path, tmp_path / "out", changes={"train.eval_every_steps": 1})


def test_bad_settings_fail_alone_and_their_sentence_is_kept(tmp_path: Path, study, quick):
    def fails(config, step):
        if config.train.learning_rate == 0.2:
            raise RunError("the loss is not finite in step 3")
        return by_rate(config, step)

    calls = quick(fails)
    path = study(RATES.format(rates=(0.1, 0.2, 0.3)))
    said = work(path, tmp_path / "out")
    assert (said["done"], said["failed"]) == (2, 1)
    work(path, tmp_path / "out")
    assert len(calls) == 3
    _, trials = load(path, tmp_path / "out", None)
    assert trials[1].last.user_attrs[WHY] == "the loss is not finite in step 3"


def test_a_full_disk_ends_the_worker_and_not_the_study(tmp_path: Path, study, quick):
    def full(config, step):
        raise RunError("disk: no space left on device") from OSError(28, "no space left")

    path = study(RATES.format(rates=(0.1, 0.2)))
    quick(full)
    with pytest.raises(RunError, match="no space left"):
        work(path, tmp_path / "out")
    quick(by_rate)
    said = work(path, tmp_path / "out")
    assert (said["trials"], said["done"], said["failed"]) == (2, 2, 0)


def test_data_that_are_gone_end_the_worker_and_fail_no_trial(
    tmp_path: Path, study, quick, monkeypatch: pytest.MonkeyPatch
):
    def gone(config, step):
        def missing(*_):
            raise InputError("data: there is no such folder")

        monkeypatch.setattr(module, "example_records", missing)
        raise InputError("data: there is no such folder")

    path = study(RATES.format(rates=(0.1,)))
    quick(gone)
    with pytest.raises(InputError, match="no such folder"):
        work(path, tmp_path / "out")
    monkeypatch.undo()
    _, trials = load(path, tmp_path / "out", None)
    assert trials[0].state == "waiting"


def test_a_storage_that_is_away_for_a_while_stops_no_trial(
    tmp_path: Path, study, quick, monkeypatch: pytest.MonkeyPatch
):
    quick(by_rate)
    monkeypatch.setattr("bonescan_jax.sweep.storage.RETRY_SECONDS", 0.01)
    path = study(PRUNED + RATES.format(rates=(0.1, 0.2)))
    work(path, tmp_path / "out", limit=1)
    away = {"asked": 0}
    names = ("set_trial_intermediate_value", "set_trial_state_values", "create_new_trial")
    for name in names:
        usual = getattr(optuna.storages.JournalStorage, name)

        def now_and_then(self, *arguments, _usual=usual, **more):
            away["asked"] += 1
            if away["asked"] % 3:
                raise optuna.exceptions.StorageInternalError("the connection is closed")
            return _usual(self, *arguments, **more)

        monkeypatch.setattr(optuna.storages.JournalStorage, name, now_and_then)
    said = work(path, tmp_path / "out")
    assert (said["done"], said["waiting"]) == (2, 0)
    assert away["asked"] > 3


def test_a_storage_that_stays_away_ends_the_worker_and_loses_no_trial(
    tmp_path: Path, study, quick, monkeypatch: pytest.MonkeyPatch
):
    quick(by_rate)
    path = study(RATES.format(rates=(0.1,)))
    usual = optuna.storages.JournalStorage.set_trial_state_values

    def gone(self, *arguments, **more):
        raise optuna.exceptions.StorageInternalError("postgresql://me:secret@host is gone")

    monkeypatch.setattr("bonescan_jax.sweep.storage.AWAY_SECONDS", 0.05)
    monkeypatch.setattr("bonescan_jax.sweep.storage.RETRY_SECONDS", 0.01)
    monkeypatch.setattr(optuna.storages.JournalStorage, "set_trial_state_values", gone)
    with pytest.raises(RunError, match=r"has been away .*me:\*\*\*@host is gone"):
        work(path, tmp_path / "out")
    monkeypatch.setattr(optuna.storages.JournalStorage, "set_trial_state_values", usual)
    said = work(path, tmp_path / "out")
    assert (said["done"], said["failed"]) == (1, 0)


def test_told_to_stop_a_worker_hands_its_trial_back(tmp_path: Path, study, quick):
    def stopped(config, step):
        raise PreemptedError(75)

    path = study(RATES.format(rates=(0.1,)))
    quick(stopped)
    with pytest.raises(PreemptedError):
        work(path, tmp_path / "out")
    _, trials = load(path, tmp_path / "out", None)
    assert trials[0].state == "waiting"
    assert trials[0].last.user_attrs["end"] == "handed back"
    assert PREEMPTION.farewell() is None


def test_a_score_without_a_value_fails_the_trial(tmp_path: Path, study, quick):
    quick(lambda config, step: {"dice_abnormal": None, "dice_normal": 0.1})
    text = "OBJECTIVES = {'validation.dice_abnormal': 'maximize'}\n"
    said = work(study(text + RATES.format(rates=(0.1,))), tmp_path / "out")
    assert said["failed"] == 1
    _, trials = load(tmp_path / "mine.py", tmp_path / "out", None)
    assert "validation.dice_abnormal has no value" in trials[0].last.user_attrs[WHY]


PRUNED = "PRUNER = 'successive_halving'\nREDUCTION = 2\n"


def test_poor_trials_end_early_at_equal_examples(tmp_path: Path, study, quick):
    quick(by_rate)
    path = study(PRUNED + RATES.format(rates=(0.3, 0.1, 0.2, 0.4)))
    said = work(path, tmp_path / "out")
    assert (said["done"], said["pruned"]) == (2, 2)
    assert said["best"][0]["trial"] == 3
    _, trials = load(path, tmp_path / "out", None)
    assert [max(t.last.intermediate_values) for t in trials] == [32, 16, 16, 32]


def test_what_was_validated_before_an_interruption_is_told_once(tmp_path: Path, study, quick):
    """The worker died after the second validation, before it told the study of it."""
    path = study(PRUNED + RATES.format(rates=(0.3, 0.1)))
    quick(by_rate)
    work(path, tmp_path / "out", limit=1)
    workdir = trial_workdir(tmp_path / "out", 1)
    workdir.mkdir(parents=True)
    line = {"step": 2, "seconds": 2, "kind": "validation", "dice_abnormal": 0.2, "dice_normal": 0.2}
    (workdir / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    calls = quick(by_rate)
    said = work(path, tmp_path / "out")
    assert said["pruned"] == 1
    assert calls == [("00000", 0.3)]  # the other was pruned before it went on


def test_of_several_objectives_all_trials_count_that_none_beats(tmp_path: Path, study, quick):
    def two(config, step):
        rate = config.train.learning_rate
        return {"dice_abnormal": rate, "dice_normal": 1 - rate if rate < 0.25 else 0.0}

    quick(two)
    names = ("validation.dice_abnormal", "validation.dice_normal")
    text = f"OBJECTIVES = {dict.fromkeys(names, 'maximize')}\n"
    said = work(study(text + RATES.format(rates=(0.1, 0.2, 0.25, 0.3))), tmp_path / "out")
    assert [best["trial"] for best in said["best"]] == [0, 1, 3]


def test_a_trial_that_breaks_a_constraint_is_not_the_best(tmp_path: Path, study, quick):
    quick(by_rate)
    text = "CONSTRAINTS = {'validation.dice_normal': 1.0}\n"
    said = work(study(text + RATES.format(rates=(0.1, 0.2, 0.3))), tmp_path / "out")
    assert said["best"][0]["trial"] == 1


def test_folds_are_compared_by_wilcoxon(tmp_path: Path, study, monkeypatch: pytest.MonkeyPatch):
    def folds(config, workdir, on_fold):
        for fold in range(5):
            place = workdir / f"fold_{fold}"
            place.mkdir(parents=True)
            score = config.train.learning_rate + fold / 100
            line = {"step": 4, "seconds": 1, "kind": "validation"}
            line |= {"dice_abnormal": score, "dice_normal": score}
            (place / "metrics.jsonl").write_text(json.dumps(line) + "\n")
            if not on_fold(fold, place):
                break

    monkeypatch.setattr(module, "crossvalidate", folds)
    text = "FOLDS = True\nPRUNER = 'wilcoxon'\n" + RATES.format(rates=(0.3, 0.1))
    said = work(study(text), tmp_path / "out")
    assert (said["done"], said["pruned"]) == (1, 1)
    assert said["best"][0]["validation.score"] == pytest.approx(0.32)
    assert len(list(trial_workdir(tmp_path / "out", 1).iterdir())) < 5


def test_status_tells_what_became_of_each_trial(tmp_path: Path, study, quick, capsys):
    def fails(config, step):
        if config.train.learning_rate == 0.2:
            raise RunError("the loss is not finite in step 3")
        return by_rate(config, step)

    quick(fails)
    path = study(RATES.format(rates=(0.1, 0.2, 0.3)))
    work(path, tmp_path / "out", limit=2)
    said = status(path, tmp_path / "out", None)
    assert (said["done"], said["failed"], said["waiting"]) == (1, 1, 1)
    table = capsys.readouterr().err
    assert "1 the loss is not finite in step 3" in table
    assert "1 never begun" in table
    with pytest.raises(InputError, match="holds no study of the name"):
        status(path, tmp_path / "elsewhere", None)


def test_a_report_needs_nothing_but_the_folder(tmp_path: Path, study, quick):
    quick(by_rate)
    path = study(RATES.format(rates=(0.1, 0.2)))
    work(path, tmp_path / "out", f"journal:{tmp_path}/elsewhere.log")
    path.unlink()
    file, url = recorded(tmp_path / "out")
    said = write_study_report(file, tmp_path / "out", url)
    assert (said["done"], said["best"][0]["trial"]) == (2, 1)
    with pytest.raises(InputError, match=r"expected the folder that was --out of bonescan sweep"):
        recorded(tmp_path)


def test_the_storage_is_one_that_optunas_own_tools_read(tmp_path: Path, study, quick):
    quick(by_rate)
    work(study(RATES.format(rates=(0.1, 0.2))), tmp_path / "out")
    stored = optuna.load_study(study_name="mine", storage=open_storage(None, tmp_path / "out"))
    assert stored.best_params == {"train.learning_rate": 0.2}
    assert stored.best_value == pytest.approx(0.8)
