"""The state of a run and the pure functions that change and read it, jitted over a mesh."""

import functools
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
from bonescan_jax.hyperparameters import Hyperparameters, hyperparameters_of
from bonescan_jax.models.build import Tree, views_per_example
from bonescan_jax.models.transfer import is_encoder, path_name
from bonescan_jax.tasks import initial_weights, task_of
from bonescan_jax.tasks.task import AnyNetwork

# image (B, H, W, V) uint16; mask (B, H, W, V) uint8; gain, reference (B, V) f32; sample (B,) i32
Batch = dict[str, jax.Array]


@flax.struct.dataclass
class TrainState:
    """The state that a step reads and replaces."""

    step: jax.Array  # () int32, steps done
    params: Tree
    stats: Tree  # running statistics of batch normalisation
    optimizer: optax.OptState
    average: Tree  # {"params", "stats"}: exponential moving average, what is evaluated


def learning_rate(hyperparameters: Hyperparameters, step: jax.Array) -> jax.Array:
    """Of the step that follows `step` others: linear warm-up, then a cosine down to zero.

    optax.warmup_cosine_decay_schedule takes its lengths as Python numbers only.
    """
    warmup = hyperparameters.warmup_steps
    rising = step / jnp.maximum(warmup, 1)
    done = jnp.clip((step - warmup) / (hyperparameters.num_steps - warmup), 0, 1)
    falling = 0.5 * (1 + jnp.cos(jnp.pi * done))
    return hyperparameters.learning_rate * jnp.where(step < warmup, rising, falling)


def make_optimizer(
    hyperparameters: Hyperparameters, name: str = "adamw"
) -> optax.GradientTransformation:
    """config.train.optimizer behind gradient clipping, at the `learning_rate` of each step.

    The state that it keeps is the same with all hyperparameters.

    AdamW: Loshchilov and Hutter, arXiv 1711.05101. Decay acts on kernels only: pulling biases and
    normalisation scales to zero would change what they normalise to, not how complex the net is.
    Muon: Jordan et al. 2024, https://kellerjordan.github.io/posts/muon. It acts on the kernels of
    convolutions but the first, and AdamW with Nesterov's momentum and without decay on the rest.
    Its updates have the size of AdamW's (Liu et al., arXiv 2502.16982), so that learning rates
    mean the same.
    """
    limit = hyperparameters.clip_gradient_norm
    rate = functools.partial(learning_rate, hyperparameters)
    decay = hyperparameters.weight_decay
    if name == "muon":
        optimizer = optax.contrib.muon(
            rate,
            weight_decay=decay,
            muon_weight_dimension_numbers=_matrices,
            consistent_rms=_RMS_OF_ADAM,
        )
    else:
        optimizer = optax.adamw(
            rate,
            weight_decay=decay,
            mask=lambda params: jax.tree.map(lambda leaf: leaf.ndim > 1, params),
        )
    clip = optax.identity() if limit is None else optax.clip_by_global_norm(limit)
    return optax.chain(clip, optimizer)


_RMS_OF_ADAM = 0.2  # of AdamW's updates over the learning rate, arXiv 2502.16982
_FIRST = "nodes/0_0/conv1/kernel"  # reads pixels, not features: its matrix has no two like sides


def _matrices(params: Tree) -> Tree:
    """Which axes of a kernel (height, width, in, out) are the matrix of Muon; None: AdamW's."""
    numbers = optax.contrib.MuonDimensionNumbers(reduction_axis=(0, 1, 2), output_axis=3)
    return jax.tree.map_with_path(
        lambda path, leaf: numbers if leaf.ndim == 4 and path_name(path) != _FIRST else None, params
    )


def make_initial_state(
    config: ml_collections.ConfigDict, mesh: Mesh
) -> tuple[Callable[[jax.Array], TrainState], TrainState]:
    """A jitted function from seed to the first state, and that state's shapes with shardings.

    The state is born sharded: no device ever holds more of it than its part.
    """
    optimizer = make_optimizer(hyperparameters_of(config, 1, 0), config.train.optimizer)

    def init(seed: jax.Array) -> TrainState:
        params, stats = initial_weights(config, seed)
        average = {"params": params, "stats": stats}
        return TrainState(jnp.zeros((), jnp.int32), params, stats, optimizer.init(params), average)

    shapes = jax.eval_shape(init, jnp.uint32(0))
    shardings = state_shardings(shapes, mesh, config.mesh.shard_parameters)
    abstract = jax.tree.map(
        lambda shape, sharding: jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=sharding),
        shapes,
        shardings,
    )
    return jax.jit(init, out_shardings=shardings), abstract


