"""The simulated annotator: boxes the hot spots that a person would see and call hot."""

from typing import NamedTuple

import numpy as np
from scipy import ndimage

from bonescan_jax.phantom.uptake import HotSpot
from bonescan_jax.scans import ABNORMAL, HEIGHT, NORMAL, WIDTH, Box
from bonescan_jax.scans.counts import bone_reference

EDGE = 0.37  # a hot spot reaches to this fraction of its own peak: what a person would box
# Times bone: what is brighter looks alike, so the hot flanks of a lesion belong to it.
SATURATED = 8.0
# What a person would see and call hot: contrast over the ordinary uptake there, signal to noise
# (Rose: 5 is just seen), and brightness relative to bone: a faint spot on a dim bone is not hot.
MIN_CONTRAST, MIN_SNR, MIN_BRIGHTNESS = 0.7, 8.0, 1.2
MERGE = 8.0  # pixels, 18 mm


class Reader(NamedTuple):
    """One reader's habits: not everyone boxes the same."""

    strictness: float = 1.0  # times the contrast that hot spots need
    bladder: bool = True  # whether the bladder, which everyone has, gets a box at all


USUAL = Reader()
# A hot spot as a view shows it: its own expected counts in a window, row and column of the window.
Seen = tuple[HotSpot, np.ndarray, int, int]


def _is_visible(
    spot: np.ndarray,
    around: np.ndarray,
    ordinary: np.ndarray,
    bone: float,
    kind: str,
    reader: Reader,
) -> bool:
    """Return whether a person would mark a hot spot.

    Args:
      spot: its own expected counts.
      around: expected counts of everything else at the same pixels.
      ordinary: those of them outside hot spots, so that two foci in one joint do not hide each
        other.
      bone: expected counts of bone in this view.
      kind: HotSpot.kind; bladder and kidneys are expected, so they must stand out more: kidneys
        are as bright as the spine in most patients, and nobody boxes those.
      reader: who looks.
    """
    peak = int(np.argmax(spot))
    contrast = spot.flat[peak] / max(ordinary.flat[peak], 1e-6)
    snr = float(np.sqrt((spot**2 / (around + spot + 0.05)).sum()))
    if kind == "bladder" and not reader.bladder:
        return False
    need = {"kidney": 4.5, "bladder": 2.2}.get(kind, MIN_CONTRAST) * reader.strictness
    bright = spot.flat[peak] + around.flat[peak] > MIN_BRIGHTNESS * bone
    return bright and contrast > need and snr > MIN_SNR


def merge_foci(spots: list[Seen]) -> list[Seen]:
    """Join the benign foci of one joint, peaks within MERGE pixels: a person sees them as one."""
    merged: list[Seen] = []
    for spot, image, top, left in spots:
        if image.size == 0 or image.max() <= 0:
            continue
        row, column = np.unravel_index(np.argmax(image), image.shape)
        for number, (other, theirs, their_top, their_left) in enumerate(merged):
            peak = np.unravel_index(np.argmax(theirs), theirs.shape)
            away = np.hypot(row + top - peak[0] - their_top, column + left - peak[1] - their_left)
            if spot.kind == other.kind in ("benign", "joint") and away < MERGE:
                corner = min(top, their_top), min(left, their_left)
                joint = np.zeros((
                    max(top + image.shape[0], their_top + theirs.shape[0]) - corner[0],
                    max(left + image.shape[1], their_left + theirs.shape[1]) - corner[1],
                ), np.float32)  # fmt: skip
                for part, y, x in ((image, top, left), (theirs, their_top, their_left)):
                    y, x = y - corner[0], x - corner[1]  # noqa: PLW2901
                    joint[y : y + part.shape[0], x : x + part.shape[1]] += part
                merged[number] = (other, joint, *corner)
                break
        else:
            merged.append((spot, image, top, left))
    return merged


def annotate(
    spots: list[Seen],
    total: np.ndarray,
    field: tuple[int, int, int, int],
    reader: Reader = USUAL,
) -> tuple[np.ndarray, tuple[Box, ...]]:
    """Box what a person sees in this view; touching foci of one class share a box.

    Diseased regions have a box each, though they touch.

    Args:
      spots: hot spot, its expected counts in a window, row and column of the window.
      total: (1024, 256) expected counts.
      field: scanned rows and columns.
      reader: who looks.

    Returns:
      mask (1024, 256) uint8 and boxes.
    """
    ordinary = total.copy()
    windows = []
    for _, image, top, left in spots:
        windows.append((slice(top, top + image.shape[0]), slice(left, left + image.shape[1])))
        ordinary[windows[-1]] -= image
    ordinary = np.maximum(ordinary, 0)
    bone = bone_reference(np.rint(ordinary))
    visible = [
        _is_visible(image, np.maximum(total[w] - image, 0), ordinary[w], bone, spot.kind, reader)
        for (spot, image, _, _), w in zip(spots, windows, strict=True)
    ]
    # Nobody boxes one kidney and leaves out the other.
    kidney = any(v for v, (spot, *_) in zip(visible, spots, strict=True) if spot.kind == "kidney")
    empty = np.zeros((HEIGHT, WIDTH), bool)
    layers = [(NORMAL, empty.copy()), (ABNORMAL, empty.copy())]
    for seen, (spot, image, _, _), window in zip(visible, spots, windows, strict=True):
        if not (seen or (kidney and spot.kind == "kidney")):
            continue
        if spot.kind == "diffuse":
            layers.append((spot.label, empty.copy()))
            bright = ndimage.binary_opening(image > EDGE * np.percentile(image, 99))
            layers[-1][1][window] = bright
        else:
            peak = image.max()
            if spot.kind == "malignant":
                peak = min(peak, SATURATED * bone)
            layers[spot.label == ABNORMAL][1][window] |= image > EDGE * peak
    layers[0][1][layers[1][1]] = False
    scanned = empty.copy()
    scanned[field[0] : field[1], field[2] : field[3]] = True
    return _boxes_of(layers, scanned)


def _boxes_of(
    layers: list[tuple[int, np.ndarray]], scanned: np.ndarray
) -> tuple[np.ndarray, tuple[Box, ...]]:
    """Return mask and boxes of the parts of layers (class, (H, W) bool); the first cover the last.

    The remainder of a spot that another covers gets no box.
    """
    mask = np.zeros(scanned.shape, np.uint8)
    boxes = []
    for number, (label, layer) in enumerate(layers):
        least = 6 if number < 2 else 300  # of a region, not its specks
        numbered, _ = ndimage.label(layer & scanned, np.ones((3, 3)))
        for part_number, (rows, columns) in enumerate(ndimage.find_objects(numbered), start=1):
            part = numbered[rows, columns] == part_number
            if part.sum() < least:
                continue
            mask[rows, columns][part & ((mask[rows, columns] == 0) | (number < 2))] = label
            boxes.append(Box(columns.start, rows.start, columns.stop, rows.stop, label))
    return mask, tuple(sorted(boxes, key=lambda box: (box.ymin, box.xmin)))
