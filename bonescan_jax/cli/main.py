"""Runs `bonescan VERB …`: parses the flags of the verb, and turns errors into exit codes.

Every verb ends with one line of JSON on standard output; progress and logs go to standard error.
Exit codes: 0 done; 2 bad input, one sentence says which; 75 try again: told to stop by a signal, so
that the same command goes on (train, crossvalidate), or the workdir is in use; 130 interrupted (the
others); 1 anything else, such as a full disk.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

from absl import flags

from bonescan_jax.cli.flags import expand_home
from bonescan_jax.cli.verbs import VERBS
from bonescan_jax.cluster.compiler_flags import variables
from bonescan_jax.cluster.preemption import EXIT_CODE
from bonescan_jax.errors import DISK_ERRORS, BusyError, InputError, RunError


def main() -> None:
    """Runs `bonescan VERB …` and exits with the code of the module's docstring."""
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_overview())
        sys.exit(0 if arguments else 2)
    os.environ.update(variables(os.environ))
    _keep_compiled()
    try:
        result = _dispatch(arguments[0], arguments[1:])
    except (InputError, flags.Error) as error:
        print(f"bonescan {arguments[0]}: {error}", file=sys.stderr)
        sys.exit(2)
    except BusyError as error:
        print(f"bonescan {arguments[0]}: {error}", file=sys.stderr)
        sys.exit(EXIT_CODE)
    except RunError as error:
        print(f"bonescan {arguments[0]}: {error}", file=sys.stderr)
        sys.exit(1)
    except OSError as error:
        if error.errno not in DISK_ERRORS:
            raise
        where = f"{error.filename}: " if error.filename else ""
        print(f"bonescan {arguments[0]}: {where}{error.strerror}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print(f"bonescan {arguments[0]}: interrupted", file=sys.stderr)
        sys.exit(130)  # 128 + SIGINT, as a shell says it
    if result is not None:
        print(json.dumps(result), flush=True)


def _keep_compiled() -> None:
    """Lets JAX keep what it compiles, so that a run that is continued need not compile again.

    In the user's cache folder and not in the workdir: compiled code is run as it is, so it must
    not come along when somebody else's run is opened. JAX's own variable moves it, empty is off.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(cache / "bonescan_jax"))
    # Also what compiles fast: there is a lot of it.
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")


def _dispatch(name: str, arguments: list[str]) -> dict[str, Any] | None:
    if name not in VERBS:
        raise InputError(f"there is no such verb, expected one of {', '.join(VERBS)}")
    verb = VERBS[name]
    values = flags.FlagValues()
    flags.DEFINE_bool("help", False, "Shows this.", short_name="h", flag_values=values)
    verb.define(values)
    # absl parses nothing before it has a program name.
    try:
        rest = values([f"bonescan {name}", *map(expand_home, arguments)])[1:]
    except (AttributeError, KeyError, TypeError, ValueError, OSError) as error:
        # What ml_collections raises for a misspelt key, a wrong type or a missing file.
        raise InputError(f"{error}".strip("'\"").replace("\n", " ")) from error
    if values.help:
        print(f"usage: bonescan {verb.usage}\n\n{verb.help}\n\nflags:\n{_flag_help(values)}")
        return None
    return verb.run(values, rest)


def _overview() -> str:
    lines = ["bonescan: whole-body bone scans in, a trained UNet++ and its findings out.", ""]
    for verb in VERBS.values():
        lines += [f"  bonescan {verb.usage}", f"      {verb.help.splitlines()[0]}"]
    return "\n".join([*lines, "", "`bonescan VERB --help` tells more."])


def _flag_help(values: flags.FlagValues) -> str:
    own = [values[name] for name in values if len(name) > 1]
    rows = [f"  --{flag.name}: {flag.help} (default: {flag.value})" for flag in own
            if not flag.name.startswith("config.")]  # fmt: skip
    return "\n".join(rows)
