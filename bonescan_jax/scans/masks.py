"""Boxes to a class mask and back: what the network learns, and what detection is scored on."""

from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np

from bonescan_jax.scans import ABNORMAL, BACKGROUND, NORMAL


class ScoredBox(NamedTuple):
    """A hot spot found in a mask: columns xmin … xmax - 1 and rows ymin … ymax - 1, in pixels."""

    xmin: int
    ymin: int
    xmax: int
    ymax: int
    label: int  # ABNORMAL or NORMAL
    score: float  # largest probability of the label inside the hot spot
    area: int  # pixels of the hot spot, not of its box


def _fill_box(height: int, width: int) -> np.ndarray:
    return np.ones((height, width), bool)


def _fill_ellipse(height: int, width: int) -> np.ndarray:
    """The pixels of a box whose centre lies in the ellipse inscribed in it."""
    rows = (2 * np.arange(height) + 1) / height - 1  # pixel centres, box from -1 to 1
    columns = (2 * np.arange(width) + 1) / width - 1
    return rows[:, None] ** 2 + columns**2 <= 1


RECIPES: dict[str, Callable[[int, int], np.ndarray]] = {"box": _fill_box, "ellipse": _fill_ellipse}


def boxes_to_mask(boxes: np.ndarray, shape: tuple[int, int], recipe: str) -> np.ndarray:
    """Paints boxes into a class mask, Abnormal over Normal where they overlap.

    Args:
        boxes: (N, 5) int32, rows [xmin, ymin, xmax, ymax, label] inside the image, in pixels.
        shape: (height, width) of the mask.
        recipe: a key of `RECIPES`: "box" fills each box, "ellipse" the ellipse inscribed in it.

    Returns:
        (height, width) uint8 of class numbers.

    Raises:
        ValueError: an unknown recipe.
    """
    if recipe not in RECIPES:
        raise ValueError(f"recipe is {recipe!r}, expected one of {', '.join(RECIPES)}")
    fill = RECIPES[recipe]
    mask = np.full(shape, BACKGROUND, np.uint8)
    for label in (NORMAL, ABNORMAL):  # the later one is painted over the earlier one
        for xmin, ymin, xmax, ymax, _ in boxes[boxes[:, 4] == label].tolist():
            mask[ymin:ymax, xmin:xmax][fill(ymax - ymin, xmax - xmin)] = label
    return mask


def mask_to_boxes(mask: np.ndarray, scores: np.ndarray, *, min_area: int = 1) -> list[ScoredBox]:
    """Boxes the 8-connected hot spots of each class.

    Args:
        mask: (H, W) uint8 of class numbers.
        scores: (H, W, 3) float, the probability of each class at each pixel.
        min_area: hot spots of fewer pixels are left out.

    Returns:
        The hot spots, highest score first, then top to bottom.
    """
    found = []
    for label in (ABNORMAL, NORMAL):
        of_label = (mask == label).astype(np.uint8)
        num_components, components, stats, _ = cv2.connectedComponentsWithStats(
            of_label, connectivity=8
        )
        peaks = np.zeros(num_components, scores.dtype)
        inside = components > 0  # component 0 is everything else
        np.maximum.at(peaks, components[inside], scores[..., label][inside])
        for (x, y, width, height, area), peak in zip(stats[1:].tolist(), peaks[1:], strict=True):
            if area >= min_area:
                box = (x, y, x + width, y + height)
                found.append(ScoredBox(*box, label=label, score=float(peak), area=area))
    return sorted(found, key=lambda box: (-box.score, box.ymin, box.xmin, box.label))
