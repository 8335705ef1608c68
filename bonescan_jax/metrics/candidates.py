"""Candidates for lesions from probabilities, and how well each true lesion was drawn.

The mask of a scan takes what is a hot spot with a probability of one half. A FROC curve needs the
doubtful ones too: candidates lie in the 8-connected regions in which a hot spot has a probability
of `LOW`. At so low a threshold neighbours fuse and sensitivity would fall, so regions are split at
the saddles between their peaks; and around a sure peak it would take in much that is not, so a
candidate is what is at least 1 / `FALL` as probable as its peak (as the dynamic extraction of Bosma
et al. 2023, doi 10.1148/ryai.230031).
"""

from typing import NamedTuple

import cv2
import numpy as np
from scipy import ndimage
from skimage.morphology import local_maxima, reconstruction
from skimage.segmentation import watershed

from bonescan_jax.metrics.rows import Box, Candidate, Lesion
from bonescan_jax.metrics.surface import surface_scores
from bonescan_jax.scans import BACKGROUND, CLASSES
from bonescan_jax.scans.masks import boxes_to_mask, most_probable_mask

LOW = 0.05  # probability of a hot spot of either class
MOST = 50  # candidates of a view
APART = 5  # pixels between two peaks that are two candidates
FALL = 2.5  # how many times less probable than its peak the edge of a candidate is
PROMINENCE = 1.5  # how many times as probable a peak must be as the saddle to a higher one
SURFACE_TOLERANCE = 1.0  # pixels
PIXEL = 2.26  # mm, of BS-80K's camera


class Region(NamedTuple):
    """The pixels of a candidate: a window of the scan and which pixels in it."""

    window: tuple[slice, slice]
    inside: np.ndarray  # (h, w) bool
    label: int
    score: float


def find_regions(probabilities: np.ndarray, min_area: int = 1) -> list[Region]:
    """The candidates of a view, best score first, `MOST` at most.

    The class is the one with the larger sum of probabilities in the region, and the score the
    largest probability of that class there: the same score as that of a box of the mask.

    Args:
        probabilities: (H, W, 3) of the classes.
        min_area: regions with fewer pixels are left out.
    """
    hot = 1 - probabilities[..., BACKGROUND]
    components, _ = ndimage.label(hot >= LOW, np.ones((3, 3)))
    regions = []
    for number, window in enumerate(ndimage.find_objects(components), start=1):
        for part in _split(hot[window], components[window] == number):
            inside = _around_peak(hot[window], part)
            if inside.sum() < min_area:
                continue
            pixels = probabilities[window][inside]
            label = 1 + int(pixels[:, 1:].sum(0).argmax())
            regions.append(Region(*_tight(window, inside), label, float(pixels[:, label].max())))
    return sorted(regions, key=lambda region: -region.score)[:MOST]


def _split(hot: np.ndarray, inside: np.ndarray) -> list[np.ndarray]:
    """The parts of a connected region (h, w) around its separate peaks (a watershed)."""
    if np.hypot(*np.subtract(hot.shape, 1)) < APART:  # of noise there are thousands
        return [inside]
    peaks = _peaks(hot, inside)
    if len(peaks) < 2:
        return [inside]
    markers = np.zeros(hot.shape, np.int32)
    markers[tuple(np.transpose(peaks))] = np.arange(1, len(peaks) + 1)
    parts = watershed(-hot, markers, mask=inside, connectivity=2)
    return [parts == number for number in range(1, len(peaks) + 1)]


def _peaks(hot: np.ndarray, inside: np.ndarray) -> list[tuple[int, int]]:
    """A pixel of each peak that stands out from the saddle to any higher one; highest first.

    These are the maxima that are left when everything is lowered by `PROMINENCE` and spreads again
    below the surface (h-maxima of the logarithm; Soille 2004, "Morphological image analysis",
    section 6.3.4). Of two closer than `APART` the higher one stays.
    """
    height = np.log(np.where(inside, hot, LOW / PROMINENCE))
    lowered = reconstruction(height - np.log(PROMINENCE), height)
    places, _ = ndimage.label(local_maxima(lowered) & inside, np.ones((3, 3)))
    numbers = np.arange(1, places.max() + 1)
    tops = [(int(y), int(x)) for y, x in ndimage.maximum_position(hot, places, numbers)]
    peaks: list[tuple[int, int]] = []
    for top in sorted(tops, key=lambda place: -hot[place]):
        if all(np.hypot(top[0] - y, top[1] - x) >= APART for y, x in peaks):
            peaks.append(top)
        if len(peaks) == MOST:  # no more will be candidates
            break
    return peaks


def _around_peak(hot: np.ndarray, part: np.ndarray) -> np.ndarray:
    """What is connected with the highest pixel of a part and not `FALL` times less probable."""
    values = np.where(part, hot, 0)
    top = np.unravel_index(np.argmax(values), values.shape)
    near, _ = ndimage.label(values >= values[top] / FALL, np.ones((3, 3)))
    return near == near[top]


