"""Lists and reads the files of a folder or a zip file that strangers made; extracts nothing.

Names use "/". Whatever keeps a file from being read is a ValueError with a phrase to be written
after the file's name.
"""

import os
import re
import stat
import struct
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from bonescan_jax.errors import InputError
from bonescan_jax.scans.findings import SKIPPED, Finding, printable

# What zipfile raises for damaged files, beside OSError and ValueError.
_ZIP_ERRORS = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    NotImplementedError,
    OverflowError,
    RuntimeError,
    OSError,
    ValueError,
)
# Deflate shrinks XML 20-fold and JPEG hardly: more is a bomb (its limit is 1032).
_MAX_RATIO = 200
_LISTED_DEPTH = 2  # folders below the one that is asked for


class SourceFiles(NamedTuple):
    """The files of a folder or zip file."""

    names: list[str]  # sorted, each once
    read: Callable[[str, int], bytes]  # name, most bytes: the whole file, or ValueError
    findings: list[Finding]  # members of a zip file that are left alone, and why


def open_source(source: Path, folders: Sequence[str]) -> SourceFiles:
    """Lists the files in `folders`, which lie in the source or one folder deeper.

    Raises:
        InputError: the source cannot be opened or listed.
    """
    if os.path.isfile(source):  # unlike Path.is_file, says no where it may not look
        return _open_zip(source)
    if not os.path.isdir(source):
        raise InputError(
            f"{printable(str(source))}: does not exist or may not be looked at, expected a folder "
            "or a zip file."
        )
    return _open_folder(source, folders)


def _open_folder(source: Path, folders: Sequence[str]) -> SourceFiles:
    roots = ["", *(f"{entry.name}/" for entry in _scan(source) if os.path.isdir(entry.path))]
    names: list[str] = []
    for root in roots:
        for folder in folders:
            if os.path.isdir(source / root / folder):
                names += _list_files(source, f"{root}{folder}", _LISTED_DEPTH)

    def read(name: str, limit: int) -> bytes:
        path = source / name
        try:
            if not stat.S_ISREG(path.stat().st_mode):  # reading a pipe would wait for ever
                raise ValueError("is no ordinary file, expected one")
            with path.open("rb") as file:
                return _whole(file.read(limit + 1), limit)
        except OSError as error:
            raise ValueError(f"cannot be read ({error.strerror})") from error

    return SourceFiles(sorted(names), read, [])


def _list_files(source: Path, folder: str, depth: int) -> Iterator[str]:
    """Files of a folder and, `depth` folders deep, below it: links that go round in a loop end."""
    for entry in _scan(source / folder):
        name = f"{folder}/{entry.name}"
        if os.path.isdir(entry.path):
            if depth > 1:
                yield from _list_files(source, name, depth - 1)
        else:
            yield name


def _scan(folder: Path) -> list[os.DirEntry]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise InputError(
            f"{printable(str(folder))}: cannot be listed ({error.strerror}), expected a folder "
            "that may be read."
        ) from error


def _open_zip(source: Path) -> SourceFiles:
    shown = printable(str(source))
    try:
        archive = zipfile.ZipFile(source)
    except _ZIP_ERRORS as error:
        raise InputError(f"{shown}: is no readable zip file ({error}).") from error
    files = [info for info in archive.infolist() if not info.filename.endswith("/")]
    if any(info.flag_bits & 1 for info in files):
        raise InputError(f"{shown}: is encrypted, expected a zip file without a password.")
    # Nothing is extracted, so such names can do no harm here; but no honest data set has them.
    findings = [
        Finding(SKIPPED, "unsafe member of the zip file", f"{printable(info.filename)}: {wrong}.")
        for info in files
        if (wrong := _unsafe(info))
    ]
    safe = [info for info in files if not _unsafe(info)]
    times = Counter(info.filename for info in safe)
    members = {info.filename: info for info in safe}

    def read(name: str, limit: int) -> bytes:
        info = members[name]
        if times[name] > 1:
            raise ValueError(f"is in the zip file {times[name]} times, expected once")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            # zipfile unpacks the others without a limit on memory.
            raise ValueError(
                f"has compression method {info.compress_type}, expected 0 (stored) or 8 (deflated)"
            )
        # Counted while unpacking: the sizes that a zip file declares need not be true.
        limit = min(limit, max(1 << 16, _MAX_RATIO * info.compress_size))
        try:
            with archive.open(info) as file:
                data = file.read(limit + 1)
        except _ZIP_ERRORS as error:
            raise ValueError(f"cannot be read ({printable(str(error))})") from error
        return _whole(data, limit)

    return SourceFiles(sorted(members), read, findings)


def _unsafe(info: zipfile.ZipInfo) -> str | None:
    """Why a member of a zip file is left alone, as a phrase after its name."""
    name = info.orig_filename
    if not name:
        return "member without a name, expected one"
    if stat.S_ISLNK(info.external_attr >> 16):
        return "is a symbolic link, expected a file"
    if "\0" in name or "\\" in name:
        return "has a backslash or NUL in its name, expected '/' between folders"
    if name.startswith("/") or re.match(r"[A-Za-z]:", name):
        return "is an absolute path, expected one inside the zip file"
    if ".." in name.split("/"):
        return "leads out of the zip file with '..', expected a path inside"
    return None


def _whole(data: bytes, limit: int) -> bytes:
    if len(data) > limit:
        raise ValueError(f"holds more than {limit} bytes, expected at most that")
    return data
