"""Normalisation and augmentation on the device: grey values to network input.

Everything random is a function of (seed, global sample index), so a sample is augmented in the
same way on any number of devices and after a restart.
"""

import math

import jax
import jax.numpy as jnp

from bonescan_jax.hyperparameters import Section

REGION = 48  # pixels, 11 cm: at most between two independent values of `augment.uptake`


def normalize(image: jax.Array, reference: jax.Array) -> jax.Array:
    """Values to network input: the square root of brightness relative to bone.

    The square root gives Poisson counts the same spread at every brightness (Bartlett 1936), and
    keeps a full bladder, 30 times as bright as bone, within a few units.

    Args:
        image: (B, H, W, V) grey values or counts of V views.
        reference: (B, V) the same unit, brightness of bone (`scans.counts.bone_reference`).

    Returns:
        (B, H, W, V) float32.
    """
    relative = image.astype(jnp.float32) / reference[:, None, None, :]
    return jnp.sqrt(jnp.maximum(relative, 0.0))


def denormalize(network_input: jax.Array, reference: jax.Array) -> jax.Array:
    """The inverse of `normalize`: (B, H, W, V) network input back to values."""
    return network_input**2 * reference[:, None, None, :]


def augment(
    image: jax.Array,
    mask: jax.Array,
    gain: jax.Array,
    sample: jax.Array,
    seed: int | jax.Array,
    settings: Section,
) -> tuple[jax.Array, jax.Array]:
    """Applies random geometry, uptake, thinning and brightness to each scan.

    All views of a scan are changed alike.

    Args:
        image: (B, H, W, V) uint16 grey values.
        mask: (B, H, W, V) uint8 classes.
        gain: (B, V) grey levels per count.
        sample: (B,) global sample indices, the source of randomness.
        seed: config.seed.
        settings: `section` of config.augment.

    Returns:
        The augmented image, float32, and mask, uint8.
    """
    keys = jax.vmap(lambda index: jax.random.fold_in(jax.random.key(seed), index))(sample)

    def one(
        key: jax.Array, image: jax.Array, mask: jax.Array, gain: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        move_key, thin_key, gain_key, hide_key = jax.random.split(key, 4)
        image, mask = _move(move_key, image, mask, settings)
        image = image.astype(jnp.float32)
        if (deviation := settings["uptake"]) is not None:
            image *= _regional_uptake(jax.random.fold_in(key, 1), image.shape, deviation)
        image = _thin(thin_key, image, gain, settings["thinning"])
        if (most := settings["gain"]) is not None:
            image *= 1 + jax.random.uniform(gain_key, minval=-most, maxval=most)
        shown = _shown(hide_key, image.shape[-1], settings["hidden_view"])
        return image * shown, mask * shown

    return jax.vmap(one)(keys, image, mask, gain)


def _move(
    key: jax.Array, image: jax.Array, mask: jax.Array, settings: Section
) -> tuple[jax.Array, jax.Array]:
    """Flips, rotates, scales and shifts (H, W, V) image and mask alike.

    Each target pixel takes its nearest source pixel: interpolation would smooth the Poisson noise,
    and the network would learn noise that no scan has.
    """
    height, width, _ = image.shape
    # One integer per pixel, so that image and mask cost one gather; the low 8 bits are the mask.
    both = (image.astype(jnp.uint32) << 8) | mask
    flip, turn, scale, shift = jax.random.split(key, 4)
    if settings["flip"] is not None:
        both = jnp.where(jax.random.bernoulli(flip, settings["flip"]), both[:, ::-1], both)

    amounts = [settings[name] for name in ("rotation", "scale", "shift")]
    if any(amount is not None for amount in amounts):
        rotation, stretch, distance = (0.0 if amount is None else amount for amount in amounts)
        angle = jnp.deg2rad(rotation) * jax.random.uniform(turn, minval=-1, maxval=1)
        zoom = 1 + stretch * jax.random.uniform(scale, minval=-1, maxval=1)
        offset = distance * jax.random.uniform(shift, (2,), minval=-1, maxval=1)
        both = both[_source(angle, zoom, offset, height, width)]
    return (both >> 8).astype(image.dtype), (both & 255).astype(mask.dtype)


def _source(
    angle: jax.Array, zoom: jax.Array, offset: jax.Array, height: int, width: int
) -> tuple[jax.Array, jax.Array]:
    """Rows and columns, (H, W) each, that the pixels of a moved scan come from."""
    y = jnp.arange(height)[:, None] - (height - 1) / 2
    x = jnp.arange(width)[None, :] - (width - 1) / 2
    cos, sin = jnp.cos(angle) / zoom, jnp.sin(angle) / zoom
    row = cos * y - sin * x + offset[0] + (height - 1) / 2
    column = sin * y + cos * x + offset[1] + (width - 1) / 2
    return _reflect(row, height), _reflect(column, width)


def _reflect(position: jax.Array, size: int) -> jax.Array:
    """Nearest pixel index; beyond an edge the scan is reflected."""
    index = jnp.abs(jnp.round(position).astype(jnp.int32))
    return jnp.clip(jnp.minimum(index, 2 * (size - 1) - index), 0, size - 1)


def _regional_uptake(key: jax.Array, shape: tuple[int, ...], deviation: jax.Array) -> jax.Array:
    """(H, W, 1) smooth factors around 1, whose logarithms have this standard deviation."""
    height, width = (-(-size // REGION) + 1 for size in shape[:2])
    coarse = deviation * jax.random.normal(key, (height, width, 1))
    return jnp.exp(jax.image.resize(coarse, (*shape[:2], 1), "linear"))


def _thin(key: jax.Array, image: jax.Array, gain: jax.Array, most: jax.Array | None) -> jax.Array:
    """Simulates a shorter acquisition: keeps a share p of the counts and scales them by 1/p.

    Keeping each of n counts with probability p leaves a binomial with variance n p (1 − p); here
    its normal approximation, in grey values of `gain` levels per count.
    """
    if most is None:
        return image
    share_key, noise_key = jax.random.split(key)
    kept = 1 - most * jax.random.uniform(share_key)
    spread = jnp.sqrt(gain * image * (1 - kept) / kept)
    return jnp.maximum(image + spread * _noise(noise_key, image.shape), 0.0)


def _noise(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Approximately normal noise of mean 0 and variance 1, within ±3.5.

    `jax.random.normal` would cost more than the rest of the augmentation. This is the sum of the
    four bytes of a hash of the pixel's number (the last steps of MurmurHash3, public domain, by
    A. Appleby), seeded by the key; the sum of four uniform numbers is close enough to normal.
    """
    bits = jnp.arange(math.prod(shape), dtype=jnp.uint32).reshape(shape)
    bits = bits * jnp.uint32(0x9E3779B1) + jax.random.bits(key)
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        bits = (bits ^ (bits >> shift)) * jnp.uint32(factor)
    bits ^= bits >> 16
    first, *others = ((bits >> shift) & 255 for shift in (0, 8, 16, 24))
    total = sum(others, first)
    return (total.astype(jnp.float32) - 510) / math.sqrt(4 * (256**2 - 1) / 12)


def _shown(key: jax.Array, views: int, probability: jax.Array | None) -> jax.Array:
    """(V,) uint8: 0 for the one of two views that is blanked with this probability, else 1.

    This teaches the network to use one view alone; the mask of a hidden view is background.
    """
    if views == 1 or probability is None:
        return jnp.ones(views, jnp.uint8)
    hide_key, which_key = jax.random.split(key)
    hidden = jax.random.randint(which_key, (), 0, views)
    hides = jax.random.bernoulli(hide_key, probability)
    return 1 - (hides & (jnp.arange(views) == hidden)).astype(jnp.uint8)
