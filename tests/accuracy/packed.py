"""Lane-packed execution against the plain, in every case: depth, norm, views, batch and mesh.

    python -m tests.accuracy.packed [--only=float64] [--levels=4]

Registers count as 16 channels wide, so that narrow nets are packed as wide ones are on a TPU.
Compared are outputs, gradients, and what 20 steps of training change in the weights:

- in float64, packed with plain. That they are one function shows here, where no rounding hides a
  difference: nothing may differ by more than `EXACT`.
- in float32, packed with plain, and beside it plain with plain of which every weight is moved by
  one rounding, in `DRAWS` draws. A net amplifies rounding, and where that puts an activation on the
  other side of zero, ReLU passes or stops a whole gradient: a single error may be 1000 times
  another, so what is bounded is how many times its own error packed is off over all cases (the
  geometric mean), and the largest error beside the largest own.
- in bfloat16, packed and beside it plain, both with plain in float32.

Errors are relative, the largest of all arrays (bfloat16: their mean). The last line is JSON; exit
code 0 if all are within `EXACT`, `ALLOWED_ON_AVERAGE` and `ALLOWED`.
"""

import argparse
import contextlib
import itertools
import json
import os
import sys
from collections.abc import Callable, Iterator
from unittest import mock

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

from bonescan_jax.models import cells
from bonescan_jax.models.blocks import NORMS
from bonescan_jax.models.build import Tree
from bonescan_jax.parallel import to_mesh
from tests.models.test_packed import make_results, relative_error, rounded, settings
from tests.test_train_step import build, random_batch

DTYPES = ("float64", "float32", "bfloat16")
LEVELS = (1, 2, 3, 4)
# Views, batch and mesh (data, spatial): an odd batch on one device; two devices a sample.
PLACES = (("each", 3, (1, 1)), ("both", 4, (4, 2)))
EXACT = 1e-10
ROUNDING = 2e-6  # of float32 sums of a few hundred terms; the plain net's own error is no less
ALLOWED_ON_AVERAGE = 1.5
ALLOWED = 8.0
DRAWS = 8
STEPS = 20

# {"logits", "gradients", "training", "loss"}: what one way of computing gives.
Results = dict[str, Tree]


@contextlib.contextmanager
def everything_in(dtype: str) -> Iterator[None]:
    """For float64, also what the program computes in float32 whatever model.dtype says."""
    if dtype != "float64":
        yield
        return
    with jax.enable_x64(True), mock.patch.object(jnp, "float32", jnp.float64):
        yield


def training(config: ml_collections.ConfigDict, way: str) -> Callable[[int], Results]:
    """What 20 steps change in the weights, and the last loss, of a draw of the first weights."""
    config.model.packed = way
    init, step, _, mesh = build(config)

    def train(draw: int) -> Results:
        state = init()
        state = state.replace(params=rounded(state.params, draw))
        start = jax.device_get(state.params)
        for index in range(STEPS):
            batch = random_batch(config, index * config.train.batch_size)
            state, metrics = step(state, to_mesh(batch, mesh, config.train.batch_size))
        moved = jax.tree.map(np.subtract, jax.device_get(state.params), start)
        # As one array: some hardly move, and by what is all rounding.
        moved = np.concatenate([*map(np.ravel, jax.tree.leaves(moved))])
        return {"training": moved, "loss": np.asarray(metrics["loss"])}

    return train


def compute(levels: int, norm: str, place: tuple, dtype: str) -> Callable[..., Results]:
    """All results of a case, as a function of model.packed and a draw."""
    views, batch, (data, spatial) = place
    size = (128, 32) if levels == 4 else (64, 32)
    config = settings(levels, norm, views)
    config.model.dtype, config.mesh.data, config.mesh.spatial = dtype, data, spatial
    results = make_results(config, batch, size)
    train = {way: training(config, way) for way in ("off", "on")}
    return lambda way, draw=0: results(way, draw) | train[way](draw)


def errors(found: Results, expected: Results, summary: Callable) -> dict[str, float]:
    """Relative, of each kind of result."""
    names = ("logits", "gradients", "training", "loss")
    pairs = {name: map(jax.tree.leaves, (found[name], expected[name])) for name in names}
    return {name: float(summary([*map(relative_error, *pair)])) for name, pair in pairs.items()}


def case(levels: int, norm: str, place: tuple, dtype: str) -> dict[str, list[float]]:
    """The error of packed, and the plain net's own: one of each draw."""
    with everything_in(dtype):
        ways = compute(levels, norm, place, dtype)
        packed, plain = ways("on"), ways("off")
        if dtype == "bfloat16":
            exact = compute(levels, norm, place, "float32")("off")
            each = [errors(way, exact, np.mean) for way in (packed, plain)]
        else:
            draws = range(1, DRAWS + 1) if dtype == "float32" else ()
            each = [errors(way, plain, max) for way in (packed, *(ways("off", d) for d in draws))]
    return {name: [found[name] for found in each] for name in each[0]}


def summarize(found: dict[str, list[list[float]]]) -> tuple[dict[str, dict], bool]:
    """Of the errors of all cases, by dtype and kind, and whether they are within the bounds."""
    told, within = {}, True
    for key, cases in found.items():
        packed = [errors[0] for errors in cases]
        told[key] = {"largest": max(packed)}
        if key.startswith("float64"):
            within &= max(packed) <= EXACT
            continue
        own = [errors[1:] for errors in cases]
        average = np.exp(np.mean(_logarithms(packed)) - np.mean(_logarithms(own)))
        told[key] |= {"largest_own": np.max(own), "times_own": average}
        within &= average <= ALLOWED_ON_AVERAGE
        within &= max(packed) <= ALLOWED * max(np.max(own), ROUNDING)
    return told, bool(within)


def _logarithms(errors: list) -> np.ndarray:
    return np.log(np.maximum(errors, ROUNDING))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=DTYPES, help="one dtype")
    parser.add_argument("--levels", type=int, choices=LEVELS, help="one depth")
    arguments = parser.parse_args()
    cells.LANES = 16
    all_found: dict[str, list[list[float]]] = {}
    dtypes = (arguments.only,) if arguments.only else DTYPES
    depths = (arguments.levels,) if arguments.levels else LEVELS
    cases = list(itertools.product(dtypes, depths, NORMS, PLACES))
    for number, (dtype, levels, norm, place) in enumerate(cases, 1):
        found = case(levels, norm, place, dtype)
        about = f"L{levels} {norm} {place[0]} batch {place[1]} mesh {place[2]} {dtype}"
        print(f"{number}/{len(cases)} {about}: {_short(found)}", file=sys.stderr, flush=True)
        for name, each in found.items():
            all_found.setdefault(f"{dtype} {name}", []).append(each)
        jax.clear_caches()  # a process may map only so many programs
    told, within = summarize(all_found)
    print(json.dumps({"cases": len(cases), **_short(told)}))
    sys.exit(not within)


def _short(numbers: Tree) -> Tree:
    """All of them with two digits."""
    return jax.tree.map(lambda number: float(f"{number:.2g}"), numbers)


if __name__ == "__main__":
    main()
