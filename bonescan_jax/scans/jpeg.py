"""Strict JPEG reading: whole, one component, 8 bit, or refused with the reason."""

import re
from typing import NamedTuple

import imagecodecs
import numpy as np
import tensorstore as ts

# SOF0 … SOF15 without the three codes in that range that are no frame headers (DHT, JPG, DAC).
# And SOF55, of JPEG-LS (ITU-T T.87).
_FRAME_MARKERS = frozenset({*range(0xC0, 0xD0), 0xF7}) - {0xC4, 0xC8, 0xCC}
_SEQUENTIAL_MARKERS = (0xC0, 0xC1)  # Huffman coding, every block once
_START_OF_SCAN = 0xDA
# Markers without a length after them: TEM and RST0 … RST7.
_BARE_MARKERS = frozenset({0x01, *range(0xD0, 0xD8)})
# Every scan goes over the whole image again: a progressive file needs some ten of them, a small
# malicious one could ask for thousands.
_MAX_SCANS = 64
MAX_PIXELS = 1 << 24  # a header may ask for 65535x65535; no bone scan is near this


class JPEGHeader(NamedTuple):
    """The frame header (SOF) of a JPEG file; ITU-T T.81, B.2.2."""

    precision: int  # bits per sample
    height: int
    width: int
    components: int


def read_jpeg_header(data: bytes) -> JPEGHeader:
    """Reads the frame header.

    Raises:
        ValueError: the bytes are no JPEG file or end before the frame header; says which.
    """
    position = _find_frame(data)
    segment = data[position + 4 : position + 10]
    return JPEGHeader(
        precision=segment[0],
        height=int.from_bytes(segment[1:3], "big"),
        width=int.from_bytes(segment[3:5], "big"),
        components=segment[5],
    )


def _find_frame(data: bytes) -> int:
    """The position of the frame header's marker; raises ValueError where there is none."""
    if data[:2] != b"\xff\xd8":
        raise ValueError("is no JPEG file, expected one")
    position = 2
    while position + 9 < len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if marker in _FRAME_MARKERS:
            return position
        if marker == _START_OF_SCAN:
            break
        if marker == 0xFF:  # padding before a marker
            position += 1
        elif marker in _BARE_MARKERS:
            position += 2
        else:
            position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
    raise ValueError("is a JPEG file without a frame header, expected a whole JPEG")


def decode_jpeg(data: bytes) -> np.ndarray:
    """Decodes a JPEG of one 8-bit component.

    TensorStore decodes because it stops at libjpeg's warnings: OpenCV prints them and hands out an
    image whose missing part is grey.

    Returns:
        (H, W) uint8.

    Raises:
        ValueError: what is wrong, to be written after the file's name: not a JPEG, another number
          of components or bits, too large to decode, truncated or damaged.
    """
    header = read_jpeg_header(data)
    if header.components != 1:
        raise ValueError(f"has {header.components} colour components, expected 1 (grey)")
    if header.precision != 8:
        raise ValueError(f"has {header.precision} bits per pixel, expected 8")
    if header.height * header.width > MAX_PIXELS:
        raise ValueError(
            f"size is {header.width}x{header.height}, expected at most {MAX_PIXELS} pixels"
        )
    if (scans := data.count(bytes([0xFF, _START_OF_SCAN]))) > _MAX_SCANS:
        raise ValueError(f"has {scans} scans, expected at most {_MAX_SCANS}")
    context = ts.Context()  # its own memory, so that threads never meet
    memory = ts.KvStore.open("memory://", context=context).result()
    memory["jpeg"] = data
    spec = {"driver": "jpeg", "kvstore": "memory://jpeg"}
    try:
        image = ts.open(spec, context=context).result().read().result()
    except ValueError as error:
        found = re.search(r'Error reading "jpeg": (.*?)(?: \[|$)', str(error))
        reason = found.group(1) if found else "undecodable"
        raise ValueError(f"is truncated or damaged ({reason}), expected a whole JPEG") from None
    return image[..., 0]


def decode_top(data: bytes, rows: int | None = None) -> np.ndarray:
    """Decodes the top rows of a JPEG that `decode_jpeg` takes, to the pixels of the whole image.

    Sequential JPEGs store their blocks of 8×8 pixels from top to bottom: told that the image is
    less high, a decoder stops there. imagecodecs calls the same libjpeg-turbo as OpenCV, which
    would print a warning about the bytes that are left.

    Args:
        data: the file.
        rows: how many are wanted, all if not given.

    Returns:
        (rows, W) uint8.
    """
    frame = _find_frame(data)
    height = int.from_bytes(data[frame + 5 : frame + 7], "big")
    needed = height if rows is None else -(-rows // 8) * 8
    if needed < height and data[frame + 1] in _SEQUENTIAL_MARKERS:
        data = data[: frame + 5] + needed.to_bytes(2, "big") + data[frame + 7 :]
    return imagecodecs.jpeg8_decode(data)[:rows]
