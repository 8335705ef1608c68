"""The state of a run and the pure functions that change and read it, jitted over a mesh."""

from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import ml_collections
import optax
from jax.sharding import Mesh

from bonescan_jax.augment import augment, normalize
from bonescan_jax.cluster.mesh import batch_shardings, replicated, state_shardings
from bonescan_jax.losses import deep_supervision_loss
from bonescan_jax.models.build import (
    ImageNetwork,
    Network,
    Tree,
    initial_weights,
    views_per_example,
)
from bonescan_jax.scans import ABNORMAL, BACKGROUND
from bonescan_jax.scans.masks import most_probable_mask

# image (B, H, W, V) uint16; mask (B, H, W, V) uint8; gain, reference (B, V) f32; sample (B,) i32
Batch = dict[str, jax.Array]


@flax.struct.dataclass
class TrainState:
    """All that a step reads and replaces."""

    step: jax.Array  # () int32, steps done
    params: Tree
    stats: Tree  # running statistics of batch normalisation
    optimizer: optax.OptState
    average: Tree  # {"params", "stats"}: exponential moving average, what is evaluated


def make_optimizer(
    settings: ml_collections.ConfigDict, num_steps: int, warmup_steps: int
) -> tuple[optax.GradientTransformation, optax.Schedule]:
    """AdamW behind gradient clipping, with linear warm-up and cosine decay to zero.

    A clip_gradient_norm of 0 clips nothing.

    AdamW: Loshchilov and Hutter, arXiv 1711.05101. Decay acts on kernels only: pulling biases and
    normalisation scales to zero would change what they normalise to, not how complex the net is.
    """
    schedule = optax.warmup_cosine_decay_schedule(
        0.0, settings.learning_rate, warmup_steps, max(num_steps, warmup_steps + 1)
    )
    limit = settings.clip_gradient_norm
    optimizer = optax.chain(
        optax.clip_by_global_norm(limit) if limit else optax.identity(),
        optax.adamw(
            schedule,
            weight_decay=settings.weight_decay,
            mask=lambda params: jax.tree.map(lambda leaf: leaf.ndim > 1, params),
        ),
    )
    return optimizer, schedule


def make_initial_state(
    config: ml_collections.ConfigDict, optimizer: optax.GradientTransformation, mesh: Mesh
) -> tuple[Callable[[], TrainState], TrainState]:
    """A jitted function that makes the first state, and that state's shapes with shardings.

    The state is born sharded: no device ever holds more of it than its part.
    """

    def init() -> TrainState:
        params, stats = initial_weights(config)
        average = {"params": params, "stats": stats}
        return TrainState(jnp.zeros((), jnp.int32), params, stats, optimizer.init(params), average)

    shapes = jax.eval_shape(init)
    shardings = state_shardings(shapes, mesh, config.mesh.shard_parameters)
    abstract = jax.tree.map(
        lambda shape, sharding: jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=sharding),
        shapes,
        shardings,
    )
    return jax.jit(init, out_shardings=shardings), abstract


def abstract_batch(config: ml_collections.ConfigDict, mesh: Mesh) -> Batch:
    """Shapes and shardings of what the input pipeline puts on the mesh for each step."""
    samples, views = config.train.batch_size, views_per_example(config)
    pixels = (samples, config.data.crop_height, config.data.crop_width, views)
    shapes = {
        "image": (pixels, jnp.uint16),
        "mask": (pixels, jnp.uint8),
        "gain": ((samples, views), jnp.float32),
        "reference": ((samples, views), jnp.float32),
        "sample": ((samples,), jnp.int32),
    }
    shardings = batch_shardings(mesh)
    return {
        name: jax.ShapeDtypeStruct(shape, dtype, sharding=shardings[name])
        for name, (shape, dtype) in shapes.items()
    }


def make_train_step(
    config: ml_collections.ConfigDict,
    network: Network | ImageNetwork,
    optimizer: optax.GradientTransformation,
    schedule: optax.Schedule,
    abstract_state: TrainState,
    mesh: Mesh,
) -> Callable[[TrainState, Batch], tuple[TrainState, dict[str, jax.Array]]]:
    """The jitted step: augment, forward, loss per head, backward, AdamW, moving average.

    The state given is donated: its memory becomes the new state's. Metrics are scalars on the
    device, and beside them under "health" what `examine` says; reading them waits for the step.
    Where a loss or a gradient is not finite, weights, moments and averages stay as they were.
    """

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, jax.Array]]:
        gradients, stats, losses = batch_gradients(config, network, mesh, state, batch)
        health = examine(batch["sample"], losses, gradients, stats)

        def update(state: TrainState) -> TrainState:
            updates, optimizer_state = optimizer.update(gradients, state.optimizer, state.params)
            params = optax.apply_updates(state.params, updates)
            current = {"params": params, "stats": stats}
            average = _moving_average(state.average, current, state.step, config.train.ema_decay)
            return TrainState(state.step + 1, params, stats, optimizer_state, average)

        with jax.named_scope("optimizer"):
            # A branch, not a choice for each number: the new state takes the place of the old.
            state = jax.lax.cond(health["finite"], update, _only_count, state)
        metrics = {
            "loss": losses.mean(),
            **{f"loss_{head}": loss for head, loss in zip(network.heads, losses, strict=True)},
            "gradient_norm": optax.global_norm(gradients),
            "learning_rate": schedule(state.step - 1),
            "health": health,
        }
        return state, metrics

    shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract_state)
    return jax.jit(
        step,
        donate_argnums=0,
        keep_unused=True,  # a stored executable takes all that the step takes
        in_shardings=(shardings, batch_shardings(mesh)),
        out_shardings=(shardings, replicated(mesh)),
    )


