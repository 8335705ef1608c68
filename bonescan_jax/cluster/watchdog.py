"""Watchdog: prints the stacks of all threads when a step does not end."""

import contextlib
import faulthandler
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import jax

PAUSE_FACTOR = 3


class Watchdog:
    """Prints the stacks of all threads, once, when no step was done for `minutes`.

    A lost collective, a file system that hangs and a worker that died all look the same from
    outside: nothing happens. The stacks tell them apart. Nothing is ended: the step may yet come.

    Use it as a context manager. Before the first step, which compiles, it does not count. Saving
    and validating may take PAUSE_FACTOR times as long; hosts and disks can hang there too.
    """

    def __init__(self, workdir: Path, minutes: float) -> None:
        self.path = workdir / f"stalls_{jax.process_index()}.txt"  # one a process of the job
        self.seconds = 60 * minutes  # 0 never reports
        self.step = 0
        self.deadline: float | None = None
        self.stopped = threading.Event()
        self.thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self) -> "Watchdog":
        if self.seconds:
            self.thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stopped.set()

    def step_done(self, step: int) -> None:
        """Starts to count again."""
        self.step, self.deadline = step, time.monotonic() + self.seconds

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Gives what is no step, evaluation and saving, more time."""
        self.deadline = time.monotonic() + PAUSE_FACTOR * self.seconds
        yield
        self.deadline = time.monotonic() + self.seconds

    def _watch(self) -> None:
        while not self.stopped.wait(min(self.seconds / 10, 10.0)):
            deadline = self.deadline
            if deadline is not None and time.monotonic() > deadline:
                self.deadline = None
                self._report()

    def _report(self) -> None:
        with self.path.open("a") as file:
            for out in (sys.stderr, file):
                print(
                    f"watchdog: process {jax.process_index()} of {jax.process_count()} did no step "
                    f"for {self.seconds / 60:g} minutes or more after step {self.step}, "
                    f"{time.strftime('%Y-%m-%d %H:%M:%S')}; its threads stand at:",
                    file=out,
                    flush=True,
                )
                faulthandler.dump_traceback(file=out, all_threads=True)
