"""Gives encoded images an Exif header with an orientation, for tests."""

import struct
import zlib


def with_orientation(image: bytes, orientation: int, order: str = ">") -> bytes:
    """A JPEG or PNG with a header of one entry, in big (>) or little endian (<) numbers."""
    entry = struct.pack(f"{order}HHIHH", 0x0112, 3, 1, orientation, 0)
    tiff = {">": b"MM", "<": b"II"}[order] + struct.pack(f"{order}HIH", 42, 8, 1) + entry + bytes(4)
    if image[:2] == b"\xff\xd8":
        content = b"Exif\0\0" + tiff
        return image[:2] + b"\xff\xe1" + struct.pack(">H", len(content) + 2) + content + image[2:]
    chunk = b"eXIf" + tiff
    after_header = 8 + 25  # signature and IHDR
    made = struct.pack(">I", len(tiff)) + chunk + struct.pack(">I", zlib.crc32(chunk))
    return image[:after_header] + made + image[after_header:]
