"""The layers that UNet++ and U-Net share: convolution blocks, pooling, up-convolution, heads.

Arrays are (batch, height, width, channel). Parameters are float32; every layer computes in `dtype`
and keeps its statistics in float32.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jax.typing import DTypeLike

NORMS = ("none", "batch", "group", "instance")
GROUPS = 8  # channels of a row are split into as many groups, or fewer where it has fewer channels
EPSILON = 1e-5
BATCH_MOMENTUM = 0.9  # weight of the old running statistics in each update

# The activations saved for the backward pass when the rest is rematerialised (config.model.remat).
CONVOLUTION = "convolution"

# Zhou et al. use he-normal for every convolution.
_he_normal = nnx.initializers.he_normal()


class Norm(nnx.Module):
    """Batch, group or instance normalisation with a learned scale and bias per channel.

    Batch: Ioffe and Szegedy, arXiv 1502.03167; under `jit` with a sharded batch the mean is over
    the global batch. Group: Wu and He, arXiv 1803.08494. Instance: Ulyanov et al., arXiv
    1607.08022.
    """

    def __init__(self, kind: str, channels: int) -> None:
        self.kind = kind
        self.channels = channels
        self.scale = nnx.Param(jnp.ones(channels))
        self.bias = nnx.Param(jnp.zeros(channels))
        if kind == "batch":
            self.mean = nnx.BatchStat(jnp.zeros(channels))
            self.variance = nnx.BatchStat(jnp.ones(channels))

    def __call__(self, x: jax.Array, train: bool, inside: jax.Array | None = None) -> jax.Array:
        """Normalises (B, H, W, C); `train` uses and tracks the batch's own statistics.

        Only pixels where `inside` (B, H, W, 1) is 1 enter the statistics, all if it is not given.
        """
        axes = (0, 1, 2) if self.kind == "batch" else (1, 2)
        wide = x.astype(jnp.float32)
        if inside is None:
            moments = wide.mean(axes), (wide * wide).mean(axes)
        else:
            weight = inside.astype(jnp.float32)
            pixels = jnp.maximum(weight.sum(axes), 1.0)
            moments = (
                (wide * weight).sum(axes) / pixels,
                (wide * wide * weight).sum(axes) / pixels,
            )
        if train and self.kind == "batch":
            self.track(*moments)
        running = None
        if self.kind == "batch" and not train:
            running = {"mean": self.mean[...], "variance": self.variance[...]}
        weights = {"scale": self.scale[...], "bias": self.bias[...]}
        multiplier, offset = normalisation_line(self.kind, weights, moments, running)
        if self.kind != "batch":
            multiplier, offset = multiplier[:, None, None, :], offset[:, None, None, :]
        # In float32 for the gradients' sake, as in `_add_bias`.
        return (wide * multiplier + offset).astype(x.dtype)

    def track(self, mean: jax.Array, square: jax.Array) -> None:
        """Updates the running statistics of batch normalisation from a batch's moments."""
        variance = jnp.maximum(square - mean**2, 0.0)
        for running, new in ((self.mean, mean), (self.variance, variance)):
            kept = BATCH_MOMENTUM * running[...] + (1 - BATCH_MOMENTUM) * new
            running[...] = jax.lax.stop_gradient(kept)


def normalisation_line(
    kind: str,
    weights: dict[str, jax.Array],
    moments: tuple[jax.Array, jax.Array],
    running: dict[str, jax.Array] | None,
) -> tuple[jax.Array, jax.Array]:
    """The multiplier and the offset of each channel that a normalisation amounts to.

    Args:
        kind: batch, group or instance.
        weights: scale and bias (C,).
        moments: mean and mean square, (C,) of a batch, or (B, C) of each image for other kinds.
        running: mean and variance (C,) to normalise with instead.

    Returns:
        Multiplier and offset, of the shape of the moments, float32.
    """
    if running:
        mean, variance = running["mean"], running["variance"]
    else:
        mean, square = moments
        if kind == "group":
            groups = min(GROUPS, mean.shape[-1])
            members = mean.shape[-1] // groups
            mean, square = (
                jnp.repeat(moment.reshape(-1, groups, members).mean(-1), members, axis=-1)
                for moment in (mean, square)
            )
        variance = jnp.maximum(square - mean**2, 0.0)
    multiplier = weights["scale"] * jax.lax.rsqrt(variance + EPSILON)
    return multiplier, weights["bias"] - mean * multiplier


def _add_bias(x: jax.Array, bias: jax.Array) -> jax.Array:
    """Adds in float32, so that the bias's gradient is too: a CPU loses most of a bfloat16 sum."""
    return (x.astype(jnp.float32) + bias).astype(x.dtype)


class Conv3x3(nnx.Module):
    """3×3 convolution with zero padding over several inputs, as if they were concatenated.

    They never are: convolution is linear in its input channels, so the kernel is split instead of
    the activations being copied together.
    """

    def __init__(
        self, in_channels: int, out_channels: int, use_bias: bool, dtype: DTypeLike, rngs: nnx.Rngs
    ) -> None:
        self.dtype = dtype
        self.kernel = nnx.Param(_he_normal(rngs.params(), (3, 3, in_channels, out_channels)))
        self.bias = nnx.Param(jnp.zeros(out_channels)) if use_bias else None

    def __call__(self, sources: Sequence[jax.Array]) -> jax.Array:
        """(B, H, W, C_k) for each source k to (B, H, W, out_channels)."""
        kernel = self.kernel[...].astype(self.dtype)
        total: jax.Array | None = None
        start = 0
        for source in sources:
            stop = start + source.shape[-1]
            part = jax.lax.conv_general_dilated(
                source.astype(self.dtype),
                kernel[:, :, start:stop],
                window_strides=(1, 1),
                padding="SAME",
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
            )
            total, start = part if total is None else total + part, stop
        assert total is not None, "a convolution needs a source"
        if self.bias is not None:
            total = _add_bias(total, self.bias[...])
        return checkpoint_name(total, CONVOLUTION)


