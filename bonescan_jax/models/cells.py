"""Convolutions on cells of pixels: a small image whose pixels are cells of a large one.

A TPU's registers and matrix units are 128 channels wide, so an image with 32 channels would leave
three quarters of them empty. Here a cell of 2×2 pixels counts as one pixel with 4 · 32 channels,
and a 3×3 kernel is expanded, inside the graph, to the equivalent kernel on cells.

Arrays are (rows, columns, batch, lanes): lanes are the pixels of a cell, row by row, times the
channels. A cell of 2×2 pixels needs the 4×4 pixels around it for a 3×3 convolution: nine cells of
its own grid, but only four of a grid that is shifted by one pixel. So of two convolutions the first
maps to the shifted grid and the second back. The shifted grid has one more cell in each direction,
and its outermost pixels lie outside the image.
"""

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

LANES = 128  # of a TPU's vector register
LAYOUT = ("HWNC", "HWIO", "HWNC")

Cell = tuple[int, int]  # rows and columns of pixels in a cell


def choose_cells(widths: Sequence[int], height: int, width: int) -> tuple[Cell, ...]:
    """The cell of each row of the network: as many pixels as fill the lanes, wider than high.

    A cell is at most twice as high and wide as that of the row below, so that no pooled or
    up-convolved cell has to be taken apart, and divides the image.
    """
    cells: list[Cell] = []
    below = (1, 1)
    for row, channels in reversed(list(enumerate(widths))):
        doublings = max(LANES // channels, 1).bit_length() - 1
        wanted = (2 ** (doublings // 2), 2 ** ((doublings + 1) // 2))
        below = (
            math.gcd(min(wanted[0], 2 * below[0]), height >> row),
            math.gcd(min(wanted[1], 2 * below[1]), width >> row),
        )
        cells.insert(0, below)
    return tuple(cells)


def pack(x: jax.Array, cell: Cell) -> jax.Array:
    """(B, H, W, C) to (H / rows, W / columns, B, rows · columns · C)."""
    batch, height, width, channels = x.shape
    rows, columns = cell
    x = x.reshape(batch, height // rows, rows, width // columns, columns, channels)
    x = x.transpose(1, 3, 0, 2, 4, 5)
    return x.reshape(height // rows, width // columns, batch, rows * columns * channels)


# ---- 3×3 convolutions ----------------------------------------------------------------------------


class Axis(NamedTuple):
    """One axis of a 3×3 convolution on cells."""

    pixels: int  # in a cell
    to_shifted: bool  # to the shifted grid, or back; the same for cells of one pixel

    @property
    def padding(self) -> tuple[int, int]:
        """Cells of zeros before and after."""
        return (1, 1) if self.pixels == 1 or self.to_shifted else (0, 0)

    def selection(self) -> np.ndarray:
        """(cells, pixels, 3, pixels) bool: which tap joins which pixels of source and result."""
        if self.pixels == 1:
            return np.eye(3, dtype=bool).reshape(3, 1, 3, 1)
        cell, pixel, tap, result = np.ogrid[:2, : self.pixels, :3, : self.pixels]
        back = int(self.to_shifted)
        return self.pixels * (cell - back) + pixel == result + tap - 2 * back


Axes = tuple[Axis, Axis]


def axes_of(cell: Cell, to_shifted: bool) -> Axes:
    """Both axes of a convolution between the grids of a cell."""
    return Axis(cell[0], to_shifted), Axis(cell[1], to_shifted)


def expand_kernel(kernel: jax.Array, axes: Axes) -> jax.Array:
    """(3, 3, I, O) to the kernel on cells (cells down, cells across, pixels · I, pixels · O)."""
    down, across = (jnp.asarray(axis.selection(), kernel.dtype) for axis in axes)
    kernel = jnp.einsum("yitp,xjuq,tuco->yxijcpqo", down, across, kernel)
    size = kernel.shape
    return kernel.reshape(*size[:2], math.prod(size[2:5]), math.prod(size[5:]))


def convolve(x: jax.Array, kernel: jax.Array, axes: Axes) -> jax.Array:
    """Convolves cells with an expanded kernel."""
    padding = [axis.padding for axis in axes]
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), padding, dimension_numbers=LAYOUT)


def transposed(kernel: jax.Array) -> jax.Array:
    """The kernel for gradients: `convolve` with it along the axes of the opposite direction."""
    return kernel[::-1, ::-1].swapaxes(2, 3)


def correlate(x: jax.Array, gradient: jax.Array, axes: Axes) -> jax.Array:
    """The gradient of `convolve` with respect to its expanded kernel, float32."""
    to_shifted = axes[0].to_shifted
    # The smaller array slides over the larger. The other way round, which is what a transpose does,
    # XLA first reverses a whole activation.
    still, sliding = (gradient, x) if to_shifted else (x, gradient)
    result = jax.lax.conv_general_dilated(
        still,
        sliding,
        (1, 1),
        [(1, 1) if axis.pixels == 1 else (0, 0) for axis in axes],
        dimension_numbers=("HWCN", "HWIO", "HWNC"),
        preferred_element_type=jnp.float32,
    )
    return transposed(result) if to_shifted else result


def blank_outside(x: jax.Array, cell: Cell) -> jax.Array:
    """Zeros the pixels of the shifted grid that lie outside the image."""
    rows, columns, _, lanes = x.shape
    inside = jnp.ones((1, 1, 1, 1), bool)
    pixel = np.arange(lanes) // (lanes // math.prod(cell))
    for axis, (cells, size, place) in enumerate(
        ((rows, cell[0], pixel // cell[1]), (columns, cell[1], pixel % cell[1]))
    ):
        if size == 1:
            continue
        shape = [1, 1, 1, 1]
        shape[axis] = cells
        index = jax.lax.broadcasted_iota(jnp.int32, shape, axis)
        inside &= ((index > 0) | (place > 0)) & ((index < cells - 1) | (place == 0))
    return jnp.where(inside, x, jnp.zeros((), x.dtype))


# ---- between the rows ----------------------------------------------------------------------------


def expand_up_kernel(kernel: jax.Array, source: Cell, target: Cell) -> jax.Array:
    """Expands a transposed convolution's kernel (2, 2, I, O) to the kernel on cells.

    Each source cell becomes several whole target cells: (cells down, cells across, lanes, lanes).
    """

    def selection(size: int, result: int) -> jax.Array:
        """(size, 2, cells, result): where each of the 2 pixels lies that one becomes."""
        pixel, half, cell, place = np.ogrid[:size, :2, : 2 * size // result, :result]
        return jnp.asarray(2 * pixel + half == result * cell + place, kernel.dtype)

    down, across = (selection(*sizes) for sizes in zip(source, target, strict=True))
    kernel = jnp.einsum("iyko,jxlp,yxcf->klijcopf", down, across, kernel)
    size = kernel.shape
    return kernel.reshape(*size[:2], math.prod(size[2:5]), math.prod(size[5:]))


def up_convolve(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Transposed convolution: every cell becomes as many as the expanded kernel has."""
    high, wide = kernel.shape[:2]
    return jax.lax.conv_general_dilated(
        x,
        kernel[::-1, ::-1],
        (1, 1),
        [(high - 1, high - 1), (wide - 1, wide - 1)],
        lhs_dilation=(high, wide),
        dimension_numbers=LAYOUT,
        precision=_exact(x),
    )


def down_convolve(gradient: jax.Array, kernel: jax.Array) -> jax.Array:
    """The transpose of `up_convolve`: takes gradients back to the lower resolution."""
    return jax.lax.conv_general_dilated(
        gradient,
        kernel.swapaxes(2, 3),
        kernel.shape[:2],
        "VALID",
        dimension_numbers=LAYOUT,
        precision=_exact(gradient),
    )


def correlate_up(x: jax.Array, gradient: jax.Array) -> jax.Array:
    """The gradient of `up_convolve` with respect to its expanded kernel, float32."""
    rows, columns, batch, _ = x.shape
    high, wide = gradient.shape[0] // rows, gradient.shape[1] // columns
    gradient = gradient.reshape(rows, high, columns, wide, batch, -1)
    return jnp.einsum("hwbc,hkwlbf->klcf", x, gradient, preferred_element_type=jnp.float32)


def _exact(x: jax.Array) -> jax.lax.Precision | None:
    """Full precision for float32, whose factors a TPU would round to bfloat16."""
    return jax.lax.Precision.HIGHEST if x.dtype == jnp.float32 else None


def max_pool(x: jax.Array, source: Cell, target: Cell) -> jax.Array:
    """2×2 max-pool of stride 2, from the cells of one row to those of the next."""
    # Between cells along an axis where cells are single pixels ...
    window = (*(2 // min(size, 2) for size in source), 1, 1)
    lowest = jnp.array(-jnp.inf, x.dtype)
    x = jax.lax.reduce_window(x, lowest, jax.lax.max, window, window, "VALID")
    # ... and within them elsewhere: a product with zeros and ones lays out the first and the second
    # pixel of every pair as cells of the next row; the matrix unit moves lanes faster than copies.
    channels = x.shape[-1] // math.prod(source)
    axes = [_pairs(*sizes) for sizes in zip(source, target, strict=True)]
    kernel = jnp.einsum("iyjp,kxlq,cd->ikyxcjlpqd", *axes, np.eye(channels, dtype=bool))
    sizes = kernel.shape
    kernel = kernel.reshape(*sizes[:2], math.prod(sizes[2:5]), math.prod(sizes[5:]))
    kernel = jax.lax.optimization_barrier(kernel.astype(x.dtype))  # so that x is read on the way
    pairs = jax.lax.conv_general_dilated(
        x, kernel, sizes[:2], "VALID", dimension_numbers=LAYOUT, precision=_exact(x)
    )
    return functools.reduce(jnp.maximum, jnp.split(pairs, math.prod(sizes[5:7]), -1))


def _pairs(source: int, target: int) -> np.ndarray:
    """(cells, pixels, 1 or 2, pixels): which pixels of the source cells form each pair."""
    members = min(source, 2)
    halved = source // members
    cell, pixel, member, result = np.ogrid[: target // halved, :source, :members, :target]
    return cell * source + pixel == members * result + member


def max_pool_backward(
    x: jax.Array, pooled: jax.Array, gradient: jax.Array, source: Cell, target: Cell
) -> jax.Array:
    """The gradient of `max_pool` with respect to its input; equal maxima share it."""
    same = jnp.eye(pooled.shape[-1] // math.prod(target), dtype=x.dtype)
    spread = expand_up_kernel(jnp.broadcast_to(same, (2, 2, *same.shape)), target, source)
    largest = x == up_convolve(pooled, spread)
    count = down_convolve(largest.astype(x.dtype), spread)
    share = up_convolve(gradient / count, spread)
    return jnp.where(largest, share, jnp.zeros((), x.dtype))
