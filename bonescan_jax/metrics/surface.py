"""Surface Dice and mean surface distance of two masks."""

import numpy as np
from scipy import ndimage


def surface_scores(
    predicted: np.ndarray, true: np.ndarray, tolerance: float, spacing: tuple[float, float]
) -> tuple[float, float]:
    """The share of both outlines that is near the other one, and their mean distance.

    Surface Dice: Nikolov et al. 2021, doi 10.2196/26151, equation 1, with outlines as in its
    published code: marching squares, so a diagonal edge is as long as it is and not as its stairs.
    The mean distance is symmetric, over both outlines together, by length.

    Args:
        predicted: (H, W) bool, not empty.
        true: (H, W) bool, not empty.
        tolerance: in mm.
        spacing: height and width of a pixel in mm.

    Returns:
        Surface Dice, and the mean distance in mm.

    Raises:
        ValueError: a mask is empty.
    """
    if not predicted.any() or not true.any():
        raise ValueError("the surface of an empty mask has no place")
    outlines = [_outline(mask, spacing) for mask in (predicted, true)]
    distances = np.concatenate(
        [
            ndimage.distance_transform_edt(there == 0, sampling=spacing)[here > 0]
            for here, there in (outlines, outlines[::-1])
        ]
    )
    lengths = np.concatenate([outline[outline > 0] for outline in outlines])
    # One pixel is no more than one pixel, whatever its size in mm is rounded to.
    near = distances <= tolerance * (1 + 1e-9)
    return float(np.average(near, weights=lengths)), float(np.average(distances, weights=lengths))


def _outline(mask: np.ndarray, spacing: tuple[float, float]) -> np.ndarray:
    """(H + 1, W + 1) length of the outline in mm between the middles of each 4 adjacent pixels."""
    padded = np.pad(mask, 1).astype(np.int8)
    rows = padded[:-1] + padded[1:]  # of each 2 pixels that lie above each other
    filled = rows[:, :-1] + rows[:, 1:]
    columns = padded[:, :-1] + padded[:, 1:]
    upper, left = columns[:-1], rows[:, :-1]
    half = np.hypot(*spacing) / 2  # a corner is cut off between the middles of two sides
    length = np.where(filled % 2, half, 0.0)
    length[(filled == 2) & (upper != 1)] = spacing[1]  # along a row
    length[(filled == 2) & (left != 1)] = spacing[0]
    length[(filled == 2) & (upper == 1) & (left == 1)] = 2 * half  # two opposite corners
    return length
