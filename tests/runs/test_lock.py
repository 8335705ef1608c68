"""A workdir belongs to one run, whatever the file system knows about locks and dead hosts."""

import errno
import fcntl
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bonescan_jax.errors import BusyError, InputError
from bonescan_jax.runs import lock
from bonescan_jax.runs.lock import claimed, read_token

HOLD = """
import sys, time
from pathlib import Path
from bonescan_jax.runs.lock import claimed
with claimed(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen]:
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def test_a_workdir_in_use_is_refused_until_its_holder_is_gone(
    tmp_path: Path, holder: subprocess.Popen
):
    path = tmp_path / lock.NAME
    os.utime(path, (0, 0))  # this kernel knows that the process lives, however long it is silent
    message = f"in use by process {holder.pid} on host {socket.gethostname()}"
    with pytest.raises(BusyError, match=message), claimed(tmp_path):
        pass
    holder.kill()  # without any chance to tidy up
    holder.wait()
    with claimed(tmp_path) as token:
        assert read_token(tmp_path) == token


def test_a_lock_that_outlived_its_host_is_taken_when_it_was_silent_for_long(
    tmp_path: Path,
    holder: subprocess.Popen,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
):
    monkeypatch.setattr(lock, "_kernel", lambda: "another")
    with pytest.raises(BusyError, match="in use by process"), claimed(tmp_path):
        pass
    long_ago = time.time() - 2 * lock.DEAD_SECONDS
    os.utime(tmp_path / lock.NAME, (long_ago, long_ago))
    with claimed(tmp_path) as token:
        assert read_token(tmp_path) == token
        assert f"process {holder.pid} on host" in capsys.readouterr().err
        with pytest.raises(BusyError, match=f"process {os.getpid()}"), claimed(tmp_path):
            pass


def test_a_holder_tells_that_it_lives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(lock, "BEAT_SECONDS", 0.01)
    path = tmp_path / lock.NAME
    with claimed(tmp_path):
        os.utime(path, (0, 0))
        until = time.monotonic() + 30
        while path.stat().st_mtime < 1e9:
            assert time.monotonic() < until
            time.sleep(0.01)


def test_a_file_system_without_locks_is_used_with_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    def unknown(*_: object) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(fcntl, "flock", unknown)
    with claimed(tmp_path) as token:
        assert read_token(tmp_path) == token
    assert "Function not implemented; nothing keeps other runs out" in capsys.readouterr().err


@pytest.mark.parametrize("left", [None, "", "process 1 on host gone\n"])
def test_a_refused_run_leaves_the_folder_as_it_was(tmp_path: Path, left: str | None):
    workdir = tmp_path / "runs" / "first"
    if left is not None:
        workdir.mkdir(parents=True)
        (workdir / lock.NAME).write_text(left)
        os.utime(workdir / lock.NAME, (7, 7))
    with pytest.raises(InputError, match="no"), claimed(workdir):
        raise InputError("no")
    if left is None:
        assert not (tmp_path / "runs").exists()
    else:
        assert (workdir / lock.NAME).read_text() == left
        assert (workdir / lock.NAME).stat().st_mtime == 7


@pytest.mark.parametrize("name", ["file", "file/below", 300 * "x"])
def test_what_cannot_be_a_folder_is_refused(tmp_path: Path, name: str):
    (tmp_path / "file").touch()
    message = "cannot be the folder of a run"
    with pytest.raises(InputError, match=message), claimed(tmp_path / name):
        pass
