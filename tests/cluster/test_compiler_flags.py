"""Compiler flags: known to the installed XLA, and never in place of what the user set."""

import os
import subprocess
import sys

import ml_collections
import pytest

from bonescan_jax.aot.compile import abstract_step
from bonescan_jax.cluster.compiler_flags import MEMORY, SETTINGS, variables
from bonescan_jax.cluster.mesh import make_mesh


def is_gpu(package: str) -> bool:
    return package == "jax_cuda12_plugin"


def test_what_the_user_set_stays():
    mine = {
        "XLA_FLAGS": "--xla_gpu_enable_latency_hiding_scheduler=false --xla_dump_to=there",
        "XLA_PYTHON_CLIENT_MEM_FRACTION": "0.5",
    }
    changed = mine | variables(mine, "train", True, is_gpu)
    assert changed["XLA_PYTHON_CLIENT_MEM_FRACTION"] == "0.5"
    assert changed["XLA_FLAGS"].startswith(mine["XLA_FLAGS"] + " --xla_gpu_exclude")
    assert "scheduler=true" not in changed["XLA_FLAGS"]


@pytest.mark.parametrize("name", MEMORY)
@pytest.mark.parametrize("verb", ["train", "predict"])
def test_who_sets_memory_by_any_name_is_left_alone(name: str, verb: str):
    assert not set(variables({name: "0.4"}, verb, True, is_gpu)) & set(MEMORY)


def test_only_a_training_takes_the_gpu_for_itself():
    training, reading = (variables({}, verb, True, is_gpu) for verb in ("train", "predict"))
    assert training["XLA_PYTHON_CLIENT_MEM_FRACTION"] == "0.9"
    assert "XLA_PYTHON_CLIENT_PREALLOCATE" not in training
    assert reading["XLA_PYTHON_CLIENT_PREALLOCATE"] == "false"
    assert "XLA_PYTHON_CLIENT_MEM_FRACTION" not in reading


def test_kernels_in_a_fixed_order_are_a_choice():
    fixed, free = (variables({}, "train", choice, is_gpu)["XLA_FLAGS"] for choice in (True, False))
    assert "--xla_gpu_exclude_nondeterministic_ops=true" in fixed
    assert "nondeterministic" not in free
    assert "latency_hiding" in free


def test_a_platform_that_is_not_installed_gets_nothing():
    assert variables({}, "train", True, lambda name: False) == {}


def test_libtpu_gets_its_own():
    assert variables({}, "train", True, lambda name: name == "libtpu") == {
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
    step, arguments = abstract_step(small_config, make_mesh(small_config))
    text = step.lower(*arguments).as_text()
    assert "stablehlo.convolution" in text  # this is the whole step
    assert "scatter" not in text  # nor select_and_scatter
