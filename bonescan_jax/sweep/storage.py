"""Where a study is kept, by URL: a journal file, or a database that many machines reach."""

import contextlib
import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import optuna
from optuna.storages.journal import BaseJournalBackend, JournalFileSymlinkLock

from bonescan_jax.errors import InputError, RunError

JOURNAL = "study.log"  # in the folder of the sweep
AWAY_SECONDS = 15 * 60.0  # that a storage may be away
RETRY_SECONDS = 5.0

Answer = TypeVar("Answer")

_PASSWORD = re.compile(r"(://[^:@/]*):[^@/]*@")


class Journal(BaseJournalBackend):
    """A file of one JSON record a line, which a worker that dies in the middle of one cannot harm.

    Optuna's own backend takes the torn line and the next record for one and can read neither, nor
    anything that follows. Here a writer ends a torn line first, and readers leave it out.

    Args:
        path: of the file, which is made if it is not there.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = JournalFileSymlinkLock(str(path))
        self._starts = {0: 0}  # byte at which the record of a number is looked for
        with path.open("ab"):
            pass

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
        """The records from this number on; a line without an end is not there yet."""
        number = max(known for known in self._starts if known <= log_number_from)
        with self._path.open("rb") as file:
            place = self._starts[number]
            file.seek(place)
            for line in file:
                place += len(line)
                if not line.endswith(b"\n"):
                    return
                record = _record(line)
                if record is None:
                    continue
                number += 1
                self._starts = {0: 0, number: place}
                if number > log_number_from:
                    yield record

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Adds records, on disk when this returns."""
        lines = "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs)
        self._lock.acquire()
        try:
            with self._path.open("r+b", buffering=0) as file:
                end = file.seek(0, os.SEEK_END)
                if end:
                    file.seek(end - 1)
                    if file.read(1) != b"\n":
                        lines = "\n" + lines
                _write_all(file.fileno(), lines.encode())
                os.fsync(file.fileno())
        finally:
            with contextlib.suppress(RuntimeError):  # it was broken: this process stood still
                self._lock.release()


def _record(line: bytes) -> dict[str, Any] | None:
    """The record of a line; None if it was torn."""
    with contextlib.suppress(ValueError):
        record = json.loads(line)
        if isinstance(record, dict) and "op_code" in record:
            return record
    return None


def _write_all(descriptor: int, content: bytes) -> None:
    while content:
        content = content[os.write(descriptor, content) :]


def open_storage(url: str | None, out: Path) -> optuna.storages.BaseStorage:
    """The storage of a URL; without one, a journal in the folder of the sweep.

    Raises:
        InputError: it cannot be used, or is SQLite.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    scheme = (url or "journal:").partition(":")[0]
    if scheme == "journal":
        name = url.partition(":")[2].removeprefix("//") if url else ""
        path = Path(name) if name else out / JOURNAL
        path.parent.mkdir(parents=True, exist_ok=True)
        return optuna.storages.JournalStorage(Journal(path))
    assert url is not None
    if scheme.startswith("sqlite"):
        raise InputError(
            f"--storage is {url}, expected journal:FILE or postgresql+psycopg://…: several workers "
            "lock an SQLite file against each other, and on a network's disk they damage it"
        )
    if "://" not in url:
        raise InputError(
            f"--storage is {url}, expected journal:FILE or postgresql+psycopg://USER@HOST/NAME"
        )
    from sqlalchemy.exc import SQLAlchemyError  # noqa: PLC0415 - comes with Optuna, and slowly
    from sqlalchemy.pool import NullPool  # noqa: PLC0415

    # A connection held open by each of hundreds of workers would fill a server.
    settings = {"poolclass": NullPool}
    try:
        return optuna.storages.RDBStorage(url, engine_kwargs=settings)
    except (SQLAlchemyError, optuna.exceptions.StorageInternalError, ImportError) as error:
        reason = " ".join(str(error.__cause__ or error).split())
        raise InputError(hidden_password(f"--storage: {url} cannot be opened: {reason}")) from error


class StorageAwayError(RunError):
    """A storage has been away for so long that a worker gives up."""


def patiently(ask: Callable[[], Answer]) -> Answer:
    """What a storage answers, also where it is away for a while, as while a database restarts.

    Raises:
        StorageAwayError: it has not come back.
    """
    deadline = time.monotonic() + AWAY_SECONDS
    told = False
    while True:
        try:
            return ask()
        except optuna.exceptions.StorageInternalError as error:
            reason = hidden_password(" ".join(str(error.__cause__ or error).split()))
            if time.monotonic() > deadline:
                raise StorageAwayError(
                    f"the storage has been away for {AWAY_SECONDS / 60:.0f} minutes ({reason}); "
                    "what was trained is saved, and the same command goes on"
                ) from error
            if not told:
                print(f"sweep: waits for the storage: {reason}", file=sys.stderr, flush=True)
            told = True
            time.sleep(RETRY_SECONDS)


def hidden_password(text: str) -> str:
    """A text with the passwords of its URLs left out."""
    return _PASSWORD.sub(r"\1:***@", text)
