"""How a viewer turns a JPEG or PNG: the Orientation of its Exif header (CIPA DC-008, 4.6.4)."""

import struct
from collections.abc import Iterator

import numpy as np

_ORIENTATION = 0x0112
_SHORT = 3  # a type: unsigned, 16 bit
_JPEG_EXIF = 0xE1  # APP1
_PNG_SIGNATURE_BYTES = 8


def read_orientation(data: bytes) -> int:
    """Reads the orientation, 1 (as stored) to 8; 1 where the header has none that is readable."""
    segments = _jpeg_exif(data) if data[:2] == b"\xff\xd8" else _png_exif(data)
    for tiff in segments:
        try:
            found = _tiff_orientation(tiff)
        except struct.error:  # cut, or an offset that leads out of it
            continue
        if found is not None and found in range(1, 9):
            return found
    return 1


def turn(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Turns (H, W) pixels the way a viewer shows them: (W, H) from orientation 5 on."""
    if orientation >= 5:
        pixels = pixels.T
    rows, columns = {2: (1, -1), 3: (-1, -1), 4: (-1, 1), 6: (1, -1), 7: (-1, -1), 8: (-1, 1)}.get(
        orientation, (1, 1)
    )
    return np.ascontiguousarray(pixels[::rows, ::columns])


def check_as_stored(data: bytes) -> None:
    """Refuses a JPEG that a viewer turns: boxes may be drawn on what it shows.

    Raises:
        ValueError: what was found, to be written after the file's name.
    """
    if (found := read_orientation(data)) != 1:
        raise ValueError(f"Exif orientation is {found}, expected 1 (pixels upright as stored)")


def _jpeg_exif(data: bytes) -> Iterator[bytes]:
    """The TIFF blocks of the segments before the first scan."""
    position = 2
    while position + 4 <= len(data) and data[position] == 0xFF and data[position + 1] != 0xDA:
        length = int.from_bytes(data[position + 2 : position + 4], "big")
        content = data[position + 4 : position + 2 + length]
        if data[position + 1] == _JPEG_EXIF and content.startswith(b"Exif\0\0"):
            yield content[6:]
        position += 2 + length


def _png_exif(data: bytes) -> Iterator[bytes]:
    position = _PNG_SIGNATURE_BYTES
    while position + 8 <= len(data):
        length = int.from_bytes(data[position : position + 4], "big")
        if data[position + 4 : position + 8] == b"eXIf":
            yield data[position + 8 : position + 8 + length]
        position += 12 + length


def _tiff_orientation(tiff: bytes) -> int | None:
    """Looks it up in the first directory of a TIFF block; raises struct.error where that ends."""
    order = {b"II": "<", b"MM": ">"}.get(tiff[:2])
    if order is None:
        return None
    _, start = struct.unpack_from(f"{order}HI", tiff, 2)
    (entries,) = struct.unpack_from(f"{order}H", tiff, start)
    for entry in range(entries):
        tag, kind, _, value = struct.unpack_from(f"{order}HHIH", tiff, start + 2 + 12 * entry)
        if (tag, kind) == (_ORIENTATION, _SHORT):
            return value
    return None
