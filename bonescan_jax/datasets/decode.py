"""Decodes a record of a prepared data set: pixels as the camera counted them, and a mask."""

from typing import Any

import cv2
import numpy as np

from bonescan_jax.datasets.records import Record
from bonescan_jax.errors import InputError
from bonescan_jax.scans import ABNORMAL, BACKGROUND, HEIGHT, NORMAL, WIDTH
from bonescan_jax.scans.bones import decode_bones, window_of_bones
from bonescan_jax.scans.export import as_exported
from bonescan_jax.scans.files import PNG_SIGNATURE
from bonescan_jax.scans.jpeg import decode_top
from bonescan_jax.scans.masks import NEED_IMAGE, boxes_to_mask

# One view decoded: image and mask (H, W), gain and reference, as `decode` gives them.
View = dict[str, Any]
WHOLE = (slice(0, HEIGHT), slice(0, WIDTH))


def decode(record: Record, mask_recipe: str, window: tuple[slice, slice] = WHOLE) -> View:
    """One view, or these rows and columns of it: image and mask, gain and brightness of bone."""
    # A hot spot reaches out of the window: a recipe that looks at it needs all of the image.
    rows = None if mask_recipe in NEED_IMAGE else window[0].stop
    image = _decode_pixels(record, rows)
    return {
        "image": image[window],
        "mask": _decode_mask(record, mask_recipe, image, window),
        "gain": np.float32(record["gain"]),
        "reference": np.float32(record["reference"]),
    }


def decode_bones_of(record: Record, window: tuple[slice, slice]) -> np.ndarray:
    """Of which of `scans.bones.BONES` each pixel of these rows and columns is, uint8.

    Raises:
        InputError: the record does not know.
    """
    try:
        return window_of_bones(decode_bones(record.get("bones", b"")), window)
    except ValueError as error:
        raise InputError(
            f"patient {record['patient']}: {error}; set loss.bones_weight to 0, or prepare "
            "simulated scans of this version"
        ) from error


def decode_labelled(record: Record, size: tuple[int, int]) -> View:
    """One view in the middle of an array of this height and width, cut where it is larger.

    Its mask has the class of the image's label wherever there is image, background elsewhere, so
    that it goes the way of any other mask.
    """
    image = _decode_pixels(record)
    label = ABNORMAL if record["abnormal"] else NORMAL
    return {
        "image": _fit(image, size),
        "mask": _fit(np.full(image.shape, label, np.uint8), size),
        "gain": np.float32(record["gain"]),
        "reference": np.float32(record["reference"]),
    }


def _decode_mask(
    record: Record, recipe: str, image: np.ndarray, window: tuple[slice, slice]
) -> np.ndarray:
    """The mask that somebody drew, or else the one that boxes make."""
    if "mask" in record:  # of own scans
        drawn = _decode_png(record["mask"])
        if drawn.shape == (HEIGHT, WIDTH):
            return drawn[window]
    return boxes_to_mask(record["boxes"], (HEIGHT, WIDTH), recipe, image, window)


def _decode_png(data: bytes) -> np.ndarray:
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    assert pixels is not None, "written by prepare"
    return pixels


def _decode_pixels(record: Record, rows: int | None = None) -> np.ndarray:
    """Grey values, of the top rows only if their number is given.

    They are uint8, or uint16 where some ran over 255 and are set right, and where they are counts.
    """
    data = record["image"]
    if data.startswith(PNG_SIGNATURE):  # own scans
        image = as_exported(_decode_png(data))[:rows]
    else:
        image = decode_top(data, rows)
    pixels, values = record["overflow"].T
    within = pixels < image.size
    if within.any():
        image = image.astype(np.uint16)
        image.ravel()[pixels[within]] = values[within]
    return image


def _fit(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Pads with background, or cuts, as much on either side."""
    for axis, wanted in enumerate(size):
        missing = wanted - pixels.shape[axis]
        first = abs(missing) // 2
        if missing > 0:
            around = [(0, 0), (0, 0)]
            around[axis] = (first, missing - first)
            pixels = np.pad(pixels, around, constant_values=BACKGROUND)
        else:
            pixels = pixels.take(range(first, first + wanted), axis)
    return pixels
