"""Reads one image file of any kind for prediction: JPEG, PNG or DICOM, told by its first bytes."""

import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from bonescan_jax.errors import InputError
from bonescan_jax.scans import HEIGHT, WIDTH
from bonescan_jax.scans.bs80k import FOLDERS
from bonescan_jax.scans.dicom import read_dicom
from bonescan_jax.scans.jpeg import decode_jpeg

SUFFIXES = (".jpg", ".jpeg", ".png", ".dcm")
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_DICOM_PREFIX = slice(128, 132)  # b"DICM"


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
    pixels: np.ndarray  # (1024, 256) float32; counts of a DICOM file, else grey values
    region: Region  # smaller files are padded with zeros: where their own pixels lie
    kind: str  # jpeg, png or dicom


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
        raise InputError(f"{path}: does not exist, expected an image file or a folder of them.")
    files = sorted(
        file
        for file in path.rglob("*")
        if file.is_file() and (file.suffix.lower() in SUFFIXES or _is_dicom(file))
    )
    if not files:
        raise InputError(f"{path}: holds no image file, expected {', '.join(SUFFIXES)}.")
    return files


def read_image_file(path: Path) -> list[FileView]:
    """Reads all views of a JPEG, PNG (8 or 16 bit, grey) or NM DICOM file.

    Raises:
        InputError: another kind of file, a damaged one, a colour image, or one larger than
            1024x256.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}).") from error
    if data[_DICOM_PREFIX] == b"DICM":
        return list(_dicom_views(path))
    try:
        if data.startswith(_PNG_SIGNATURE):
            kind, pixels = "png", decode_png(data)
        elif data.startswith(b"\xff\xd8"):
            kind, pixels = "jpeg", decode_jpeg(data)
        else:
            raise ValueError("is no image file, expected JPEG, PNG or DICOM")
    except ValueError as error:
        raise InputError(f"{path}: {error}.") from error
    # BS-80K says the view in the name of the folder only.
    view = {folder: view for view, folder in FOLDERS.items()}.get(path.resolve().parent.name)
    name = f"{path.stem}-{view}" if view else path.stem
    return [FileView(name, view, *_centre(path, pixels), kind)]


def decode_png(data: bytes) -> np.ndarray:
    """Decodes a grey PNG.

    Returns:
        (H, W) uint8 or uint16.

    Raises:
        ValueError: what is wrong, to be written after the file's name.
    """
    # IHDR comes first: width and height (4 bytes each), bit depth, colour type (0 is grey).
    bits, colour_type = data[24:25], data[25:26]
    if colour_type != b"\0":
        raise ValueError("is a PNG with colours, a palette or transparency, expected plain grey")
    if bits not in (b"\x08", b"\x10"):
        raise ValueError(f"has {int.from_bytes(bits, 'big')} bits per pixel, expected 8 or 16")
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


def _dicom_views(path: Path) -> Iterator[FileView]:
    frames = read_dicom(path)
    views = [frame.view for frame in frames]
    for number, frame in enumerate(frames, 1):
        name = f"{path.stem}-{frame.view}" if frame.view else path.stem
        if views.count(frame.view) > 1:  # two energy windows, or views that the file hides
            name += f"-frame{number}"
        yield FileView(name, frame.view, *_centre(path, frame.pixels), "dicom")


def _centre(path: Path, pixels: np.ndarray) -> tuple[np.ndarray, Region]:
    """Puts (H, W) pixels into the middle of zeros."""
    height, width = pixels.shape
    if height > HEIGHT or width > WIDTH:
        raise InputError(
            f"{path}: size is {height}x{width}, expected {HEIGHT}x{WIDTH} (height x width) or less."
        )
    region = Region((HEIGHT - height) // 2, (WIDTH - width) // 2, height, width)
    centred = np.zeros((HEIGHT, WIDTH), np.float32)
    centred[region.top : region.top + height, region.left : region.left + width] = pixels
    return centred, region


def _is_dicom(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(_DICOM_PREFIX.stop)[_DICOM_PREFIX] == b"DICM"
