"""Runs that start from another one: what they begin with, on any mesh, and what is told of it."""

import json
from pathlib import Path

import jax
import ml_collections
import numpy as np
import pytest

import bonescan_jax.train as loop
from bonescan_jax.errors import InputError
from bonescan_jax.export import export
from bonescan_jax.models.transfer import path_name
from bonescan_jax.train import train
from bonescan_jax.train_step import TrainState
from bonescan_jax.trained import Choice
from tests.test_train import assert_same_end, saved_state


@pytest.fixture(autouse=True)
def no_validation(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scoring whole scans would take longer than all that is tested."""
    monkeypatch.setattr(loop, "make_validation", lambda *_: lambda *_: ("mean", {}))


@pytest.fixture
def first_state(monkeypatch: pytest.MonkeyPatch) -> list[TrainState]:
    """Gets the state that each run starts with, before its first step."""
    states, start = [], loop.start_from

    def started(*arguments: object) -> tuple:
        state, about = start(*arguments)
        states.append(jax.device_get(state))
        return state, about

    monkeypatch.setattr(loop, "start_from", started)
    return states


def arrays(tree: dict) -> dict[str, np.ndarray]:
    return {path_name(path): leaf for path, leaf in jax.tree.leaves_with_path(tree)}


def source_of(config: ml_collections.ConfigDict, workdir: Path) -> dict[str, np.ndarray]:
    """Trains two steps; returns the averaged weights."""
    config.train.num_steps, config.train.learning_rate = 2, 0.01
    train(config, workdir)
    return arrays(saved_state(config, workdir).average)


def test_weights_and_average_start_there_and_the_optimizer_is_fresh(
    small_config: ml_collections.ConfigDict,
    tmp_path: Path,
    first_state: list[TrainState],
    capsys: pytest.CaptureFixture,
):
    average = source_of(small_config, tmp_path / "source")
    capsys.readouterr()
    small_config.seed, small_config.train.init_from = 1, str(tmp_path / "source")
    train(small_config, tmp_path / "run")
    (state,) = first_state
    for tree in (state.average, {"params": state.params, "stats": state.stats}):
        jax.tree.map(np.testing.assert_array_equal, arrays(tree), average)
    assert state.step == 0
    assert all(np.abs(leaf).max() == 0 for leaf in jax.tree.leaves(state.optimizer))
    told = capsys.readouterr().err
    assert f"averaged weights of step 2 of {tmp_path / 'source'}" in told
    assert "starts fresh" not in told
    (start,) = json.loads((tmp_path / "run" / "environment.json").read_text())["starts"]
    about = start["init_from"]
    assert (about["source"], about["step"]) == (str(tmp_path / "source"), 2)
    assert about["arrays_taken"] == about["arrays"] == len(average)
    assert about["parameters_taken"] == sum(leaf.size for leaf in average.values())
    end = arrays(saved_state(small_config, tmp_path / "run").params)
    kernel = "nodes/0_1/conv1/kernel"
    assert np.abs(end[kernel] - state.params["nodes"]["0_1"]["conv1"]["kernel"]).max() > 0


def test_a_continued_run_does_not_read_it_and_ends_like_one_that_was_not_stopped(
    small_config: ml_collections.ConfigDict, tmp_path: Path, first_state: list[TrainState]
):
    source_of(small_config, tmp_path / "source")
    small_config.train.update({"init_from": str(tmp_path / "source"), "num_steps": 4})
    train(small_config, tmp_path / "whole")
    half = tmp_path / "half"
    with pytest.MonkeyPatch.context() as patch:
        batches = loop.training_batches
        patch.setattr(loop, "training_batches", lambda *a: _ends_after(batches(*a), 3))
        with pytest.raises(StopIteration):
            train(small_config, half)
    (tmp_path / "source").rename(tmp_path / "gone")
    train(small_config, half)
    assert len(first_state) == 2
    assert_same_end(small_config, tmp_path / "whole", half)
    first, second = json.loads((half / "environment.json").read_text())["starts"]
    assert "init_from" in first
    assert "init_from" not in second
    small_config.train.init_from = ""
    with pytest.raises(InputError, match="train.init_from is .* in the run to continue, found ''"):
        train(small_config, half)


class _ends_after:
    """Batches that stop coming, as where a machine goes away."""

    def __init__(self, batches: object, number: int) -> None:
        self.batches, self.left = batches, number

    def __next__(self) -> dict:
        self.left -= 1
        if self.left < 0:
            raise StopIteration
        return next(self.batches)

    def close(self) -> None:
        self.batches.close()


@pytest.mark.parametrize("way", ["sharded", "spatial", "packed"])
def test_every_mesh_and_execution_starts_alike(
    small_config: ml_collections.ConfigDict, tmp_path: Path, way: str, first_state: list[TrainState]
):
    average = source_of(small_config, tmp_path / "source")
    small_config.train.update({"init_from": str(tmp_path / "source"), "num_steps": 1})
    small_config.data.views = "both"
    if way == "packed":
        small_config.model.packed = "on"
    else:
        small_config.mesh.update({"data": 8 if way == "sharded" else 4, "spatial": 1})
        small_config.mesh.shard_parameters = way == "sharded"
        if way == "spatial":
            small_config.mesh.spatial = 2
    train(small_config, tmp_path / "run")
    (state,) = first_state
    found = arrays({"params": state.params, "stats": state.stats})
    first = "params/nodes/0_0/conv1/kernel"
    np.testing.assert_allclose(found[first].sum(2), average[first][:, :, 0], rtol=1e-6)
    for name in set(average) - {first}:
        half = found[name].reshape(*found[name].shape[:-1], -1)[..., : average[name].shape[-1]]
        np.testing.assert_array_equal(half, average[name], err_msg=name)
    jax.tree.map(np.testing.assert_array_equal, arrays(state.average), found)


def test_a_classifier_starts_from_an_encoder_in_a_file(
    small_config: ml_collections.ConfigDict,
    tmp_path: Path,
    first_state: list[TrainState],
    capsys: pytest.CaptureFixture,
):
    average = source_of(small_config, tmp_path / "source")
    file = tmp_path / "weights.npz"
    sha256 = export(tmp_path / "source", file, Choice("mean"))["sha256"]
    capsys.readouterr()
    small_config.task, small_config.train.init_from = "classify", str(file)
    train(small_config, tmp_path / "run")
    (state,) = first_state
    found = arrays(state.average)
    for name in found:
        if "/nodes/" in name:
            np.testing.assert_array_equal(found[name], average[name])
    assert found["params/bias"] == -1.0
    told = " ".join(capsys.readouterr().err.split())
    assert "starts fresh" in told
    assert "has no counterpart: params/bias and 1 more" in told
    assert "has no place here: params/heads/1/bias" in told
    (start,) = json.loads((tmp_path / "run" / "environment.json").read_text())["starts"]
    assert start["init_from"]["sha256"] == sha256


def test_what_cannot_be_started_from_is_refused_and_leaves_no_trace(
    small_config: ml_collections.ConfigDict, tmp_path: Path
):
    source_of(small_config, tmp_path / "source")
    (tmp_path / "text.npz").write_text("no weights")
    cases = {
        "source": "of which nothing fits this network, expected a run of similar model.filters",
        "nowhere": "nowhere: holds no config.json",
        "text.npz": "text.npz: is damaged, or no such file",
    }
    small_config.model.filters = (5, 7, 9)
    for name, message in cases.items():
        small_config.train.init_from = str(tmp_path / name)
        with pytest.raises(InputError, match=message):
            train(small_config, tmp_path / "run")
        assert not (tmp_path / "run" / "config.json").exists()
        assert not (tmp_path / "run" / "environment.json").exists()


def test_another_fold_of_the_same_data_is_told(
    small_config: ml_collections.ConfigDict, tmp_path: Path, capsys: pytest.CaptureFixture
):
    source_of(small_config, tmp_path / "source")
    small_config.data.fold, small_config.train.num_steps = 0, 1
    small_config.train.init_from = str(tmp_path / "source")
    train(small_config, tmp_path / "run")
    assert "hold patients that the weights to start from were trained" in capsys.readouterr().err
