"""Weights of a run in one file, which NumPy reads too: a zip archive of arrays and JSON, no pickle.

Members are stored and not compressed: format.json (format, version, checksum of the others),
config.json (every setting of the run), run.json (what the program needs beside), card.json (what a
reader must know: data, scores, limits), and an array for each path, as
params/nodes/0_0/conv1/kernel.npy. `numpy.load(FILE)` gives the arrays by path.
"""

import hashlib
import io
import json
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import ml_collections
import numpy as np

from bonescan_jax.errors import InputError
from bonescan_jax.runs.workdir import CONFIG, parse_config

FORMAT, RUN, CARD = "format.json", "run.json", "card.json"
NAME, VERSION = "bonescan_jax weights", 1
_ARRAY = ".npy"
_DTYPES = (np.dtype("<f4"), np.dtype("<f2"))
_LARGEST_HALF = float(np.finfo(np.float16).max)
# Files of the same weights are the same, to the byte. 1980 is the first year that zip knows.
_TIME = (1980, 1, 1, 0, 0, 0)

RELEASED = Path(__file__).parents[1] / "released"


class WeightsFile(NamedTuple):
    """What a file holds."""

    config: ml_collections.ConfigDict  # of the run
    arrays: dict[str, np.ndarray]  # averaged weights and statistics by path, float32
    run: dict[str, Any]  # "step", "checkpoint", "predictor", "data_fingerprint", "evaluation"
    card: dict[str, Any]  # "data", "training", "scores", "limits"
    sha256: str  # of the file


def write_weights_file(
    path: Path,
    config: ml_collections.ConfigDict,
    arrays: Mapping[str, np.ndarray],
    run: dict[str, Any],
    card: dict[str, Any],
    half: bool = False,
) -> str:
    """Writes a file atomically; returns its SHA-256.

    Args:
        path: of the file.
        config: of the run.
        arrays: of {"params", "stats"}, by path.
        run: see `WeightsFile`.
        card: see `WeightsFile`.
        half: kernels as float16, in half the bytes; vectors stay float32, and so does a kernel with
            a number that float16 cannot hold.

    Raises:
        OSError: the disk is full or the like.
    """
    members = {
        CONFIG: config.to_json(indent=2).encode(),
        RUN: json.dumps(run, indent=2).encode(),
        CARD: json.dumps(card, indent=2).encode(),
        **{name + _ARRAY: _written(array, half) for name, array in sorted(arrays.items())},
    }
    about = {"format": NAME, "version": VERSION, "sha256": _checksum(members)}
    members = {FORMAT: json.dumps(about, indent=2).encode(), **members}
    partial = path.with_name(path.name + ".partial")
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(partial, "w") as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name, _TIME), content)
    os.replace(partial, path)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def read_weights_file(path: Path) -> WeightsFile:
    """Reads what `write_weights_file` wrote, checked to the byte.

    Raises:
        InputError: it cannot be read, is damaged, of another version, or holds something else.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    members = _members(path, content)
    _check_format(path, members)
    return WeightsFile(
        config=parse_config(_json(path, members, CONFIG), f"{path}: {CONFIG}"),
        arrays={
            name.removesuffix(_ARRAY): _read_array(path, name, member)
            for name, member in members.items()
            if name.endswith(_ARRAY)
        },
        run=_read_run(path, members),
        card=_json(path, members, CARD),
        sha256=hashlib.sha256(content).hexdigest(),
    )


def released_weights() -> Path:
    """The file that comes with this package, the last by name if there are several.

    Raises:
        InputError: none does.
    """
    files = sorted(RELEASED.glob("*.npz"))
    if not files:
        raise InputError(
            "--workdir is missing: this package comes without released weights, expected the "
            "workdir of bonescan train or a file of bonescan export"
        )
    return files[-1]


def _written(array: np.ndarray, half: bool) -> bytes:
    fits = array.ndim > 1 and bool((np.abs(array) <= _LARGEST_HALF).all())
    file = io.BytesIO()
    kind = _DTYPES[1] if half and fits else _DTYPES[0]
    np.lib.format.write_array(file, np.ascontiguousarray(array, kind), allow_pickle=False)
    return file.getvalue()


def _members(path: Path, content: bytes) -> dict[str, bytes]:
    """The members of the archive, none of which is larger than the file."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            entries = archive.infolist()
            for entry in entries:
                if entry.compress_type != zipfile.ZIP_STORED or entry.file_size > len(content):
                    raise InputError(
                        f"{path}: {entry.filename!r} is compressed, expected a stored member; "
                        f"{_WANTED}"
                    )
            if sum(entry.file_size for entry in entries) > len(content):
                raise InputError(f"{path}: is damaged: its members overlap; {_WANTED}")
            return {entry.filename: archive.read(entry) for entry in entries}
    # What zipfile raises of a damaged archive, also of an encrypted one or an unknown method.
    except (zipfile.BadZipFile, EOFError, OSError, ValueError, RuntimeError) as error:
        raise InputError(f"{path}: is damaged, or no such file ({error}); {_WANTED}") from error


