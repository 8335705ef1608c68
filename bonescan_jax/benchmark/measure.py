"""Contestants in processes of their own that take turns, and tables of what they needed."""

import json
import multiprocessing
import os
import resource
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import ml_collections
import numpy as np

from bonescan_jax.runs.progress import Progress


class Rate(NamedTuple):
    """Median and range over the rounds."""

    median: float
    low: float
    high: float


class Work(NamedTuple):
    """What a process measures: pieces of work by name, and facts about them."""

    pieces: dict[str, Callable[[], Any]]  # each does its work once and waits for the end
    facts: dict[str, Any]


class Team(NamedTuple):
    """A process: `make(*arguments)` gives its work there; functions and arguments are pickled."""

    name: str
    make: Callable[..., Work]
    arguments: tuple[Any, ...]


class Timing(NamedTuple):
    """Of one piece of work in each round."""

    seconds: np.ndarray  # (rounds,) a call
    core_seconds: np.ndarray  # (rounds,) a call, summed over the cores that it used

    def rate(self) -> Rate:
        """Of the seconds."""
        return spread(self.seconds)


def spread(values: Sequence[float] | np.ndarray) -> Rate:
    """Median and range."""
    return Rate(float(np.median(values)), float(np.min(values)), float(np.max(values)))


def read_config(config_json: str) -> ml_collections.ConfigDict:
    """The config that was sent to a process as JSON."""
    return ml_collections.ConfigDict(json.loads(config_json))


def peak_memory() -> int:
    """Bytes that this process held at most: of the device's memory, on a CPU of the machine's."""
    import jax  # a peer's process has no need of it

    stats = jax.local_devices()[0].memory_stats()
    return stats["peak_bytes_in_use"] if stats else peak_resident()


def peak_resident() -> int:
    """Bytes of the machine's memory that this process held at most."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def take_turns(
    teams: Sequence[Team], rounds: int, seconds: float, what: str
) -> tuple[dict[tuple[str, str], Timing], dict[str, dict[str, Any]]]:
    """Times all pieces of work of all teams, each once in every round.

    Args:
        teams: each gets a process of its own, which does nothing while it is not its turn.
        rounds: how often each piece is timed.
        seconds: for how long at least, each time; whole calls only.
        what: is measured, for the progress.

    Returns:
        Timings by (team, piece), and each team's facts.
    """
    found: dict[tuple[str, str], list[tuple[float, float]]] = {}
    with ExitStack() as stack:
        progress = stack.enter_context(Progress(f"benchmark {what}", len(teams) * (rounds + 1)))
        running = {}
        for team in teams:  # one after the other: compiling is timed too
            running[team.name] = stack.enter_context(_Process(team, seconds))
            progress.advance()
        for _ in range(rounds):
            for name, process in running.items():
                for piece, timing in process.measure().items():
                    found.setdefault((name, piece), []).append(timing)
                progress.advance()
    timings = {key: Timing(*np.array(values).T) for key, values in found.items()}
    return timings, {name: process.facts for name, process in running.items()}


class _Process:
    """A team's process while it is needed."""

    def __init__(self, team: Team, seconds: float) -> None:
        context = multiprocessing.get_context("spawn")
        self.name = team.name
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, team, seconds), daemon=True)
        self.process.start()
        theirs.close()

    def __enter__(self) -> "_Process":
        self.facts = self._receive()
        return self

    def __exit__(self, *error: object) -> None:
        self.pipe.close()  # ends it
        self.process.join()

    def measure(self) -> dict[str, tuple[float, float]]:
        """Seconds and core seconds a call of every piece of work."""
        self.pipe.send("measure")
        return self._receive()

    def _receive(self) -> Any:  # noqa: ANN401
        try:
            return self.pipe.recv()
        except EOFError as error:
            raise RuntimeError(f"{self.name}: its process died") from error


def _serve(pipe: Connection, team: Team, seconds: float) -> None:
    work = team.make(*team.arguments)
    pipe.send(work.facts)
    while True:
        try:
            pipe.recv()
        except EOFError:
            return
        pipe.send({name: _time(piece, seconds) for name, piece in work.pieces.items()})


def _time(piece: Callable[[], Any], seconds: float) -> tuple[float, float]:
    piece()  # caches hold what the piece before needed
    started, busy, calls = time.monotonic(), time.process_time(), 0
    while not calls or time.monotonic() - started < seconds:
        piece()
        calls += 1
    return (time.monotonic() - started) / calls, (time.process_time() - busy) / calls


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0))


def print_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A Markdown table on standard error."""
    lines = [header, ["---"] * len(header), *rows]
    print("\n".join(f"| {' | '.join(line)} |" for line in lines), file=sys.stderr)
