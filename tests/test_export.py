"""Weights in a file say what the workdir says: predict, evaluate, the card, released ones."""

import json
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

import bonescan_jax.evaluate as evaluation
from bonescan_jax.cli.main import main
from bonescan_jax.cluster.mesh import make_evaluation_mesh
from bonescan_jax.config import default_config
from bonescan_jax.datasets.bs80k import prepare
from bonescan_jax.errors import InputError
from bonescan_jax.evaluate import DataSet, evaluate
from bonescan_jax.export import export
from bonescan_jax.metrics.rows import read_rows
from bonescan_jax.predict import predict
from bonescan_jax.runs import weights_file
from bonescan_jax.runs.weights_file import read_weights_file
from bonescan_jax.train import train
from bonescan_jax.trained import Choice, load_trained
from tests.layout import write_layout


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory, data_dir: Path) -> Path:
    """A run of one step that was evaluated: its scores mean nothing, but they are there."""
    config = default_config()
    config.data.dir, config.data.name, config.data.views = str(data_dir), "phantom", "anterior"
    config.data.crop_height = config.data.crop_width = 64
    config.model.filters, config.model.levels, config.model.dtype = (4, 8, 8), 2, "float32"
    config.mesh.data = 1
    config.train.batch_size, config.train.num_steps, config.train.warmup_steps = 8, 1, 0
    config.train.learning_rate = 0.01
    config.evaluate.batch_size = 2
    path = tmp_path_factory.mktemp("run") / "run"
    train(config, path)
    evaluate([path], "test")
    return path


@pytest.fixture(scope="module")
def file(evaluated: Path) -> Path:
    path = evaluated.parent / "weights.npz"
    assert export(evaluated, path)["evaluated"]
    return path


def scan(folder: Path) -> Path:
    return write_layout(folder, (1,)) / "wholeBodyANT" / "1.jpg"


def written(path: Path) -> dict:
    return json.loads((path / "evaluation" / "test.json").read_text())


def test_the_file_holds_the_run_without_folders_of_the_machine(
    evaluated: Path, file: Path, data_dir: Path
):
    found = read_weights_file(file)
    scores = written(evaluated)
    assert found.run["predictor"] == scores["selected"]
    assert found.run["step"] == found.card["training"]["steps"] == 1
    kept = found.run["evaluation"]
    assert (kept["thresholds"], kept["min_area"]) == (scores["thresholds"], scores["min_area"])
    for name in ("dice_abnormal", "sensitivity_at_1_abnormal", "patient_auc"):
        assert found.card["scores"][name] == scores[name]
    assert found.card["data"]["training_examples"] == 6
    assert any("simulated" in limit for limit in found.card["limits"])
    assert any("not a diagnosis" in limit for limit in found.card["limits"])
    content = file.read_bytes()
    for place in (data_dir, evaluated):
        assert str(place).encode() not in content
    mesh = make_evaluation_mesh(jax.devices()[:1])
    (of_run,) = load_trained([evaluated], mesh, Choice(), {})
    (of_file,) = load_trained([file], mesh, Choice(), {})
    assert of_run.predictor == of_file.predictor
    jax.tree.map(np.testing.assert_array_equal, of_run.weights, of_file.weights)


def test_half_the_bytes_say_nearly_the_same(evaluated: Path, file: Path, tmp_path: Path):
    half = export(evaluated, tmp_path / "half.npz", half=True)
    whole, small = (read_weights_file(path).arrays for path in (file, tmp_path / "half.npz"))
    assert half["bytes"] < file.stat().st_size
    assert half["parameters"] == sum(a.size for n, a in whole.items() if n.startswith("params/"))
    for name, array in whole.items():
        np.testing.assert_allclose(small[name], array, rtol=1e-3, atol=1e-7)


