"""Reads one image file: JPEG, PNG or DICOM, recognised by its first bytes."""

import os
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from bonescan_jax.errors import InputError
from bonescan_jax.scans import HEIGHT, WIDTH
from bonescan_jax.scans.bs80k import FOLDERS
from bonescan_jax.scans.dicom import (
    DicomFrame,
    decode_dicom,
    is_dicom,
    read_bytes,
    read_headers,
)
from bonescan_jax.scans.exif import read_orientation, turn
from bonescan_jax.scans.findings import printable
from bonescan_jax.scans.jpeg import decode_jpeg, read_jpeg_header
from bonescan_jax.scans.listing import ImageFile, image_stem
from bonescan_jax.scans.regions import FOLDERS as REGION_FOLDERS
from bonescan_jax.scans.unwrap import unwrap_grey, unwrapping_doubts

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
# BS-80K's folders: region and view.
_BS80K_FOLDERS = {folder: ("wholeBody", view) for view, folder in FOLDERS.items()} | {
    folder: (region, view) for folder, (region, view) in REGION_FOLDERS.items() if region != "whole"
}


class Region(NamedTuple):
    """The part of a 1024x256 image that a file filled; the rest is zero."""

    top: int
    left: int
    height: int
    width: int


class FileView(NamedTuple):
    """One view of an image file, in the middle of a 1024x256 image."""

    name: str  # the file's name without suffix, the view, and the frame if that is not enough
    view: str | None  # one of VIEWS; None: the file does not say
    # (1024, 256) float32; counts of a DICOM file, values of a 16-bit PNG, else gain × counts: grey
    # values of 8 bits with what hot spots lost added again.
    pixels: np.ndarray
    region: Region  # smaller files are padded with zeros: where their own pixels lie
    kind: str  # jpeg, png or dicom
    gain: float  # pixels are gain × counts, as far as the file tells
    overflowed: int  # pixels that had wrapped
    frame: DicomFrame | None  # what else a DICOM file says
    notes: tuple[str, ...] = ()  # phrases about what is in doubt, which a user should see


class ViewHeader(NamedTuple):
    """What a file says of one of its views before its pixels are decoded."""

    file: ImageFile
    number: int  # of the view in its file, from 0
    name: str  # as of its FileView
    view: str | None  # one of VIEWS
    frame: DicomFrame | None  # of DICOM; its pixels are not to be used


def read_image_file(path: Path) -> list[FileView]:
    """Reads all views of a JPEG, PNG (8 or 16 bit, grey) or NM DICOM file.

    Raises:
        InputError: another kind of file, a damaged one, a colour image, or one larger than
            1024x256.
    """
    return decode_image(read_bytes(path), path)


def decode_image(data: bytes, path: Path) -> list[FileView]:
    """`read_image_file` of a file's bytes; its path is for its name, its folder and errors."""
    try:
        if data.startswith(PNG_SIGNATURE):
            return [_grey_view(path, "png", decode_png(data), read_orientation(data))]
        if data.startswith(b"\xff\xd8"):
            header = read_jpeg_header(data)
            orientation = read_orientation(data)
            check_size(header.height, header.width, orientation)
            return [_grey_view(path, "jpeg", decode_jpeg(data), orientation)]
        if is_dicom(data):
            return list(_dicom_views(data, path))
    except ValueError as error:
        raise _error(path, str(error)) from error
    raise _error(path, "is not an image file, expected JPEG, PNG or DICOM")


def read_view_headers(file: ImageFile) -> list[ViewHeader]:
    """What a file tells of its views without their pixels being decoded.

    Raises:
        InputError: as `read_image_file`, as far as can be told without the pixels.
    """
    path = file.path
    if file.head(len(PNG_SIGNATURE)).startswith((PNG_SIGNATURE, b"\xff\xd8")):
        _, view = bs80k_folder(path) or (None, None)
        return [ViewHeader(file, 0, _view_name(path, view), view, None)]
    data = file.read()
    if not is_dicom(data):
        raise _error(path, "is not an image file, expected JPEG, PNG or DICOM")
    frames = read_headers(data, path)
    try:
        for frame in frames:
            check_size(*frame.pixels.shape)
    except ValueError as error:
        raise _error(path, str(error)) from error
    names = _frame_names(path, frames)
    return [
        ViewHeader(file, number, name, frame.view, frame)
        for number, (name, frame) in enumerate(zip(names, frames, strict=True))
    ]


def bs80k_folder(path: Path) -> tuple[str, str] | None:
    """Region and view of an image in a folder of BS-80K; "wholeBody" or one of REGIONS.

    The folder that an image lies in counts, and not where the image is kept if it is a link.
    """
    parent = Path(os.path.abspath(path)).parent
    return _BS80K_FOLDERS.get(parent.name) or _BS80K_FOLDERS.get(parent.resolve().name)


