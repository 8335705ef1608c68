"""Patches of pixels as the first row's pixels: what lies where, plain and packed."""

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

from bonescan_jax.config import default_config, validate
from bonescan_jax.errors import InputError
from bonescan_jax.hyperparameters import hyperparameters_of
from bonescan_jax.losses import deep_supervision_loss
from bonescan_jax.models import cells
from bonescan_jax.models.build import Network
from bonescan_jax.models.patches import from_patches, to_patches
from bonescan_jax.tasks import build_network, initial_weights


def settings(patch: int, views: str = "both", task: str = "segment") -> ml_collections.ConfigDict:
    config = default_config()
    config.task, config.data.views = task, views
    if task == "classify":
        config.data.name = "regions"
    config.model.filters, config.model.levels, config.model.patch = (4, 8, 16), 2, patch
    config.model.dtype = "float32"
    return config


def test_a_patch_holds_its_own_pixels():
    pixels = jax.random.normal(jax.random.key(0), (2, 8, 4, 3))
    patches = to_patches(pixels, 2)
    assert patches.shape == (2, 4, 2, 12)
    for channel in range(3):
        own = patches[1, 3, 1, 4 * channel : 4 * channel + 4].reshape(2, 2)
        np.testing.assert_array_equal(own, pixels[1, 6:8, 2:4, channel])


def test_logits_of_patches_come_back_to_their_pixels():
    logits = jax.random.normal(jax.random.key(0), (2, 8, 4, 2, 3))  # of 2 views, 3 classes
    patches = to_patches(logits.reshape(2, 8, 4, 6), 2).reshape(2, 4, 2, 2, 12)
    np.testing.assert_array_equal(from_patches(patches, 2), logits)


@pytest.mark.parametrize("packed", ["off", "on"])
@pytest.mark.parametrize("patch", [2, 4])
def test_the_loss_is_that_of_the_logits_of_pixels(
    patch: int, packed: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(cells, "LANES", 16)
    config = settings(patch)
    network, (params, stats) = build_network(config), initial_weights(config, 0)
    assert isinstance(network, Network)
    network = network._replace(packed=packed)
    image = jax.random.uniform(jax.random.key(1), (2, 32, 16, 2))
    mask = jax.random.randint(jax.random.key(2), image.shape, 0, 3).astype(jnp.uint8)
    weights = hyperparameters_of(config, 1, 0).loss
    heads, _ = network.class_logits(params, stats, image, False)
    pixels, _ = network.apply(params, stats, image, False)
    assert pixels[0].shape == (*image.shape, 3)
    _, losses = deep_supervision_loss(heads.classes, heads.lay(mask), weights)
    _, expected = deep_supervision_loss([jnp.moveaxis(p, -1, 0) for p in pixels], mask, weights)
    np.testing.assert_allclose(losses, expected, rtol=1e-5)


def test_packed_patches_give_what_plain_ones_give(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(cells, "LANES", 16)
    config = settings(2)
    network, (params, stats) = build_network(config), initial_weights(config, 0)
    assert isinstance(network, Network)
    image = jax.random.uniform(jax.random.key(1), (2, 32, 16, 2))
    plain, _ = network._replace(packed="off").apply(params, stats, image, False)
    packed, _ = network._replace(packed="on").apply(params, stats, image, False)
    for expected, found in zip(plain, packed, strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_classifier_reads_patches_and_leaves_padding_out():
    config = settings(2, "each", "classify")
    network, (params, stats) = build_network(config), initial_weights(config, 0)
    image = jax.random.uniform(jax.random.key(1), (1, 32, 16, 1))
    inside = jnp.zeros((1, 32, 16), bool).at[:, 8:24, 4:12].set(True)
    logits, _ = network.apply(params, stats, image, inside)
    beside, _ = network.apply(params, stats, jnp.where(inside[..., None], image, 9.0), inside)
    assert logits.shape == (1,)
    np.testing.assert_array_equal(logits, beside)


@pytest.mark.parametrize(("patch", "crop"), [(3, 1024), (4, 1000)])
def test_patches_that_do_not_fit_are_refused(patch: int, crop: int):
    config = settings(patch)
    config.data.crop_height = crop
    with pytest.raises(InputError, match="patch"):
        validate(config)
