"""Augmentation: image and mask move as one, counts stay counts, and a sample decides alone."""

import jax
import jax.numpy as jnp
import numpy as np

from bonescan_jax.augment import augment, denormalize, normalize
from bonescan_jax.config import default_config
from bonescan_jax.hyperparameters import Section, section

STILL = dict.fromkeys(("flip", "rotation", "scale", "shift", "uptake", "thinning", "gain"), 0.0)
STILL["hidden_view"] = 0.0


def settings(**changes: float) -> Section:
    augmentation = default_config().augment
    augmentation.update(STILL | changes)
    return section(augmentation)


def pictures(batch: int = 4) -> jax.Array:
    """Two blobs of class 1 and 2 off the middle, the same in image and mask and in both views."""
    picture = np.zeros((64, 64, 2), np.uint8)
    picture[20:30, 24:32], picture[40:50, 36:42] = 1, 2
    return jnp.asarray(np.stack([picture] * batch))


def gains(image: jax.Array) -> jax.Array:
    return jnp.full((image.shape[0], image.shape[-1]), 2.0)


def test_nothing_asked_nothing_changed():
    image = pictures()
    moved, mask = augment(image, image, gains(image), jnp.arange(4), 0, settings())
    np.testing.assert_array_equal(moved, image)
    np.testing.assert_array_equal(mask, image)


def test_image_and_mask_move_as_one_and_really_move():
    image = pictures(16)
    changes = settings(flip=0.5, rotation=10.0, scale=0.2, shift=6.0)
    moved, mask = augment(image, image, gains(image), jnp.arange(16), 0, changes)
    np.testing.assert_array_equal(moved, mask)
    assert all((moved[i] != image[i]).any() for i in range(16))
    # Nothing is interpolated, and the hot spots keep about their size.
    assert set(np.unique(moved)) == {0, 1, 2}
    sizes = np.asarray((mask == 1).sum((1, 2, 3))) / (image[0] == 1).sum()
    np.testing.assert_array_equal(mask[..., 0], mask[..., 1])
    assert 0.55 < sizes.min() and sizes.max() < 1.65
    np.testing.assert_allclose(sizes.mean(), 1, atol=0.2)


def test_flip_is_left_right():
    image = pictures()
    moved, _ = augment(image, image, gains(image), jnp.arange(4), 0, settings(flip=1.0))
    np.testing.assert_array_equal(moved, image[:, :, ::-1])


def test_a_sample_meets_the_same_changes_wherever_it_stands():
    image, changes = pictures(8), default_config().augment
    whole, _ = augment(image, image, gains(image), jnp.arange(8), 3, changes)
    part, _ = augment(image[:2], image[:2], gains(image[:2]), jnp.array([5, 2]), 3, changes)
    np.testing.assert_array_equal(part, whole[jnp.array([5, 2])])
    other_seed, _ = augment(image, image, gains(image), jnp.arange(8), 4, changes)
    assert (other_seed != whole).any()


def test_thinning_keeps_the_mean_and_adds_the_noise_of_fewer_counts():
    image = jnp.full((64, 64, 64, 2), 100, jnp.uint16)
    gain = jnp.tile(jnp.array([1.0, 3.0]), (64, 1))
    thinned, _ = augment(image, image, gain, jnp.arange(64), 0, settings(thinning=0.5))
    np.testing.assert_allclose(thinned.mean((1, 2)), 100, rtol=0.03)
    # A share p of the counts is kept, uniform in [½, 1]: variance gain · grey · (1 - p) / p.
    expected = 100 * np.mean([(1 - p) / p for p in np.linspace(0.5, 1, 1001)])
    variances = thinned.var((1, 2)).mean(0)
    np.testing.assert_allclose(variances, [expected, 3 * expected], rtol=0.25)


def test_regional_uptake_is_smooth_and_as_wide_as_asked():
    image = jnp.full((200, 96, 96, 2), 100, jnp.uint16)
    changes = settings(uptake=0.3)
    found, mask = augment(image, image > 0, gains(image), jnp.arange(200), 0, changes)
    factor = np.log(np.asarray(found) / 100)
    np.testing.assert_array_equal(factor[..., 0], factor[..., 1])
    np.testing.assert_allclose(factor[:, 16::32, 16::32].std(), 0.3, rtol=0.1)
    np.testing.assert_allclose(factor.mean(), 0, atol=0.02)
    assert np.abs(np.diff(factor, axis=1)).max() < 8 * 0.3 / 32
    assert np.asarray(mask).all()


def test_one_of_both_views_is_hidden_as_often_as_asked():
    image = pictures(400)
    shown, mask = augment(image, image, gains(image), jnp.arange(400), 0, settings(hidden_view=0.3))
    np.testing.assert_array_equal(shown, mask)
    hidden = ~np.asarray(shown).any((1, 2))
    assert not hidden.all(1).any()
    np.testing.assert_allclose(hidden.mean(0), 0.15, atol=0.05)
    single = image[..., :1]
    shown, _ = augment(single, single, gains(single), jnp.arange(400), 0, settings(hidden_view=1.0))
    np.testing.assert_array_equal(shown, single)


def test_input_is_the_root_of_brightness_relative_to_bone():
    image = jnp.array([[[0, 20, 80]], [[0, 5, 20]]], jnp.uint16)[..., None]
    reference = jnp.array([[20.0], [5.0]])
    found = normalize(image, reference)
    np.testing.assert_allclose(found[..., 0], [[[0, 1, 2]], [[0, 1, 2]]])
    np.testing.assert_allclose(denormalize(found, reference), image, rtol=1e-6)
