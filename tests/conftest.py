"""Eight simulated devices for every test, a small prepared data set, and a run on it."""

import gc
import os
import tempfile

from tests.compiling import FAST

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count=8 {FAST}"
# Tests share what they compile, with the processes that they start too.
COMPILED = tempfile.TemporaryDirectory(prefix="bonescan-compiled-")
os.environ["JAX_COMPILATION_CACHE_DIR"] = COMPILED.name
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.2"

from collections.abc import Iterator
from pathlib import Path

import jax
import ml_collections
import pytest

from bonescan_jax.config import default_config
from bonescan_jax.datasets.bs80k import prepare
from bonescan_jax.datasets.phantom import Phantom
from tests.layout import write_bones, write_layout


@pytest.fixture(autouse=True, scope="module")
def _free_compiled() -> Iterator[None]:
    """Frees what a file of tests compiled: in one process, all of it ends in a crash of LLVM."""
    yield
    gc.collect()
    jax.clear_caches()


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared data set "phantom" of 10 patients: 6 for training, 2 and 2 for the rest."""
    root = tmp_path_factory.mktemp("data")
    source = write_layout(root / "source", tuple(range(1, 11)))
    fractions = (0.6, 0.2, 0.2)
    write_bones(source)
    prepare(
        source,
        root / "data",
        name="phantom",
        split_seed=0,
        split_fractions=fractions,
        builder=Phantom,
    )
    return root / "data"


@pytest.fixture
def small_config(data_dir: Path) -> ml_collections.ConfigDict:
    """A run of seconds: one level, narrow rows, crops of 64×64, one device."""
    return _small_settings(data_dir)


@pytest.fixture
def two_level_config(small_config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """`small_config` with one level more, and so with two heads."""
    small_config.model.filters, small_config.model.levels = (4, 8, 8), 2
    return small_config


@pytest.fixture(scope="session")
def trained(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one step on 4 × 2 devices, validated, of a network with two heads.

    A test that writes to it takes a copy.
    """
    from bonescan_jax.train import train  # noqa: PLC0415 - takes JAX along, and seconds

    config = _small_settings(data_dir)
    config.train.num_steps = 1
    config.model.filters, config.model.levels = (4, 8, 8), 2
    config.mesh.update({"data": 4, "spatial": 2})
    workdir = tmp_path_factory.mktemp("trained") / "run"
    train(config, workdir)
    return workdir


def _small_settings(data_dir: Path) -> ml_collections.ConfigDict:
    config = default_config()
    config.data.dir, config.data.name = str(data_dir), "phantom"
    config.data.crop_height = config.data.crop_width = 64
    config.model.filters, config.model.levels = (4, 8), 1
    config.model.dtype = "float32"
    config.mesh.data = 1
    config.train.batch_size, config.train.num_steps = 8, 4
    config.train.warmup_steps, config.train.log_every_steps = 1, 1
    config.train.eval_every_steps = config.train.save_every_steps = 2
    config.evaluate.batch_size = 2
    return config
