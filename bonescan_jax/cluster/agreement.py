"""What the processes of one job must know or hold alike before they compute anything together.

Processes that computed different things would wait for each other, or average nonsense. So whatever
decides what comes next is looked up by process 0 alone and told to the others, and what each of
them reads for itself is compared. One process alone skips all of this.
"""

import json
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from bonescan_jax.errors import BusyError, InputError, RunError

Found = TypeVar("Found")

_ERRORS = {error.__name__: error for error in (InputError, RunError, BusyError)}


def from_primary(look: Callable[[], Found]) -> Found:
    """What process 0 finds, on every process.

    Args:
        look: called in process 0 only; returns what JSON can hold. Others may see an older state of
            a network's disk.

    Raises:
        InputError, RunError, BusyError: on every process, where `look` raised it in process 0.
    """
    if jax.process_count() == 1:
        return look()
    said = None
    if jax.process_index() == 0:
        said = _attempt(look)
    return _found(_gather(said)[0])


def check_agreement(view: Callable[[], dict[str, Any]]) -> None:
    """Checks that what every process sees for itself is the same.

    Args:
        view: called in every process; returns names and values that JSON can hold.

    Raises:
        InputError: on every process, if one of them sees another value than process 0.
        InputError, RunError, BusyError: on every process, where `view` raised it in one of them.
    """
    if jax.process_count() == 1:
        view()
        return
    views = [_found(said, process) for process, said in enumerate(_gather(_attempt(view)))]
    for process, theirs in enumerate(views):
        for name in sorted(views[0].keys() | theirs.keys()):
            expected, found = views[0].get(name), theirs.get(name)
            if found != expected:
                raise InputError(
                    f"{name} is {found!r} in process {process} of {len(views)}, expected "
                    f"{expected!r} as in process 0; start all with the same command and data"
                )


def _attempt(look: Callable[[], Any]) -> dict[str, Any]:
    """What it found, or the error that it raised, as JSON: an error is for all processes."""
    try:
        return {"found": look()}
    except tuple(_ERRORS.values()) as error:
        return {"error": type(error).__name__, "text": str(error)}


def _found(said: dict[str, Any], process: int = 0) -> Any:  # noqa: ANN401 - whatever was found
    if "error" in said:
        where = f"process {process} of {jax.process_count()}: " if process else ""
        raise _ERRORS[said["error"]](where + said["text"])
    return said["found"]


def _gather(value: Any) -> list[Any]:  # noqa: ANN401 - whatever JSON holds
    """The value of every process, in the order of their numbers."""
    text = json.dumps(value).encode()
    length = int(multihost_utils.process_allgather(np.int32(len(text))).max())
    padded = np.frombuffer(text.ljust(length), np.uint8)
    return [json.loads(row.tobytes()) for row in multihost_utils.process_allgather(padded)]
