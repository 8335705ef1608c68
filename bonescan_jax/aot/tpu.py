"""The TPU chips and slices to compile for, and their devices as libtpu describes them."""

import importlib.util
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import jax
from jax.experimental import topologies

from bonescan_jax.errors import InputError

GIB = 2**30


class Chip(NamedTuple):
    """Google's published figures of a TPU chip, and the clock of XLA's cycles."""

    flops: float  # bfloat16, per second
    memory: float  # bytes of HBM
    bandwidth: float  # bytes of HBM per second
    clock: float  # cycles per second
    options: dict[str, str]  # of libtpu, to describe the chip
    shapes: tuple[str, ...]  # of slices up to 256 chips


_FLAT = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
_SOLID = ("1x1x1", "2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8")

# docs.cloud.google.com/tpu/docs/v4, v5e, v5p and v6e. No page gives the clock: it is the peak over
# what the matrix units do in a cycle (v4, v5p: 8 of 128×128 multiply-adds; v5e: 4). Of v6e the page
# names 2 of 256×256, but XLA puts a matrix product at 409 kFLOP a cycle, which takes twice that.
# The two cores of a v4 chip work as one device, as they do on a real slice, when asked to.
CHIPS = {
    "v4": Chip(275e12, 32 * GIB, 1200e9, 1.05e9, {"chip_config_name": "megacore"}, _SOLID),
    "v5e": Chip(197e12, 16 * GIB, 819e9, 1.5e9, {}, _FLAT),
    "v5p": Chip(459e12, 95 * GIB, 2765e9, 1.75e9, {}, _SOLID),
    "v6e": Chip(918e12, 32 * GIB, 1638e9, 1.75e9, {}, _FLAT),
}


def open_topology(topology: str) -> list[jax.Device]:
    """The devices of a slice such as "v5e:2x2", for compilation only.

    Raises:
        InputError: libtpu is not installed, or there is no such slice.
    """
    name, _, shape = topology.partition(":")
    if name not in CHIPS or shape not in CHIPS[name].shapes:
        accepted = "; ".join(f"{name}:{'|'.join(chip.shapes)}" for name, chip in CHIPS.items())
        raise InputError(f"--topology: found {topology!r}, expected one of {accepted}")
    if not importlib.util.find_spec("libtpu"):
        raise InputError(
            "libtpu, which compiles for TPUs, is not installed; run bash launch/setup.sh tpu"
        )
    sizes = [int(size) for size in shape.split("x")]
    options: dict[str, Any] = dict(CHIPS[name].options)
    if math.prod(sizes) == 1:
        options["chips_per_host_bounds"] = (1, 1, 1)  # libtpu expects the four of a host
    with _without_a_tpu():
        try:
            return topologies.get_topology_desc(topology, "tpu", **options).devices
        except jax.errors.JaxRuntimeError as error:  # such as while another process starts it
            raise InputError(f"libtpu does not start: {str(error).splitlines()[0]}") from error


@contextmanager
def _without_a_tpu() -> Iterator[None]:
    """Keeps JAX from looking for a TPU, and libtpu from querying the cloud's metadata server.

    Libtpu reads the environment when it is loaded; afterwards the environment is restored, for
    child processes.
    """
    jax.config.update("jax_platforms", "cpu")
    settings = {
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_ACCELERATOR_TYPE": "v5litepod-4",  # any will do
        "TPU_WORKER_HOSTNAMES": "localhost",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # no chip is taken, so several may compile at once
    }
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