def abstract_batch(
    config: ml_collections.ConfigDict, mesh: Mesh
) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes and shardings of the batches of the input pipeline."""
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
    network: AnyNetwork,
    abstract_state: TrainState,
    mesh: Mesh,
) -> jax.stages.Wrapped:
    """The jitted step: augment, forward, loss per head, backward, AdamW, moving average.

    Its arguments are state, batch and hyperparameters, which it does not read from the config. The
    state given is donated: its memory becomes the new state's. Metrics are scalars on the device,
    with the result of `examine` under "health"; reading them waits for the step.
    Where a loss or a gradient is not finite, weights, moments and averages stay as they were.
    """

    def step(
        state: TrainState, batch: Batch, hyperparameters: Hyperparameters
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        gradients, stats, losses = batch_gradients(
            config, network, mesh, state, batch, hyperparameters
        )
        optimizer = make_optimizer(hyperparameters, config.train.optimizer)
        health = examine(batch["sample"], losses, gradients, stats)

        def update(state: TrainState) -> TrainState:
            updates, optimizer_state = optimizer.update(gradients, state.optimizer, state.params)
            updates = _slow_encoder(updates, hyperparameters.encoder_learning_rate)
            params = optax.apply_updates(state.params, updates)
            current = {"params": params, "stats": stats}
            average = _moving_average(state.average, current, state.step, hyperparameters.ema_decay)
            return TrainState(state.step + 1, params, stats, optimizer_state, average)

        with jax.named_scope("optimizer"):
            # A branch, not a choice for each number: the new state takes the place of the old.
            state = jax.lax.cond(health["finite"], update, _only_count, state)
        metrics = {
            "loss": losses.mean(),
            **{f"loss_{head}": loss for head, loss in zip(network.heads, losses, strict=True)},
            "gradient_norm": optax.global_norm(gradients),
            "learning_rate": learning_rate(hyperparameters, state.step - 1),
            "health": health,
        }
        return state, metrics

    shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract_state)
    return jax.jit(
        step,
        donate_argnums=0,
        keep_unused=True,  # a stored executable takes all that the step takes
        in_shardings=(shardings, batch_shardings(mesh), replicated(mesh)),
        out_shardings=(shardings, replicated(mesh)),
    )


def batch_gradients(
    config: ml_collections.ConfigDict,
    network: AnyNetwork,
    mesh: Mesh,
    state: TrainState,
    batch: Batch,
    hyperparameters: Hyperparameters,
) -> tuple[Tree, Tree, jax.Array]:
    """Gradients of the loss, the statistics after the batch, and the loss of each head.

    With `train.accumulate_steps` the batch is computed in that many parts, one after the other,
    and gradients and losses are their means; running statistics and the overlap loss then see one
    part at a time.
    """
    pixels, task = batch_shardings(mesh)["image"], task_of(config)
    network = network.on(mesh)

    def loss(params: Tree, stats: Tree, part: Batch) -> tuple[jax.Array, Any]:
        with jax.named_scope("augment"):
            image, mask = augment(
                part["image"],
                part["mask"],
                part["gain"],
                part["sample"],
                hyperparameters.seed,
                hyperparameters.augment,
            )
            # Moved pixels come from anywhere in a scan, so the compiler gathers whole scans;
            # without this it would leave them whole, and every device along `spatial` would do all
            # the work.
            image, mask = jax.lax.with_sharding_constraint((image, mask), (pixels, pixels))
            image = normalize(image, part["reference"])
        return task.batch_loss(hyperparameters, network, params, stats, image, mask, part["sample"])

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


def _slow_encoder(updates: Tree, factor: jax.Array) -> Tree:
    """The updates, those of the encoder times a factor.

    After the optimizer, because AdamW divides by the size of the gradients, and not a part of its
    chain, whose state would be another one.
    """
    return jax.tree.map_with_path(
        lambda path, leaf: leaf * factor if is_encoder(path_name(path)) else leaf, updates
    )


def examine(sample: jax.Array, losses: jax.Array, gradients: Tree, stats: Tree) -> dict[str, Any]:
    """Whether all values of a step are finite; if not, where they are not.

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
    """The state after a skipped update: only the counts, and with them the schedule, advance."""
    return jax.tree.map(
        lambda leaf: leaf if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf + 1, state
    )


def _moving_average(average: Tree, new: Tree, step: jax.Array, decay: jax.Array) -> Tree:
    """Exponential moving average whose memory grows from the start of the run up to `decay`."""
    # (1 + t) / (10 + t): without it the random first weights would stay for 1 / (1 - decay) steps.
    kept = jnp.minimum(decay, (1.0 + step) / (10.0 + step))
    return jax.tree.map(lambda old, now: kept * old + (1 - kept) * now, average, new)
