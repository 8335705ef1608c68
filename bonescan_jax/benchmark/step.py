"""The training step: seconds, share of the best matrix product, memory; compared with PyTorch.

All contestants do the same work on the same synthetic batch: forward, loss of every head, backward
and AdamW, without augmentation. The cost of augmentation is measured separately.
"""

import sys
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from bonescan_jax.aot.arithmetic import saved_bytes, training_flops
from bonescan_jax.benchmark.child import Child, peers_python
from bonescan_jax.benchmark.measure import (
    Team,
    Timing,
    Work,
    peak_memory,
    print_table,
    read_config,
    take_turns,
)
from bonescan_jax.benchmark.peers import COMPILED_VARIANTS, MONAI_LEVELS, VARIANTS, Task
from bonescan_jax.cluster.mesh import make_mesh, to_every_device
from bonescan_jax.config import default_config
from bonescan_jax.errors import InputError
from bonescan_jax.hyperparameters import hyperparameters_of
from bonescan_jax.models.build import Network, views_per_example
from bonescan_jax.scans import CLASSES
from bonescan_jax.tasks import build_network, require_segmentation
from bonescan_jax.train_step import (
    Batch,
    TrainState,
    abstract_batch,
    make_initial_state,
    make_train_step,
)

DTYPES = ("float32", "bfloat16")
# Of an accelerator, a small product is over before it is waited for: large ones, queued, say more.
MATMUL_SIZES = {"cpu": (1024, 2048, 4096), "gpu": (4096, 8192, 16384), "tpu": (4096, 8192, 16384)}
QUEUED = 4  # products before a wait; their results must fit into the memory
SCHEDULE_STEPS = 1000  # of the learning rate

Timings = dict[tuple[str, str], Timing]


def benchmark_step(
    config: ml_collections.ConfigDict, peer: str | None, rounds: int, seconds: float
) -> dict[str, Any]:
    """Figures of the step in the config's dtype, and under the other dtype's name in that one."""
    config.mesh.data = config.mesh.spatial = 1
    teams = [Team(_ours(dtype), our_work, (config.to_json(), dtype)) for dtype in DTYPES]
    if peer:
        teams += _peer_teams(config)
    timings, facts = take_turns(teams, rounds, seconds, "step")
    figures = {dtype: _figures(timings, facts, dtype) for dtype in DTYPES}
    _print_step_table(config, timings, facts, figures)
    own = config.model.dtype
    bare, augmented = (timings[_ours(own), name] for name in ("step", "augmented"))
    share = float(np.median(1 - bare.seconds / augmented.seconds))
    figures[own]["augmentation_share"] = round(share, 3)
    return figures[own] | {dtype: figures[dtype] for dtype in DTYPES if dtype != own}


def _ours(dtype: str) -> str:
    return f"ours, {dtype}"


def _figures(timings: Timings, facts: dict[str, dict[str, Any]], dtype: str) -> dict[str, Any]:
    ours = _ours(dtype)
    step, forward = timings[ours, "step"], timings[ours, "forward"]
    rates = {
        piece: flops / timings[ours, piece].rate().median
        for piece, flops in facts[ours]["flops"].items()
    }
    share = rates.pop("step") / max(rates.values())  # the others are matrix products
    result = {
        "step_seconds": round(step.rate().median, 4),
        "forward_seconds": round(forward.rate().median, 4),
        "share_of_matmul": round(share, 3),
        **{
            name: round(facts[ours][name], 3)
            for name in ("compile_seconds", "peak_memory_mib", "temporary_mib", "saved_mib")
        },
    }
    for peer in ("monai", "torch"):
        theirs = [name for name, _ in timings if name.startswith(peer) and name.endswith(dtype)]
        for piece, timing, prefix in (("step", step, ""), ("forward", forward, "forward_")):
            if theirs:  # the fastest counts
                ratio = max(_ratio(timing, timings[name, piece]) for name in theirs)
                result[f"{prefix}ratio_to_{peer}"] = round(ratio, 3)
    return result


