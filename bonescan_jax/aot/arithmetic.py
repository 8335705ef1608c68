"""FLOPs and saved bytes of a training step by its formulas, independent of compiler and device."""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from jax.extend.core import Jaxpr, jaxprs_in_params

from bonescan_jax.hyperparameters import hyperparameters_of
from bonescan_jax.models.build import Network, Tree, views_per_example
from bonescan_jax.tasks import build_network, initial_weights, task_of


def training_flops(config: ml_collections.ConfigDict) -> float:
    """Multiplications and additions of the network in one training step and example.

    Those of the plain network's convolutions and matrix products, forward and backward, each
    multiply-add as two; padding counts like pixels.
    """
    loss, shapes = _plain_loss(config, 1)
    return count_flops(jax.make_jaxpr(jax.grad(loss, has_aux=True))(*shapes).jaxpr)


def saved_bytes(config: ml_collections.ConfigDict) -> int:
    """What automatic differentiation saves of a plain forward pass for the backward pass.

    All arrays of the residuals, activations and the weights that multiply gradients, of the
    examples that are computed at once; what a compiler saves can be less, or more.
    """
    loss, (params, *others) = _plain_loss(
        config, config.train.batch_size // config.train.accumulate_steps
    )

    def residuals(params: Tree, *others: Any) -> Any:  # noqa: ANN401
        return jax.vjp(lambda params: loss(params, *others), params, has_aux=True)[1]

    saved = jax.tree.leaves(jax.eval_shape(residuals, params, *others))
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in saved)


def _plain_loss(
    config: ml_collections.ConfigDict, examples: int
) -> tuple[Callable[..., tuple[jax.Array, Any]], tuple[Any, ...]]:
    """The loss of the plain network on one device, and the shapes of its arguments."""
    network = build_network(config)
    if isinstance(network, Network):
        network = network._replace(packed="off")

    loss = functools.partial(task_of(config).batch_loss, hyperparameters_of(config, 1, 0), network)
    pixels = (examples, config.data.crop_height, config.data.crop_width, views_per_example(config))
    batch = ((pixels, jnp.float32), (pixels, jnp.uint8), ((examples,), jnp.int32))
    weights = jax.eval_shape(lambda: initial_weights(config, config.seed))
    return loss, (*weights, *(jax.ShapeDtypeStruct(*each) for each in batch))


def count_flops(jaxpr: Jaxpr) -> float:
    """Of its convolutions and matrix products, each multiply-add as two.

    Padding counts like pixels; the zeros between the pixels of a dilated convolution do not.
    """
    total = 0.0
    for equation in jaxpr.eqns:
        shapes = [_shape(variable.aval) for variable in equation.invars]
        results = math.prod(_shape(equation.outvars[0].aval)) if equation.outvars else 0
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            total += 2 * results * math.prod(shapes[0][axis] for axis in contracted)
        elif equation.primitive.name == "conv_general_dilated":
            features = equation.params["dimension_numbers"].rhs_spec[0]
            dilation = math.prod(equation.params["lhs_dilation"])
            total += 2 * results * math.prod(shapes[1]) / shapes[1][features] / dilation
        else:
            inner = sum(count_flops(each) for each in jaxprs_in_params(equation.params))
            total += inner * equation.params.get("length", 1)  # a scan's
    return total


def _shape(aval: Any) -> tuple[int, ...]:  # noqa: ANN401 - JAX's type of values has no shape
    return np.shape(aval)
