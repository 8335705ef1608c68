"""Lane-packed execution against the plain: the same weights, outputs, gradients and training."""

import contextlib
import functools
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import NamedTuple
from unittest import mock

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

from bonescan_jax.cluster.mesh import batch_shardings, make_mesh
from bonescan_jax.config import default_config
from bonescan_jax.models import cells
from bonescan_jax.models.build import Tree
from bonescan_jax.models.cells import choose_cells
from bonescan_jax.tasks import build_network, initial_weights
from bonescan_jax.tasks.segment import make_predict_step
from tests.test_train_step import run


@pytest.fixture(autouse=True)
def narrow_lanes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Registers of 16 channels, so that nets of 4, 8, 16 … are packed as 32, 64, 128 … are."""
    monkeypatch.setattr(cells, "LANES", 16)


@pytest.mark.parametrize(
    ("widths", "size", "expected"),
    [
        ((4, 8, 16, 32), (32, 16), ((2, 2), (1, 2), (1, 1), (1, 1))),
        ((2, 4, 8, 16), (32, 16), ((2, 4), (2, 2), (1, 2), (1, 1))),
        ((6, 8), (32, 16), ((1, 2), (1, 2))),  # 6 channels twice: not all lanes are filled
        ((1, 16), (32, 16), ((2, 2), (1, 1))),  # no more than twice the cell of the row below
        ((4, 4), (6, 4), ((2, 2), (1, 2))),  # row 1 is 3 high
        ((4, 4), (6, 2), ((2, 2), (1, 1))),
    ],
)
def test_cells_fill_the_lanes_and_divide_the_image(
    widths: tuple, size: tuple[int, int], expected: tuple
):
    assert choose_cells(widths, *size) == expected


def settings(levels: int, norm: str, views: str = "each") -> ml_collections.ConfigDict:
    config = default_config()
    config.model.filters, config.model.levels = (4, 8, 16, 16, 16)[: levels + 1], levels
    config.model.norm, config.model.dtype, config.data.views = norm, "float32", views
    if norm == "group":
        config.model.filters = (8, 8, 16, 16, 16)[: levels + 1]
    config.mesh.data = 1
    return config


def rounded(weights: Tree, draw: int) -> Tree:
    """Every weight moved up or down by one rounding, at random; draw 0 moves none."""
    rng = np.random.default_rng(draw)

    def move(leaf: jax.Array) -> jax.Array:
        step = np.finfo(leaf.dtype).eps if draw else 0
        return leaf * (1 + step * rng.choice((-1, 1), leaf.shape)).astype(leaf.dtype)

    return jax.tree.map(move, weights)


class Inputs(NamedTuple):
    """Float32 weights, images (B, H, W, V), and what logits are drawn to (B, H, W, V, K)."""

    params: Tree
    stats: Tree
    image: np.ndarray
    aim: np.ndarray


def make_inputs(config: ml_collections.ConfigDict, batch: int, size: tuple[int, int]) -> Inputs:
    """A batch of noise for the config, which is told its size."""
    config.train.batch_size = config.evaluate.batch_size = batch
    config.data.crop_height, config.data.crop_width = size
    params, stats = initial_weights(config, config.seed)
    # Biases and scales that are not all the same, as after some training.
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    leaves = [
        leaf + 0.05 * jax.random.normal(key, leaf.shape)
        for leaf, key in zip(leaves, keys, strict=True)
    ]
    params = jax.tree.unflatten(tree, leaves)
    image = jax.random.normal(jax.random.key(2), (batch, *size, build_network(config).views))
    # A third of a scan is blank: there, maxima are equal.
    image = image.at[:, :, : size[1] // 3].set(0)
    aim = jax.random.normal(jax.random.key(3), (*image.shape, 3))
    return jax.device_get(Inputs(params, stats, image, aim))


def make_results(
    config: ml_collections.ConfigDict, inputs: Inputs
) -> Callable[..., dict[str, Tree]]:
    """Logits, statistics and gradients on the config's mesh, as a function of how to compute them.

    It takes "off" or "on" for model.packed, and a draw for `rounded` weights.
    """
    network, mesh = build_network(config), make_mesh(config)
    params, stats, image, aim = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), inputs)
    image = jax.device_put(image, batch_shardings(mesh)["image"])

    @functools.cache
    def compiled(way: str) -> Callable:
        own = network._replace(packed=way).on(mesh)

        def loss(params: Tree, image: jax.Array) -> tuple[jax.Array, Tree]:
            logits, stats_after = own.apply(params, stats, image, True)
            return sum(jnp.abs(head - aim).mean() for head in logits), (logits, stats_after)

        return jax.jit(jax.grad(loss, has_aux=True))

    def results(way: str, draw: int = 0) -> dict[str, Tree]:
        gradients, (logits, stats_after) = compiled(way)(rounded(params, draw), image)
        return jax.device_get({"logits": logits, "stats": stats_after, "gradients": gradients})

    return results


@contextlib.contextmanager
def everything_in_float64() -> Iterator[None]:
    """Also what the program computes in float32 whatever model.dtype says."""
    with jax.enable_x64(True), mock.patch.object(jnp, "float32", jnp.float64):
        yield


def both_ways(
    config: ml_collections.ConfigDict, batch: int, size: tuple[int, int]
) -> list[dict[str, Tree]]:
    """Logits, statistics and gradients, plain and packed."""
    results = make_results(config, make_inputs(config, batch, size))
    return [*map(results, ("off", "on"))]


def relative_error(found: np.ndarray, expected: np.ndarray) -> float:
    return np.linalg.norm(found - expected) / np.linalg.norm(expected)


def largest_error(found: Tree, expected: Tree) -> float:
    """Of all arrays, relative to the norm of each."""
    return max(map(relative_error, *map(jax.tree.leaves, (found, expected))))


@pytest.mark.parametrize(
    ("levels", "norm", "batch", "views"),
    [
        (1, "none", 3, "each"),
        (2, "batch", 2, "both"),
        (3, "group", 1, "each"),
        (4, "instance", 2, "each"),
    ],
)
def test_outputs_statistics_and_gradients_agree(levels: int, norm: str, batch: int, views: str):
    """In float64, where no rounding hides a difference."""
    config = settings(levels, norm, views)
    config.mesh.data, config.model.dtype = 2 if batch == 2 else 1, "float64"
    inputs = make_inputs(config, batch, (32, 16))
    with everything_in_float64():
        plain, packed = map(make_results(config, inputs), ("off", "on"))
    for name in ("logits", "stats", "gradients"):
        if plain[name]:
            assert largest_error(packed[name], plain[name]) < 1e-10, name


def test_in_bfloat16_packed_is_as_near_to_float32_as_plain():
    config = settings(1, "batch")
    exact, _ = both_ways(config, 2, (32, 16))
    config.model.dtype = "bfloat16"
    for name in ("logits", "gradients"):
        plain, packed = (
            np.mean(
                [relative_error(a, b) for a, b in zip(*map(jax.tree.leaves, pair), strict=True)]
            )
            for pair in ((way[name], exact[name]) for way in both_ways(config, 2, (32, 16)))
        )
        assert packed < 1.5 * plain, name


@pytest.mark.parametrize("head", ["head_1", "head_2"])
def test_pruned_and_evaluated_with_running_statistics(head: str):
    config = settings(2, "batch")
    config.mesh.data, config.evaluate.batch_size = 1, 3
    params, stats = initial_weights(config, config.seed)
    weights = {"params": params, "stats": jax.tree.map(lambda leaf: leaf + 0.1, stats)}
    image = np.random.default_rng(0).poisson(20, (3, 32, 16, 1)).astype(np.uint16)
    reference = np.full((3, 1), 20, np.float32)
    probabilities = []
    for way in ("off", "on"):
        config.model.packed = way
        network, kept = build_network(config).prune(weights, head)
        predict = make_predict_step(network, make_mesh(config))
        probabilities.append(np.asarray(predict(kept, image, reference)))
    np.testing.assert_allclose(*probabilities, rtol=1e-4)


@pytest.fixture(scope="module")
def plain_training() -> dict:
    return {}


@pytest.mark.parametrize("mesh", [(1, 1), (4, 2)])
def test_twenty_steps_agree(
    small_config: ml_collections.ConfigDict, plain_training: dict, mesh: tuple[int, int]
):
    small_config.data.crop_height = small_config.data.crop_width = 32
    small_config.model.filters, small_config.model.levels = (4, 8), 1

    def train(way: str, data: int, spatial: int) -> tuple[Tree, float]:
        small_config.model.packed = way
        small_config.mesh.data, small_config.mesh.spatial = data, spatial
        state, metrics = run(small_config, steps=20)
        return state.params, metrics["loss"]

    if not plain_training:
        plain_training["on one device"] = train("off", 1, 1)
    (expected, expected_loss), (found, loss) = plain_training["on one device"], train("on", *mesh)
    np.testing.assert_allclose(loss, expected_loss, rtol=1e-4)
    start, _ = initial_weights(small_config, small_config.seed)
    for a, b, first in zip(*map(jax.tree.leaves, (found, expected, start)), strict=True):
        assert np.linalg.norm(a - b) < 1e-2 * np.linalg.norm(b - first)


@pytest.mark.parametrize(("platform", "expected"), [("tpu", "on"), ("cpu", "off"), ("gpu", "off")])
def test_auto_packs_on_a_tpu_only(platform: str, expected: str):
    mesh = SimpleNamespace(
        devices=np.array([[SimpleNamespace(platform=platform)]]), shape={"data": 4, "spatial": 1}
    )
    network = build_network(settings(1, "batch"))
    assert network.packed == "auto"
    assert network.on(mesh).packed == expected
    assert network._replace(packed="off").on(mesh).packed == "off"