def batch_gradients(
    config: ml_collections.ConfigDict,
    network: Network | ImageNetwork,
    mesh: Mesh,
    state: TrainState,
    batch: Batch,
) -> tuple[Tree, Tree, jax.Array]:
    """Gradients of the loss, the statistics after the batch, and the loss of each head.

    With `train.accumulate_steps` the batch is computed in that many parts, one after the other,
    and gradients and losses are their means; running statistics and the overlap loss then see one
    part at a time.
    """
    pixels = batch_shardings(mesh)["image"]
    network = network.on(mesh)

    def loss(params: Tree, stats: Tree, part: Batch) -> tuple[jax.Array, Any]:
        with jax.named_scope("augment"):
            image, mask = augment(
                *(part[name] for name in ("image", "mask", "gain", "sample")),
                config.seed,
                config.augment,
            )
            # Moved pixels come from anywhere in a scan, so the compiler gathers whole scans;
            # without this it would leave them whole, and every device along `spatial` would do all
            # the work.
            image, mask = jax.lax.with_sharding_constraint((image, mask), (pixels, pixels))
            image = normalize(image, part["reference"])
        return TASK_LOSSES[config.task](config, network, params, stats, image, mask, part["sample"])

    def part_gradients(stats: Tree, part: Batch) -> tuple[Tree, tuple[Tree, jax.Array]]:
        gradients, (stats, losses) = jax.grad(loss, has_aux=True)(state.params, stats, part)
        return stats, (gradients, losses)

    parts = config.train.accumulate_steps
    if parts == 1:
        stats, (gradients, losses) = part_gradients(state.stats, batch)
        return gradients, stats, losses
    # Each part takes every parts-th sample, so that no sample has to change its device.
    split = {
        name: jnp.moveaxis(array.reshape(-1, parts, *array.shape[1:]), 1, 0)
        for name, array in batch.items()
    }

    def add(carry: tuple[Tree, Tree], part: Batch) -> tuple[tuple[Tree, Tree], None]:
        stats, sums = carry
        stats, new = part_gradients(stats, part)
        return (stats, jax.tree.map(jnp.add, sums, new)), None

    zeros = (jax.tree.map(jnp.zeros_like, state.params), jnp.zeros(len(network.heads)))
    (stats, sums), _ = jax.lax.scan(add, (state.stats, zeros), split)
    gradients, losses = jax.tree.map(lambda total: total / parts, sums)
    return gradients, stats, losses


# What a task makes of an augmented batch: the loss to lower, and beside it the statistics after the
# batch and the loss of each head. image (B, H, W, V) is the network's input, mask (B, H, W, V).


def segmentation_loss(
    config: ml_collections.ConfigDict,
    network: Network,
    params: Tree,
    stats: Tree,
    image: jax.Array,
    mask: jax.Array,
    sample: jax.Array,
) -> tuple[jax.Array, tuple[Tree, jax.Array]]:
    """Cross-entropy and overlap of every head with the mask."""
    del sample
    logits, lay, stats = network.class_logits(params, stats, image, True)
    with jax.named_scope("loss"):
        total, losses = deep_supervision_loss(logits, lay(mask), config.loss)
    return total, (stats, jnp.stack(losses))


def classification_loss(
    config: ml_collections.ConfigDict,
    network: ImageNetwork,
    params: Tree,
    stats: Tree,
    image: jax.Array,
    mask: jax.Array,
    sample: jax.Array,
) -> tuple[jax.Array, tuple[Tree, jax.Array]]:
    """Binary cross-entropy with the class of the mask, which is that of the image's label."""
    # Not the key of any sample, whose own are split off and not folded in twice.
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(config.seed), sample[0]), 0)
    logits, stats = network.apply(params, stats, image, _inside(mask), key)
    labels = (mask == ABNORMAL).any((1, 2, 3)).astype(jnp.float32)
    loss = optax.sigmoid_binary_cross_entropy(logits, labels).mean()
    return loss, (stats, loss[None])


