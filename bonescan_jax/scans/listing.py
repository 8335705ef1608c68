"""Finds the image files of a folder or a zip file, and leaves alone what bonescan itself wrote."""

import os
import struct
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from bonescan_jax.errors import InputError
from bonescan_jax.scans.dicom import MAX_BYTES
from bonescan_jax.scans.findings import IGNORED, Finding, printable
from bonescan_jax.scans.source import SourceFiles, open_files, open_source

SUFFIXES = (".jpg", ".jpeg", ".png", ".dcm")
_HEAD = 132  # bytes that tell DICOM and our own PNGs from other files
# The text chunk of a PNG that bonescan wrote; it comes after the signature and IHDR.
_AFTER_IHDR = 33
_MARK = b"tEXtSoftware\0bonescan"


@dataclass(frozen=True)
class ImageFile:
    """An image file of a folder or a zip file."""

    path: Path  # for sentences; that of a zip file's member leads through the zip file
    name: str  # below what was listed, with "/" between folders
    source: SourceFiles = field(compare=False, repr=False)

    def read(self) -> bytes:
        """The whole file.

        Raises:
            InputError: it cannot be read or is far larger than an image.
        """
        try:
            return self.source.read(self.name, MAX_BYTES)
        except ValueError as error:
            raise InputError(f"{printable(str(self.path))}: {error}.") from error

    def head(self, size: int) -> bytes:
        """Its first bytes; none where it cannot be read."""
        try:
            return self.source.head(self.name, size)
        except ValueError:
            return b""


class Listing(NamedTuple):
    """What was found in a file, a folder or a zip file."""

    files: list[ImageFile]  # sorted by name
    findings: list[Finding]  # what was left alone, and why


def list_image_files(source: Path) -> Listing:
    """Lists the image files to read: the file itself, or those anywhere in a folder or a zip file.

    In a folder those count that are named .jpg, .jpeg, .png or .dcm, in any case, or hold DICOM
    under any name; but not hidden ones (a Mac's ._ files), nor DICOMDIR, nor what bonescan wrote.

    Raises:
        InputError: there is no such path, or nothing in it is an image file.
    """
    if os.path.isfile(source) and not _is_zip(source):
        files = open_files(source.parent, [source.name])
        return Listing([ImageFile(source, source.name, files)], [])
    if not os.path.exists(source):
        raise InputError(
            f"{printable(str(source))}: does not exist, expected an image file, a folder or a zip "
            "file of them."
        )
    files = open_source(source)
    images, findings = [], list(files.findings)
    for name in files.names:
        if (head := _image_head(name, files)) is None:
            continue
        path = source / name
        if reason := _left_alone(name, head):
            findings.append(Finding(IGNORED, reason, f"{printable(str(path))}: {reason}."))
        else:
            images.append(ImageFile(path, name, files))
    if not images:
        raise InputError(
            f"{printable(str(source))}: holds no image file, expected {', '.join(SUFFIXES)}."
        )
    return Listing(images, findings)


def image_stem(name: str) -> str:
    """A file's name without the suffix of an image: that of a UID is part of its name."""
    stem, suffix = os.path.splitext(name)
    return stem if suffix.lower() in SUFFIXES else name


def mark_result(png: bytes) -> bytes:
    """The PNG with a note that bonescan wrote it, so that it is never taken for a scan."""
    chunk = struct.pack(">I", len(_MARK) - 4) + _MARK + struct.pack(">I", zlib.crc32(_MARK))
    return png[:_AFTER_IHDR] + chunk + png[_AFTER_IHDR:]


def is_result(head: bytes) -> bool:
    """Whether a file that begins with these 132 bytes is a PNG that bonescan wrote."""
    return head[_AFTER_IHDR + 4 :].startswith(_MARK)


def _is_zip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) == b"PK" or path.suffix.lower() == ".zip"


def _image_head(name: str, files: SourceFiles) -> bytes | None:
    """The first bytes of an image file; None where it is none."""
    by_name = name.lower().endswith(SUFFIXES)
    try:
        head = files.head(name, _HEAD)
    except ValueError:  # an image that cannot be read is told when it is to be read
        return b"" if by_name else None
    return head if by_name or head[128:] == b"DICM" else None


def _left_alone(name: str, head: bytes) -> str | None:
    """Why a file that looks like an image is none to read."""
    parts = name.split("/")
    if "__MACOSX" in parts or any(part.startswith(".") for part in parts):
        return "is hidden"
    if parts[-1].upper() == "DICOMDIR":
        return "is the index of a DICOM medium"
    if is_result(head):
        return "was written by bonescan"
    return None
