"""What a verb of `bonescan` is."""

import json
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from absl import flags

from bonescan_jax.errors import InputError


class Verb(NamedTuple):
    """What a verb is called with and what it does."""

    usage: str
    help: str
    define: Callable[[flags.FlagValues], None]
    run: Callable[[flags.FlagValues, list[str]], dict[str, Any] | None]


def finish(result: dict[str, Any], problems: Sequence[str]) -> dict[str, Any]:
    """The result of a verb that went over many files, some of which could not be used.

    Raises:
        InputError: there are such files; the result line has been printed, the others are done.
    """
    if problems:
        print(json.dumps(result), flush=True)
        if len(problems) == 1:
            raise InputError(problems[0])
        raise InputError(
            f"{len(problems)} of {result['files']} files cannot be read, see the table"
        )
    return result
