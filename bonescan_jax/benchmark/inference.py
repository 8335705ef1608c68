"""Inference on whole scans at every depth of the network: the cost of levels L1 to L4."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import ml_collections
import numpy as np

from bonescan_jax.aot.arithmetic import count_flops
from bonescan_jax.benchmark.measure import (
    Team,
    Work,
    peak_memory,
    print_table,
    read_config,
    take_turns,
)
from bonescan_jax.cluster.mesh import make_mesh
from bonescan_jax.errors import InputError
from bonescan_jax.models.build import Network, Tree, views_per_example
from bonescan_jax.scans import HEIGHT, WIDTH
from bonescan_jax.tasks import build_network, initial_weights, require_segmentation
from bonescan_jax.tasks.segment import make_predict_step

OURS = "ours"


def benchmark_inference(
    config: ml_collections.ConfigDict, peer: str | None, rounds: int, seconds: float
) -> dict[str, Any]:
    """Time and multiplications of each level over those of the deepest, and of all heads at once.

    A level is the net cut down to one head, as `bonescan predict --predictor=head_2` runs it; "all"
    is the mean of all heads.
    """
    require_segmentation(config, "config", "no other network has levels")
    if config.model.name != "unetpp":
        raise InputError(
            f"config: model.name is {config.model.name!r}, expected 'unetpp': no other network has "
            "levels"
        )
    del peer
    config.mesh.data = config.mesh.spatial = 1
    team = Team(OURS, inference_work, (config.to_json(),))
    timings, facts = take_turns([team], rounds, seconds, "inference")
    flops = facts[OURS]["flops"]
    names = list(flops)
    deepest = [name for name in names if name != "all"][-1]
    scans = config.evaluate.batch_size * views_per_example(config)
    time = {name: timings[OURS, name] for name in names}
    relative = {
        name: float(np.median(time[name].seconds / time[deepest].seconds)) for name in names
    }
    print_table(
        ("whole scans", "scans/s", "range", "time", "FLOPs"),
        [
            [
                name,
                f"{scans / time[name].rate().median:.3f}",
                f"{scans / time[name].rate().high:.3f} to {scans / time[name].rate().low:.3f}",
                f"{relative[name]:.3f}",
                f"{flops[name] / flops[deepest]:.3f}",
            ]
            for name in names
        ],
    )
    return {
        "relative_time": {name: round(relative[name], 3) for name in names},
        "relative_flops": {name: round(flops[name] / flops[deepest], 3) for name in names},
        "scans_per_second": {name: round(scans / time[name].rate().median, 3) for name in names},
        "peak_memory_mib": round(facts[OURS]["peak_memory"] / 2**20),
    }


def inference_work(config_json: str) -> Work:
    """From scans on the host to probabilities on the host, by level."""
    config = read_config(config_json)
    mesh = make_mesh(config)
    network = build_network(config)
    assert isinstance(network, Network)  # as the task was checked
    params, stats = jax.jit(lambda: initial_weights(config, config.seed))()
    weights = {"params": params, "stats": stats}
    random = np.random.default_rng(0)
    shape = (config.evaluate.batch_size, HEIGHT, WIDTH, views_per_example(config))
    image = random.integers(0, 255, shape).astype(np.uint16)
    reference = np.full((shape[0], shape[-1]), 50, np.float32)
    pieces: dict[str, Callable[[], Any]] = {}
    flops: dict[str, float] = {}
    for head in (*network.heads, *(["all"] if len(network.heads) > 1 else [])):
        pruned, kept = network.prune(weights, head) if head != "all" else (network, weights)
        step = make_predict_step(pruned, mesh)
        name = head.replace("head_", "L")
        flops[name] = count_flops(step.trace(kept, image, reference).jaxpr.jaxpr)
        pieces[name] = functools.partial(_scan, step, kept, image, reference)
        pieces[name]()
    facts = {"flops": flops, "peak_memory": peak_memory()}
    return Work(pieces, facts, jax.default_backend())


def _scan(
    step: jax.stages.Wrapped, weights: Tree, image: np.ndarray, reference: np.ndarray
) -> np.ndarray:
    return to_host(step(weights, image, reference))


def to_host(probabilities: jax.Array) -> np.ndarray:
    """The last predictor's (B, V, H, W, classes): `predict` too takes one row on the device."""
    return jax.device_get(probabilities[-1])
