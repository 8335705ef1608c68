"""UNet++ with deep supervision: Zhou et al., arXiv 1807.10165 and arXiv 1912.05074."""

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


class UNetPlusPlus(nnx.Module):
    """The nested U-Net: node X^{i,j} stands in row i (resolution) and column j (depth of nesting).

    X^{i,0} is the encoder, with a 2×2 max-pool between rows. For j > 0,
    X^{i,j} = block(up(X^{i+1,j-1}), X^{i,0}, …, X^{i,j-1}). With deep supervision a head reads each
    of X^{0,1} … X^{0,levels}; without it, only the last. Only the nodes that the deepest head
    needs, i + j ≤ levels, exist.

    Args:
        in_channels: channels of the input.
        num_classes: classes of each head's logits.
        filters: channels of row 0, 1, …; rows beyond `levels` are not built.
        levels: depth, L1 … L4 of the paper: how many times the image is halved.
        norm: none (as the authors), batch, group or instance.
        deep_supervision: a head on every X^{0,j} instead of on the last only.
        num_bones: outputs of an auxiliary head beside each, which is there for training only.
        dtype: of the activations; parameters are float32.
        rngs: source of the initial weights.

    Raises:
        ValueError: `filters`, `levels` or `norm` do not fit together.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        filters: Sequence[int] = (32, 64, 128, 256, 512),
        levels: int = 4,
        norm: str = "batch",
        deep_supervision: bool = True,
        num_bones: int = 0,
        *,
        dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ) -> None:
        check_network(filters, levels, norm)
        self.levels = levels
        self.supervised = tuple(range(1, levels + 1)) if deep_supervision else (levels,)
        nodes, ups = {}, {}
        for row, column in node_order(levels):
            if column == 0:
                width = in_channels if row == 0 else filters[row - 1]
            else:
                ups[f"{row}_{column}"] = UpConv(filters[row + 1], filters[row], dtype, rngs)
                width = (column + 1) * filters[row]
            nodes[f"{row}_{column}"] = ConvBlock(width, filters[row], norm, dtype, rngs)
        self.nodes = nnx.Dict(nodes)
        self.ups = nnx.Dict(ups)

        def heads(outputs: int) -> nnx.Dict:
            each = {
                f"{column}": Head(filters[0], outputs, dtype, rngs) for column in self.supervised
            }
            return nnx.Dict(each)

        self.heads = heads(num_classes)
        self.bones = heads(num_bones) if num_bones else nnx.Dict({})

    def __call__(self, x: jax.Array, train: bool) -> list[jax.Array]:
        """Logits of every head, the shallowest first.

        Args:
            x: images (B, H, W, in_channels); H and W multiples of 2**levels.
            train: normalise with the batch's own statistics and track them.

        Returns:
            For each supervised column float32 logits (B, H, W, num_classes), all at full size; in
            training with those of the auxiliary head behind them.
        """
        check_size(x, self.levels)
        outputs: dict[tuple[int, int], jax.Array] = {}
        for row, column in node_order(self.levels):
            name = f"{row}_{column}"
            with jax.named_scope(f"X{name}"):
                if column == 0:
                    sources = [x if row == 0 else max_pool(outputs[row - 1, 0])]
                else:
                    up = self.ups[name](outputs[row + 1, column - 1])
                    sources = [up, *(outputs[row, earlier] for earlier in range(column))]
                outputs[row, column] = self.nodes[name](sources, train)
        with jax.named_scope("heads"):
            heads = [self.heads, self.bones] if train and self.bones else [self.heads]
            return [
                jnp.concatenate([each[f"{column}"](outputs[0, column]) for each in heads], -1)
                for column in self.supervised
            ]


def node_order(levels: int) -> list[tuple[int, int]]:
    """(row, column) of every node with row + column ≤ levels, each after all that it reads."""
    return [(depth - column, column) for depth in range(levels + 1) for column in range(depth + 1)]


def prune(model: UNetPlusPlus, level: int) -> UNetPlusPlus:
    """A copy of the network pruned to `level` levels and the head there: the paper's fast mode.

    Its output equals that of the same head in the whole network. Nodes that only deeper heads need
    are removed, so it is cheaper.

    Raises:
        ValueError: the network has no head at that level.
    """
    if level not in model.supervised:
        heads = ", ".join(map(str, model.supervised))
        raise ValueError(f"level is {level}, expected one with a head: {heads}")
    pruned = nnx.clone(model)
    pruned.levels = level
    pruned.supervised = (level,)
    kept = [f"{row}_{column}" for row, column in node_order(level)]
    pruned.nodes = nnx.Dict({name: pruned.nodes[name] for name in kept})
    pruned.ups = nnx.Dict({name: pruned.ups[name] for name in kept if name in pruned.ups})
    pruned.heads = nnx.Dict({f"{level}": pruned.heads[f"{level}"]})
    pruned.bones = nnx.Dict({})
    return pruned
