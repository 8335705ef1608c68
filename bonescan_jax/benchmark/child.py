"""A process that measures: of this interpreter, or of the peers' (`launch/setup.sh peers`)."""

import os
import subprocess
from collections.abc import Callable
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import bonescan_jax
from bonescan_jax.errors import InputError, RunError

PEERS_PYTHON = Path(bonescan_jax.__file__).parents[1] / ".venv-peers/bin/python"


class Child:
    """Runs `function(pipe, *arguments)` in a process of its own; both sides are pickled.

    No `multiprocessing.Process`: its children take over this interpreter's modules, and this
    package keeps them off the accelerator.
    """

    def __init__(
        self, name: str, python: str, function: Callable[..., None], arguments: tuple[Any, ...]
    ) -> None:
        self.name = name
        self.pipe, theirs = Pipe()
        # Else JAX takes most of a GPU's memory at the start, whatever the work needs.
        environment = os.environ | {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
        start = f"from bonescan_jax.benchmark.child import serve; serve({theirs.fileno()})"
        self.process = subprocess.Popen(
            [python, "-c", start],
            env=environment,
            pass_fds=[theirs.fileno()],
            stdout=2,  # standard output is for the line of JSON
        )
        theirs.close()
        self.pipe.send((function, arguments))

    def __enter__(self) -> "Child":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the process: it waits for a word on its pipe."""
        self.pipe.close()
        self.process.wait()

    def receive(self) -> Any:  # noqa: ANN401
        """What the function sent next.

        Raises:
            RunError: the process ended before.
        """
        try:
            return self.pipe.recv()
        except (EOFError, ConnectionResetError) as error:
            code = self.process.wait()
            raise RunError(
                f"benchmark: the process of {self.name!r} ended with exit code {code}; what it "
                "said stands above"
            ) from error


def peers_python() -> str:
    """The interpreter that has PyTorch and MONAI.

    Raises:
        InputError: it is not installed.
    """
    if not PEERS_PYTHON.exists():
        raise InputError(
            f"--peer=torch: found no {PEERS_PYTHON}, expected `bash launch/setup.sh peers` before"
        )
    return str(PEERS_PYTHON)


def serve(descriptor: int) -> None:
    """The child's side: runs what comes through the pipe of this file descriptor."""
    pipe = Connection(descriptor)
    function, arguments = pipe.recv()
    function(pipe, *arguments)
