"""Boxes to a class mask and back: what the network learns, and what detection is scored on."""

import functools
from typing import Any, NamedTuple

import cv2
import numpy as np
from scipy import ndimage

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


@functools.lru_cache(maxsize=1024)
def _ellipse(height: int, width: int) -> np.ndarray:
    """The pixels of a box whose centre lies in the ellipse inscribed in it."""
    rows = (2 * np.arange(height) + 1) / height - 1  # pixel centres, box from -1 to 1
    columns = (2 * np.arange(width) + 1) / width - 1
    return rows[:, None] ** 2 + columns**2 <= 1


# A mask is rejected if it is empty, or fills most of the box or of its border.
_MAX_FILLED, _MAX_BORDER = 0.85, 0.65
_PERCENTILE, _SMOOTHING = 75.0, 1.5  # of the fallback; sigma in pixels
_SQUARE_7, _SQUARE_3 = np.ones((7, 7), np.uint8), np.ones((3, 3), np.uint8)


def segment_box(pixels: np.ndarray) -> tuple[np.ndarray, str]:
    """Finds the hot spot inside its box by the recipe published with results on BS-80K.

    Otsu's threshold, closing with 7x7 (two iterations), opening with 7x7. Where that leaves
    nothing, more than 85 % of the box or more than 65 % of its border: Gaussian of sigma 1.5, the
    pixels at or above the 75th percentile, of these the largest 8-connected component, holes
    filled, closed with 3x3. Where that too leaves the whole box, an ellipse of half the box's
    size at the peak; its size is our choice, the publication gives none.

    Args:
        pixels: (h, w) uint8 or uint16, the image inside the box.

    Returns:
        (h, w) bool, never empty, and the step it comes from: "otsu", "percentile" or "ellipse".
    """
    _, mask = cv2.threshold(pixels, 0, 1, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    mask = cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_CLOSE, _SQUARE_7, iterations=2)
    mask = cv2.morphologyEx(mask, cv2.MORPH_OPEN, _SQUARE_7).astype(bool)
    if mask.any() and mask.mean() <= _MAX_FILLED and _border(mask).mean() <= _MAX_BORDER:
        return mask, "otsu"
    smooth = cv2.GaussianBlur(pixels.astype(np.float32), (0, 0), _SMOOTHING)
    mask = _largest_component(smooth >= np.percentile(smooth, _PERCENTILE))
    mask = ndimage.binary_fill_holes(mask).astype(np.uint8)
    mask = cv2.morphologyEx(mask, cv2.MORPH_CLOSE, _SQUARE_3).astype(bool)
    if mask.mean() < 1:
        return mask, "percentile"
    peak = np.unravel_index(np.argmax(smooth), smooth.shape)
    axes = [(np.arange(size) - at) / (size / 4) for size, at in zip(mask.shape, peak, strict=True)]
    return axes[0][:, None] ** 2 + axes[1] ** 2 <= 1, "ellipse"


def _border(mask: np.ndarray) -> np.ndarray:
    """The outermost pixels."""
    outermost = np.ones(mask.shape, bool)
    outermost[1:-1, 1:-1] = False
    return mask[outermost]


def _largest_component(mask: np.ndarray) -> np.ndarray:
    _, components, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
    return components == 1 + np.argmax(stats[1:, cv2.CC_STAT_AREA])


RECIPES = ("box", "ellipse", "otsu")
NEED_IMAGE = ("otsu",)


def boxes_to_mask(
    boxes: np.ndarray,
    shape: tuple[int, int],
    recipe: str,
    image: np.ndarray | None = None,
    window: tuple[slice, slice] | None = None,
) -> np.ndarray:
    """Paints boxes into a class mask, Abnormal over Normal where they overlap.

    Args:
        boxes: (N, 5) int32, rows [xmin, ymin, xmax, ymax, label] inside the image, in pixels.
        shape: (height, width) of the image.
        recipe: one of `RECIPES`: "box" fills each box, "ellipse" the ellipse inscribed in it,
            "otsu" what is bright in it (`segment_box`).
        image: (height, width) uint8 or uint16, grey values or counts; those in
            `NEED_IMAGE` need it.
        window: rows and columns of the mask that are wanted, all if not given.

    Returns:
        uint8 of class numbers, (height, width) or of the size of the window.

    Raises:
        ValueError: an unknown recipe, or no image for one that needs it.
    """
    if recipe not in RECIPES:
        raise ValueError(f"recipe is {recipe!r}, expected one of {', '.join(RECIPES)}")
    if image is None and recipe in NEED_IMAGE:
        raise ValueError(f"recipe {recipe!r} needs the image, found none")
    (y0, y1), (x0, x1) = ((part.start, part.stop) for part in window or map(slice, (0, 0), shape))
    mask = np.full((y1 - y0, x1 - x0), BACKGROUND, np.uint8)
    for label in (NORMAL, ABNORMAL):  # the later one is painted over the earlier one
        for xmin, ymin, xmax, ymax, _ in boxes[boxes[:, 4] == label].tolist():
            top, bottom, left, right = max(ymin, y0), min(ymax, y1), max(xmin, x0), min(xmax, x1)
            if top >= bottom or left >= right:  # out of the window
                continue
            part = mask[top - y0 : bottom - y0, left - x0 : right - x0]
            if recipe == "box":
                part[:] = label
                continue
            if recipe == "ellipse":
                hot = _ellipse(ymax - ymin, xmax - xmin)
            else:
                assert image is not None, "otsu looks at the image"
                hot, _ = segment_box(image[ymin:ymax, xmin:xmax])
            part[hot[top - ymin : bottom - ymin, left - xmin : right - xmin]] = label
    return mask


def most_probable_mask(probabilities: Any) -> Any:  # noqa: ANN401
    """Class numbers (…) of probabilities (…, 3), a NumPy or JAX array.

    A pixel belongs to a hot spot if that is more probable than background, and then to the more
    probable class: the argmax of all three would miss hot spots of uncertain class.
    """
    hot = probabilities[..., BACKGROUND] < 0.5
    return hot * (1 + probabilities[..., 1:].argmax(-1))


def mask_to_boxes(mask: np.ndarray, scores: np.ndarray, *, min_area: int = 1) -> list[ScoredBox]:
    """Boxes the 8-connected hot spots of each class.

    Args:
        mask: (H, W) uint8 of class numbers.
        scores: (H, W, 3) float, the probability of each class at each pixel.
        min_area: hot spots with fewer pixels are left out.

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
