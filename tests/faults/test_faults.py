"""The short forms of the scripts beside it, and what signals do to a process."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bonescan_jax.cluster.preemption import EXIT_CODE, SIGNALS
from tests.faults.kill import ROOT, disturb, passed


@pytest.fixture(autouse=True, scope="module")
def signals_heard() -> Iterator[None]:
    """Processes inherit what is ignored, and a test run in the background ignores some signals."""
    before = {number: signal.signal(number, signal.SIG_DFL) for number in SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_a_killed_run_ends_like_an_undisturbed_one(tmp_path: Path, data_dir: Path):
    """SIGKILL between two steps, SIGTERM while it saves; `kill.py --kills=50` is the long form."""
    (tmp_path / "data").symlink_to(data_dir)
    small = {"model.filters": (4, 8), "model.levels": 1, "data.crop_height": 64}
    config = ROOT / "configs" / "phantom.py"
    result = disturb(2, config, tmp_path, phases=("train", "save"), **small)
    assert result["kills"] == 2
    assert passed(result), result


def _listener(body: str) -> subprocess.Popen:
    """A process that listens for signals and has done a step that is not saved."""
    code = "import time; from bonescan_jax.cluster.preemption import PREEMPTION as P; P.install()\n"
    code += f"P.done = 1; print('ready', flush=True)\n{body}"
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_ends_a_process_as_soon_as_all_is_saved(number: signal.Signals):
    process = _listener("while not P.signal: time.sleep(0.01)\nP.saved = 1; time.sleep(60)")
    process.send_signal(number)
    assert process.wait(30) == EXIT_CODE
    message = f"bonescan: stopped by {number.name}: step 1 is saved; the same command continues"
    assert process.stderr.read().startswith(message)


def test_the_same_order_sent_twice_does_not_stop_the_save():
    """By a scheduler to a process and to its group, or as long as a slow disk saves."""
    process = _listener(
        "while not P.signal: time.sleep(0.01)\ntime.sleep(2); P.saved = 1; time.sleep(60)"
    )
    for pause in (0.0, 0.05, 0.5):
        process.send_signal(signal.SIGTERM)
        time.sleep(pause)
    assert process.wait(30) == EXIT_CODE
    assert "SIGTERM: step 1 is saved" in process.stderr.read()


def test_ctrl_c_again_does_not_wait_for_what_is_not_saved():
    process = _listener("time.sleep(60)")
    process.send_signal(signal.SIGTERM)
    time.sleep(0.5)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == EXIT_CODE
    assert "step 0 was the last one saved" in process.stderr.read()


def test_a_closed_terminal_is_left_to_nohup():
    code = "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
    code += "from bonescan_jax.cluster.preemption import PREEMPTION; PREEMPTION.install()\n"
    code += "assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_signal_is_heard_while_python_cannot_run():
    """As in a compilation: one call into C that lasts, and nothing to lose."""
    process = _listener("P.start(0); import hashlib; hashlib.pbkdf2_hmac('md5', b'', b'', 10**9)")
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == EXIT_CODE


WORKER = """
import multiprocessing, os, time
from bonescan_jax.cluster.preemption import follow_parent

def work():
    follow_parent()
    print(os.getpid(), flush=True)
    time.sleep(600)

if __name__ == "__main__":
    process = multiprocessing.get_context("spawn").Process(target=work)
    process.start()
    process.join()
"""


def test_a_worker_lives_exactly_as_long_as_its_parent(tmp_path: Path):
    """Slurm and terminals signal it too; and a parent that was killed cannot end it."""
    (tmp_path / "worker.py").write_text(WORKER)
    command = [sys.executable, tmp_path / "worker.py"]
    parent = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    worker = int(parent.stdout.readline())
    for number in SIGNALS:
        os.kill(worker, number)
    time.sleep(0.5)
    assert _is_alive(worker)
    parent.kill()
    parent.wait()
    until = time.monotonic() + 30
    while _is_alive(worker) and time.monotonic() < until:
        time.sleep(0.1)
    assert not _is_alive(worker)


def _is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
