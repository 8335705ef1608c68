"""What a verb of `bonescan` is."""

from collections.abc import Callable
from typing import Any, NamedTuple

from absl import flags


class Verb(NamedTuple):
    """What a verb is called with and what it does."""

    usage: str
    help: str
    define: Callable[[flags.FlagValues], None]
    run: Callable[[flags.FlagValues, list[str]], dict[str, Any] | None]