def _ratio(ours: Timing, theirs: Timing) -> float:
    """Of the seconds of each round, its median."""
    return float(np.median(ours.seconds / theirs.seconds))


# ---- ours ----------------------------------------------------------------------------------------


def our_work(config_json: str, dtype: str) -> Work:
    """The step without augmentation, a forward pass and matrix products; augmented in its dtype."""
    # Compiling is timed, so nothing may come from a cache.
    jax.config.update("jax_enable_compilation_cache", False)
    config = read_config(config_json)
    own = dtype == config.model.dtype
    config.model.dtype = dtype
    device = jax.default_backend()
    step = PreparedStep(without_augmentation(config))
    pieces = {"step": step.run, "forward": _forward(config, step.state)}
    flops = {"step": config.train.batch_size * training_flops(config)}
    for size in MATMUL_SIZES[device]:
        name, count = f"matmul {size}", 1 if device == "cpu" else QUEUED
        pieces[name] = _matmul(size, jnp.dtype(dtype), count)
        flops[name] = count * 2 * size**3
    if own:
        pieces["augmented"] = PreparedStep(config).run
    facts = step.facts | {"saved_mib": saved_bytes(config) / 2**20, "flops": flops}
    return Work(pieces, facts, device)


def without_augmentation(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """A copy of a config whose scans stay as they are."""
    config = config.copy_and_resolve_references()
    for name in config.augment:
        config.augment[name] = 0.0
    return config


class PreparedStep:
    """A compiled step with a state and a synthetic batch on the devices."""

    def __init__(self, config: ml_collections.ConfigDict) -> None:
        mesh = make_mesh(config)
        values = hyperparameters_of(config, SCHEDULE_STEPS, 0)
        self.hyperparameters = to_every_device(values, mesh)
        init, abstract = make_initial_state(config, mesh)
        network = build_network(config)
        step = make_train_step(config, network, abstract, mesh)
        self.batch = synthetic_batch(config, mesh)
        started = time.monotonic()
        self.compiled = step.lower(abstract, self.batch, values).compile()
        compile_seconds = time.monotonic() - started
        self.state = init(self.hyperparameters.seed)
        self.run()
        memory = self.compiled.memory_analysis()
        assert memory is not None  # TPU, GPU and CPU have one
        self.facts = {
            "compile_seconds": compile_seconds,
            "peak_memory_mib": peak_memory() / 2**20,
            "temporary_mib": memory.temp_size_in_bytes / 2**20,
        }

    def start(self) -> None:
        """Queues one step."""
        self.state, _ = self.compiled(self.state, self.batch, self.hyperparameters)

    def run(self) -> None:
        """One step, to its end."""
        self.start()
        jax.block_until_ready(self.state)


def synthetic_batch(config: ml_collections.ConfigDict, mesh: jax.sharding.Mesh) -> Batch:
    """Random scans of the config's shapes on the mesh."""
    random = np.random.default_rng(0)
    highest = {"image": 255, "mask": len(CLASSES)}
    shapes = abstract_batch(config, mesh)
    arrays = {
        name: random.integers(0, highest[name], shape.shape).astype(shape.dtype)
        if name in highest
        else np.arange(1, 1 + np.prod(shape.shape)).reshape(shape.shape).astype(shape.dtype)
        for name, shape in shapes.items()
    }
    return {name: jax.device_put(array, shapes[name].sharding) for name, array in arrays.items()}


def _forward(config: ml_collections.ConfigDict, state: TrainState) -> Callable[[], Any]:
    """A forward pass in training mode, as the peers' `network.train()`."""
    network = build_network(config).on(make_mesh(config))
    assert isinstance(network, Network)  # as the task was checked
    data = config.data
    shape = (config.train.batch_size, data.crop_height, data.crop_width, views_per_example(config))
    image = jax.random.uniform(jax.random.key(0), shape)
    params, stats = jax.tree.map(jnp.copy, (state.params, state.stats))  # the step donates its own
    forward = jax.jit(lambda params, stats, image: network.apply(params, stats, image, True))
    return lambda: jax.block_until_ready(forward(params, stats, image))


def _matmul(size: int, dtype: jnp.dtype, count: int) -> Callable[[], Any]:
    """So many products of square matrices with float32 results, queued, then waited for."""
    factor = jax.random.normal(jax.random.key(0), (size, size)).astype(dtype)
    multiply = jax.jit(lambda a: jnp.dot(a, a, preferred_element_type=jnp.float32))
    return lambda: jax.block_until_ready([multiply(factor) for _ in range(count)])


# ---- theirs --------------------------------------------------------------------------------------


def _peer_teams(config: ml_collections.ConfigDict) -> list[Team]:
    """Each variant of each peer in each dtype."""
    python = peers_python()
    same = default_config()
    same.model.levels = MONAI_LEVELS
    for section, names in {
        "model": ("name", "norm", "levels", "deep_supervision"),
        "loss": tuple(config.loss),
        "train": ("accumulate_steps",),
    }.items():
        for name in names:
            found, expected = config[section][name], same[section][name]
            if found != expected:
                raise InputError(
                    f"--peer=torch: config: {section}.{name} is {found!r}, expected {expected!r}: "
                    "that is what the other networks compute"
                )
    require_segmentation(config, "config", "that is what the networks of --peer=torch compute")
    if views_per_example(config) != 1:
        raise InputError(
            f"--peer=torch: config: data.views is {config.data.views!r}, expected 'each': that is "
            "what the other networks compute"
        )
    task = Task(
        config.train.batch_size,
        config.data.crop_height,
        config.data.crop_width,
        1,
        len(CLASSES),
        tuple(config.model.filters[: MONAI_LEVELS + 1]),
        config.train.learning_rate,
        config.train.weight_decay,
    )
    with Child("device", sys.executable, _send_device, ()) as process:
        on_cpu = process.receive() == "cpu"
    return [
        Team(f"{peer}, {variant}, {dtype}", _peer_work, (peer, variant, dtype, task), python)
        for dtype in DTYPES
        for peer, variants in VARIANTS.items()
        for variant in (*variants, *(() if on_cpu else COMPILED_VARIANTS[peer]))
    ]


def _send_device(pipe: Connection) -> None:
    """In a process of its own, for the one that asks must not hold the accelerator."""
    pipe.send(jax.default_backend())


def _peer_work(*arguments: Any) -> Work:  # noqa: ANN401
    from bonescan_jax.benchmark.peers.step import peer_work

    return peer_work(*arguments)


# ---- table ---------------------------------------------------------------------------------------


def _print_step_table(
    config: ml_collections.ConfigDict,
    timings: Timings,
    facts: dict[str, dict[str, Any]],
    figures: dict[str, dict[str, Any]],
) -> None:
    own = config.model.dtype
    rows = [_row(config, timings, name, "step", _memory(facts[name])) for name in facts]
    for row, dtype in zip(rows, DTYPES, strict=False):  # ours come first
        row[-2] = f"{figures[dtype]['share_of_matmul']:.0%}"
    rows.insert(len(DTYPES), _row(config, timings, _ours(own), "augmented", ""))
    header = [
        "contestant",
        "step s",
        "range",
        "core s",
        "forward s",
        "images/s",
        "of matmul",
        "MiB",
    ]
    print_table(header, rows)


def _memory(facts: dict[str, Any]) -> str:
    """MiB at most: of the device's allocator on both sides, on a CPU of the whole process."""
    return f"{facts['peak_memory_mib']:.0f}"


def _row(
    config: ml_collections.ConfigDict, timings: Timings, name: str, step: str, memory: str
) -> list[str]:
    rate = timings[name, step].rate()
    images = config.train.batch_size * views_per_example(config) / rate.median
    return [
        name if step == "step" else f"{name}, {step}",
        f"{rate.median:.3f}",
        f"{rate.low:.3f} to {rate.high:.3f}",
        f"{np.median(timings[name, step].core_seconds):.3f}",
        f"{timings[name, 'forward'].rate().median:.3f}",
        f"{images:.2f}",
        "",
        memory,
    ]