def test_predict_takes_the_file(
    evaluated: Path, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    source = scan(tmp_path / "source")
    by_file, _ = predict([file], source)
    by_run, _ = predict([evaluated], source, tmp_path / "of_run")
    assert by_file["out"] == "predictions"
    assert by_file["predictor"] == by_run["predictor"]
    found = [
        json.loads(next(Path(r["out"]).rglob("*.json")).read_text()) for r in (by_file, by_run)
    ]
    assert found[0] == found[1]
    with pytest.raises(InputError, match="--checkpoint is 'best', expected newest: .*weights.npz"):
        predict([file], source, choice=Choice("mean", "best"))
    with pytest.raises(InputError, match="--predictor is 'head_9', expected one of"):
        predict([file], source, choice=Choice("head_9"))


def test_the_released_file_is_used_where_no_workdir_is_named(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    monkeypatch.chdir(tmp_path)
    source = scan(tmp_path / "source")
    monkeypatch.setattr(weights_file, "RELEASED", tmp_path / "nothing")
    monkeypatch.setattr(sys, "argv", ["bonescan", "predict", f"--input={source}"])
    with pytest.raises(SystemExit) as leaving:
        main()
    assert leaving.value.code == 2
    assert "this package comes without released weights" in capsys.readouterr().err
    monkeypatch.setattr(weights_file, "RELEASED", file.parent)
    main()
    said = capsys.readouterr()
    assert json.loads(said.out)["out"] == "predictions"
    assert "released weights weights.npz are used" in said.err
    assert list((tmp_path / "predictions").rglob("*_mask.png"))


def test_evaluate_gives_the_scores_of_the_run_and_the_thresholds_of_the_file(
    evaluated: Path, file: Path, tmp_path: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch
):
    changes = {"data.dir": str(data_dir)}
    with pytest.raises(InputError, match="--out is missing: .*weights.npz is a file"):
        evaluate([file], "test", changes=changes)
    chosen = []
    monkeypatch.setattr(evaluation, "choose_thresholds", chosen.append)
    scores = evaluate([file], "test", changes=changes, out=tmp_path / "out")
    assert chosen == []
    assert scores["same_data"] is True
    before, now = written(evaluated), written(tmp_path / "out")
    for name in ("thresholds", "dice_abnormal", "dice_threshold_abnormal", "lesions", "images"):
        assert now[name] == before[name]
    with pytest.raises(InputError, match="--unaveraged: .*weights.npz holds averaged weights only"):
        evaluate([file], "test", changes=changes, out=tmp_path / "out", unaveraged=True)


def test_other_candidates_than_the_file_was_evaluated_on_get_their_own_thresholds(
    file: Path, tmp_path: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch
):
    chosen, choose = [], evaluation.choose_thresholds
    monkeypatch.setattr(
        evaluation, "choose_thresholds", lambda rows: chosen.append(rows) or choose(rows)
    )
    changes = {"data.dir": str(data_dir), "evaluate.min_area": 9}
    evaluate([file], "test", changes=changes, out=tmp_path / "out")
    assert [row.patient for row in chosen[0]]
    assert read_rows(tmp_path / "out" / "evaluation" / "validation.rows.jsonl")[1] == chosen[0]


def test_an_external_test_set_needs_nothing_of_the_training(
    evaluated: Path, file: Path, tmp_path: Path, data_dir: Path
):
    source = write_layout(tmp_path / "source", tuple(range(50, 56)))
    prepare(source, tmp_path / "data", name="bs80k", split_seed=3, split_fractions=(0.4, 0.3, 0.3))
    other = DataSet("bs80k", tmp_path / "data")
    gone = {"data.dir": str(tmp_path / "gone")}
    scores = evaluate([file], changes=gone, other_data=other, out=tmp_path / "out")
    by_run = evaluate([evaluated], other_data=other, out=tmp_path / "of_run")
    assert scores["num_images"] == 6
    for name in ("dice_abnormal", "dice_threshold_abnormal"):
        assert scores[name] == by_run[name]
    found = json.loads((tmp_path / "out" / "evaluation" / "all.json").read_text())
    assert found["thresholds"] == written(evaluated)["thresholds"]
    with pytest.raises(InputError, match="is the data that .*weights.npz was trained on"):
        known = DataSet("phantom", data_dir)
        evaluate([file], changes=gone, other_data=known, out=tmp_path / "out")


def test_a_run_that_was_not_evaluated_gives_a_file_without_scores(
    evaluated: Path, tmp_path: Path, capsys: pytest.CaptureFixture
):
    """Evaluated was another predictor, which is the same to this one."""
    selected = written(evaluated)["selected"]
    other = next(name for name in ("head_1", "head_2") if name != selected)
    assert not export(evaluated, tmp_path / "a.npz", Choice(other))["evaluated"]
    found = read_weights_file(tmp_path / "a.npz")
    assert found.run["evaluation"] is None
    assert found.card["scores"] is None
    assert "the file holds no scores and no thresholds" in capsys.readouterr().err
    for name, message in (("a.pt", "ends in .npz"), ("a.npz/b.npz", "cannot be written")):
        with pytest.raises(InputError, match=message):
            export(evaluated, tmp_path / name)
    with pytest.raises(InputError, match="--predictor is 'head_9', expected one of head_1"):
        export(evaluated, tmp_path / "a.npz", Choice("head_9"))
    with pytest.raises(InputError, match="nowhere: holds no config.json"):
        export(tmp_path / "nowhere", tmp_path / "a.npz")
