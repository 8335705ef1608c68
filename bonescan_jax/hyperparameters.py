"""The numbers of a config that the step takes as arguments: other values need no compilation."""

from collections.abc import Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import ml_collections

# Setting to scalar, or (classes,) for class weights. None is a 0 that leaves a part of the step
# out: that part is then not compiled at all, so a value above 0 makes another program.
Section = Mapping[str, Any]

# Of these a 0 is a value like any other.
_NO_SWITCHES = ("false_positive_weight", "false_negative_weight")


@flax.struct.dataclass
class Hyperparameters:
    """What the step computes with beside state and batch; () float32 where nothing else is said."""

    seed: jax.Array  # uint32
    num_steps: jax.Array  # the learning rate is zero from there on
    warmup_steps: jax.Array
    learning_rate: jax.Array  # the peak
    encoder_learning_rate: jax.Array  # relative to that of the other weights
    weight_decay: jax.Array
    clip_gradient_norm: jax.Array | None
    ema_decay: jax.Array
    augment: Section
    loss: Section


def hyperparameters_of(
    config: ml_collections.ConfigDict, num_steps: int, warmup_steps: int
) -> Hyperparameters:
    """The hyperparameters of a config.

    Args:
        config: of the run.
        num_steps: of the whole run.
        warmup_steps: until the learning rate reaches its peak.
    """
    train = config.train
    return Hyperparameters(
        seed=jnp.uint32(config.seed),
        num_steps=jnp.float32(max(num_steps, warmup_steps + 1)),
        warmup_steps=jnp.float32(warmup_steps),
        learning_rate=jnp.float32(train.learning_rate),
        encoder_learning_rate=jnp.float32(train.encoder_learning_rate),
        weight_decay=jnp.float32(train.weight_decay),
        clip_gradient_norm=_or_none(train.clip_gradient_norm),
        ema_decay=jnp.float32(train.ema_decay),
        augment=section(config.augment),
        loss=section(config.loss),
    )


def section(settings: ml_collections.ConfigDict) -> Section:
    """The scalars of config.augment or config.loss."""
    return {
        name: jnp.float32(value) if name in _NO_SWITCHES else _or_none(value)
        for name, value in settings.items()
    }


def _or_none(value: float | tuple[float, ...]) -> jax.Array | None:
    return None if value == 0 else jnp.float32(value)
