"""The training step: seconds, share of the best matrix product, memory; beside PyTorch's.

All contestants do the same work on the same synthetic batch: forward, loss of every head, backward
and AdamW, without augmentation. What augmentation adds is measured beside it.
"""

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from bonescan_jax.aot.arithmetic import saved_bytes, training_flops
from bonescan_jax.benchmark.measure import (
    Team,
    Timing,
    Work,
    peak_memory,
    print_table,
    read_config,
    take_turns,
)
from bonescan_jax.cluster.mesh import make_mesh
from bonescan_jax.config import default_config
from bonescan_jax.errors import InputError
from bonescan_jax.models.build import views_per_example
from bonescan_jax.scans import CLASSES
from bonescan_jax.tasks import build_network, require_segmentation
from bonescan_jax.train_step import (
    Batch,
    TrainState,
    abstract_batch,
    make_initial_state,
    make_optimizer,
    make_train_step,
)

DTYPES = ("float32", "bfloat16")
MATMUL_SIZES = (1024, 2048, 4096)
OURS = "ours"
SCHEDULE_STEPS = 1000  # of the learning rate; it costs the same at any length

Timings = dict[tuple[str, str], Timing]


def benchmark_step(
    config: ml_collections.ConfigDict, peer: str | None, rounds: int, seconds: float
) -> dict[str, Any]:
    """Figures of the step in the config's dtype, and under the other dtype's name in that one."""
    config.mesh.data = config.mesh.spatial = 1
    teams = [Team(OURS, our_work, (config.to_json(),))]
    if peer:
        teams += _peer_teams(config)
    timings, facts = take_turns(teams, rounds, seconds, "step")
    flops = facts[OURS]["flops"]
    figures = {dtype: _figures(timings, facts, flops, dtype) for dtype in DTYPES}
    _print_step_table(config, timings, facts, figures)
    own = config.model.dtype
    bare, augmented = (timings[OURS, name] for name in (f"step {own}", "augmented"))
    share = float(np.median(1 - bare.seconds / augmented.seconds))
    figures[own]["augmentation_share"] = round(share, 3)
    return figures[own] | {dtype: figures[dtype] for dtype in DTYPES if dtype != own}


def _figures(
    timings: Timings, facts: dict[str, dict[str, Any]], flops: float, dtype: str
) -> dict[str, Any]:
    step, forward = (timings[OURS, f"{name} {dtype}"] for name in ("step", "forward"))
    share = flops / step.rate().median / _best_matmul(timings, dtype)
    result = {
        "step_seconds": round(step.rate().median, 4),
        "forward_seconds": round(forward.rate().median, 4),
        "share_of_matmul": round(share, 3),
        **{
            name: round(facts[OURS][dtype][name], 3)
            for name in ("compile_seconds", "peak_memory_mib", "temporary_mib", "saved_mib")
        },
    }
    for peer in ("monai", "torch"):
        theirs = [name for name, _ in timings if name.startswith(peer) and name.endswith(dtype)]
        for piece, ours, prefix in (("step", step, ""), ("forward", forward, "forward_")):
            if theirs:  # the fastest counts
                ratio = max(_ratio(ours, timings[name, piece]) for name in theirs)
                result[f"{prefix}ratio_to_{peer}"] = round(ratio, 3)
    return result


def _ratio(ours: Timing, theirs: Timing) -> float:
    """Of the seconds of each round, its median."""
    return float(np.median(ours.seconds / theirs.seconds))


def _best_matmul(timings: Timings, dtype: str) -> float:
    """Multiplications and additions a second of the best matrix product."""
    return max(
        2 * size**3 / timings[OURS, f"matmul {size} {dtype}"].rate().median for size in MATMUL_SIZES
    )


# ---- ours ----------------------------------------------------------------------------------------


