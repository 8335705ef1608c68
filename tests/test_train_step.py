"""The step: the same on every mesh, compiled once, and each part of it does what it says."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
import pytest

from bonescan_jax.aot.compile import abstract_step
from bonescan_jax.cluster.mesh import make_mesh, to_mesh
from bonescan_jax.config import default_config
from bonescan_jax.hyperparameters import hyperparameters_of
from bonescan_jax.models.build import views_per_example
from bonescan_jax.tasks import build_network
from bonescan_jax.tasks.segment import make_predict_step, overlap_counts
from bonescan_jax.train_step import (
    TrainState,
    batch_gradients,
    learning_rate,
    make_initial_state,
    make_optimizer,
    make_train_step,
)

MESHES = [(1, 1), (8, 1), (4, 2), (1, 8)]


def random_batch(config: ml_collections.ConfigDict, first: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(first)
    batch, views = config.train.batch_size, views_per_example(config)
    shape = (batch, config.data.crop_height, config.data.crop_width, views)
    image = rng.poisson(20, shape).astype(np.uint16)
    mask = np.zeros(shape, np.uint8)
    mask[:, 8:16, 8:20], mask[::2, 30:41, 5:13] = 1, 2
    return {
        "image": image + 40 * mask,
        "mask": mask,
        "gain": np.full((batch, views), 2, np.float32),
        "reference": np.full((batch, views), 20, np.float32),
        "sample": np.arange(first, first + batch, dtype=np.int32),
    }


def build(config: ml_collections.ConfigDict) -> tuple[Callable, Callable, TrainState, object]:
    config.evaluate.batch_size = 8
    mesh = make_mesh(config)
    init, abstract = make_initial_state(config, mesh)
    jitted = make_train_step(config, build_network(config), abstract, mesh)
    hyperparameters = hyperparameters_of(config, 10, 1)

    def step(state: TrainState, batch: dict[str, jax.Array]) -> tuple[TrainState, dict]:
        return jitted(state, batch, hyperparameters)

    step.lower = lambda state, batch: jitted.lower(state, batch, hyperparameters)
    return lambda: init(hyperparameters.seed), step, abstract, mesh


def run(config: ml_collections.ConfigDict, steps: int = 1) -> tuple[TrainState, dict]:
    init, step, _, mesh = build(config)
    state = init()
    for index in range(steps):
        batch = random_batch(config, index * config.train.batch_size)
        state, metrics = step(state, to_mesh(batch, mesh, config.train.batch_size))
    return jax.device_get(state), jax.device_get(metrics)


@pytest.fixture(scope="module")
def on_one_device() -> dict:
    return {}


@pytest.mark.parametrize("shape", MESHES)
@pytest.mark.parametrize("norm", ["batch", "group"])
def test_every_mesh_gives_the_same_loss_and_gradients(
    two_level_config: ml_collections.ConfigDict,
    on_one_device: dict,
    shape: tuple[int, int],
    norm: str,
):
    two_level_config.mesh.data, two_level_config.mesh.spatial = shape
    two_level_config.model.norm, two_level_config.model.filters = norm, (8, 8, 16)
    init, _, _, mesh = build(two_level_config)
    batch = to_mesh(random_batch(two_level_config), mesh, 8)
    network = build_network(two_level_config)
    gradients, stats, losses = jax.jit(
        lambda state, batch: batch_gradients(
            two_level_config,
            network,
            mesh,
            state,
            batch,
            hyperparameters_of(two_level_config, 10, 1),
        )
    )(init(), batch)
    found = jax.device_get({"gradients": gradients, "stats": stats, "losses": losses})
    expected = on_one_device.setdefault(norm, found)  # (1, 1) comes first
    np.testing.assert_allclose(found["losses"], expected["losses"], rtol=1e-5)
    assert_close_to_rounding(found, expected)


def assert_close_to_rounding(found: dict, expected: dict) -> None:
    """Every tensor within 5e-3 of its own norm and 1e-5 of the norm of all.

    Sums in another order differ in the seventh digit; where that puts an activation on the other
    side of zero, ReLU passes or stops a whole gradient. Brightening the batch by 3e-7, one
    rounding, on one device moves these gradients by up to 2.9e-3 of their norm (measured).
    """
    total = np.sqrt(sum((leaf**2).sum() for leaf in jax.tree.leaves(expected["gradients"])))
    pairs = zip(jax.tree.leaves_with_path(found), jax.tree.leaves(expected), strict=True)
    for (path, a), b in pairs:
        allowed = 5e-3 * np.linalg.norm(b) + 1e-5 * total
        assert np.linalg.norm(a - b) < allowed, jax.tree_util.keystr(path)


@pytest.mark.parametrize("shape", [(8, 1), (1, 8)])
def test_every_device_does_its_share_only(
    two_level_config: ml_collections.ConfigDict, shape: tuple[int, int]
):
    flops = {}
    for mesh_shape in ((1, 1), shape):
        two_level_config.mesh.data, two_level_config.mesh.spatial = mesh_shape
        _, step, abstract, mesh = build(two_level_config)
        batch = to_mesh(random_batch(two_level_config), mesh, 8)
        flops[mesh_shape] = step.lower(abstract, batch).compile().cost_analysis()["flops"]
    # Along `spatial` the rows at the seams are computed twice, and at this size that is not little.
    assert flops[shape] < 0.25 * flops[1, 1]


def test_sharded_weights_train_like_copied_ones(small_config: ml_collections.ConfigDict):
    small_config.mesh.data = 8
    copied, _ = run(small_config, steps=2)
    small_config.mesh.shard_parameters = True
    init, _, abstract, _ = build(small_config)
    kernel = init().params["nodes"]["1_0"]["conv2"]["kernel"]
    assert kernel.addressable_shards[0].data.size == kernel.size // 8
    cut, _ = run(small_config, steps=2)
    assert jax.tree.structure(abstract.params) == jax.tree.structure(cut.params)
    for a, b in zip(jax.tree.leaves(cut.params), jax.tree.leaves(copied.params), strict=True):
        # Adam divides by the gradient's own size: where that is all rounding, the sign may differ.
        np.testing.assert_allclose(a, b, atol=2e-3)


def test_nothing_compiles_twice(small_config: ml_collections.ConfigDict):
    small_config.mesh.update({"data": 4, "spatial": 2})
    init, step, _, mesh = build(small_config)
    state = init()
    batches = [to_mesh(random_batch(small_config, 8 * index), mesh, 8) for index in range(3)]
    state, _ = step(state, batches[0])
    compiled = []
    listener = lambda name, *_, **__: compiled.append(name)  # noqa: E731
    jax.monitoring.register_event_duration_secs_listener(listener)
    for batch in batches[1:]:
        state, metrics = step(state, batch)
    jax.block_until_ready(metrics)
    assert not [name for name in compiled if "compile" in name]


def test_the_state_given_is_donated(small_config: ml_collections.ConfigDict):
    init, step, _, mesh = build(small_config)
    before = init()
    step(before, to_mesh(random_batch(small_config), mesh, 8))
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(before.params))


def test_accumulation_is_the_mean_over_the_parts(small_config: ml_collections.ConfigDict):
    small_config.model.norm = "instance"  # of an image alone, so parts do not see each other
    small_config.loss.overlap_weight = 0.0  # is pooled over a part
    whole, metrics = run(small_config)
    small_config.train.accumulate_steps = 4
    parts, metrics_of_parts = run(small_config)
    np.testing.assert_allclose(metrics_of_parts["loss"], metrics["loss"], rtol=1e-5)
    np.testing.assert_allclose(
        metrics_of_parts["gradient_norm"], metrics["gradient_norm"], rtol=1e-4
    )
    assert int(parts.step) == int(whole.step) == 1


def test_training_lowers_the_loss_and_the_average_follows(
    small_config: ml_collections.ConfigDict,
):
    small_config.train.learning_rate = 0.01
    first, metrics = run(small_config, steps=1)
    last, metrics_after = run(small_config, steps=8)
    assert metrics_after["loss"] < 0.9 * metrics["loss"]
    kernel, average = (
        tree["heads"]["1"]["kernel"] for tree in (last.params, last.average["params"])
    )
    start = first.params["heads"]["1"]["kernel"]
    assert 0 < np.abs(average - kernel).max() < np.abs(start - kernel).max()


def test_learning_rate_warms_up_and_decays(small_config: ml_collections.ConfigDict):
    peak = small_config.train.learning_rate
    for num, warmup in ((100, 10), (100, 0), (5, 10)):
        expected = optax.warmup_cosine_decay_schedule(0.0, peak, warmup, max(num, warmup + 1))
        found = functools.partial(learning_rate, hyperparameters_of(small_config, num, warmup))
        for step in range(110):
            np.testing.assert_allclose(found(step), expected(step), rtol=1e-5, atol=1e-7 * peak)


def test_bfloat16_stays_near_float32(two_level_config: ml_collections.ConfigDict):
    exact, metrics = run(two_level_config)
    two_level_config.model.dtype = "bfloat16"
    rough, metrics_rough = run(two_level_config)
    np.testing.assert_allclose(metrics_rough["loss"], metrics["loss"], rtol=0.02)
    assert {leaf.dtype for leaf in jax.tree.leaves(rough.params)} == {np.dtype(np.float32)}
    assert exact.step == rough.step


@pytest.mark.parametrize(("choice", "views"), [("each", 1), ("both", 2)])
def test_the_last_predictor_is_the_mean_of_the_heads(
    two_level_config: ml_collections.ConfigDict, choice: str, views: int
):
    two_level_config.data.views = choice
    init, _, _, mesh = build(two_level_config)
    predict = make_predict_step(build_network(two_level_config), mesh)
    batch = random_batch(two_level_config)
    probabilities = np.asarray(predict(init().average, batch["image"], batch["reference"]))
    assert probabilities.shape == (3, 8, views, 64, 64, 3)
    np.testing.assert_allclose(probabilities.sum(-1), 1, rtol=1e-5)
    np.testing.assert_allclose(probabilities[2], probabilities[:2].mean(0), atol=1e-6)


def test_overlap_counts_are_counted_one_by_one():
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet((1, 1, 1), (2, 3, 2, 6, 5))
    mask = rng.integers(0, 3, (3, 6, 5, 2))
    found = overlap_counts(jnp.asarray(probabilities), jnp.asarray(mask))
    assert found.shape == (2, 6, 2, 3)
    for predictor, image, label in np.ndindex(2, 6, 2):
        example, view = divmod(image, 2)
        each = probabilities[predictor, example, view]
        predicted = (each[..., 0] < 0.5) & (each[..., 1:].argmax(-1) == label)
        true = mask[example, ..., view] == label + 1
        expected = [(predicted & true).sum(), (predicted & ~true).sum(), (~predicted & true).sum()]
        assert found[predictor, image, label].tolist() == expected


def test_a_clip_of_zero_clips_nothing(small_config: ml_collections.ConfigDict):
    params = {"kernel": jnp.ones((3, 3)), "bias": jnp.ones(3)}
    gradients = jax.tree.map(lambda leaf: 0.1 * leaf, params)
    updates = []
    for limit in (0.0, 1e6):
        small_config.train.clip_gradient_norm = limit
        optimizer = make_optimizer(hyperparameters_of(small_config, 10, 0))
        updates.append(optimizer.update(gradients, optimizer.init(params), params)[0])
    jax.tree.map(np.testing.assert_array_equal, *updates)
    assert np.abs(updates[0]["bias"]).min() > 0


def test_a_frozen_encoder_keeps_its_weights_and_follows_the_statistics(
    small_config: ml_collections.ConfigDict,
):
    small_config.train.learning_rate, small_config.train.weight_decay = 0.01, 0.1
    first = jax.device_get(build(small_config)[0]())
    ends = {}
    for factor in (0.0, 0.1, 1.0):
        small_config.train.encoder_learning_rate = factor
        ends[factor], _ = run(small_config, steps=2)
    for path, start in jax.tree.leaves_with_path(first.params):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        moved = {
            factor: np.abs(dict(jax.tree.leaves_with_path(end.params))[path] - start).max()
            for factor, end in ends.items()
        }
        if name.startswith("nodes/") and "_0/" in name:
            assert moved[0.0] == 0
            assert 0 < moved[0.1] < 0.3 * moved[1.0], name
        else:
            assert moved[0.0] > 0, name
    stats = ends[0.0].stats["nodes"]["1_0"]["norm1"]["mean"]
    assert np.abs(stats - first.stats["nodes"]["1_0"]["norm1"]["mean"]).max() > 0


HYPERPARAMETERS = {
    "seed": 2**32 - 1,
    "train.learning_rate": 0.5,
    "train.encoder_learning_rate": 0.0,
    "train.weight_decay": 0.0,
    "train.clip_gradient_norm": 9.0,
    "train.ema_decay": 0.0,
    "augment.flip": 1.0,
    "augment.rotation": 30.0,
    "augment.scale": 0.5,
    "augment.shift": 9.0,
    "augment.thinning": 0.1,
    "augment.gain": 0.5,
    "augment.hidden_view": 0.5,
    "loss.cross_entropy_weight": 2.0,
    "loss.focal_gamma": 0.5,
    "loss.class_weights": (0.0, 8.0, 4.0),
    "loss.overlap_weight": 3.0,
    "loss.false_positive_weight": 0.0,
    "loss.false_negative_weight": 0.7,
}


@pytest.fixture(scope="module")
def two_view_config() -> ml_collections.ConfigDict:
    config = default_config()
    config.data.views, config.loss.focal_gamma = "both", 2.0
    config.data.crop_height = config.data.crop_width = 32
    config.model.filters, config.model.levels = (4, 8), 1
    config.mesh.data = 1
    return config


@pytest.fixture(scope="module")
def two_view_step(two_view_config: ml_collections.ConfigDict) -> tuple[str, tuple]:
    """The step as text, and what it takes."""
    step, arguments = abstract_step(two_view_config, make_mesh(two_view_config))
    return step.lower(*arguments).as_text(), arguments


@pytest.mark.parametrize("name", HYPERPARAMETERS)
def test_another_hyperparameter_is_no_other_program(
    two_view_config: ml_collections.ConfigDict, two_view_step: tuple, name: str
):
    program, arguments = two_view_step
    with two_view_config.copy_and_resolve_references().unlocked() as config:
        config.update_from_flattened_dict({name: HYPERPARAMETERS[name]})
    others = abstract_step(config, make_mesh(config))
    assert others[0].lower(*others[1]).as_text() == program
    differences = jax.tree.map(lambda a, b: bool((a != b).any()), others[1][2], arguments[2])
    assert sum(jax.tree.leaves(differences)) == 1


def test_muon_turns_kernels_evenly_and_leaves_the_rest_to_adamw(
    small_config: ml_collections.ConfigDict,
):
    small_config.train.clip_gradient_norm, rate = 0.0, small_config.train.learning_rate
    optimizer = make_optimizer(hyperparameters_of(small_config, 10, 0), "muon")
    params = jax.device_get(build(small_config)[0]().params)
    rng = np.random.default_rng(0)
    gradients = jax.tree.map(lambda leaf: rng.normal(0, 1e-3, leaf.shape).astype("f4"), params)
    updates, _ = optimizer.update(gradients, optimizer.init(params), params)
    adamw = optax.adamw(rate, weight_decay=0.0, nesterov=True)
    others, _ = adamw.update(gradients, adamw.init(params), params)
    for (path, update), other in zip(
        jax.tree.leaves_with_path(jax.device_get(updates)), jax.tree.leaves(others), strict=True
    ):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        if update.ndim == 4 and name != "nodes/0_0/conv1/kernel":
            stretch = np.linalg.svd(update.reshape(-1, update.shape[-1]), compute_uv=False)
            # Five steps of Newton and Schulz leave the singular values within 0.7 to 1.2.
            assert stretch.max() / stretch.min() < 2, name
            assert 0.5 < np.sqrt(np.square(update).mean()) / (0.2 * rate) < 1.5, name
        else:
            np.testing.assert_allclose(update, other, rtol=1e-5, err_msg=name)
