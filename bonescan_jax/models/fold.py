"""Batch normalisation folded into the convolutions before it, for inference."""

import jax
from flax import nnx

from bonescan_jax.models.blocks import EPSILON, Conv3x3, ConvBlock, Norm


def fold_batch_norm(model: nnx.Module) -> None:
    """Folds each batch norm, with its running statistics, into the convolution before it.

    The statistics are constant in inference, so scale and offset go into kernel and bias, which
    saves a pass over the activations. Other norms stay as they are. The cost is one multiplication
    per weight, negligible beside a convolution, which uses each weight at every pixel.

    Args:
        model: any of the networks, changed in place and from then on for inference only.
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
    convolution.bias = nnx.data(bias)  # it was None: tells nnx that it holds an array now
