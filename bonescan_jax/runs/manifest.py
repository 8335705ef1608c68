"""The manifest of a saved step: checksums of its files, and its scores once it is validated.

A disk, a network or a copy can truncate a file or flip a bit, and damaged weights are still
weights. So a step is restored only if every byte is what was saved.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

NAME = "manifest.json"


class DamagedError(Exception):
    """A saved step is not what was written; the message says which file, and what is wrong."""


def seal(folder: Path, record: dict[str, Any]) -> None:
    """Writes the manifest of all files below a folder, beside what `record` says about them."""
    files = {
        str(path.relative_to(folder)): {"bytes": path.stat().st_size, "blake2b": _digest(path)}
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path != folder / NAME
    }
    _write(folder, {**record, "files": files})


def amend(folder: Path, changes: dict[str, Any]) -> None:
    """Writes more about a saved step into its manifest; the step itself stays as it is.

    Raises:
        DamagedError: the manifest that is there is not whole.
    """
    _write(folder, {**read(folder), **changes})


def read(folder: Path) -> dict[str, Any]:
    """The manifest of a saved step; checks the manifest itself, not the files.

    Raises:
        DamagedError: there is none, or it is not what was written.
    """
    path = folder / NAME
    try:
        written = json.loads(path.read_bytes())
        content = written["content"]
        if written["blake2b"] != _digest_of(content):
            raise DamagedError(f"{NAME} does not have the checksum that it was written with")
        return content
    except FileNotFoundError:
        raise DamagedError(f"there is no {NAME}") from None
    except (ValueError, KeyError, TypeError) as error:
        raise DamagedError(f"{NAME} cannot be read ({error})") from error


def verify(folder: Path) -> dict[str, Any]:
    """The manifest of a saved step whose files are all there, and all as they were written.

    Raises:
        DamagedError: one is missing, or is not.
    """
    content = read(folder)
    for name, expected in content["files"].items():
        path = folder / name
        if not path.is_file():
            raise DamagedError(f"{name} is missing")
        if path.stat().st_size != expected["bytes"]:
            found = path.stat().st_size
            raise DamagedError(f"{name} has {found} bytes, expected {expected['bytes']}")
        if _digest(path) != expected["blake2b"]:
            raise DamagedError(f"{name} does not have the checksum that it was written with")
    return content


def _write(folder: Path, content: dict[str, Any]) -> None:
    torn = folder / f"{NAME}.tmp"
    whole = {"blake2b": _digest_of(content), "content": content}
    torn.write_text(json.dumps(whole, indent=1, sort_keys=True) + "\n")
    torn.replace(folder / NAME)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, _blake2b).hexdigest()


def _digest_of(content: dict[str, Any]) -> str:
    digest = _blake2b()
    digest.update(json.dumps(content, sort_keys=True).encode())
    return digest.hexdigest()


def _blake2b() -> Any:  # noqa: ANN401 - hashlib does not name the type
    return hashlib.blake2b(digest_size=16)
