"""Measures several programs in turn, each in its own process, and prints tables."""

import json
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

from bonescan_jax.benchmark.child import Child
from bonescan_jax.errors import InputError
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
    device: str = "cpu"  # that it runs on: cpu, gpu or tpu


class Team(NamedTuple):
    """A process: `make(*arguments)` gives its work there; functions and arguments are pickled."""

    name: str
    make: Callable[..., Work]
    arguments: tuple[Any, ...]
    python: str = sys.executable  # the interpreter that has what it needs


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
    """Peak memory of this process in bytes: of the device, or of the machine on a CPU."""
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

    On CPUs the teams take turns within a round, so that what else the machine does meets all of
    them. An accelerator's memory is what they would share there: each team has it to itself, is
    timed for all rounds and ends before the next one starts.

    Args:
        teams: each gets a process of its own, which does nothing while it is not its turn.
        rounds: how often each piece is timed.
        seconds: for how long at least, each time; whole calls only.
        what: is measured, for the progress.

    Returns:
        Timings by (team, piece), and each team's facts.

    Raises:
        InputError: the teams do not run on the same kind of device.
        RunError: the process of one ended early.
    """
    found: dict[tuple[str, str], list[tuple[float, float]]] = {}
    facts: dict[str, dict[str, Any]] = {}
    devices: dict[str, str] = {}

    def measure(process: Child) -> None:
        process.pipe.send("measure")
        for piece, timing in process.receive().items():
            found.setdefault((process.name, piece), []).append(timing)
        progress.advance()

    with ExitStack() as stack:
        progress = stack.enter_context(Progress(f"benchmark {what}", len(teams) * (rounds + 1)))
        waiting = []
        for team in teams:  # one after the other: compiling is timed too
            process = Child(team.name, team.python, _serve, (team, seconds))
            stack.push(process)
            facts[team.name], devices[team.name] = process.receive()
            progress.advance()
            _check_same_device(devices)
            if devices[team.name] == "cpu":
                waiting.append(process)
            else:
                for _ in range(rounds):
                    measure(process)
                process.close()
        for _ in range(rounds):
            for process in waiting:
                measure(process)
    return {key: Timing(*np.array(values).T) for key, values in found.items()}, facts


def _check_same_device(devices: dict[str, str]) -> None:
    (first, expected), (last, found) = (list(devices.items())[at] for at in (0, -1))
    if found != expected:
        raise InputError(
            f"benchmark: {last!r} runs on a {found} and {first!r} on a {expected}, expected the "
            "same kind of device"
        )


def _serve(pipe: Connection, team: Team, seconds: float) -> None:
    work = team.make(*team.arguments)
    pipe.send((work.facts, work.device))
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