_WANTED = "expected a file of bonescan export"


def _check_format(path: Path, members: dict[str, bytes]) -> None:
    """Checks format, version and checksum, and that nothing is missing."""
    if FORMAT not in members:
        raise InputError(f"{path}: holds no {FORMAT}; {_WANTED}")
    about = _json(path, members, FORMAT)
    for field, expected in (("format", NAME), ("version", VERSION)):
        if about.get(field) != expected:
            raise InputError(
                f"{path}: {FORMAT}: {field} is {about.get(field)!r}, expected {expected!r} as this "
                "program writes it"
            )
    found = _checksum({name: member for name, member in members.items() if name != FORMAT})
    if about.get("sha256") != found:
        raise InputError(
            f"{path}: is damaged: {FORMAT}: sha256 is {about.get('sha256')!r}, expected {found!r} "
            "of the other members"
        )


def _checksum(members: Mapping[str, bytes]) -> str:
    """Of names, lengths and bytes, so that nothing can move from one member to another."""
    digest = hashlib.sha256()
    for name, content in sorted(members.items()):
        digest.update(f"{name}\n{len(content)}\n".encode())
        digest.update(content)
    return digest.hexdigest()


def _json(path: Path, members: dict[str, bytes], name: str) -> dict[str, Any]:
    if name not in members:
        raise InputError(f"{path}: holds no {name}; {_WANTED}")
    try:
        content = json.loads(members[name])
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: {name}: cannot be read as JSON: {error}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: {name}: holds {content!r}, expected names and values")
    return content


def _read_run(path: Path, members: dict[str, bytes]) -> dict[str, Any]:
    run = _json(path, members, RUN)
    for field, kind in (("step", int), ("predictor", str)):
        if not isinstance(run.get(field), kind):
            raise InputError(
                f"{path}: {RUN}: {field} is {run.get(field)!r}, expected "
                f"{'a whole number' if kind is int else 'a name'}"
            )
    return run


def _read_array(path: Path, name: str, content: bytes) -> np.ndarray:
    """The array of a member; nothing in it is executed, and its size is that of the member."""
    file = io.BytesIO(content)
    try:
        if np.lib.format.read_magic(file) != (1, 0):
            raise ValueError("it is of another version of NumPy's format")
        shape, by_columns, dtype = np.lib.format.read_array_header_1_0(file)
    except (ValueError, TypeError, SyntaxError) as error:
        raise InputError(f"{path}: {name}: is no array of numbers ({error})") from error
    if dtype not in _DTYPES or by_columns:
        found = "Python objects (a pickle)" if dtype.hasobject else f"{dtype}"
        raise InputError(f"{path}: {name}: holds {found}, expected float32 or float16 by rows")
    numbers = content[file.tell() :]
    expected = dtype.itemsize * int(np.prod(shape, dtype=object))
    if len(numbers) != expected:
        raise InputError(
            f"{path}: {name}: holds {len(numbers)} bytes, expected {expected} for the shape {shape}"
        )
    return np.frombuffer(numbers, dtype).reshape(shape).astype(np.float32)
