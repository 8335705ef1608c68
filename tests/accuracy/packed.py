"""Lane-packed execution against the plain, in every case: depth, norm, views, batch and mesh.

    python -m tests.accuracy.packed [--only=bfloat16] [--levels=4]

Registers count as 16 channels wide, so that narrow nets are packed as wide ones are on a TPU. For
each case the largest relative error of outputs, gradients and of what 20 steps of training changed
in the weights, and beside each what the plain net itself moves when its images are brighter by one
rounding of float32 (outputs, gradients), or the plain step is computed on another mesh (training):
a net amplifies rounding, so nothing can agree better than that. In bfloat16 both are compared with
the plain net in float32. The last line is JSON; exit code 0 if packed is within `ALLOWED` times the
plain net's own error everywhere.
"""

import argparse
import itertools
import json
import os
import sys

os.environ["JAX_PLATFORMS"] = "cpu"
# Each program runs once or 20 times: what LLVM's optimiser takes would be most of the time.
os.environ["XLA_FLAGS"] = (
    "--xla_force_host_platform_device_count=8 --xla_llvm_disable_expensive_passes=true "
    "--xla_backend_optimization_level=1"
)

import jax
import numpy as np

from bonescan_jax.models import cells
from bonescan_jax.models.blocks import NORMS
from bonescan_jax.models.build import Tree, initial_weights
from tests.models.test_packed import both_ways, largest_error, relative_error, settings
from tests.test_train_step import run

LEVELS = (1, 2, 3, 4)
# Views, batch and mesh (data, spatial): an odd batch on one device; two devices a sample.
PLACES = (("each", 3, (1, 1)), ("both", 4, (4, 2)))
ROUNDING = 2e-6  # of float32 sums of a few hundred terms; the plain net's own error is no less
ALLOWED = 8.0
STEPS = 20


def outputs_and_gradients(config, batch: int, size: tuple[int, int]) -> dict[str, list[float]]:
    """Largest relative errors of packed, and those of brighter images."""
    plain, packed, brighter = both_ways(config, batch, size, ("plain", "packed", "brighter"))
    return {
        name: [largest_error(way[name], plain[name]) for way in (packed, brighter)]
        for name in ("logits", "gradients")
    }


def in_bfloat16(config, batch: int, size: tuple[int, int]) -> dict[str, list[float]]:
    """Mean relative errors of packed and of plain against plain in float32."""
    (exact,) = both_ways(config, batch, size, ("plain",))
    config.model.dtype = "bfloat16"
    ways = both_ways(config, batch, size)
    return {
        name: [
            float(np.mean([*map(relative_error, *map(jax.tree.leaves, (way[name], exact[name])))]))
            for way in reversed(ways)
        ]
        for name in ("logits", "gradients")
    }


def training(config, batch: int, size: tuple[int, int]) -> dict[str, list[float]]:
    """How far weights end from those of the plain net, over how far they came from the start."""

    def train(way: str, mesh: tuple[int, int]) -> tuple[Tree, float]:
        config.model.packed, (config.mesh.data, config.mesh.spatial) = way, mesh
        state, metrics = run(config, STEPS)
        return state.params, float(metrics["loss"])

    config.train.batch_size = batch
    config.data.crop_height, config.data.crop_width = size
    mesh = (config.mesh.data, config.mesh.spatial)
    expected, loss = train("off", mesh)
    found = [train("on", mesh), train("off", (1, 2) if mesh == (1, 1) else (1, 1))]
    start, _ = initial_weights(config)

    def moved(params: Tree) -> float:
        total = [
            sum(
                float(np.square(a - b).sum())
                for a, b in zip(*map(jax.tree.leaves, pair), strict=True)
            )
            for pair in ((params, expected), (expected, start))
        ]
        return (total[0] / total[1]) ** 0.5

    return {
        "training": [moved(params) for params, _ in found],
        "loss": [abs(other / loss - 1) for _, other in found],
    }


def case(levels: int, norm: str, place: tuple, dtype: str) -> dict[str, list[float]]:
    """Errors of packed, and beside each the plain net's own."""
    views, batch, (data, spatial) = place
    size = (128, 32) if levels == 4 else (64, 32)

    def fresh():
        config = settings(levels, norm, views)
        config.mesh.data, config.mesh.spatial = data, spatial
        return config

    if dtype == "bfloat16":
        return in_bfloat16(fresh(), batch, size)
    return outputs_and_gradients(fresh(), batch, size) | training(fresh(), batch, size)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=("float32", "bfloat16"), help="one of the two dtypes")
    parser.add_argument("--levels", type=int, choices=LEVELS, help="one depth")
    arguments = parser.parse_args()
    cells.LANES = 16
    worst: dict[str, float] = {}
    largest: dict[str, float] = {}
    dtypes = (arguments.only,) if arguments.only else ("float32", "bfloat16")
    depths = (arguments.levels,) if arguments.levels else LEVELS
    cases = list(itertools.product(dtypes, depths, NORMS, PLACES))
    for number, (dtype, levels, norm, place) in enumerate(cases, 1):
        errors = case(levels, norm, place, dtype)
        told = {name: [float(f"{value:.2g}") for value in pair] for name, pair in errors.items()}
        about = f"L{levels} {norm} {place[0]} batch {place[1]} mesh {place[2]} {dtype}"
        print(f"{number}/{len(cases)} {about}: {told}", file=sys.stderr, flush=True)
        for name, (packed, own) in errors.items():
            key = f"{dtype} {name}"
            largest[key] = max(largest.get(key, 0.0), packed)
            worst[key] = max(worst.get(key, 0.0), packed / max(own, ROUNDING))
        jax.clear_caches()  # a process may map only so many programs
    told = {
        name: {key: float(f"{value:.2g}") for key, value in values.items()}
        for name, values in (("largest_error", largest), ("times_own_error", worst))
    }
    print(json.dumps({"cases": len(cases), **told}))
    sys.exit(max(worst.values()) > ALLOWED)


if __name__ == "__main__":
    main()
