"""Lane-packed execution against the plain, in every case: depth, norm, views, batch and mesh.

    python -m tests.accuracy.packed [--levels 1 4]

Registers count as 16 channels wide, so that narrow nets are packed as wide ones are on a TPU.
Compared are outputs, gradients, and what 20 steps of training change in the weights, all with the
plain net in float64, from the same weights and images:

- packed in float64. That it is the same function shows here, where no rounding hides a difference:
  nothing may differ by more than `EXACT`.
- packed and plain in float32, in `DRAWS` draws: of the weights as they are, and each moved by one
  rounding. A net amplifies rounding, and where that puts an activation on the other side of zero,
  ReLU passes or stops a whole gradient: one error may be 1000 times another. So what is bounded is
  how many times the plain net's error packed is off over all cases (geometric means), and the
  largest error beside the plain net's largest.
- packed and plain in bfloat16, likewise, of one draw.

Errors are relative, the largest of all arrays (bfloat16: their mean). The last line is JSON; exit
code 0 if all are within `EXACT`, `ALLOWED_ON_AVERAGE` and `ALLOWED`.
"""

import argparse
import contextlib
import itertools
import json
import os
import sys
from collections.abc import Callable

os.environ["JAX_PLATFORMS"] = "cpu"
# Each program runs a few times only: what LLVM's optimiser takes would be most of the time.
os.environ["XLA_FLAGS"] = (
    "--xla_force_host_platform_device_count=8 --xla_llvm_disable_expensive_passes=true "
    "--xla_backend_optimization_level=1"
)

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from bonescan_jax.cluster.mesh import to_mesh
from bonescan_jax.models import cells
from bonescan_jax.models.blocks import NORMS
from bonescan_jax.models.build import Tree
from tests.models.test_packed import (
    Inputs,
    everything_in_float64,
    make_inputs,
    make_results,
    relative_error,
    rounded,
    settings,
)
from tests.test_train_step import build, random_batch

LEVELS = (1, 2, 3, 4)
# Views, batch and mesh (data, spatial): an odd batch on one device; two devices a sample.
PLACES = (("each", 3, (1, 1)), ("both", 4, (4, 2)))
EXACT = 1e-10
ROUNDING = 2e-6  # of float32 sums of a few hundred terms; the plain net's own error is no less
ALLOWED_ON_AVERAGE = 1.5
ALLOWED = 8.0
DRAWS = 5
STEPS = 20

# {"logits", "gradients", "training", "loss"}: what one way of computing gives.
Results = dict[str, Tree]


def make_training(
    config: ml_collections.ConfigDict, way: str, start: Tree
) -> Callable[[int], Results]:
    """What 20 steps change in the weights, and the last loss, of a draw of the first weights."""
    config.model.packed = way
    init, step, _, mesh = build(config)

    def train(draw: int) -> Results:
        state = init()
        params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), start)
        first = jax.device_get(rounded(params, draw))
        shardings = jax.tree.map(lambda leaf: leaf.sharding, state.params)
        state = state.replace(params=jax.device_put(first, shardings))
        for index in range(STEPS):
            batch = random_batch(config, index * config.train.batch_size)
            state, metrics = step(state, to_mesh(batch, mesh, config.train.batch_size))
        moved = jax.tree.map(np.subtract, jax.device_get(state.params), first)
        # As one array: some hardly move, and by what is all rounding.
        moved = np.concatenate([*map(np.ravel, jax.tree.leaves(moved))])
        return {"training": moved, "loss": np.asarray(metrics["loss"])}

    return train


def compute(config: ml_collections.ConfigDict, inputs: Inputs, dtype: str) -> list[list[Results]]:
    """Results of plain and of packed, of each draw."""
    config.model.dtype = dtype
    draws = DRAWS if dtype == "float32" else 1
    with everything_in_float64() if dtype == "float64" else contextlib.nullcontext():
        results = make_results(config, inputs)
        found = []
        for way in ("off", "on"):
            train = make_training(config, way, inputs.params)
            found.append([results(way, draw) | train(draw) for draw in range(draws)])
    jax.clear_caches()  # a process may map only so many programs
    return found


def errors(found: Results, expected: Results, summary: Callable) -> dict[str, float]:
    """Relative, of each kind of result."""
    names = ("logits", "gradients", "training", "loss")
    pairs = {name: map(jax.tree.leaves, (found[name], expected[name])) for name in names}
    return {name: float(summary([*map(relative_error, *pair)])) for name, pair in pairs.items()}


def case(levels: int, norm: str, place: tuple) -> dict[str, list[list[float]]]:
    """Errors of packed and of plain by dtype and kind of result, of each draw."""
    views, batch, (data, spatial) = place
    config = settings(levels, norm, views)
    config.mesh.data, config.mesh.spatial = data, spatial
    for name in ("flip", "rotation", "scale", "shift", "thinning", "gain", "hidden_view"):
        config.augment[name] = 0.0  # comes before the net, and is another in float64
    inputs = make_inputs(config, batch, (128, 32) if levels == 4 else (64, 32))
    (exact,), same = compute(config, inputs, "float64")
    found = {
        f"float64 {name}": [[error], [0.0]] for name, error in errors(*same, exact, max).items()
    }
    for dtype, summary in (("float32", max), ("bfloat16", np.mean)):
        plain, packed = (
            [errors(draw, exact, summary) for draw in way] for way in compute(config, inputs, dtype)
        )
        for name in plain[0]:
            found[f"{dtype} {name}"] = [[draw[name] for draw in way] for way in (packed, plain)]
    return found


def summarize(found: dict[str, list[list[list[float]]]]) -> tuple[dict[str, dict], bool]:
    """Of the errors of all cases, by dtype and kind, and whether they are within the bounds."""
    told, within = {}, True
    for key, cases in found.items():
        packed, plain = np.moveaxis(np.array(cases), 1, 0)
        told[key] = {"largest": packed.max()}
        if key.startswith("float64"):
            within &= packed.max() <= EXACT
            continue
        average = np.exp(np.log(np.maximum(packed, ROUNDING) / np.maximum(plain, ROUNDING)).mean())
        told[key] |= {"largest_plain": plain.max(), "times_plain": average}
        within &= average <= ALLOWED_ON_AVERAGE
        within &= packed.max() <= ALLOWED * max(plain.max(), ROUNDING)
    return told, bool(within)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--levels", type=int, choices=LEVELS, nargs="+", default=LEVELS, help="depths; all"
    )
    cells.LANES = 16
    found: dict[str, list] = {}
    cases = [*itertools.product(parser.parse_args().levels, NORMS, PLACES)]
    for number, (levels, norm, place) in enumerate(cases, 1):
        about = f"L{levels} {norm} {place[0]} batch {place[1]} mesh {place[2]}"
        print(f"{number}/{len(cases)} {about}", file=sys.stderr, flush=True)
        for key, each in case(levels, norm, place).items():
            found.setdefault(key, []).append(each)
            print(f"  {key}: packed, plain {_short(each)}", file=sys.stderr, flush=True)
    told, within = summarize(found)
    print(json.dumps({"cases": len(cases), **_short(told)}))
    sys.exit(not within)


def _short(numbers: Tree) -> Tree:
    """All of them with two digits."""
    return jax.tree.map(lambda number: float(f"{number:.2g}"), numbers)


if __name__ == "__main__":
    main()
