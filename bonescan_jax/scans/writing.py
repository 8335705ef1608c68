"""A folder appears in its place only when it is complete, whatever ends its writing."""

import contextlib
import fcntl
import glob
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

_LOCK = "lock"


@contextlib.contextmanager
def complete_folder(path: Path) -> Iterator[Path]:
    """Gives a `hidden_folder` in which <name of path> is written; in the end that becomes `path`.

    Raises:
        OSError: the place cannot be written to, or `path` is there by now and not empty.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with hidden_folder(path) as folder:
        yield folder
        (folder / path.name).rename(path)


@contextlib.contextmanager
def hidden_folder(path: Path) -> Iterator[Path]:
    """Gives a hidden folder beside `path`, which is removed in the end.

    What a process left that was killed is removed by the next one that asks for this path.

    Raises:
        OSError: the place cannot be written to.
    """
    _remove_leftovers(path)
    with (
        tempfile.TemporaryDirectory(prefix=f".{path.name}-", dir=path.parent) as folder,
        _locked(Path(folder)),
    ):
        yield Path(folder)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Holds a lock in the folder: it ends with this process, however that ends."""
    lock = folder / _LOCK
    with lock.with_suffix(".new").open("wb") as file:
        with contextlib.suppress(OSError):  # a file system without locks: leftovers stay there
            fcntl.flock(file, fcntl.LOCK_EX)
            Path(file.name).rename(lock)  # nobody sees it before it is held
        yield


def _remove_leftovers(path: Path) -> None:
    """Removes the hidden folders for this path whose process is gone."""
    for lock in path.parent.glob(f".{glob.escape(path.name)}-*/{_LOCK}"):
        with contextlib.suppress(OSError), lock.open("r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # raises while it is held
            shutil.rmtree(lock.parent)
