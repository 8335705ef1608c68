"""Whole runs: interrupted and continued bit for bit, refused where they cannot continue, scored."""

import importlib.util
import json
from pathlib import Path

import jax
import ml_collections
import numpy as np
import pytest

import bonescan_jax.train as loop
from bonescan_jax.checkpoint import open_checkpoints, restore
from bonescan_jax.errors import InputError
from bonescan_jax.evaluate import evaluate
from bonescan_jax.parallel import make_mesh
from bonescan_jax.train import train
from bonescan_jax.train_step import TrainState, make_initial_state, make_optimizer

CONFIGS = sorted((Path(__file__).parent.parent / "configs").glob("*.py"))


def saved_state(config: ml_collections.ConfigDict, workdir: Path) -> TrainState:
    optimizer, _ = make_optimizer(config.train, config.train.num_steps, 1)
    _, abstract = make_initial_state(config, optimizer, make_mesh(config))
    with open_checkpoints(workdir) as checkpoints:
        return jax.device_get(restore(checkpoints, abstract)[0])


class Crash(Exception):
    """Stands for a machine that goes away."""


def test_a_run_that_crashed_ends_like_one_that_did_not(
    small_config: ml_collections.ConfigDict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    train(small_config, tmp_path / "whole")
    make = loop.make_train_step

    def crashing(*arguments: object) -> object:
        step = make(*arguments)

        def wrapper(state: TrainState, batch: dict) -> tuple:
            if int(state.step) == 3:  # one step after the save at 2
                raise Crash
            return step(state, batch)

        return wrapper

    monkeypatch.setattr(loop, "make_train_step", crashing)
    with pytest.raises(Crash):
        train(small_config, tmp_path / "crashed")
    monkeypatch.undo()
    train(small_config, tmp_path / "crashed")

    states = [saved_state(small_config, tmp_path / name) for name in ("whole", "crashed")]
    for (path, a), b in zip(
        jax.tree.leaves_with_path(states[0]), jax.tree.leaves(states[1]), strict=True
    ):
        np.testing.assert_array_equal(a, b, err_msg=jax.tree_util.keystr(path))
    lines = [
        [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").open()]
        for name in ("whole", "crashed")
    ]
    losses = [[(line["step"], line["loss"]) for line in each if "loss" in line] for each in lines]
    assert losses[0] == losses[1]


def test_a_finished_run_stays_as_it_is(small_config: ml_collections.ConfigDict, tmp_path: Path):
    train(small_config, tmp_path)
    before = saved_state(small_config, tmp_path)
    assert train(small_config, tmp_path)["step"] == 4
    after = saved_state(small_config, tmp_path)
    jax.tree.map(np.testing.assert_array_equal, before.params, after.params)


def test_what_cannot_continue_is_refused(small_config: ml_collections.ConfigDict, tmp_path: Path):
    small_config.train.num_steps = 1
    train(small_config, tmp_path)
    small_config.train.log_every_steps = 5  # changes nothing that is computed
    train(small_config, tmp_path)
    small_config.train.learning_rate = 0.5
    with pytest.raises(InputError, match=r"config.json: train.learning_rate is 0.001 in the run"):
        train(small_config, tmp_path)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_shipped_config_trains_a_step(path: Path, data_dir: Path, tmp_path: Path):
    """With its own network, loss and optimizer; only the batch and the crop are cut down."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config = module.get_config()
    config.data.dir, config.data.name = str(data_dir), "phantom"
    config.data.crop_height = config.data.crop_width = 64
    config.train.batch_size = 8
    config.train.update({"num_steps": 1, "num_epochs": 0.0, "num_examples": 0})
    config.mesh.data = 8
    config.evaluate.batch_size = 8
    config.data.num_workers = 0
    monkey = pytest.MonkeyPatch()
    with monkey.context() as patch:
        # Scoring whole scans with every config would take minutes and is tested elsewhere.
        patch.setattr(loop, "make_validation", lambda *_: lambda weights: ("mean", {}))
        result = train(config, tmp_path)
    assert result["step"] == 1
    assert np.isfinite(result["loss"])


def test_evaluation_scores_every_predictor(small_config: ml_collections.ConfigDict, tmp_path: Path):
    small_config.train.num_steps = 1
    result = train(small_config, tmp_path)
    scores = evaluate(tmp_path, "validation", "best")
    assert {name: scores[name] for name in ("dice_abnormal", "dice_normal")} == {
        name: result[name] for name in ("dice_abnormal", "dice_normal")
    }
    written = json.loads((tmp_path / "evaluation" / "validation.json").read_text())
    assert list(written["predictors"]) == ["head_1", "head_2", "mean", "threshold"]
    assert (
        evaluate(tmp_path, "test", "head_1")["dice_abnormal"]
        == (json.loads((tmp_path / "evaluation" / "test.json").read_text()))["predictors"][
            "head_1"
        ]["abnormal"]["dice_pooled"]
    )
    found, invented, missed = np.array(written["overlap_counts"])[:, 0].sum(0)
    assert scores["dice_abnormal"] == pytest.approx(2 * found / (2 * found + invented + missed))
    with pytest.raises(InputError, match="--predictor is 'head_9', expected one of head_1"):
        evaluate(tmp_path, "test", "head_9")
