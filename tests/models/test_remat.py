"""Activations computed again in the backward pass: the same gradients from less memory."""

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from bonescan_jax.models.build import Tree
from bonescan_jax.tasks import build_network, initial_weights


def test_same_gradients_from_fewer_residuals(small_config: ml_collections.ConfigDict):
    params, stats = initial_weights(small_config, small_config.seed)
    image = jax.random.normal(jax.random.key(0), (2, 32, 16, 1))
    gradients, kept = {}, {}
    for remat in ("none", "activations"):
        small_config.model.remat = remat
        network = build_network(small_config)

        def loss(params: Tree, network=network) -> jax.Array:
            heads, _ = network.apply(params, stats, image, True)
            return sum(jnp.square(head).mean() for head in heads)

        gradients[remat] = jax.jit(jax.grad(loss))(params)
        residuals = jax.eval_shape(lambda params, loss=loss: jax.vjp(loss, params)[1], params)
        kept[remat] = sum(leaf.size for leaf in jax.tree.leaves(residuals))
    # Beside each convolution's output its normalisation, ReLU and so on are kept otherwise.
    assert kept["activations"] < 0.7 * kept["none"]
    for found, expected in zip(
        *(jax.tree.leaves(gradients[remat]) for remat in ("activations", "none")), strict=True
    ):
        scale = float(jnp.abs(expected).max())
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4 * scale)