def _tight(
    window: tuple[slice, slice], inside: np.ndarray
) -> tuple[tuple[slice, slice], np.ndarray]:
    """The same pixels in the smallest window."""
    (rows, columns) = ndimage.find_objects(inside.astype(int))[0]
    moved = (
        slice(window[0].start + rows.start, window[0].start + rows.stop),
        slice(window[1].start + columns.start, window[1].start + columns.stop),
    )
    return moved, inside[rows, columns]


def view_findings(
    probabilities: np.ndarray,
    boxes: np.ndarray,
    recipe: str,
    min_area: int = 1,
    image: np.ndarray | None = None,
) -> tuple[tuple[Candidate, ...], tuple[Lesion, ...]]:
    """The candidates of a view with the lesions that they overlap, and the lesions as drawn.

    Args:
        probabilities: (H, W, 3) of the classes.
        boxes: (N, 5) true boxes: xmin, ymin, xmax, ymax, label.
        recipe: how a box becomes a mask, as for `scans.masks.boxes_to_mask`.
        min_area: candidates with fewer pixels are left out.
        image: (H, W), for the recipe that looks at it.
    """
    shape = probabilities.shape[:2]
    truths = []
    for box in boxes:
        xmin, ymin, xmax, ymax, _ = box.tolist()
        window = (slice(ymin, ymax), slice(xmin, xmax))
        mask = boxes_to_mask(box[None], shape, recipe, image, window)
        truths.append(Region(window, mask > 0, int(box[4]), 1.0))
    candidates = tuple(
        Candidate(region.label, region.score, _box(region), int(region.inside.sum()), overlaps)
        for region in find_regions(probabilities, min_area)
        for overlaps in [_overlaps(region, truths)]
    )
    return candidates, tuple(_lesions(probabilities, truths))


def _box(region: Region) -> Box:
    rows, columns = region.window
    return columns.start, rows.start, columns.stop, rows.stop


def _overlaps(region: Region, truths: list[Region]) -> tuple[tuple[int, float], ...]:
    found = ((number, _iou(region, truth)) for number, truth in enumerate(truths))
    return tuple((number, iou) for number, iou in found if iou)


def _iou(one: Region, other: Region) -> float:
    shared = [
        slice(max(a.start, b.start), min(a.stop, b.stop))
        for a, b in zip(one.window, other.window, strict=True)
    ]
    if any(part.start >= part.stop for part in shared):
        return 0.0
    both = np.logical_and(*(_within(region, shared) for region in (one, other))).sum()
    return float(both / (one.inside.sum() + other.inside.sum() - both))


def _within(region: Region, window: list[slice]) -> np.ndarray:
    rows, columns = (
        slice(part.start - whole.start, part.stop - whole.start)
        for part, whole in zip(window, region.window, strict=True)
    )
    return region.inside[rows, columns]


def _lesions(probabilities: np.ndarray, truths: list[Region]) -> list[Lesion]:
    """Each true lesion beside the hot spot of its class in the mask that it overlaps most."""
    mask = most_probable_mask(probabilities)
    spots = {
        label: cv2.connectedComponentsWithStats((mask == label).astype(np.uint8), connectivity=8)
        for label in range(1, len(CLASSES))
    }
    lesions = []
    for truth in truths:
        _, components, stats, _ = spots[truth.label]
        inside = components[truth.window][truth.inside]
        shared = np.bincount(inside[inside > 0], minlength=len(stats))
        nearest = int(np.argmax(shared))
        area = int(truth.inside.sum())
        if not shared[nearest]:
            lesions.append(Lesion(truth.label, _box(truth), area, 0.0, 0.0, None))
            continue
        dice = 2 * shared[nearest] / (area + stats[nearest, cv2.CC_STAT_AREA])
        drawn, true = _side_by_side(components == nearest, stats[nearest], truth)
        surface = surface_scores(drawn, true, SURFACE_TOLERANCE * PIXEL, (PIXEL, PIXEL))
        lesions.append(Lesion(truth.label, _box(truth), area, float(dice), *surface))
    return lesions


def _side_by_side(
    spot: np.ndarray, stats: np.ndarray, truth: Region
) -> tuple[np.ndarray, np.ndarray]:
    """A spot of the scan (H, W) and a true lesion in the smallest window that holds both."""
    x, y, width, height = stats[:4]
    rows, columns = truth.window
    top, bottom = min(y, rows.start), max(y + height, rows.stop)
    left, right = min(x, columns.start), max(x + width, columns.stop)
    true = np.zeros((bottom - top, right - left), bool)
    place = (
        slice(rows.start - top, rows.stop - top),
        slice(columns.start - left, columns.stop - left),
    )
    true[place] = truth.inside
    return spot[top:bottom, left:right], true
