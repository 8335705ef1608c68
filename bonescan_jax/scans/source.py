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
from collections.abc import Callable, Iterable, Iterator, Sequence
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


class SourceFiles(NamedTuple):
    """The files of a folder or zip file."""

    names: list[str]  # sorted, each once
    read: Callable[[str, int], bytes]  # name, most bytes: the whole file, or ValueError
    head: Callable[[str, int], bytes]  # name, how many: its first bytes, or ValueError
    findings: list[Finding]  # members of a zip file that are left alone, and why


def open_source(source: Path, folders: Sequence[str] | None = None) -> SourceFiles:
    """Lists the files of a folder or a zip file. Links are followed, each folder is listed once.

    Args:
        source: the folder or zip file.
        folders: only those in these, which lie in the source or one folder deeper (a zip file
            gives all of its files); None: all files, anywhere below.

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
    visited = {_place(source)}
    if folders is None:
        return open_files(source, _list_files(source, "", visited))
    roots = ["", *(f"{entry.name}/" for entry in _scan(source) if os.path.isdir(entry.path))]
    inside = [f"{root}{folder}" for root in roots for folder in folders]
    return open_files(
        source,
        (
            name
            for folder in inside
            if os.path.isdir(source / folder)
            for name in _list_files(source, folder, visited)
        ),
    )


def open_files(folder: Path, names: Iterable[str]) -> SourceFiles:
    """These files of a folder."""

    def head(name: str, size: int) -> bytes:
        path = folder / name
        try:
            if not stat.S_ISREG(path.stat().st_mode):  # reading a pipe would wait for ever
                raise ValueError("is no ordinary file, expected one")
            with path.open("rb") as file:
                return file.read(size)
        except OSError as error:
            raise ValueError(f"cannot be read ({error.strerror})") from error

    def read(name: str, limit: int) -> bytes:
        return _whole(head(name, limit + 1), limit)

    return SourceFiles(sorted(names), read, head, [])


def _list_files(source: Path, folder: str, visited: set[tuple[int, int]]) -> Iterator[str]:
    """Files anywhere below a folder; a folder that was visited is not entered, so loops end."""
    waiting = [folder]
    while waiting:
        inside = waiting.pop()
        for entry in _scan(source / inside):
            name = f"{inside}/{entry.name}" if inside else entry.name
            if not os.path.isdir(entry.path):
                yield name
            elif (place := _place(entry.path)) not in visited:
                visited.add(place)
                waiting.append(name)


def _place(folder: Path | str) -> tuple[int, int]:
    """What a folder is, by whatever link it was reached."""
    status = os.stat(folder)
    return status.st_dev, status.st_ino


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
        if _is_part(source):
            raise InputError(
                f"{shown}: is one part of a zip file in several parts, expected all of it in one "
                "file (zip -s 0 PARTS.zip --out WHOLE.zip)."
            )
        archive = zipfile.ZipFile(source)
    except _ZIP_ERRORS as error:
        raise InputError(f"{shown}: is not a readable zip file ({error}).") from error
    files = [info for info in archive.infolist() if not info.filename.endswith("/")]
    if any(info.flag_bits & 1 for info in files):
        raise InputError(f"{shown}: is encrypted, expected a zip file without a password.")
    if files and all("\\" in info.orig_filename for info in files):
        raise InputError(
            f"{shown}: has backslashes between its folders, as some Windows programs write them; "
            "expected '/', or the unpacked folder."
        )
    # Nothing is extracted, so such names can do no harm here; but no honest data set has them.
    findings = [
        Finding(SKIPPED, "unsafe member of the zip file", f"{printable(info.filename)}: {wrong}.")
        for info in files
        if (wrong := _unsafe(info))
    ]
    safe = [info for info in files if not _unsafe(info)]
    times = Counter(info.filename for info in safe)
    members = {info.filename: info for info in safe}

    def head(name: str, size: int) -> bytes:
        info = members[name]
        if times[name] > 1:
            raise ValueError(f"is in the zip file {times[name]} times, expected once")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            # zipfile unpacks the others without a limit on memory.
            raise ValueError(
                f"has compression method {info.compress_type}, expected 0 (stored) or 8 (deflated)"
            )
        try:
            with archive.open(info) as file:
                return file.read(size)
        except _ZIP_ERRORS as error:
            raise ValueError(f"cannot be read ({printable(str(error))})") from error

    def read(name: str, limit: int) -> bytes:
        # Counted while unpacking: the sizes that a zip file declares need not be true.
        limit = min(limit, max(1 << 16, _MAX_RATIO * members[name].compress_size))
        return _whole(head(name, limit + 1), limit)

    return SourceFiles(sorted(members), read, head, findings)


def _is_part(source: Path) -> bool:
    """Whether a zip file is in several parts: the first begins so, the last one has a number.

    APPNOTE.TXT, 4.3.16 and 8.5.3: the number follows the signature of the end record.
    """
    with source.open("rb") as file:
        if file.read(4) == b"PK\7\x08":
            return True
        file.seek(max(0, source.stat().st_size - (1 << 16)))
        _, found, end = file.read().rpartition(b"PK\5\6")
    return bool(found) and end[:2] != b"\0\0"


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
