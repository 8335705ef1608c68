"""Holds a workdir for one run alone, also where the disk is that of a network."""

import contextlib
import errno
import fcntl
import os
import secrets
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from bonescan_jax.errors import DISK_ERRORS, BusyError, InputError

NAME = "run.lock"
# A holder touches its file so often ...
BEAT_SECONDS = 30
# ... and after so long without is dead. Clocks of hosts differ by seconds.
DEAD_SECONDS = 5 * 60
# What flock says where another process holds the file, and where a file system knows no locks.
_HELD = {errno.EAGAIN, errno.EACCES}
_UNKNOWN = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL}


@contextlib.contextmanager
def claimed(workdir: Path) -> Iterator[str]:
    """Holds a workdir for one run alone while the body runs; made if it is not there.

    The lock is the operating system's and ends with the process. But where it is that of a server,
    which may never hear that a host is gone, the file's time tells whether its holder lives.

    Where the body raises InputError, the run never began: lock and folder are left as found.

    Yields:
        A word that nobody else has: who reads it in run.lock sees this very folder.

    Raises:
        BusyError: another run holds it.
        InputError: there can be no such folder.
    """
    made = _make(workdir)
    path = workdir / NAME
    file, before = _locked(path)
    file.seek(0)
    found = file.read()
    token = secrets.token_hex(8)
    stopped = threading.Event()
    try:
        _write(file, f"process {os.getpid()} on host {socket.gethostname()}\n{token} {_kernel()}\n")
        threading.Thread(target=_beat, args=(path, file, stopped), daemon=True).start()
        yield token
        _write(file, "")
    except InputError:
        if before is None:
            path.unlink(missing_ok=True)
        else:
            _write(file, found)
            os.utime(file.fileno(), ns=(before.st_atime_ns, before.st_mtime_ns))
        with contextlib.suppress(OSError):  # somebody else uses it already
            for place in made:
                place.rmdir()
        raise
    except BaseException:
        with contextlib.suppress(OSError):  # the disk may be what failed
            _write(file, "")
        raise
    finally:
        stopped.set()
        file.close()


def silent_seconds(workdir: Path) -> float | None:
    """How long ago the holder of a folder gave a sign of life; None where nobody holds it."""
    try:
        with (workdir / NAME).open("r+") as file:
            if not file.read():  # its holder ended in order
                return None
            silent = max(0.0, time.time() - os.fstat(file.fileno()).st_mtime)
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno not in _HELD | _UNKNOWN:
                    raise
            else:
                return None
            file.seek(0)
            return silent if silent < DEAD_SECONDS or _is_of_this_kernel(file.read()) else None
    except FileNotFoundError:
        return None


def read_token(workdir: Path) -> str | None:
    """The word that the holder of this folder has written there, None if there is none."""
    with contextlib.suppress(OSError, IndexError):
        os.listdir(workdir)  # a network's disk then looks whether its memory of it is still true
        return (workdir / NAME).read_text().split("\n")[1].split()[0]
    return None


def _make(workdir: Path) -> list[Path]:
    """Makes a folder and those above it; returns those that were not there, innermost first."""
    try:
        missing = [place for place in (workdir, *workdir.parents) if not os.path.lexists(place)]
        workdir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if error.errno in DISK_ERRORS:
            raise
        raise InputError(
            f"{workdir}: cannot be the folder of a run: {error.strerror}; expected --workdir to "
            "name a folder that is there or can be made"
        ) from error
    return missing


def _locked(path: Path) -> tuple[IO[str], os.stat_result | None]:
    """The locked file, and what was known of it before, None where it was not there."""
    while True:
        before = path.stat() if path.exists() else None
        file = path.open("a+")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in _UNKNOWN:
                _warn(f"{path}: {error.strerror}; nothing keeps other runs out of this folder")
                return file, before
            if error.errno not in _HELD:
                raise
            _refuse_if_alive(path, file)
            file.close()
            path.unlink(missing_ok=True)  # the lock goes with the old file
            continue
        # Whoever removed the file since it was opened would lock another one.
        if path.exists() and os.path.samestat(path.stat(), os.fstat(file.fileno())):
            return file, before
        file.close()


def _refuse_if_alive(path: Path, file: IO[str]) -> None:
    file.seek(0)
    content = file.read()
    holder = content.partition("\n")[0]
    silent = time.time() - path.stat().st_mtime
    if _is_of_this_kernel(content) or silent < DEAD_SECONDS:
        raise BusyError(
            f"{path.parent}: is in use by {holder or 'another run'}; wait until that ends, or use "
            "another --workdir"
        )
    minutes = f"{silent / 60:.0f} minutes"
    _warn(f"{path}: {holder} has not been heard of for {minutes}; this run takes the folder")


def _is_of_this_kernel(content: str) -> bool:
    """Whether a lock is held by a process that this kernel knows: then it is not dead."""
    rest = content.partition("\n")[2]
    return not rest or rest.split()[-1] == _kernel()  # older programs wrote no second line


def _beat(path: Path, file: IO[str], stopped: threading.Event) -> None:
    """Tells others that this process lives, and ends it where they thought that it did not."""
    while not stopped.wait(BEAT_SECONDS):
        with contextlib.suppress(OSError, ValueError):
            os.utime(file.fileno())
            if not os.path.samestat(path.stat(), os.fstat(file.fileno())):
                _warn(f"{path}: another run has taken the folder, because this one stood still")
                os._exit(1)


def _write(file: IO[str], text: str) -> None:
    file.truncate(0)
    file.write(text)
    file.flush()
    os.fsync(file.fileno())  # on a network's disk others see it then


def _kernel() -> str:
    """Tells machines apart that run at this moment; containers of one machine have the same."""
    with contextlib.suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return socket.gethostname()


def _warn(text: str) -> None:
    print(f"bonescan: warning: {text}", file=sys.stderr)
