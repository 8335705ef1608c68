"""Evaluation: any number of devices gives the same scores; data that moved or changed are told."""

import json
import shutil
from pathlib import Path
from typing import Any

import jax
import ml_collections
import pytest

from bonescan_jax import evaluate as evaluation
from bonescan_jax.cluster.mesh import make_evaluation_mesh
from bonescan_jax.datasets.bs80k import prepare
from bonescan_jax.errors import InputError
from bonescan_jax.evaluate import evaluate
from bonescan_jax.metrics.rows import ViewRow, read_rows
from bonescan_jax.trained import Choice
from tests.bright import write_spots
from tests.faults.processes import finish, start_verb


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy of the run of one step, to write scores to."""
    return shutil.copytree(trained, tmp_path / "run")


def assert_same_rows(rows: list[ViewRow], others: list[ViewRow]) -> None:
    """All but scores, which are sums in another order, is the same."""
    for row, other in zip(rows, others, strict=True):
        assert other.score == pytest.approx(row.score, rel=1e-4)
        assert other._replace(score=0, candidates=()) == row._replace(score=0, candidates=())
        for one, same in zip(row.candidates, other.candidates, strict=True):
            assert same.score == pytest.approx(one.score, rel=1e-4)
            assert one._replace(score=0, overlaps=()) == same._replace(score=0, overlaps=())


def rows_of(run: Path, split: str) -> list[ViewRow]:
    return read_rows(run / "evaluation" / f"{split}.rows.jsonl")[1]


def test_any_number_of_devices_gives_the_same_rows(run: Path, monkeypatch: pytest.MonkeyPatch):
    """Trained on 4 × 2 devices; 1, 2, 3 and 8 score it."""
    scores, rows = [], []
    for count in (1, 2, 3, 8):
        mesh = make_evaluation_mesh(jax.devices()[:count])
        monkeypatch.setattr(evaluation, "make_evaluation_mesh", lambda mesh=mesh: mesh)
        scores.append(evaluate([run], "test", Choice("mean")))
        rows.append(rows_of(run, "test"))
    names = ("dice_abnormal", "dice_normal", "num_images", "step")
    for other in scores[1:]:
        assert [other[name] for name in names] == pytest.approx([scores[0][name] for name in names])
    for others in rows[1:]:
        assert_same_rows(rows[0], others)

    evaluate([run], "test", Choice("mean"), against=run)
    compared = json.loads((run / "evaluation" / "test_against.json").read_text())
    assert {each["value"] for each in compared["differences"].values()} <= {0, None}
    with pytest.raises(InputError, match="nobody/evaluation/test.rows.jsonl"):
        evaluate([run], "test", Choice("mean"), against=run / "nobody")


def test_two_processes_give_the_rows_of_one_and_use_its_rows_of_the_validation(
    run: Path, tmp_path: Path
):
    evaluate([run], "test", Choice("mean"))
    rows = rows_of(run, "test")
    test, validation = (
        run / "evaluation" / f"{split}.rows.jsonl" for split in ("test", "validation")
    )
    before = validation.stat()
    test.unlink()
    command = ["evaluate", f"--workdir={run}", "--predictor=mean"]
    finish(tmp_path, start_verb(command, tmp_path, tmp_path / "cache", processes=2))
    assert_same_rows(rows, rows_of(run, "test"))
    after = validation.stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_data_that_moved_are_named_and_the_rest_of_the_config_stays(
    small_config: ml_collections.ConfigDict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "config.json").write_text(small_config.to_json())
    seen = {}

    def stop(config: ml_collections.ConfigDict, *_: Any) -> None:
        seen.update(config.data)
        raise InputError("far enough")

    monkeypatch.setattr("bonescan_jax.trained.load_network", stop)
    with pytest.raises(InputError, match="far enough"):
        evaluate([tmp_path], "test", Choice("mean"), changes={"data.dir": "elsewhere"})
    assert seen["dir"] == "elsewhere"
    with pytest.raises(InputError, match="--config.model.levels: belongs to the run"):
        evaluate([tmp_path], "test", Choice("mean"), changes={"model.levels": 1})


def test_other_data_than_those_of_the_training_are_told(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture
):
    """Prepared from the same patients with another split: some of the test were trained on."""
    assert evaluate([run], "test", Choice("mean"))["same_data"] is True
    assert "trained on" not in capsys.readouterr().err
    source = write_spots(tmp_path / "source", 10)
    fractions = (0.6, 0.2, 0.2)
    prepare(source, tmp_path / "data", name="phantom", split_seed=1, split_fractions=fractions)
    changes = {"data.dir": str(tmp_path / "data")}
    assert evaluate([run], "test", Choice("mean"), changes=changes)["same_data"] is False
    assert "is not the data that" in capsys.readouterr().err
    assert json.loads((run / "evaluation" / "test.json").read_text())["same_data"] is False
