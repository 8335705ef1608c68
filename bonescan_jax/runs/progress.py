"""Progress on standard error: a bar on a terminal, a line every 15 seconds elsewhere."""

import threading
import time
from types import TracebackType

import rich.console
import rich.progress

LINE_SECONDS = 15.0  # between lines where there is no terminal, as in a cluster's log file


class Progress:
    """Counts pieces of work done out of `total`, with the time left.

    Use it as a context manager; what it shows goes to standard error only. Of the processes of one
    job, all but one are not `shown`.
    """

    def __init__(self, what: str, total: int = 0, done: int = 0, shown: bool = True) -> None:
        self.what, self.total, self.done, self.note = what, total, done, ""
        self.started, self.at_start, self.last_line = time.monotonic(), done, time.monotonic()
        self.console = rich.console.Console(stderr=True, quiet=not shown)
        self.bar = rich.progress.Progress(
            rich.progress.TextColumn("{task.description}"),
            rich.progress.BarColumn(),
            rich.progress.MofNCompleteColumn(),
            rich.progress.TimeElapsedColumn(),
            rich.progress.TextColumn("left"),
            rich.progress.TimeRemainingColumn(),
            rich.progress.TextColumn("{task.fields[note]}"),
            console=self.console,
            disable=not self.console.is_terminal,
        )
        self.task = self.bar.add_task(what, total=total, completed=done, note="")

    def __enter__(self) -> "Progress":
        self.bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.bar.stop()
        if not self.console.is_terminal and self.total:
            self._line()

    def advance(self, done: int = 1, note: str = "") -> None:
        """Tells that `done` more pieces are done; `note` stays until another replaces it."""
        self.done += done
        self.note = note or self.note
        self.bar.update(self.task, completed=self.done, note=self.note)
        if not self.console.is_terminal and time.monotonic() - self.last_line > LINE_SECONDS:
            self._line()

    def advance_to(self, done: int, total: int) -> None:
        """Tells that `done` of `total` pieces are done, where the total was not known before."""
        self.total = total
        self.bar.update(self.task, total=total)
        self.advance(done - self.done)

    def _line(self) -> None:
        self.last_line = time.monotonic()
        elapsed = self.last_line - self.started
        rate = (self.done - self.at_start) / elapsed if elapsed else 0.0
        left = f", {(self.total - self.done) / rate:.0f} s left" if rate else ""
        note = f", {self.note}" if self.note else ""
        self.console.print(
            f"{self.what}: {self.done}/{self.total}, {elapsed:.0f} s{left}{note}",
            highlight=False,
            soft_wrap=True,
        )


class Waiting:
    """Shows the elapsed time of work of unknown length; a context manager.

    A thread updates it, so the work must release Python's global lock.
    """

    def __init__(self, what: str) -> None:
        self.what, self.console = what, rich.console.Console(stderr=True)
        self.bar = rich.progress.Progress(
            rich.progress.SpinnerColumn(),
            rich.progress.TextColumn("{task.description}"),
            rich.progress.TimeElapsedColumn(),
            console=self.console,
            disable=not self.console.is_terminal,
        )
        self.bar.add_task(what, total=None)
        self.over = threading.Event()
        self.lines = threading.Thread(target=self._print_lines, daemon=True)

    def __enter__(self) -> "Waiting":
        self.bar.start()
        self.started = time.monotonic()
        if not self.console.is_terminal:
            self.lines.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.bar.stop()
        self.over.set()
        self.console.print(f"{self.what}: {self._elapsed()}", highlight=False, soft_wrap=True)

    def _print_lines(self) -> None:
        while not self.over.wait(LINE_SECONDS):
            self.console.print(
                f"{self.what}: {self._elapsed()} so far", highlight=False, soft_wrap=True
            )

    def _elapsed(self) -> str:
        return f"{time.monotonic() - self.started:.0f} s"
