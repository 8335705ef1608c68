"""U-Net of the same widths as UNet++: the baseline. Ronneberger et al., arXiv 1505.04597."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from bonescan_jax.models.blocks import (
    ConvBlock,
    Head,
    UpConv,
    check_network,
    check_size,
    max_pool,
)


class UNet(nnx.Module):
    """Encoder and decoder with one skip connection per row, built from UNet++'s blocks.

    Arguments and errors are those of `UNetPlusPlus`; there is one head, so no deep supervision.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        filters: Sequence[int] = (32, 64, 128, 256, 512),
        levels: int = 4,
        norm: str = "batch",
        num_bones: int = 0,
        *,
        dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ) -> None:
        check_network(filters, levels, norm)
        self.levels = levels
        widths = [in_channels, *filters[:levels]]
        self.encoder = nnx.List(
            [ConvBlock(widths[row], filters[row], norm, dtype, rngs) for row in range(levels + 1)]
        )
        self.ups = nnx.List(
            [UpConv(filters[row + 1], filters[row], dtype, rngs) for row in range(levels)]
        )
        self.decoder = nnx.List(
            [ConvBlock(2 * filters[row], filters[row], norm, dtype, rngs) for row in range(levels)]
        )
        self.head = Head(filters[0], num_classes, dtype, rngs)
        self.bones = Head(filters[0], num_bones, dtype, rngs) if num_bones else None

    def __call__(self, x: jax.Array, train: bool) -> list[jax.Array]:
        """Images (B, H, W, in_channels) to a list of one: float32 logits (B, H, W, num_classes)."""
        check_size(x, self.levels)
        skips = [self.encoder[0]([x], train)]
        for row in range(1, self.levels + 1):
            skips.append(self.encoder[row]([max_pool(skips[-1])], train))
        x = skips.pop()
        for row in reversed(range(self.levels)):
            x = self.decoder[row]([self.ups[row](x), skips[row]], train)
        logits = self.head(x)
        if train and self.bones is not None:  # an auxiliary head for training only
            logits = jnp.concatenate([logits, self.bones(x)], -1)
        return [logits]
