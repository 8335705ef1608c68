"""Compiler flags: known to the installed XLA, and never in place of what the user set."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import ml_collections

from bonescan_jax.cluster.compiler_flags import SETTINGS, variables
from bonescan_jax.cluster.mesh import make_mesh
from bonescan_jax.tasks import build_network
from bonescan_jax.train_step import make_initial_state, make_optimizer, make_train_step


def test_what_the_user_set_stays():
    mine = {
        "XLA_FLAGS": "--xla_gpu_enable_latency_hiding_scheduler=false --xla_dump_to=there",
        "XLA_PYTHON_CLIENT_MEM_FRACTION": "0.5",
    }
    changed = mine | variables(mine, lambda name: name == "jax_cuda12_plugin")
    assert changed["XLA_PYTHON_CLIENT_MEM_FRACTION"] == "0.5"
    assert changed["XLA_FLAGS"].startswith(mine["XLA_FLAGS"] + " --xla_gpu_exclude")
    assert "scheduler=true" not in changed["XLA_FLAGS"]


def test_a_platform_that_is_not_installed_gets_nothing():
    assert variables({}, lambda name: False) == {}


def test_libtpu_gets_its_own():
    assert variables({}, lambda name: name == "libtpu") == {
        "LIBTPU_INIT_ARGS": "--xla_tpu_scoped_vmem_limit_kib=32768"
    }


def test_the_installed_xla_knows_every_flag():
    """It ends the process at once over one that it does not know."""
    flags = [f"{each.flag}={each.value}" for each in SETTINGS if each.variable == "XLA_FLAGS"]
    environment = os.environ | {"XLA_FLAGS": " ".join(flags)}
    code = "import jax; jax.numpy.zeros(1)"
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)


def test_the_step_holds_nothing_that_gpus_compute_in_random_order(
    small_config: ml_collections.ConfigDict,
):
    mesh = make_mesh(small_config)
    optimizer, schedule = make_optimizer(small_config.train, 10, 1)
    _, abstract = make_initial_state(small_config, optimizer, mesh)
    step = make_train_step(
        small_config, build_network(small_config), optimizer, schedule, abstract, mesh
    )
    pixels = (small_config.train.batch_size, 64, 64, 1)
    batch = {
        "image": jax.ShapeDtypeStruct(pixels, jnp.uint16),
        "mask": jax.ShapeDtypeStruct(pixels, jnp.uint8),
        "gain": jax.ShapeDtypeStruct(pixels[:1] + pixels[3:], jnp.float32),
        "reference": jax.ShapeDtypeStruct(pixels[:1] + pixels[3:], jnp.float32),
        "sample": jax.ShapeDtypeStruct(pixels[:1], jnp.int32),
    }
    text = step.lower(abstract, batch).as_text()
    assert "stablehlo.convolution" in text  # this is the whole step
    assert "scatter" not in text  # nor select_and_scatter
