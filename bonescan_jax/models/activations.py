"""Activations of the packed network: raw convolution outputs that are normalised when read."""

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from bonescan_jax.models.blocks import normalisation_line
from bonescan_jax.models.cells import Cell

Tree = Any  # nested dictionaries of arrays
Moments = tuple[jax.Array, jax.Array]  # mean and mean square of each channel
Line = tuple[jax.Array, jax.Array]  # multiplier and offset


class Plan(NamedTuple):
    """What does not change during a run: the network and how it is computed."""

    levels: int
    supervised: tuple[int, ...]
    norm: str
    dtype: Any
    cells: tuple[Cell, ...]  # of each row
    size: Cell  # height and width of the images
    shards: int  # equal parts that the devices split the batch into

    @property
    def per_image(self) -> bool:
        """Whether each image is normalised by its own statistics, and not by the batch's."""
        return self.norm in ("group", "instance")

    def pixels(self, row: int) -> int:
        """Number of pixels of an image in this row."""
        return (self.size[0] >> row) * (self.size[1] >> row)


class Activation(NamedTuple):
    """Input of a node: max(raw · multiplier + offset, 0), or raw itself without a line.

    raw is (rows, columns, batch, lanes), the others float32 (1 or batch, lanes).
    """

    raw: jax.Array
    line: Line | None = None

    def read(self) -> jax.Array:
        """The values; XLA fuses this into whatever reads them."""
        return read_all([self])


def read_all(sources: Sequence[Activation]) -> jax.Array:
    """Concatenates activations along the lanes."""
    raw = jnp.concatenate([source.raw for source in sources], -1)
    if all(source.line is None for source in sources):
        return raw
    lines = []
    for source in sources:
        lanes = source.raw.shape[-1]
        if source.line is None:
            lines.append([jnp.full((1, lanes), value) for value in (1.0, 0.0, -jnp.inf)])
        else:
            lines.append([*source.line, jnp.zeros((1, lanes))])
    images = max(line[0].shape[0] for line in lines)
    multiplier, offset, floor = (
        jnp.concatenate([jnp.broadcast_to(part, (images, part.shape[1])) for part in parts], -1)
        for parts in zip(*lines, strict=True)
    )
    return jnp.maximum(raw.astype(jnp.float32) * multiplier + offset, floor).astype(raw.dtype)


class Stage(NamedTuple):
    """Normalisation and ReLU of a convolution's output, forward and backward."""

    plan: Plan
    row: int

    @property
    def cell(self) -> Cell:
        """The cell of its row."""
        return self.plan.cells[self.row]

    def sums(self, x: jax.Array) -> jax.Array:
        """Sums per channel over the batch, or over each image where the norm is per image."""
        axes = (0, 1) if self.plan.per_image else tuple(range(x.ndim - 1))
        total = x.astype(jnp.float32).sum(axes)
        return total.reshape(*total.shape[:-1], math.prod(self.cell), -1).sum(-2)

    def count(self, x: jax.Array) -> int:
        """Number of pixels that a sum is over."""
        pixels = self.plan.pixels(self.row)
        return pixels if self.plan.per_image else pixels * x.shape[2]

    def line(self, weights: Tree, moments: Moments, running: Tree | None) -> Line:
        """Multiplier and offset of each channel, float32."""
        if self.plan.norm == "none":
            return jnp.ones_like(weights["bias"]), weights["bias"]
        return normalisation_line(self.plan.norm, weights, moments, running)

    def moments(self, raw: jax.Array) -> Moments:
        """Mean and mean square per channel; pixels outside the image must be zero."""
        wide = raw.astype(jnp.float32)
        return self.sums(wide) / self.count(raw), self.sums(wide * wide) / self.count(raw)

    def lanes(self, values: jax.Array) -> jax.Array:
        """(C,) or (B, C) to (1 or B, lanes)."""
        values = jnp.atleast_2d(values)
        return jnp.tile(values, (1, math.prod(self.cell)))

    def activation(self, raw: jax.Array, line: Line) -> Activation:
        """A raw output with the line that normalises it when it is read."""
        multiplier, offset = line
        return Activation(raw, (self.lanes(multiplier), self.lanes(offset)))

    def gradient_sums(self, gradient: jax.Array, raw: jax.Array) -> Moments:
        """Gradients of offset and multiplier from that of raw · multiplier + offset."""
        product = gradient.astype(jnp.float32) * raw.astype(jnp.float32)
        return self.sums(gradient), self.sums(product)

    def backward(
        self, gradient: jax.Array, sums: Moments, raw: jax.Array, weights: Tree, moments: Moments
    ) -> tuple[jax.Array, Tree]:
        """The gradients of raw and of the norm's weights from that of raw · multiplier + offset."""
        to_offset, to_multiplier = sums
        if self.plan.norm == "none":
            return gradient, {"bias": to_offset}
        line = functools.partial(normalisation_line, self.plan.norm, running=None)
        (multiplier, _), pull = jax.vjp(line, weights, moments)
        to_weights, (to_mean, to_square) = pull((to_multiplier, to_offset))
        mean, square = (to / self.count(raw) for to in (to_mean, 2 * to_square))
        to_raw = (
            gradient.astype(jnp.float32) * self.lanes(multiplier)
            + raw.astype(jnp.float32) * self.lanes(square)
            + self.lanes(mean)
        )
        return to_raw.astype(raw.dtype), to_weights