class ConvBlock(nnx.Module):
    """(3×3 convolution, normalisation if any, ReLU) twice: one node of the networks."""

    def __init__(
        self, in_channels: int, channels: int, norm: str, dtype: DTypeLike, rngs: nnx.Rngs
    ) -> None:
        # The normalisation would subtract a bias again.
        use_bias = norm == "none"
        self.conv1 = Conv3x3(in_channels, channels, use_bias, dtype, rngs)
        self.conv2 = Conv3x3(channels, channels, use_bias, dtype, rngs)
        self.norm1 = None if norm == "none" else Norm(norm, channels)
        self.norm2 = None if norm == "none" else Norm(norm, channels)

    def __call__(self, sources: Sequence[jax.Array], train: bool) -> jax.Array:
        """(B, H, W, C_k) for each source to (B, H, W, channels)."""
        x = self.conv1(sources)
        x = jax.nn.relu(x if self.norm1 is None else self.norm1(x, train))
        x = self.conv2([x])
        return jax.nn.relu(x if self.norm2 is None else self.norm2(x, train))


class UpConv(nnx.Module):
    """2×2 transposed convolution of stride 2, bias, no activation.

    Windows of stride 2 do not overlap, so this is a matrix product to four times the channels and a
    depth-to-space. It needs no neighbouring pixels, and so no communication on a spatial mesh.
    """

    def __init__(
        self, in_channels: int, out_channels: int, dtype: DTypeLike, rngs: nnx.Rngs
    ) -> None:
        self.dtype = dtype
        # Each output pixel sees in_channels inputs, once: he-normal with that fan-in.
        weights = _he_normal(rngs.params(), (in_channels, 4 * out_channels))
        weights = weights.reshape(in_channels, 2, 2, out_channels).transpose(1, 2, 0, 3)
        self.kernel = nnx.Param(weights)
        self.bias = nnx.Param(jnp.zeros(out_channels))

    def __call__(self, x: jax.Array) -> jax.Array:
        """(B, H, W, in_channels) to (B, 2H, 2W, out_channels)."""
        batch, height, width, _ = x.shape
        kernel, x = self.kernel[...].astype(self.dtype), x.astype(self.dtype)
        # One product for each of the two output rows leaves their pixels in order, so that only
        # whole rows have to be moved.
        rows = [jnp.einsum("bhwc,xcf->bhwxf", x, taps) for taps in kernel]
        rows = [row.reshape(batch, height, 1, 2 * width, -1) for row in rows]
        up = jnp.concatenate(rows, 2).reshape(batch, 2 * height, 2 * width, -1)
        return _add_bias(up, self.bias[...])


class Head(nnx.Module):
    """1×1 convolution to float32 class logits."""

    def __init__(
        self, in_channels: int, num_classes: int, dtype: DTypeLike, rngs: nnx.Rngs
    ) -> None:
        self.dtype = dtype
        self.kernel = nnx.Param(_he_normal(rngs.params(), (in_channels, num_classes)))
        self.bias = nnx.Param(jnp.zeros(num_classes))

    def __call__(self, x: jax.Array) -> jax.Array:
        """(B, H, W, in_channels) to float32 logits (B, H, W, num_classes)."""
        logits = jnp.einsum(
            "bhwc,ck->bhwk",
            x.astype(self.dtype),
            self.kernel[...].astype(self.dtype),
            preferred_element_type=jnp.float32,
        )
        return logits + self.bias[...]


def max_pool(x: jax.Array) -> jax.Array:
    """2×2 max-pool of stride 2: (B, H, W, C) to (B, H/2, W/2, C); H and W must be even."""
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height // 2, 2, width // 2, 2, channels)
    # Not `max` over both axes: its gradient first counts equal maxima.
    x = jnp.maximum(x[:, :, 0], x[:, :, 1])
    return jnp.maximum(x[:, :, :, 0], x[:, :, :, 1])


def check_network(filters: Sequence[int], levels: int, norm: str) -> None:
    """Raises ValueError unless there is a width for each row and the norm is known."""
    if not 1 <= levels < len(filters) + 1:
        raise ValueError(f"model.levels is {levels}, expected 1 or more")
    if len(filters) < levels + 1:
        raise ValueError(
            f"model.filters has {len(filters)} widths, expected {levels + 1}: one for each of the "
            f"rows 0 to model.levels ({levels})"
        )
    if norm not in NORMS:
        raise ValueError(f"model.norm is {norm!r}, expected one of {', '.join(NORMS)}")
    if norm == "group":
        for width in filters[: levels + 1]:
            if width % min(GROUPS, width):
                raise ValueError(
                    f"model.filters holds {width}, expected a multiple of {GROUPS} for group norm"
                )


def check_size(x: jax.Array, levels: int) -> None:
    """Raises ValueError unless height and width can be halved `levels` times."""
    _, height, width, _ = x.shape
    if height % 2**levels or width % 2**levels:
        raise ValueError(
            f"the input is {height}×{width}, expected multiples of {2**levels} "
            f"for {levels} levels of 2×2 pooling"
        )
