"""Batch normalisation folded into the convolutions before it, for inference."""

import jax
from flax import nnx

from bonescan_jax.models.blocks import EPSILON, Conv3x3, ConvBlock, Norm


def fold_batch_norm(model: nnx.Module) -> None:
    """Makes each convolution do what the batch norm behind it would do with running statistics.

    These are constant in inference, so scale and offset go into kernel and bias, and no pass over
    the activations is left. Other norms stay as they are. It costs one multiplication a weight,
    nothing beside a convolution that uses each weight on every pixel.

    Args:
        model: any of the nets, changed in place; then for inference only.
    """
    for _, block in nnx.iter_graph(model):
        if not isinstance(block, ConvBlock) or block.norm1 is None or block.norm2 is None:
            continue
        if block.norm1.kind == "batch":
            _fold(block.conv1, block.norm1)
            _fold(block.conv2, block.norm2)
            block.norm1 = block.norm2 = None


def _fold(convolution: Conv3x3, norm: Norm) -> None:
    multiplier = norm.scale[...] * jax.lax.rsqrt(norm.variance[...] + EPSILON)
    convolution.kernel = nnx.Param(convolution.kernel[...] * multiplier)
    bias = nnx.Param(norm.bias[...] - norm.mean[...] * multiplier)
    convolution.bias = nnx.data(bias)  # there was none: told, that it holds an array now
