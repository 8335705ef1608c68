"""Storages: a journal that a dying writer cannot harm, and URLs that are refused."""

import multiprocessing
from pathlib import Path

import optuna
import pytest

from bonescan_jax.errors import InputError
from bonescan_jax.sweep.storage import JOURNAL, Journal, hidden_password, open_storage

TORN = b'{"op_code":4,"worker_id":"gone","stud'


def tear(path: Path) -> None:
    with path.open("ab") as file:
        file.write(TORN)


def test_a_torn_line_neither_stops_readers_nor_takes_the_next_record_along(tmp_path: Path):
    storage = open_storage(None, tmp_path)
    study = optuna.create_study(storage=storage, study_name="one")
    study.ask()
    tear(tmp_path / JOURNAL)
    assert len(study.trials) == 1  # of this reader, which was there before
    other = open_storage(None, tmp_path)
    optuna.load_study(study_name="one", storage=other).ask()
    for reader in (storage, other, open_storage(None, tmp_path)):
        trials = optuna.load_study(study_name="one", storage=reader).trials
        assert [trial.number for trial in trials] == [0, 1]


def test_a_record_whose_end_alone_is_missing_counts(tmp_path: Path):
    journal = Journal(tmp_path / "log")
    (tmp_path / "log").write_bytes(b'{"op_code":1}')
    assert list(journal.read_logs(0)) == []
    journal.append_logs([{"op_code": 2}])
    assert list(journal.read_logs(0)) == [{"op_code": 1}, {"op_code": 2}]
    assert list(journal.read_logs(1)) == [{"op_code": 2}]
    assert list(journal.read_logs(2)) == []
    assert list(journal.read_logs(0)) == [{"op_code": 1}, {"op_code": 2}]


def _ask(out: Path, times: int) -> None:
    study = optuna.load_study(study_name="one", storage=open_storage(None, out))
    for _ in range(times):
        study.ask()


def test_processes_that_write_at_once_lose_nothing(tmp_path: Path):
    optuna.create_study(storage=open_storage(None, tmp_path), study_name="one")
    spawn = multiprocessing.get_context("spawn")
    writers = [spawn.Process(target=_ask, args=(tmp_path, 25)) for _ in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    trials = optuna.load_study(study_name="one", storage=open_storage(None, tmp_path)).trials
    assert [trial.number for trial in trials] == list(range(100))


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("sqlite:///study.db", "several workers lock an SQLite file"),
        ("study.db", "expected journal:FILE or postgresql"),
        ("postgresql+psycopg://me:secret@127.0.0.1:1/x", "me:***@127.0.0.1:1/x cannot be opened"),
        ("nonsense://x", "cannot be opened"),
    ],
)
def test_a_storage_that_cannot_be_is_refused_in_a_sentence(tmp_path: Path, url: str, said: str):
    with pytest.raises(InputError) as error:
        open_storage(url, tmp_path)
    assert said in str(error.value)
    assert "secret" not in str(error.value)


def test_a_password_is_never_said():
    text = "cannot reach postgresql://me:pa:ss@host/x or postgresql://you:word@host/y"
    said = "cannot reach postgresql://me:***@host/x or postgresql://you:***@host/y"
    assert hidden_password(text) == said
