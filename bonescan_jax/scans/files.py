"""Reads one image file of any kind: JPEG, PNG or DICOM, told by its first bytes."""

import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from bonescan_jax.errors import InputError
from bonescan_jax.scans import HEIGHT, WIDTH
from bonescan_jax.scans.bs80k import FOLDERS
from bonescan_jax.scans.dicom import DicomFrame, is_dicom, read_bytes, read_dicom
from bonescan_jax.scans.exif import read_orientation, turn
from bonescan_jax.scans.findings import printable
from bonescan_jax.scans.jpeg import decode_jpeg, read_jpeg_header
from bonescan_jax.scans.regions import FOLDERS as REGION_FOLDERS
from bonescan_jax.scans.unwrap import unwrap_grey, unwrapping_doubts

SUFFIXES = (".jpg", ".jpeg", ".png", ".dcm")
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
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


def list_image_files(path: Path) -> list[Path]:
    """Lists the image files to read: the file itself, or those anywhere below a folder, sorted.

    In a folder those count that are named .jpg, .jpeg, .png or .dcm, in any case, or hold DICOM
    under any name.

    Raises:
        InputError: there is no such path, or a folder without image files.
    """
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise InputError(
            f"{printable(str(path))}: does not exist, expected an image file or a folder of them."
        )
    files = sorted(
        file
        for file in path.rglob("*")
        if file.is_file() and (file.suffix.lower() in SUFFIXES or _has_dicom_prefix(file))
    )
    if not files:
        raise InputError(
            f"{printable(str(path))}: holds no image file, expected {', '.join(SUFFIXES)}."
        )
    return files


def read_image_file(path: Path) -> list[FileView]:
    """Reads all views of a JPEG, PNG (8 or 16 bit, grey) or NM DICOM file.

    Raises:
        InputError: another kind of file, a damaged one, a colour image, or one larger than
            1024x256.
    """
    data = read_bytes(path)
    try:
        if data.startswith(_PNG_SIGNATURE):
            return [_grey_view(path, "png", decode_png(data), read_orientation(data))]
        if data.startswith(b"\xff\xd8"):
            header = read_jpeg_header(data)
            orientation = read_orientation(data)
            _check_size(header.height, header.width, orientation)
            return [_grey_view(path, "jpeg", decode_jpeg(data), orientation)]
        if is_dicom(data):
            return list(_dicom_views(path))
    except ValueError as error:
        raise _error(path, str(error)) from error
    raise _error(path, "is no image file, expected JPEG, PNG or DICOM")


def bs80k_folder(path: Path) -> tuple[str, str] | None:
    """Region and view of an image in a folder of BS-80K; "wholeBody" or one of REGIONS."""
    return _BS80K_FOLDERS.get(path.resolve().parent.name)


def decode_png(data: bytes) -> np.ndarray:
    """Decodes a grey PNG that has a scan's size, once it is turned as its Exif header says.

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
    _check_size(height, width, read_orientation(data))
    _check_png_chunks(data)
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None:
        raise ValueError("is truncated or damaged, expected a whole PNG")
    return pixels


def _check_png_chunks(data: bytes) -> None:
    """Walks length, type, content, CRC of each chunk: OpenCV would say it on standard error."""
    position = len(_PNG_SIGNATURE)
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


def _check_size(height: int, width: int, orientation: int = 1) -> None:
    """Refuses what does not fit before it is decoded."""
    if orientation >= 5:  # on its side
        height, width = width, height
    if not (1 <= height <= HEIGHT and 1 <= width <= WIDTH):
        raise ValueError(
            f"size is {height}x{width}, expected {HEIGHT}x{WIDTH} (height x width) or less"
        )


def _grey_view(path: Path, kind: str, grey: np.ndarray, orientation: int) -> FileView:
    """The view of an image; 8-bit grey values have wrapped as BS-80K's, 16-bit ones have not."""
    _check_air(grey)
    grey, notes = turn(grey, orientation), ()
    if orientation != 1:
        notes = (
            f"the image was turned as its Exif orientation, {orientation}, says; masks and boxes "
            "are those of the turned image",
        )
    _, view = bs80k_folder(path) or (None, None)
    name = f"{path.stem}-{view}" if view else path.stem
    if grey.dtype != np.uint8:
        return FileView(name, view, *_centre(grey), kind, 1.0, 0, None, notes)
    scan = unwrap_grey(grey)
    overflowed = int(np.count_nonzero(scan.turns))
    notes += unwrapping_doubts(scan)
    return FileView(name, view, *_centre(scan.values), kind, scan.gain, overflowed, None, notes)


def _check_air(pixels: np.ndarray) -> None:
    """Refuses (H, W) pixels whose border, which is air, is as bright as anything in them.

    A crop's border may be body, which is darker than bone; of black on white it is the brightest.
    """
    border = float(np.median(np.concatenate([pixels[[0, -1]].ravel(), pixels[:, [0, -1]].ravel()])))
    if 0.9 * np.percentile(pixels, 99) < border and pixels.min() < 0.75 * border:
        raise ValueError("is black on white, expected air darker than the body")


def _dicom_views(path: Path) -> Iterator[FileView]:
    frames = read_dicom(path)
    views = [frame.view for frame in frames]
    for number, frame in enumerate(frames, 1):
        name = f"{path.stem}-{frame.view}" if frame.view else path.stem
        if views.count(frame.view) > 1:  # two energy windows, or views that the file hides
            name += f"-frame{number}"
        _check_size(*frame.pixels.shape)
        _check_air(frame.pixels)
        centred = _centre(frame.pixels)
        yield FileView(name, frame.view, *centred, "dicom", 1.0, 0, frame, frame.notes)


def _centre(pixels: np.ndarray) -> tuple[np.ndarray, Region]:
    """Puts (H, W) pixels into the middle of zeros."""
    height, width = pixels.shape
    region = Region((HEIGHT - height) // 2, (WIDTH - width) // 2, height, width)
    centred = np.zeros((HEIGHT, WIDTH), np.float32)
    centred[region.top : region.top + height, region.left : region.left + width] = pixels
    return centred, region


def _has_dicom_prefix(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


def _error(path: Path, phrase: str) -> InputError:
    return InputError(f"{printable(str(path))}: {phrase}.")
