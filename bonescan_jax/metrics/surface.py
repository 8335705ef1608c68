"""Surface Dice and mean surface distance of two masks."""

import numpy as np
from scipy import ndimage


def surface_scores(
    predicted: np.ndarray, true: np.ndarray, tolerance: float, spacing: float
) -> tuple[float, float]:
    """The share of both outlines that is near the other one, and their mean distance.

    An outline are the edges between pixels inside and outside; each edge is as long as it is wide,
    and the distance of two is that of their middles. Surface Dice: Nikolov et al. 2021, doi
    10.2196/26151, equation 1; the mean distance is symmetric, over both outlines together.

    Args:
        predicted: (H, W) bool, not empty.
        true: (H, W) bool, not empty.
        tolerance: in pixels.
        spacing: of square pixels, in mm.

    Returns:
        Surface Dice, and the mean distance in mm.

    Raises:
        ValueError: a mask is empty.
    """
    if not predicted.any() or not true.any():
        raise ValueError("the surface of an empty mask has no place")
    outlines = [_outline(mask) for mask in (predicted, true)]
    near: list[np.ndarray] = []
    for here, there in (outlines, outlines[::-1]):
        # To the nearest edge of the other outline, in half pixels.
        near.append(ndimage.distance_transform_edt(~there)[here] / 2)
    distances = np.concatenate(near)
    return float((distances <= tolerance).mean()), float(distances.mean() * spacing)


def _outline(mask: np.ndarray) -> np.ndarray:
    """(2 H + 3, 2 W + 3) bool on a grid of half pixels, with the middles of all edges of a mask."""
    padded = np.pad(mask, 1)
    height, width = padded.shape
    edges = np.zeros((2 * height - 1, 2 * width - 1), bool)
    edges[1::2, ::2] = padded[1:] != padded[:-1]
    edges[::2, 1::2] = padded[:, 1:] != padded[:, :-1]
    return edges
