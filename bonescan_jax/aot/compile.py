"""Ahead-of-time compilation of the training step for a TPU slice, with XLA's estimates.

All figures are XLA's own estimates, not measurements; docs/tpu.md says what they cover.
"""

import math
import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import ml_collections
from jax.sharding import Mesh

from bonescan_jax.aot import hlo
from bonescan_jax.aot.arithmetic import training_flops
from bonescan_jax.aot.executable import Arguments, write_executable
from bonescan_jax.aot.tpu import CHIPS, GIB, open_topology
from bonescan_jax.cluster.mesh import make_mesh
from bonescan_jax.errors import InputError
from bonescan_jax.hyperparameters import hyperparameters_of
from bonescan_jax.models.build import views_per_example
from bonescan_jax.runs.progress import Waiting
from bonescan_jax.tasks import build_network, validate
from bonescan_jax.train_step import (
    abstract_batch,
    make_initial_state,
    make_train_step,
)

ALL = "all"


class TooLarge(InputError):
    """The step does not fit into the memory of a chip."""


class Compiled(NamedTuple):
    """The step, compiled for a number of examples per chip."""

    lowered: jax.stages.Lowered
    executable: jax.stages.Compiled
    mesh: Mesh
    batch_per_chip: int
    seconds: float  # that the compiler took

    @property
    def memory_of(self) -> dict[str, int]:
        """Bytes of a chip's memory while the step runs, by what they are for."""
        memory = self.executable.memory_analysis()
        assert memory is not None  # TPU, GPU and CPU have one
        return {
            "state and batch": memory.argument_size_in_bytes,
            "temporaries": memory.temp_size_in_bytes,
            # The new state takes the place of the old.
            "results": memory.output_size_in_bytes - memory.alias_size_in_bytes,
            "program": memory.generated_code_size_in_bytes,
        }

    @property
    def memory(self) -> int:
        """Bytes of a chip's memory while the step runs, the sum of all at its peak."""
        return sum(self.memory_of.values())


def compile_for(
    config: ml_collections.ConfigDict,
    topology: str,
    batch_per_chip: int = 0,
    find_largest_batch: bool = False,
    out: Path | None = None,
) -> dict[str, Any]:
    """Compiles the training step of a config for a slice and prints XLA's estimates.

    Args:
        config: of the run.
        topology: chip and shape of the slice, such as "v5e:2x2".
        batch_per_chip: examples a step on each chip; 0 divides train.batch_size.
        find_largest_batch: compile several more times, to find the largest batch that fits.
        out: file for the executable, which `train` loads on the real slice.

    Returns:
        The figures of the JSON line.

    Raises:
        InputError: libtpu is not installed, there is no such slice, the config cannot be used on
            it, or the step does not fit into the memory of a chip.
    """
    validate(config)
    devices = open_topology(topology)
    batch_per_chip = batch_per_chip or _share(config, devices)
    compiled = compile_at(config, devices, batch_per_chip)
    result = {"topology": topology, "chips": len(devices), **_figures(config, topology, compiled)}
    if out:
        batch_size = batch_per_chip * _data_axis(config, devices)
        about = {"topology": topology, "batch_size": batch_size, "config": config.to_dict()}
        size = write_executable(out, about, compiled.lowered, compiled.executable, compiled.mesh)
        result |= {"out": str(out), "bytes": size}
    if find_largest_batch:
        result["largest_batch_per_chip"] = largest_batch(
            lambda batch: _memory_at(config, devices, batch),
            batch_per_chip,
            compiled.memory,
            CHIPS[topology.partition(":")[0]].memory,
            config.train.accumulate_steps,
        )
    return result


