"""A stored step does what the compiled one does, and only that one is loaded."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import ml_collections
import numpy as np
import pytest
from jax.sharding import Mesh

from bonescan_jax.aot.compile import abstract_step
from bonescan_jax.aot.executable import load_executable, write_executable
from bonescan_jax.cluster.mesh import make_mesh, to_every_device, to_mesh
from bonescan_jax.config import default_config
from bonescan_jax.errors import InputError
from bonescan_jax.train import train
from bonescan_jax.train_step import TrainState


class Stored(NamedTuple):
    """A step as a file, and what it was made of."""

    path: Path
    config: ml_collections.ConfigDict
    mesh: Mesh
    compiled: Callable


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Stored:
    config = default_config()
    config.data.crop_height = config.data.crop_width = 32
    config.model.filters, config.model.levels = (4, 8), 1
    config.augment.thinning = 0.0  # leaves an input of the step without a use
    config.train.batch_size = 4
    config.mesh.data = config.evaluate.batch_size = 4
    mesh = make_mesh(config)
    step, arguments = abstract_step(config, mesh)
    lowered = step.lower(*arguments)
    path = tmp_path_factory.mktemp("executable") / "new" / "step"
    compiled = lowered.compile()
    write_executable(path, {"topology": "four CPUs"}, lowered, compiled, mesh)
    return Stored(path, config, mesh, compiled)


def load(config: ml_collections.ConfigDict, path: Path) -> Callable:
    mesh = make_mesh(config)
    step, arguments = abstract_step(config, mesh)
    return load_executable(path, step, arguments, mesh)


def two_steps(step: Callable, stored: Stored) -> tuple[TrainState, dict]:
    _, (shapes, _, hyperparameters) = abstract_step(stored.config, stored.mesh)
    rng = np.random.default_rng(0)

    def fill(leaf: jax.ShapeDtypeStruct) -> jax.Array:
        return jax.device_put(rng.uniform(0, 1, leaf.shape).astype(leaf.dtype), leaf.sharding)

    state = jax.tree.map(fill, shapes)
    hyperparameters = to_every_device(hyperparameters, stored.mesh)
    for index in range(2):
        mask = rng.integers(0, 3, (4, 32, 32, 1), np.uint8)
        batch = {
            "image": rng.poisson(20 + 40 * mask).astype(np.uint16),
            "mask": mask,
            "gain": np.full((4, 1), 2, np.float32),
            "reference": np.full((4, 1), 20, np.float32),
            "sample": np.arange(4 * index, 4 * index + 4, dtype=np.int32),
        }
        state, metrics = step(state, to_mesh(batch, stored.mesh, 4), hyperparameters)
    return state, metrics


def test_a_loaded_step_does_what_the_compiled_one_does(stored: Stored):
    about = json.loads(stored.path.read_bytes().split(b"\n")[1])
    assert about["about"] == {"topology": "four CPUs"}
    found = two_steps(load(stored.config, stored.path), stored)
    expected = two_steps(stored.compiled, stored)
    assert int(found[0].step) == 2
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    shardings = [jax.tree.map(lambda leaf: leaf.sharding, result) for result in (found, expected)]
    assert shardings[0] == shardings[1]


def test_other_hyperparameters_take_the_same_executable(stored: Stored):
    config = stored.config.copy_and_resolve_references()
    config.train.learning_rate, config.seed, config.train.num_steps = 0.5, 7, 9
    load(config, stored.path)


def test_another_program_or_device_is_refused(stored: Stored):
    config = stored.config.copy_and_resolve_references()
    config.loss.overlap_weight = 0.0
    with pytest.raises(InputError, match="step: was compiled for program "):
        load(config, stored.path)
    config.mesh.data = 2
    with pytest.raises(InputError, match=r"for devices \[0, 1, 2, 3\], expected \[0, 1\]"):
        load(config, stored.path)


def test_a_damaged_file_is_refused(stored: Stored, tmp_path: Path):
    whole = stored.path.read_bytes()
    path = tmp_path / "step"
    path.write_bytes(whole[:-100])
    with pytest.raises(InputError, match="expected the whole of what"):
        load(stored.config, path)
    path.write_bytes(b"PK\n" + whole)
    with pytest.raises(InputError, match="its first line is another"):
        load(stored.config, path)


def test_training_loads_what_it_is_given(small_config: ml_collections.ConfigDict, tmp_path: Path):
    small_config.data.crop_height = small_config.data.crop_width = 32
    small_config.model.filters, small_config.model.levels = (4, 8), 1
    with pytest.raises(InputError, match="missing: No such file"):
        train(small_config, tmp_path / "run", tmp_path / "missing")
