"""The watchdog: stacks once a stall, none while something else than a step is under way."""

import threading
import time
from pathlib import Path

import pytest

from bonescan_jax.cluster.watchdog import Watchdog

MINUTES = 0.02


def hang(released: threading.Event) -> None:
    released.wait(60)


def reports(workdir: Path) -> list[str]:
    path = workdir / "stalls_0.txt"
    return path.read_text().split("watchdog: ")[1:] if path.exists() else []


def wait_for_report(workdir: Path) -> None:
    deadline = time.monotonic() + 30
    while not (found := reports(workdir)) or "hang" not in found[-1]:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_stall_is_reported_once_with_the_stacks_of_all_threads(
    tmp_path: Path, capfd: pytest.CaptureFixture
):
    released = threading.Event()
    thread = threading.Thread(target=hang, args=(released,))
    thread.start()
    with Watchdog(tmp_path, MINUTES) as watchdog:
        watchdog.step_done(41)
        wait_for_report(tmp_path)
        time.sleep(2 * 60 * MINUTES)
    released.set()
    thread.join()
    (report,) = reports(tmp_path)
    assert "did no step for 0.02 minutes or more after step 41" in report
    assert "after step 41" in capfd.readouterr().err


def test_a_pause_without_end_is_reported_too(tmp_path: Path):
    """A save in which hosts wait for each other, say."""
    released = threading.Event()
    thread = threading.Thread(target=hang, args=(released,))
    thread.start()
    with Watchdog(tmp_path, MINUTES) as watchdog:
        watchdog.step_done(1)
        with watchdog.paused():
            wait_for_report(tmp_path)
    released.set()
    thread.join()


def test_what_is_no_step_is_not_counted(tmp_path: Path):
    with Watchdog(tmp_path, MINUTES) as watchdog:
        time.sleep(2 * 60 * MINUTES)  # the first step compiles
        watchdog.step_done(1)
        with watchdog.paused():
            time.sleep(2 * 60 * MINUTES)
    assert not reports(tmp_path)
