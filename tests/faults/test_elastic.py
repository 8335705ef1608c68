"""A run that moves to other devices and another mesh shape stays the same run."""

import copy
from pathlib import Path

import ml_collections
import pytest

import bonescan_jax.train as loop
from bonescan_jax.cluster.preemption import PREEMPTION, PreemptedError
from bonescan_jax.train import train
from tests.faults.elastic import TOLERANCE, compare

STEPS = 6


@pytest.fixture
def config(small_config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    small_config.model.filters, small_config.model.levels = (4, 8), 1
    small_config.data.crop_height = small_config.data.crop_width = 32
    small_config.train.update({"num_steps": STEPS, "eval_every_steps": 0, "log_samples": True})
    small_config.evaluate.batch_size = 8
    return small_config


def run(config: ml_collections.ConfigDict, workdir: Path, meshes: list[tuple[int, int]]) -> None:
    """Trains as many steps on each mesh in turn, told to stop after all but the last."""
    for number, (data, spatial) in enumerate(meshes):
        here = copy.deepcopy(config)
        here.mesh.update({"data": data, "spatial": spatial})
        stop = STEPS * (number + 1) // len(meshes)
        try:
            with pytest.MonkeyPatch.context() as patch:
                if stop < STEPS:
                    stop_at(patch, stop)
                # Scoring whole scans would take longer than all that is tested here.
                patch.setattr(loop, "make_validation", lambda *_: lambda *_: ("mean", {}))
                train(here, workdir)
        except PreemptedError:
            assert stop < STEPS
        finally:
            PREEMPTION.signal = None


def stop_at(patch: pytest.MonkeyPatch, step: int) -> None:
    """Sets what SIGTERM sets, when this step has been begun."""
    make = loop.make_train_step

    def make_stopping(*arguments: object) -> object:
        train_step = make(*arguments)

        def wrapper(state: object, *others: object) -> object:
            if int(state.step) == step - 1:
                PREEMPTION.signal = "SIGTERM"
            return train_step(state, *others)

        return wrapper

    patch.setattr(loop, "make_train_step", make_stopping)


def test_other_devices_and_mesh_shapes_continue_the_same_run(
    config: ml_collections.ConfigDict, tmp_path: Path
):
    run(config, tmp_path / "whole", [(1, 1)])
    run(config, tmp_path / "moved", [(8, 1), (2, 2), (1, 1)])
    found = compare(tmp_path / "moved", tmp_path / "whole")
    assert found["same_samples"]
    assert found["steps_repeated"] == 0
    assert found["largest_relative_loss_difference"] < TOLERANCE
