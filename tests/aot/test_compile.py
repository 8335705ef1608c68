"""Compiling for TPUs that are not there: what is refused, counted and searched for.

The last test compiles for real where libtpu is installed (extra `tpu`), which takes minutes.
"""

import importlib.util
import json
import os
from collections import Counter
from collections.abc import Callable

import jax
import ml_collections
import numpy as np
import pytest

from bonescan_jax.aot import compile as compile_module
from bonescan_jax.aot.compile import compile_at, compile_for, largest_batch
from bonescan_jax.aot.tpu import CHIPS, _without_a_tpu, open_topology
from bonescan_jax.config import default_config
from bonescan_jax.errors import InputError

HAS_LIBTPU = importlib.util.find_spec("libtpu") is not None


@pytest.mark.parametrize("topology", ["v5e:3x3", "v9:2x2", "v5e", "", "v5p:4x4", "v6e:32x16"])
def test_a_slice_that_does_not_exist_is_answered_with_those_that_do(topology: str):
    with pytest.raises(InputError, match=rf"--topology: found '{topology}', .*v5e:1x1\|2x2\|2x4"):
        open_topology(topology)


def test_without_libtpu_the_extra_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="launch/setup.sh tpu"):
        open_topology("v5e:2x2")


def test_the_environment_is_left_as_it_was(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TPU_ACCELERATOR_TYPE", "v6e-8")
    monkeypatch.delenv("TPU_WORKER_HOSTNAMES", raising=False)
    before = dict(os.environ)
    with _without_a_tpu():
        assert os.environ["TPU_WORKER_HOSTNAMES"] == "localhost"
    assert dict(os.environ) == before


def test_slices_hold_up_to_256_chips():
    for chip in CHIPS.values():
        sizes = [np.prod([int(size) for size in shape.split("x")]) for shape in chip.shapes]
        assert sizes == sorted(sizes)
        assert (sizes[0], sizes[-1]) == (1, 256)


@pytest.mark.parametrize(
    ("name", "units", "size"), [("v4", 8, 128), ("v5e", 4, 128), ("v5p", 8, 128), ("v6e", 4, 256)]
)
def test_the_clock_is_that_of_the_matrix_units_at_their_peak(name: str, units: int, size: int):
    chip = CHIPS[name]
    assert chip.clock * units * size**2 * 2 == pytest.approx(chip.flops, rel=2e-3)


@pytest.mark.parametrize("limit", [13.0, 57.3, 999.0])
@pytest.mark.parametrize("memory", [lambda n: n, lambda n: n + 0.3 * (n % 7), lambda n: n**1.1])
@pytest.mark.parametrize(("start", "multiple"), [(1, 1), (2, 2), (8, 1)])
def test_the_largest_batch_fits_and_the_next_does_not(
    limit: float, memory: Callable[[int], float], start: int, multiple: int
):
    tried: dict[int, float | None] = {start: 1.5 + memory(start)}

    def memory_of(batch: int) -> float | None:
        assert batch not in tried  # each try takes minutes
        used = 1.5 + memory(batch)
        tried[batch] = used if used <= limit else None
        return tried[batch]

    found = largest_batch(memory_of, start, tried[start], limit, multiple)
    assert found % multiple == 0
    assert tried[found] is not None
    assert tried[found + multiple] is None
    assert len(tried) <= (4 if memory(2) == 2 else 12)  # a line is met at once


def test_a_compiler_that_squeezes_near_the_limit_misleads_nobody():
    """XLA reported less memory for 6129 examples than for 5171, of a small net on a v5e."""
    tried: dict[int, float | None] = {}

    def memory_of(batch: int) -> float | None:
        tried[batch] = min(batch / 300, 15 - batch / 5000) if batch <= 7000 else None
        return tried[batch]

    assert largest_batch(memory_of, 64, 0.26, 16.0, 1) == 7000
    assert len(tried) <= 20
    assert max(tried) < 2 * 7000


def test_a_batch_that_the_chips_cannot_share_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(compile_module, "open_topology", lambda topology: [None] * 16)
    config = default_config()
    config.train.batch_size = 24
    with pytest.raises(InputError, match=r"batch_size is 24, expected a multiple of the 16 shards"):
        compile_for(config, "v5e:4x4")


def test_chips_along_the_spatial_axis_share_a_batch(
    monkeypatch: pytest.MonkeyPatch, small_config: ml_collections.ConfigDict
):
    """As in training: two examples on a mesh of 2 (data) × 4 (spatial) are one each."""
    compiled: list[int] = []

    def compile_none(config: ml_collections.ConfigDict, devices: list, batch_per_chip: int):
        compiled.append(batch_per_chip)
        raise compile_module.TooLarge("enough seen")

    monkeypatch.setattr(compile_module, "open_topology", lambda topology: [None] * 8)
    monkeypatch.setattr(compile_module, "compile_at", compile_none)
    small_config.train.batch_size = 2
    small_config.mesh.spatial = 4
    with pytest.raises(InputError, match="enough seen"):
        compile_for(small_config, "v5e:2x4")
    assert compiled == [1]


def test_a_mesh_of_some_of_the_chips_is_refused():
    config = default_config()
    config.mesh.data = 2
    with pytest.raises(InputError, match="mesh.data=2 × mesh.spatial=1 leaves some of the 8 chips"):
        compile_at(config, jax.devices(), 2)


def test_rows_and_columns_add_up():
    cycles = Counter({("X0_0", "copies"): 2e6, ("X0_0", "gathers"): 4e6, ("loss", "copies"): 8e6})
    table = compile_module._cycles_table(cycles, views=2)
    rows = [line.strip("| ").split(" | ") for line in table.splitlines()]
    assert rows[0][1:] == ["copies", "gathers", "all"]
    assert rows[2:] == [
        ["X0_0", "1.000", "2.000", "3.000"],
        ["loss", "4.000", "0.000", "4.000"],
        ["all", "5.000", "2.000", "7.000"],
    ]


@pytest.mark.skipif(not HAS_LIBTPU, reason="needs the extra tpu")
@pytest.mark.parametrize(("topology", "chips"), [("v5e:1x1", 1), ("v5e:2x2", 4), ("v6e:1x1", 1)])
def test_a_small_step_compiles(
    small_config: ml_collections.ConfigDict,
    topology: str,
    chips: int,
    capsys: pytest.CaptureFixture,
):
    small_config.mesh.data = -1
    small_config.model.filters, small_config.model.levels = (4, 8), 1
    result = compile_for(small_config, topology, batch_per_chip=2)
    json.dumps(result)
    assert (result["chips"], result["batch_per_chip"]) == (chips, 2)
    assert 0.01 < result["mcycles_per_view"] < 10
    assert 0 < result["memory_gib"] < 1
    assert 0 < result["utilization"] < 1
    assert (result["interconnect_bytes"] > 0) == (chips > 1)
    assert result["largest_batch_per_chip"] is None
    table = capsys.readouterr().err
    assert "estimates, not measurements" in table
    assert "| X0_1 |" in table
