"""Being told to stop: on a signal a run saves once and exits with a code to requeue on.

A signal can come while Python waits for something else, such as a compilation of minutes, and a
scheduler kills what is still there after its grace period (30 s on Slurm and Kubernetes, unless set
otherwise). So a thread listens: if nothing was done since the last save, it ends the process at
once; otherwise the loop saves between two steps. It imports no JAX: it has to be there before.

One order to stop often comes as several signals, from a scheduler to a process and to its group. So
only a later one means that nobody wants to wait for the save: Ctrl-C again, or any after a while.
"""

import contextlib
import multiprocessing
import os
import select
import signal
import stat
import threading
import time
from collections.abc import Callable
from typing import NoReturn

# EX_TEMPFAIL of sysexits.h: a failure that goes away by itself, try again. Nothing else here or in
# Python exits with it, so a scheduler can requeue on it and on nothing else.
EXIT_CODE = 75
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)  # the last: the terminal was closed

# So long after the first signal another one is no longer the same order once more. Ctrl-C, which a
# person presses, means it sooner; but srun hands on what the terminal has sent already.
_IMPATIENT_SECONDS = {"SIGINT": 0.3}
_IMPATIENT_SECONDS_OF_OTHERS = 10.0

_POLL_SECONDS = 0.02
_FAREWELL_SECONDS = 5.0


class PreemptedError(SystemExit):
    """The run was told to stop, and has saved; ends the process with EXIT_CODE unless caught."""


class Preemption:
    """Whether this process was told to stop, and whether it has unsaved work.

    Attributes:
        signal: name of the signal that came, or None.
        done: the last step that was begun.
        saved: the last step that is whole on disk.
        farewell: called when the process ends without the loop's doing, and given some seconds.
        alone: there is no other process in this job. One of many may not leave by itself while
            others count on it: they agree on a step, see `consensus.Consensus`.
    """

    def __init__(self) -> None:
        self.signal: str | None = None
        self.done = self.saved = 0
        self.alone = True
        self.farewell: Callable[[], None] = lambda: None

    def install(self) -> None:
        """Handles SIGNALS from here on, save what nohup ignores; call it from the main thread."""
        read, write = os.pipe()
        os.set_blocking(write, False)
        # The signal's number goes into the pipe from C, even where Python code cannot run now.
        signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        for number in SIGNALS:
            if signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, lambda *_: None)  # what is to be done, the thread does
        threading.Thread(target=self._listen, args=(read,), name="preemption", daemon=True).start()

    def start(self, step: int) -> None:
        """Tells that a run begins at a step that it need not save."""
        self.done = self.saved = step

    def leave(self) -> NoReturn:
        """Ends the process in order; all that was done is saved.

        Raises:
            PreemptedError: always.
        """
        _tell(f"{self.signal or 'another process'}: step {self.saved} is saved")
        raise PreemptedError(EXIT_CODE)

    def _listen(self, read: int) -> None:
        self.signal = self._next(read)
        first = time.monotonic()
        while True:
            if self.alone and self.done == self.saved:
                self._end(f"{self.signal}: step {self.saved} is saved")
            if select.select([read], [], [], _POLL_SECONDS)[0]:
                another = self._next(read)
                patience = _IMPATIENT_SECONDS.get(another, _IMPATIENT_SECONDS_OF_OTHERS)
                if time.monotonic() - first >= patience:
                    self._end(
                        f"{self.signal} and later {another}, before step {self.done} was saved: "
                        f"step {self.saved} was the last one saved"
                    )

    def _end(self, reason: str) -> NoReturn:
        """Ends the process from any thread, without waiting for what the others do."""
        for child in multiprocessing.active_children():
            child.kill()
        farewell = threading.Thread(target=self.farewell, daemon=True)
        farewell.start()
        farewell.join(_FAREWELL_SECONDS)
        _tell(reason)
        os._exit(EXIT_CODE)

    @staticmethod
    def _next(read: int) -> str:
        """Waits for a signal and tells its name."""
        number = signal.Signals(os.read(read, 1)[0])
        if number == signal.SIGHUP:
            _drop_terminal()
        return number.name


PREEMPTION = Preemption()  # one: signals are a matter of the process


def _drop_terminal() -> None:
    """Lets output go nowhere where it went to a terminal that is gone: writing would fail."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        if stat.S_ISCHR(os.fstat(stream).st_mode):
            os.dup2(nowhere, stream)


def _tell(reason: str) -> None:
    # Not through sys.stderr: the thread that was interrupted may hold its lock.
    cursor = "\x1b[?25h" if os.isatty(2) else ""  # which a progress bar hides
    text = f"{cursor}bonescan: stopped by {reason}; the same command continues\n"
    with contextlib.suppress(OSError):
        os.write(2, text.encode())


def follow_parent(*_: int) -> None:
    """Makes a worker process live as long as its parent: it ends with it, and not before.

    Signals that a terminal or Slurm sends to a whole job are for the parent, which still needs its
    workers to save; and a parent that was killed can no longer end them.
    """
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None  # this is a worker
    parent.join()
    time.sleep(1)  # a parent that ends in order has ended its workers by now
    os._exit(1)