def _data_axis(config: ml_collections.ConfigDict, devices: Sequence[jax.Device]) -> int:
    """Shards of a batch: chips along `mesh.spatial` hold rows of pixels of the same examples."""
    return max(1, len(devices) // config.mesh.spatial)


def _share(config: ml_collections.ConfigDict, devices: Sequence[jax.Device]) -> int:
    shards = _data_axis(config, devices)
    share, rest = divmod(config.train.batch_size, shards)
    if rest:
        raise InputError(
            f"config: train.batch_size is {config.train.batch_size}, expected a multiple of the "
            f"{shards} shards of the data axis, or --batch_per_chip"
        )
    return share


# ---- The step ------------------------------------------------------------------------------------


def compile_at(
    config: ml_collections.ConfigDict, devices: Sequence[jax.Device], batch_per_chip: int
) -> Compiled:
    """The training step, compiled for `batch_per_chip` examples on each device.

    Devices along `mesh.spatial` share theirs: each holds some rows of pixels of all of them.

    Raises:
        TooLarge: it does not fit.
        InputError: the config cannot be used on this number of devices.
    """
    config = _with_batch(config, batch_per_chip * _data_axis(config, devices))
    mesh = make_mesh(config, devices)
    if mesh.size != len(devices):
        raise InputError(
            f"config: mesh.data={config.mesh.data} × mesh.spatial={config.mesh.spatial} leaves "
            f"some of the {len(devices)} chips without work, expected mesh.data=-1 or all of them"
        )
    step, arguments = abstract_step(config, mesh)
    start = time.monotonic()
    with Waiting(f"compile, {batch_per_chip} examples a chip"):
        try:
            lowered = step.lower(*arguments)
            executable = lowered.compile()
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            found = re.search(r"Used ([\d.]+\w) of ([\d.]+\w) hbm", str(error))
            needs = f"needs {found[1]}iB of {found[2]}iB" if found else "does not fit into"
            raise TooLarge(
                f"config: a step of {batch_per_chip} examples a chip {needs} memory, expected "
                "fewer with --batch_per_chip or train.accumulate_steps"
            ) from error
    return Compiled(lowered, executable, mesh, batch_per_chip, time.monotonic() - start)


def _memory_at(
    config: ml_collections.ConfigDict, devices: Sequence[jax.Device], batch_per_chip: int
) -> int | None:
    try:
        return compile_at(config, devices, batch_per_chip).memory
    except TooLarge:
        return None


def abstract_step(
    config: ml_collections.ConfigDict, mesh: Mesh
) -> tuple[jax.stages.Wrapped, Arguments]:
    """The jitted training step of a config on a mesh, and the shapes of its arguments."""
    _, state = make_initial_state(config, mesh)
    step = make_train_step(config, build_network(config), state, mesh)
    # The program is that of a run of any length.
    return step, (state, abstract_batch(config, mesh), hyperparameters_of(config, 1, 0))


def _with_batch(config: ml_collections.ConfigDict, batch_size: int) -> ml_collections.ConfigDict:
    config = config.copy_and_resolve_references()
    config.train.batch_size = batch_size
    config.evaluate.batch_size = batch_size  # is not compiled here, but checked with the mesh
    return config


# ---- XLA's estimates -----------------------------------------------------------------------------


def _figures(
    config: ml_collections.ConfigDict, topology: str, compiled: Compiled
) -> dict[str, Any]:
    """The figures of the JSON line; prints them, and where they come from, as tables."""
    chip = CHIPS[topology.partition(":")[0]]
    cost = hlo.cost(hlo.parse(compiled.executable.as_text() or ""))
    seconds = cost.cycles.total() / chip.clock
    examples = compiled.batch_per_chip / config.mesh.spatial  # a chip's part of the work
    views = examples * views_per_example(config)
    flops = examples * training_flops(config) / seconds
    bandwidth = cost.memory_bytes.total() / seconds
    rows = {
        "views a step": f"{views:,g}",
        "Mcycles a view": f"{cost.cycles.total() / views / 1e6:.2f}",
        "views a second": f"{views / seconds:,.1f}",
        "TFLOP/s of the network": f"{flops / 1e12:.1f}, {flops / chip.flops:.1%} of the peak",
        "GB/s of memory": f"{bandwidth / 1e9:.0f}, {bandwidth / chip.bandwidth:.1%} of the peak",
        "memory": f"{compiled.memory / GIB:.2f} of {chip.memory / GIB:.0f} GiB",
        **{f"of it {name}": f"{size / GIB:.2f} GiB" for name, size in compiled.memory_of.items()},
        "over the interconnect": f"{cost.collective_bytes.total() / 1e6:.1f} MB a step",
    }
    tables = [
        f"XLA's estimates for one chip of {topology}, not measurements:\n",
        _table(("", ""), rows.items()),
        _cycles_table(cost.cycles, views),
        _table(("no estimate for", "operations per step"), cost.unestimated.most_common()),
    ]
    print("\n".join(tables), file=sys.stderr)
    return {
        "batch_per_chip": compiled.batch_per_chip,
        "views_per_example": views_per_example(config),
        "mcycles_per_view": round(cost.cycles.total() / views / 1e6, 3),
        "memory_gib": round(compiled.memory / GIB, 3),
        "images_per_second_per_chip": round(views / seconds, 3),
        "utilization": round(flops / chip.flops, 4),
        "interconnect_bytes": cost.collective_bytes.total(),
        "largest_batch_per_chip": None,
        "compile_seconds": round(compiled.seconds, 1),
    }


def _cycles_table(cycles: Counter, views: int) -> str:
    """A row for each part of the step, a column for each kind of operation, and their sums."""
    parts, kinds = (dict.fromkeys(names) for names in zip(*sorted(cycles), strict=True))
    rows = []
    for row in [*parts, ALL]:
        sums = [
            sum(
                count
                for (part, kind), count in cycles.items()
                if row in (part, ALL) and column in (kind, ALL)
            )
            for column in [*kinds, ALL]
        ]
        rows.append((row, *(f"{total / views / 1e6:.3f}" for total in sums)))
    return _table(("Mcycles a view", *kinds, ALL), rows)


def _table(titles: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = [titles, ["---"] * len(titles), *rows]
    return "".join(f"| {' | '.join(map(str, line))} |\n" for line in lines)


# ---- The largest batch ---------------------------------------------------------------------------


def largest_batch(
    memory_of: Callable[[int], float | None], batch: int, memory: float, limit: float, multiple: int
) -> int:
    """The largest batch that fits while the next does not; both have been tried.

    Memory grows nearly linearly with the batch, so what is tried is where the line through the two
    largest that fit meets the limit, and the middle of what is left where the line misleads. Near
    the limit XLA recomputes more, and memory hardly grows, or even shrinks: the line is then taken
    to be no flatter than half of memory over batch, and a step to be a sixteenth at least.

    Args:
        memory_of: bytes at a batch, None where it does not fit.
        batch: one that fits.
        memory: bytes at this batch.
        limit: about how many bytes there are.
        multiple: what every batch must be a multiple of.
    """
    fits, too_large, misled = [(0, 0.0), (batch, memory)], math.inf, False
    while too_large - batch > multiple:
        (less, less_memory), (batch, memory) = fits[-2:]
        slope, flattest = (memory - less_memory) / (batch - less), memory / batch / 2
        guess = batch + (limit - memory) / max(slope, flattest)
        if slope < flattest:
            guess = max(guess, batch * 17 / 16)
        if misled:
            guess = (batch + too_large) / 2
        guess = max(min(guess, too_large - multiple), batch + multiple)
        guess = int(guess // multiple) * multiple
        found = memory_of(guess)
        misled = found is None and too_large < math.inf
        if found is None:
            too_large = guess
        else:
            fits.append((guess, found))
            batch = guess
    return batch
