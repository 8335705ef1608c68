"""Settings of XLA and its runtimes, made before JAX starts: one table, with a reason for each.

A flag that only repeats a default, or whose gain was neither published for such a program nor
measured, has no row. So there is none for CPUs.
"""

import importlib.util
from collections.abc import Callable, Mapping
from typing import NamedTuple


class Setting(NamedTuple):
    """A variable of the environment, or one flag among those in it."""

    platform: str
    variable: str
    flag: str  # name of the flag; empty where the variable itself is the setting
    value: str
    reason: str
    only: str = ""  # for the verbs of TRAINING, for the "short" others, or where "deterministic"


# Verbs that have a GPU for themselves; the others may run beside one of these, or of each other.
TRAINING = ("train", "crossvalidate", "sweep", "benchmark")
# What says how much memory of a GPU is taken. Who sets one of them knows what the others should be,
# and jaxlib finds no GPU where the fraction is set under both of its names.
MEMORY = (
    "XLA_CLIENT_MEM_FRACTION",
    "XLA_PYTHON_CLIENT_MEM_FRACTION",
    "XLA_PYTHON_CLIENT_ALLOCATOR",
    "XLA_PYTHON_CLIENT_PREALLOCATE",
)

SETTINGS = (
    Setting(
        "gpu",
        "XLA_FLAGS",
        "--xla_gpu_enable_latency_hiding_scheduler",
        "true",
        "Averages gradients over GPUs while the backward pass still computes. Recommended by "
        "docs.jax.dev/en/latest/gpu_performance_tips.html; on in NVIDIA's JAX images "
        "(docs.nvidia.com/jax-toolbox/environment-variables). Not measured here: no GPU.",
    ),
    Setting(
        "gpu",
        "XLA_FLAGS",
        "--xla_gpu_exclude_nondeterministic_ops",
        "true",
        "A continued run ends with the weights of one that nothing disturbed: cuDNN has backward "
        "convolutions that sum in the order in which threads happen to finish "
        "(github.com/openxla/xla/pull/12520). The step holds no scatter, which XLA could refuse "
        "then; a test sees to that. It costs XLA's choice of Triton kernels, which it switches "
        "off; train.deterministic=False gives them back. Not measured here: no GPU.",
        only="deterministic",
    ),
    Setting(
        "gpu",
        "XLA_PYTHON_CLIENT_MEM_FRACTION",
        "",
        "0.9",
        "JAX takes 75 % of a GPU by default (docs.jax.dev/en/latest/gpu_memory_allocation.html); "
        "the rest would be lost to the batch. NVIDIA sets 0.8 to 0.9 "
        "(docs.nvidia.com/jax-toolbox/performance-profiling/gpu-performance).",
        only="training",
    ),
    Setting(
        "gpu",
        "XLA_PYTHON_CLIENT_PREALLOCATE",
        "",
        "false",
        "Reading one scan takes the memory it needs, so that it works beside a training "
        "(docs.jax.dev/en/latest/gpu_memory_allocation.html).",
        only="short",
    ),
    Setting(
        "tpu",
        "LIBTPU_INIT_ARGS",
        "--xla_tpu_scoped_vmem_limit_kib",
        "32768",
        "Twice the vector memory that one operation may use by default, so that convolutions of "
        "large activations work on larger tiles: XLA's estimate of the step on v5e falls by 8 %, "
        "and compiling takes a third longer (docs/performance.md; 65536 takes 2.5 times as long "
        "and gains no more). MaxText raises it too, in its xla_flags_library.py.",
    ),
)

# Of the extras cuda12, cuda13 and tpu. XLA without such a plugin may refuse its flags.
_PLUGINS = {"gpu": ("jax_cuda12_plugin", "jax_cuda13_plugin"), "tpu": ("libtpu",)}


def variables(
    environment: Mapping[str, str],
    verb: str,
    deterministic: bool,
    is_installed: Callable[[str], object] = importlib.util.find_spec,
) -> dict[str, str]:
    """The variables to set for the platforms installed, leaving alone what the user has set.

    Args:
        environment: as it is.
        verb: of `bonescan`.
        deterministic: config.train.deterministic.
        is_installed: whether there is a package of this name.
    """
    kinds = {
        "": True,
        "training": verb in TRAINING,
        "short": verb not in TRAINING,
        "deterministic": deterministic,
    }
    changed: dict[str, str] = {}
    for setting in SETTINGS:
        if not kinds[setting.only]:
            continue
        if not any(is_installed(plugin) for plugin in _PLUGINS[setting.platform]):
            continue
        present = changed.get(setting.variable, environment.get(setting.variable, ""))
        if setting.flag:
            if setting.flag not in present:
                changed[setting.variable] = f"{present} {setting.flag}={setting.value}".strip()
        elif not any(environment.get(name) for name in MEMORY):
            changed[setting.variable] = setting.value
    return changed
