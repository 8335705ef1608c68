"""Space to depth and back: the first row of a network may take a patch of pixels as one."""

import jax


def to_patches(pixels: jax.Array, patch: int) -> jax.Array:
    """(B, H, W, C) to (B, H / patch, W / patch, C · patch²), the pixels of a channel together."""
    batch, height, width, channels = pixels.shape
    split = pixels.reshape(batch, height // patch, patch, width // patch, patch, channels)
    split = split.transpose(0, 1, 3, 5, 2, 4)
    return split.reshape(batch, height // patch, width // patch, channels * patch**2)


def from_patches(logits: jax.Array, patch: int) -> jax.Array:
    """(B, H / patch, W / patch, V, K · patch²) to (B, H, W, V, K), the inverse."""
    batch, height, width, views, channels = logits.shape
    classes = channels // patch**2
    split = logits.reshape(batch, height, width, views, classes, patch, patch)
    split = split.transpose(0, 1, 5, 2, 6, 3, 4)
    return split.reshape(batch, height * patch, width * patch, views, classes)