def our_work(config_json: str) -> Work:
    """In each dtype the step with and without augmentation, a forward pass and matrix products."""
    # Compiling is timed, so nothing may come from a cache.
    jax.config.update("jax_enable_compilation_cache", False)
    config = read_config(config_json)
    own = config.model.dtype
    facts: dict[str, Any] = {"flops": config.train.batch_size * training_flops(config)}
    pieces: dict[str, Callable[[], Any]] = {}
    for dtype in sorted(DTYPES, key=lambda dtype: dtype != own):  # memory peaks in the own one
        config.model.dtype = dtype
        step = PreparedStep(without_augmentation(config))
        pieces[f"step {dtype}"] = step.run
        facts[dtype] = step.facts | {"saved_mib": saved_bytes(config) / 2**20}
        pieces[f"forward {dtype}"] = _forward(config, step.state)
        for size in MATMUL_SIZES:
            pieces[f"matmul {size} {dtype}"] = _matmul(size, jnp.dtype(dtype))
    config.model.dtype = own
    pieces["augmented"] = PreparedStep(config).run
    return Work(pieces, facts)


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
        optimizer, schedule = make_optimizer(config.train, SCHEDULE_STEPS, 0)
        init, abstract = make_initial_state(config, optimizer, mesh)
        network = build_network(config)
        step = make_train_step(config, network, optimizer, schedule, abstract, mesh)
        self.batch = synthetic_batch(config, mesh)
        started = time.monotonic()
        self.compiled = step.lower(abstract, self.batch).compile()
        compile_seconds = time.monotonic() - started
        self.state = init()
        self.run()
        self.facts = {
            "compile_seconds": compile_seconds,
            "peak_memory_mib": peak_memory() / 2**20,
            "temporary_mib": self.compiled.memory_analysis().temp_size_in_bytes / 2**20,
        }

    def start(self) -> None:
        """Queues one step."""
        self.state, _ = self.compiled(self.state, self.batch)

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
    data = config.data
    shape = (config.train.batch_size, data.crop_height, data.crop_width, views_per_example(config))
    image = jax.random.uniform(jax.random.key(0), shape)
    params, stats = jax.tree.map(jnp.copy, (state.params, state.stats))  # the step donates its own
    forward = jax.jit(lambda *weights: network.apply(*weights, True))
    return lambda: jax.block_until_ready(forward(params, stats, image))


def _matmul(size: int, dtype: jnp.dtype) -> Callable[[], Any]:
    """A product of square matrices with a float32 result."""
    factor = jax.random.normal(jax.random.key(0), (size, size)).astype(dtype)
    multiply = jax.jit(lambda a: jnp.dot(a, a, preferred_element_type=jnp.float32))
    return lambda: multiply(factor).block_until_ready()


# ---- theirs --------------------------------------------------------------------------------------


def _peer_teams(config: ml_collections.ConfigDict) -> list[Team]:
    """Each variant of each peer in each dtype."""
    from bonescan_jax.benchmark.peers.step import MONAI_LEVELS, VARIANTS, Task, peer_work

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
    return [
        Team(f"{peer}, {variant}, {dtype}", peer_work, (peer, variant, dtype, task))
        for dtype in DTYPES
        for peer, variants in VARIANTS.items()
        for variant in variants
    ]


# ---- table ---------------------------------------------------------------------------------------


def _print_step_table(
    config: ml_collections.ConfigDict,
    timings: Timings,
    facts: dict[str, dict[str, Any]],
    figures: dict[str, dict[str, Any]],
) -> None:
    rows = []
    for dtype in DTYPES:
        figure = figures[dtype]
        share = f"{figure['share_of_matmul']:.0%}"
        memory = facts[OURS][dtype]["peak_memory_mib"] if dtype == config.model.dtype else None
        rows.append(
            _row(config, timings, (OURS, f"step {dtype}", f"forward {dtype}"), memory, share)
        )
    forward = f"forward {config.model.dtype}"
    rows.append(_row(config, timings, (OURS, "augmented", forward)))
    for name in facts:
        if name != OURS:
            memory = facts[name]["peak_memory"] / 2**20
            rows.append(_row(config, timings, (name, "step", "forward"), memory))
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


def _row(
    config: ml_collections.ConfigDict,
    timings: Timings,
    key: tuple[str, str, str],
    memory: float | None = None,
    share: str = "",
) -> list[str]:
    name, step, forward = key
    rate = timings[name, step].rate()
    images = config.train.batch_size * views_per_example(config) / rate.median
    return [
        name if name != OURS else f"{name}, {step}",
        f"{rate.median:.3f}",
        f"{rate.low:.3f} to {rate.high:.3f}",
        f"{np.median(timings[name, step].core_seconds):.3f}",
        f"{timings[name, forward].rate().median:.3f}",
        f"{images:.2f}",
        share,
        "" if memory is None else f"{memory:.0f}",
    ]
