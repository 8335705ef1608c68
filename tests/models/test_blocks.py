"""The layers against Flax's and XLA's own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from bonescan_jax.models.blocks import Conv3x3, Norm, UpConv, max_pool


def noise(*shape: int) -> jax.Array:
    return jax.random.normal(jax.random.key(sum(shape)), shape)


def test_convolution_of_several_sources_is_that_of_their_concatenation():
    sources = [noise(2, 8, 6, 3), noise(2, 8, 6, 5)]
    layer = Conv3x3(8, 4, use_bias=True, dtype=jnp.float32, rngs=nnx.Rngs(0))
    layer.bias[...] = jnp.arange(4.0)
    reference = nnx.Conv(8, 4, (3, 3), rngs=nnx.Rngs(0))
    reference.kernel[...], reference.bias[...] = layer.kernel[...], layer.bias[...]
    expected = reference(jnp.concatenate(sources, -1))
    np.testing.assert_allclose(layer(sources), expected, rtol=1e-5, atol=1e-5)


def test_up_convolution_is_the_transposed_convolution():
    x = noise(2, 3, 5, 6)
    layer = UpConv(6, 4, dtype=jnp.float32, rngs=nnx.Rngs(0))
    # conv_transpose slides the kernel as a convolution does, so it lands mirrored.
    expected = jax.lax.conv_transpose(
        x,
        layer.kernel[...][::-1, ::-1],
        (2, 2),
        "VALID",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    found = layer(x)
    assert found.shape == (2, 6, 10, 4)
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("kind", ["convolution", "up-convolution", "norm"])
def test_gradients_of_biases_are_summed_in_float32(kind: str):
    # In bfloat16 a sum of ones stays at 256.
    x = noise(2, 32, 32, 4).astype(jnp.bfloat16)
    shared = {"dtype": jnp.bfloat16, "rngs": nnx.Rngs(0)}
    layer, apply, pixels = {
        "convolution": (Conv3x3(4, 8, True, **shared), lambda layer: layer([x]), 2048),
        "up-convolution": (UpConv(4, 8, **shared), lambda layer: layer(x), 8192),
        "norm": (Norm("batch", 4), lambda layer: layer(x, True), 2048),
    }[kind]
    gradients = nnx.grad(lambda layer: apply(layer).astype(jnp.float32).sum())(layer)
    np.testing.assert_array_equal(gradients["bias"][...], pixels)


def test_max_pool_is_xlas():
    x = noise(2, 8, 6, 3)
    window = (1, 2, 2, 1)
    expected = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, window, window, "VALID")
    np.testing.assert_array_equal(max_pool(x), expected)


@pytest.mark.parametrize("kind", ["batch", "group", "instance"])
def test_norms_are_those_of_flax(kind: str):
    x = 3 * noise(4, 6, 5, 16) + 7
    layer = Norm(kind, 16)
    layer.scale[...], layer.bias[...] = noise(16), noise(16) + 1
    groups = {"group": 8, "instance": 16}
    if kind == "batch":
        reference = nnx.BatchNorm(16, momentum=0.9, rngs=nnx.Rngs(0))
    else:
        reference = nnx.GroupNorm(16, num_groups=groups[kind], epsilon=1e-5, rngs=nnx.Rngs(0))
    reference.scale[...], reference.bias[...] = layer.scale[...], layer.bias[...]
    np.testing.assert_allclose(layer(x, train=True), reference(x), rtol=1e-4, atol=1e-4)
    if kind == "batch":
        np.testing.assert_allclose(layer.mean[...], reference.mean[...], rtol=1e-5)
        np.testing.assert_allclose(layer.variance[...], reference.var[...], rtol=1e-4)
        expected = reference(x, use_running_average=True)
        np.testing.assert_allclose(layer(x, train=False), expected, rtol=1e-4, atol=1e-4)
