"""Runs `bonescan VERB …`: parses the flags of the verb, and turns errors into exit codes.

Every verb ends with one line of JSON on standard output; progress and logs go to standard error.
Exit codes: 0 done; 2 bad input, one sentence says which; 75 try again: told to stop by a signal, so
that the same command continues (train, crossvalidate), or the workdir is in use; 130 interrupted
(the others); 141 nobody reads standard output any more; 1 anything else, such as a full disk.
"""

import contextlib
import json
import os
import sys
import traceback
from pathlib import Path
from typing import Any, NoReturn

from absl import flags

from bonescan_jax.cli.flags import (
    expand_home,
    last_of_each,
    parse_flags,
    read_config,
    refuse_unknown_setting,
)
from bonescan_jax.cli.verb import Verb
from bonescan_jax.cli.verbs import VERBS
from bonescan_jax.cluster.compiler_flags import variables
from bonescan_jax.cluster.preemption import EXIT_CODE
from bonescan_jax.errors import PATH_ERRORS, BusyError, InputError, RunError


def main() -> None:
    """Runs `bonescan VERB …` and exits with the code of the module's docstring."""
    arguments = sys.argv[1:]
    name = arguments[0] if arguments else "--help"
    try:
        if name in ("-h", "--help", "help"):
            _say(_overview())
            sys.exit(0 if arguments else 2)
        result = _dispatch(name, arguments[1:])
        if result is not None:
            _say(json.dumps(result))
    except (InputError, flags.Error) as error:
        _leave(name, f"{error}", 2)
    except BusyError as error:
        _leave(name, f"{error}", EXIT_CODE)
    except RunError as error:
        _leave(name, f"{error}", 1)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        code = 2 if error.errno in PATH_ERRORS else 1
        _leave(name, f"{where}{error.strerror or error or type(error).__name__}", code)
    except (RuntimeError, AssertionError) as error:
        reason = _device_error(error)
        if not reason:
            raise
        _leave(name, reason, 1)
    except KeyboardInterrupt:
        _leave(name, "interrupted", 130)  # 128 + SIGINT, as a shell says it


def _leave(name: str, reason: str, code: int) -> NoReturn:
    """Ends the process with one sentence on standard error, if that is still there."""
    with contextlib.suppress(OSError):
        print(f"bonescan {name}: {reason}", file=sys.stderr, flush=True)
    sys.exit(code)


def _say(text: str) -> None:
    """Prints to standard output, at once: what it cannot take is an error of this verb.

    Raises:
        OSError: standard output is a file on a full disk, or the like.
        SystemExit: its reader has left, such as `head -1`; not worth a word.
    """
    try:
        print(text, flush=True)
    except OSError as error:
        # What is still in the buffer would fail once more when Python ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            sys.exit(141)  # 128 + SIGPIPE
        raise OSError(error.errno, error.strerror, "standard output") from error


def _device_error(error: Exception) -> str | None:
    """The sentence for an error of JAX about its devices, None for any other error."""
    text = str(error).strip()
    if "RESOURCE_EXHAUSTED" in text:
        return (
            f"the device has not enough memory ({text.splitlines()[0]}); set "
            "model.remat=activations, or a higher train.accumulate_steps, or a smaller "
            "train.batch_size or evaluate.batch_size"
        )
    wanted = os.environ.get("JAX_PLATFORMS")
    # JAX asserts, without a word, that a platform that was asked for by name has a plugin.
    asserted = isinstance(error, AssertionError) and _raised_in(error, "jax/_src/xla_bridge.py")
    if "Unable to initialize backend" in text or (wanted and asserted):
        reason = f" ({text.splitlines()[0]})" if text else ""
        return (
            f"JAX finds no device for JAX_PLATFORMS={wanted or ''}{reason}; expected an "
            "accelerator of that kind and the extra for it, or JAX_PLATFORMS=cpu"
        )
    return None


def _raised_in(error: Exception, file: str) -> bool:
    last = traceback.extract_tb(error.__traceback__)[-1]
    return Path(last.filename).as_posix().endswith(file)


def _keep_compiled() -> None:
    """Turns on JAX's compilation cache, so that a continued run need not compile again.

    In the user's cache folder and not in the workdir: compiled code is run as it is, so it must
    not come along when somebody else's run is opened. JAX's own variable moves it, empty is off.
    Beside it JAX keeps which kernels XLA found fastest on a GPU, so that they stay the same ones.
    """
    # What compiles faster is not worth its space: nothing prunes the folder.
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "1")
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    # A user without a home, as in some containers, has no cache.
    if Path(cache).is_absolute():
        os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(cache, "bonescan_jax")))


def _dispatch(name: str, arguments: list[str]) -> dict[str, Any] | None:
    if name not in VERBS:
        raise InputError(f"there is no such verb, expected one of {', '.join(VERBS)}")
    verb = VERBS[name]
    _keep_compiled()
    values, rest = _parse(name, verb, arguments)
    if values.help:
        _say(f"usage: bonescan {verb.usage}\n\n{verb.help}\n\nflags:\n{_flag_help(values)}")
        return None
    # After the flags, which hold one of the reasons, and before JAX starts.
    has_config = "config" in values and values["config"].present
    deterministic = not has_config or read_config(values).train.deterministic
    os.environ.update(variables(os.environ, name, deterministic))
    return verb.run(values, rest)


def _parse(name: str, verb: Verb, arguments: list[str]) -> tuple[flags.FlagValues, list[str]]:
    """The flags of a verb with their values, and what is beside flags."""
    values = flags.FlagValues()
    flags.DEFINE_bool("help", False, "Shows this.", short_name="h", flag_values=values)
    try:
        verb.define(values)  # ml_collections looks at --config.KEY of the command line already
    except Exception:
        for argument in arguments:
            refuse_unknown_setting(argument)
        raise
    # absl parses nothing before it has a program name.
    command = [f"bonescan {name}", *map(expand_home, last_of_each(arguments))]
    return values, parse_flags(values, command)[1:]


def _overview() -> str:
    lines = ["bonescan: train a UNet++ on whole-body bone scans, and find hot spots with it.", ""]
    for verb in VERBS.values():
        lines += [f"  bonescan {verb.usage}", f"      {verb.help.splitlines()[0]}"]
    return "\n".join([*lines, "", "`bonescan VERB --help` tells more."])


def _flag_help(values: flags.FlagValues) -> str:
    own = [values[name] for name in values if len(name) > 1]
    rows = []
    for flag in own:
        if not flag.name.startswith("config."):
            # All settings of a config are no default that fits on a line.
            default = "" if flag.name == "config" else f" (default: {flag.value})"
            rows.append(f"  --{flag.name}: {flag.help}{default}")
    return "\n".join(rows)