def decode_png(data: bytes, largest: tuple[int, int] = (HEIGHT, WIDTH)) -> np.ndarray:
    """Decodes a grey PNG that has a scan's size, once it is turned as its Exif header says.

    Args:
        data: the file.
        largest: height and width that are allowed.

    Returns:
        (H, W) uint8 or uint16, as stored.

    Raises:
        ValueError: what is wrong, to be written after the file's name.
    """
    # IHDR comes first: width and height (4 bytes each), bit depth, colour type (0 is grey).
    bits, colour_type = data[24:25], data[25:26]
    if colour_type != b"\0":
        raise ValueError("is a PNG with colours, a palette or transparency, expected plain grey")
    if bits not in (b"\x08", b"\x10"):
        raise ValueError(f"has {int.from_bytes(bits, 'big')} bits per pixel, expected 8 or 16")
    height, width = int.from_bytes(data[20:24], "big"), int.from_bytes(data[16:20], "big")
    check_size(height, width, read_orientation(data), largest)
    _check_png_chunks(data)
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None:
        raise ValueError("is truncated or damaged, expected a whole PNG")
    return pixels


def _check_png_chunks(data: bytes) -> None:
    """Walks length, type, content, CRC of each chunk: OpenCV would say it on standard error."""
    position = len(PNG_SIGNATURE)
    while position + 12 <= len(data):
        length = int.from_bytes(data[position : position + 4], "big")
        content = data[position + 4 : position + 8 + length]
        crc = int.from_bytes(data[position + 8 + length : position + 12 + length], "big")
        if zlib.crc32(content) != crc:
            break
        if content[:4] == b"IEND":
            return
        position += 12 + length
    raise ValueError("is truncated or damaged, expected a whole PNG")


def check_size(
    height: int, width: int, orientation: int = 1, largest: tuple[int, int] = (HEIGHT, WIDTH)
) -> None:
    """Refuses what does not fit before it is decoded.

    Raises:
        ValueError: what is wrong, to be written after the file's name.
    """
    if orientation >= 5:  # on its side
        height, width = width, height
    if not (1 <= height <= largest[0] and 1 <= width <= largest[1]):
        expected = "x".join(map(str, largest))
        raise ValueError(f"size is {height}x{width}, expected {expected} (height x width) or less")


def _grey_view(path: Path, kind: str, grey: np.ndarray, orientation: int) -> FileView:
    """The view of an image; 8-bit grey values have wrapped as BS-80K's, 16-bit ones have not."""
    check_air(grey)
    grey = turn(grey, orientation)
    notes: tuple[str, ...] = ()
    if orientation != 1:
        notes = (
            f"the image was turned as its Exif orientation, {orientation}, says; masks and boxes "
            "are those of the turned image",
        )
    _, view = bs80k_folder(path) or (None, None)
    name = _view_name(path, view)
    if grey.dtype != np.uint8:
        return FileView(name, view, *_centre(grey), kind, 1.0, 0, None, notes)
    scan = unwrap_grey(grey)
    overflowed = int(np.count_nonzero(scan.turns))
    notes += unwrapping_doubts(scan)
    return FileView(name, view, *_centre(scan.values), kind, scan.gain, overflowed, None, notes)


def check_air(pixels: np.ndarray) -> None:
    """Refuses (H, W) pixels whose border, which is air, is as bright as anything in them.

    A crop's border may be body, which is darker than bone; of black on white it is the brightest.

    Raises:
        ValueError: what is wrong, to be written after the file's name.
    """
    border = float(np.median(np.concatenate([pixels[[0, -1]].ravel(), pixels[:, [0, -1]].ravel()])))
    if 0.9 * np.percentile(pixels, 99) < border and pixels.min() < 0.75 * border:
        raise ValueError("is black on white, expected air darker than the body")


def _dicom_views(data: bytes, path: Path) -> Iterator[FileView]:
    frames = decode_dicom(data, path)
    for name, frame in zip(_frame_names(path, frames), frames, strict=True):
        check_size(*frame.pixels.shape)
        check_air(frame.pixels)
        centred = _centre(frame.pixels)
        yield FileView(name, frame.view, *centred, "dicom", 1.0, 0, frame, frame.notes)


def _frame_names(path: Path, frames: Sequence[DicomFrame]) -> list[str]:
    views = [frame.view for frame in frames]
    return [
        # Two energy windows, or views that the file hides, need a number.
        _view_name(path, view) + (f"-frame{number}" if views.count(view) > 1 else "")
        for number, view in enumerate(views, 1)
    ]


def _view_name(path: Path, view: str | None) -> str:
    stem = image_stem(path.name)
    return f"{stem}-{view}" if view else stem


def _centre(pixels: np.ndarray) -> tuple[np.ndarray, Region]:
    """Puts (H, W) pixels into the middle of zeros."""
    height, width = pixels.shape
    region = Region((HEIGHT - height) // 2, (WIDTH - width) // 2, height, width)
    centred = np.zeros((HEIGHT, WIDTH), np.float32)
    centred[region.top : region.top + height, region.left : region.left + width] = pixels
    return centred, region


def _error(path: Path, phrase: str) -> InputError:
    return InputError(f"{printable(str(path))}: {phrase}.")