TASK_LOSSES = {"segment": segmentation_loss, "classify": classification_loss}


def _inside(mask: jax.Array) -> jax.Array:
    """(B, H, W, V) of labelled images to (B, H, W) bool: where there is image in any view."""
    return (mask != BACKGROUND).any(-1)


def examine(sample: jax.Array, losses: jax.Array, gradients: Tree, stats: Tree) -> dict[str, Any]:
    """Whether all numbers of a step are finite; if they are not, where to look.

    Returns:
        "finite" (), "sample" (B,), "loss" (heads,), and "gradient" and "statistics": for each array
        of the tree its sum of squares, which is not finite if one of its numbers is not.
    """
    health = {
        "loss": losses,
        "gradient": _sums_of_squares(gradients),
        "statistics": _sums_of_squares(stats),
    }
    finite = jnp.stack([jnp.isfinite(sizes).all() for sizes in health.values()]).all()
    return {"finite": finite, "sample": sample, **health}


def _sums_of_squares(tree: Tree) -> jax.Array:
    leaves = jax.tree.leaves(tree)
    return jnp.stack([jnp.square(leaf).sum() for leaf in leaves]) if leaves else jnp.zeros(0)


def _only_count(state: TrainState) -> TrainState:
    """The state after a step that changed nothing: its counts go on, and the schedule with them."""
    return jax.tree.map(
        lambda leaf: leaf if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf + 1, state
    )


def _moving_average(average: Tree, new: Tree, step: jax.Array, decay: float) -> Tree:
    """Exponential moving average whose memory grows from the start of the run up to `decay`."""
    # (1 + t) / (10 + t): without it the random first weights would stay for 1 / (1 - decay) steps.
    decay = jnp.minimum(decay, (1.0 + step) / (10.0 + step))
    return jax.tree.map(lambda old, now: decay * old + (1 - decay) * now, average, new)


def make_predict_step(
    network: Network, mesh: Mesh
) -> Callable[[Tree, jax.Array, jax.Array], jax.Array]:
    """Jitted class probabilities of every head, and of their mean as the last predictor.

    The function takes {"params", "stats"}, images (B, H, W, V) and references (B, V), and returns
    (predictors, B, V, H, W, classes) float32, predictors = heads, then their mean (the paper's
    accurate mode) where there are several.
    """
    network = network.on(mesh)

    def predict(weights: Tree, image: jax.Array, reference: jax.Array) -> jax.Array:
        logits, _ = network.apply(
            weights["params"], weights["stats"], normalize(image, reference), False
        )
        # Held back, or XLA on a CPU makes one slow loop of the last node's convolutions and this.
        logits = jax.lax.optimization_barrier(logits)
        probabilities = jnp.moveaxis(jax.nn.softmax(jnp.stack(logits)), -2, 2)
        if len(logits) == 1:
            return probabilities
        return jnp.concatenate([probabilities, probabilities.mean(0, keepdims=True)])

    shardings = batch_shardings(mesh)
    return jax.jit(predict, in_shardings=(None, shardings["image"], shardings["reference"]))


def make_classify_step(
    network: ImageNetwork, mesh: Mesh
) -> Callable[[Tree, jax.Array, jax.Array, jax.Array], jax.Array]:
    """Jitted probabilities (B,) of being abnormal.

    The function takes {"params", "stats"}, images (B, H, W, V), masks of the same shape that are
    background where there is no image, and references (B, V).
    """

    def classify(
        weights: Tree, image: jax.Array, mask: jax.Array, reference: jax.Array
    ) -> jax.Array:
        pixels = normalize(image, reference)
        logits, _ = network.apply(weights["params"], weights["stats"], pixels, _inside(mask))
        return jax.nn.sigmoid(logits)

    shardings = batch_shardings(mesh)
    return jax.jit(
        classify,
        in_shardings=(None, shardings["image"], shardings["mask"], shardings["reference"]),
    )


@jax.jit
def overlap_counts(probabilities: jax.Array, mask: jax.Array) -> jax.Array:
    """Pixels of each foreground class, predictor and image that were found, invented or missed.

    Args:
        probabilities: (P, B, V, H, W, K); the prediction is `most_probable_mask` of them.
        mask: (B, H, W, V) true classes.

    Returns:
        (P, B V, K - 1, 3) int32 true positives, false positives, false negatives.
    """
    prediction = most_probable_mask(probabilities)
    prediction = prediction.reshape(len(prediction), -1, *prediction.shape[-2:])
    mask = jnp.moveaxis(mask, -1, 1).reshape(prediction.shape[1:])
    counts = []
    for label in range(1, probabilities.shape[-1]):
        found, true = prediction == label, mask == label
        pairs = (found & true, found & ~true, ~found & true)
        counts.append(jnp.stack([pair.sum((-2, -1), dtype=jnp.int32) for pair in pairs], -1))
    return jnp.stack(counts, -2)
