"""UNet++ and U-Net: sizes of the paper, levels that really shrink, the right connections."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from bonescan_jax.models.unet import UNet
from bonescan_jax.models.unetpp import UNetPlusPlus, prune


def num_parameters(model: nnx.Module) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))


# Counted in the authors' Keras code: one input channel, one class, no normalisation, one head.
@pytest.mark.parametrize(
    ("levels", "expected"), [(4, 9_041_601), (3, 2_204_961), (2, 511_105), (1, 100_961)]
)
def test_parameters_of_the_paper(levels: int, expected: int):
    model = nnx.eval_shape(
        lambda: UNetPlusPlus(
            1, 1, levels=levels, norm="none", deep_supervision=False, rngs=nnx.Rngs(0)
        )
    )
    assert num_parameters(model) == expected


def test_parameters_of_the_unet_of_the_same_widths():
    model = nnx.eval_shape(lambda: UNet(1, 1, norm="none", rngs=nnx.Rngs(0)))
    assert num_parameters(model) == 7_759_521


def small(**options: object) -> UNetPlusPlus:
    settings = {"filters": (4, 6, 8, 10), "levels": 3, "norm": "batch"} | options
    return UNetPlusPlus(1, 3, **settings, rngs=nnx.Rngs(0))


def image(batch: int = 2) -> jax.Array:
    return jax.random.normal(jax.random.key(0), (batch, 32, 16, 1))


def test_a_head_a_column_all_at_full_size_in_float32():
    logits = small(dtype=jnp.bfloat16)(image(), train=True)
    assert [(head.shape, head.dtype) for head in logits] == [((2, 32, 16, 3), jnp.float32)] * 3
    assert len(small(deep_supervision=False)(image(), train=True)) == 1


def test_every_node_takes_part():
    """A node left unconnected would have no gradient."""
    graph, params, stats = nnx.split(small(norm="instance"), nnx.Param, ...)

    def loss(params: nnx.State) -> jax.Array:
        return sum((head**2).sum() for head in nnx.merge(graph, params, stats)(image(), True))

    for path, gradient in jax.tree.leaves_with_path(jax.grad(loss)(params)):
        assert jnp.abs(gradient).max() > 0, jax.tree_util.keystr(path)


@pytest.mark.parametrize("norm", ["none", "batch", "group", "instance"])
@pytest.mark.parametrize("level", [1, 2, 3])
def test_pruned_net_is_that_head_with_only_its_nodes(norm: str, level: int):
    model = small(norm=norm, filters=(8, 8, 16, 16))
    pruned = prune(model, level)
    np.testing.assert_array_equal(
        pruned(image(), train=False)[0], model(image(), train=False)[level - 1]
    )
    built = small(norm=norm, filters=(8, 8, 16, 16), levels=level, deep_supervision=False)
    assert num_parameters(pruned) == num_parameters(built)


def test_a_head_that_is_not_there_cannot_be_pruned_to():
    with pytest.raises(ValueError, match="level is 2, expected one with a head: 3"):
        prune(small(deep_supervision=False), 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"levels": 4}, "model.filters has 4 widths, expected 5"),
        ({"levels": 0}, "model.levels is 0"),
        ({"norm": "layer"}, "model.norm is 'layer', expected one of none, batch"),
        ({"norm": "group", "filters": (12, 8, 8, 8)}, "holds 12, expected a multiple of 8"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(options: dict, message: str):
    with pytest.raises(ValueError, match=message):
        small(**options)


def test_an_image_that_cannot_be_halved_often_enough_is_refused():
    with pytest.raises(ValueError, match="the input is 36×16, expected multiples of 8"):
        small()(jnp.zeros((1, 36, 16, 1)), train=False)
