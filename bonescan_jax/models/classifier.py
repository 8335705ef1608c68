"""Image-level classification: the encoder column of UNet++, global pooling and one dense layer."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from bonescan_jax.models.blocks import ConvBlock, check_network, check_size, max_pool

PRIOR_LOGIT = -1.0  # a probability of 0.27


class InsideBlock(ConvBlock):
    """A ConvBlock whose outputs are zero outside the image, as beyond the edge of an array.

    What lies outside does not enter the statistics of normalisation either. So what an image gives
    does not depend on the size of the array it lies in.
    """

    def __call__(  # type: ignore[override]  # it has an argument more
        self, sources: Sequence[jax.Array], inside: jax.Array, train: bool
    ) -> jax.Array:
        """(B, H, W, C_k) for each source, inside (B, H, W, 1) 0 or 1, to (B, H, W, channels)."""
        x = self.conv1(sources)
        x = jax.nn.relu(x if self.norm1 is None else self.norm1(x, train, inside)) * inside
        x = self.conv2([x])
        return jax.nn.relu(x if self.norm2 is None else self.norm2(x, train, inside)) * inside


class Classifier(nnx.Module):
    """X^{0,0} … X^{levels,0} of UNet++, then mean and maximum over the image, then a logit.

    A lesion covers a few pixels of an image: the maximum detects it wherever it lies, the mean
    describes the rest of the image.

    Args:
        in_channels: channels of the input.
        filters: channels of row 0, 1, …; rows beyond `levels` are not built.
        levels: how many times the image is halved.
        norm: none, batch, group or instance.
        dropout: dropout rate of the pooled features in training.
        dtype: of the activations; parameters are float32.
        rngs: source of the initial weights.

    Raises:
        ValueError: `filters`, `levels` or `norm` do not fit together.
    """

    def __init__(
        self,
        in_channels: int,
        filters: Sequence[int] = (32, 64, 128, 256, 512),
        levels: int = 4,
        norm: str = "batch",
        dropout: float = 0.0,
        *,
        dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ) -> None:
        check_network(filters, levels, norm)
        self.levels = levels
        self.dropout = dropout
        widths = [in_channels, *filters]
        nodes = {
            f"{row}_0": InsideBlock(widths[row], filters[row], norm, dtype, rngs)
            for row in range(levels + 1)
        }
        self.nodes = nnx.Dict(nodes)
        # Most images are normal. From even odds, the first steps would teach every feature just
        # that, and none to detect a hot spot. (Lin et al., arXiv 1708.02002, too.)
        self.kernel = nnx.Param(jnp.zeros((2 * filters[levels], 1)))
        self.bias = nnx.Param(jnp.full(1, PRIOR_LOGIT))

    def __call__(
        self, x: jax.Array, inside: jax.Array, train: bool, key: jax.Array | None = None
    ) -> jax.Array:
        """The logit that an image is abnormal.

        Args:
            x: images (B, H, W, in_channels); H and W multiples of 2**levels.
            inside: (B, H, W) bool, where the array holds image and not padding.
            train: normalise with the batch's own statistics and track them.
            key: for dropout; required if `train` and `dropout` are set.

        Returns:
            (B,) float32.
        """
        check_size(x, self.levels)
        inside = inside[..., None].astype(x.dtype)
        x = x * inside
        for row in range(self.levels + 1):
            if row:
                x, inside = max_pool(x), max_pool(inside)
            x = self.nodes[f"{row}_0"]([x], inside.astype(x.dtype), train)
        x = x.astype(jnp.float32)
        mean = x.sum((1, 2)) / jnp.maximum(inside.astype(jnp.float32).sum((1, 2)), 1.0)
        features = jnp.concatenate([mean, x.max((1, 2))], axis=-1)
        if train and self.dropout:
            assert key is not None, "dropout needs a key"
            kept = jax.random.bernoulli(key, 1 - self.dropout, features.shape)
            features = features * kept / (1 - self.dropout)
        return (features @ self.kernel[...] + self.bias[...])[:, 0]
