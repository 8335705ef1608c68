"""Decodes one file of somebody's own scans: counts or grey values as they are, fitted to 1024×256.

Nothing is guessed that is known of BS-80K only: grey values are unwrapped only where asked.
"""

from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from bonescan_jax.scans import HEIGHT, WIDTH
from bonescan_jax.scans.counts import estimate_gain
from bonescan_jax.scans.dicom import DicomFrame, decode_dicom, is_dicom
from bonescan_jax.scans.exif import check_as_stored
from bonescan_jax.scans.files import PNG_SIGNATURE, check_air, check_size, decode_png
from bonescan_jax.scans.jpeg import decode_jpeg, read_jpeg_header
from bonescan_jax.scans.unwrap import unwrap_grey, unwrapping_doubts

LARGEST = (2048, 1024)  # height and width of a file that may be cropped about the body
_MAX_COUNT = (1 << 16) - 1  # records hold 16 bits
# The body is what is brighter than a tenth of the brightest twentieth of what is not zero, in means
# of 9×9 pixels; a crop may lose so much of its counts: a fingertip, and no limb.
_BODY, _BRIGHTEST, _MAX_LOST = 0.1, 95.0, 0.005


class Frame(NamedTuple):
    """One view of a file."""

    pixels: np.ndarray  # (H, W) uint8 or uint16, counts or grey values of the file's own size
    gain: float  # grey per count; 1 for counts
    overflowed: bool  # whether grey values were unwrapped
    view: str | None  # one of VIEWS, as the file says; None: it does not
    dicom: DicomFrame | None  # of DICOM
    notes: tuple[str, ...]  # phrases about what is in doubt


def decode_own(data: bytes, path: Path, *, unwrap: bool = False) -> list[Frame]:
    """Decodes all views of a JPEG, PNG (8 or 16 bit, grey) or NM DICOM file.

    Args:
        data: the file.
        path: for errors.
        unwrap: 8-bit grey values wrapped past 255, as BS-80K's do.

    Raises:
        ValueError: what is wrong, to be written after the file's name.
        InputError: DICOM that is no whole-body NM image of counts.
    """
    if is_dicom(data):
        return [_counts(frame) for frame in decode_dicom(data, path)]
    if data.startswith(PNG_SIGNATURE):
        grey = decode_png(data, LARGEST)
    elif data.startswith(b"\xff\xd8"):
        header = read_jpeg_header(data)
        check_size(header.height, header.width, largest=LARGEST)
        grey = decode_jpeg(data)
    else:
        raise ValueError("is not an image file, expected JPEG, PNG or DICOM")
    check_as_stored(data)  # annotations belong to the image as it is stored
    check_air(grey)
    if grey.dtype != np.uint8:  # counts
        return [Frame(grey, 1.0, False, None, None, ())]
    if not unwrap:
        return [Frame(grey, estimate_gain(grey), False, None, None, ())]
    found = unwrap_grey(grey)
    values = found.values.astype(np.uint16)
    overflowed = bool((found.values != grey).any())
    return [Frame(values, found.gain, overflowed, None, None, unwrapping_doubts(found))]


def _counts(frame: DicomFrame) -> Frame:
    """The counts of a DICOM frame as whole numbers of 16 bits."""
    counts = np.rint(frame.pixels)
    if not np.array_equal(counts, frame.pixels):
        raise ValueError("Pixel Data holds fractions, expected whole counts")
    if counts.max() > _MAX_COUNT:
        raise ValueError(f"Pixel Data goes up to {counts.max():.0f}, expected at most {_MAX_COUNT}")
    check_size(counts.shape[0], counts.shape[1], largest=LARGEST)
    check_air(counts)
    notes = frame.notes if frame.view else ()  # somebody else has to say which view it is
    return Frame(counts.astype(np.uint16), 1.0, False, frame.view, frame, notes)


def fit_window(pixels: np.ndarray) -> tuple[int, int]:
    """Where the 1024×256 pixels lie that are kept of a view: first row and column, maybe negative.

    What is smaller is put in the middle of zeros, what is larger is cropped about the body.

    Args:
        pixels: (H, W) counts or grey values.

    Raises:
        ValueError: a body that does not fit, to be written after the file's name.
    """
    smooth = cv2.blur(pixels.astype(np.float32), (9, 9))
    bright = np.percentile(smooth[smooth > 0], _BRIGHTEST) if smooth.any() else 0.0
    body = np.where(smooth > _BODY * bright, pixels, 0).astype(np.float64)
    corner = []
    for axis, wanted in enumerate((HEIGHT, WIDTH)):
        if (size := pixels.shape[axis]) <= wanted:
            corner.append(-((wanted - size) // 2))
            continue
        profile = np.concatenate([[0.0], np.cumsum(body.sum(1 - axis))])
        inside = profile[wanted:] - profile[:-wanted]
        # Of equally good places, the middle one leaves as much air on either side.
        best = np.flatnonzero(inside >= inside.max() * (1 - 1e-9))
        first = int(best[len(best) // 2])
        if inside[first] < (1 - _MAX_LOST) * profile[-1]:
            height, width = pixels.shape
            raise ValueError(
                f"size is {height}x{width} and the body does not fit into {HEIGHT}x{WIDTH} "
                "(height x width), expected pixels of about 2.26 mm"
            )
        corner.append(first)
    return corner[0], corner[1]


def cut_window(pixels: np.ndarray, corner: tuple[int, int]) -> np.ndarray:
    """The 1024×256 pixels of (H, W) ones that begin at a corner that `fit_window` found."""
    kept = np.zeros((HEIGHT, WIDTH), pixels.dtype)
    (top, left), (height, width) = corner, pixels.shape
    y0, y1 = max(top, 0), min(top + HEIGHT, height)
    x0, x1 = max(left, 0), min(left + WIDTH, width)
    kept[y0 - top : y1 - top, x0 - left : x1 - left] = pixels[y0:y1, x0:x1]
    return kept
