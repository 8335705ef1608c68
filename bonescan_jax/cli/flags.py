"""Flags that several verbs share, and how they are read."""

import difflib
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ml_collections
from absl import flags
from ml_collections import config_flags

from bonescan_jax.config import default_config, validate
from bonescan_jax.errors import InputError

if TYPE_CHECKING:
    from bonescan_jax.trained import Choice


def require(values: flags.FlagValues, *names: str) -> None:
    """Raises InputError unless each of these flags was given."""
    for name in names:
        if values[name].value in (None, ""):
            raise InputError(f"--{name} is missing; see --help")


def refuse_positionals(rest: list[str]) -> None:
    """Raises InputError if there are positional arguments."""
    if rest:
        raise InputError(f"found {' '.join(rest)!r}, expected flags only; see --help")


def expand_home(argument: str) -> str:
    """--FLAG=~/PATH with the user's folder in it: a shell expands ~ only where a word begins."""
    name, equals, value = argument.partition("=")
    return name + equals + os.path.expanduser(value) if name.startswith("--") else argument


def string_flag(values: flags.FlagValues, name: str, default: str | None, text: str) -> None:
    """Defines a flag that holds text."""
    flags.DEFINE_string(name, default, text, flag_values=values)


def integer_flag(values: flags.FlagValues, name: str, default: int, text: str, lower: int) -> None:
    """Defines a flag that holds a whole number, `lower` or more."""
    flags.DEFINE_integer(name, default, text, lower_bound=lower, flag_values=values)


def config_flag(values: flags.FlagValues) -> None:
    """Defines --config and --config.KEY."""
    config_flags.DEFINE_config_file(
        "config",
        None,
        "Settings, such as configs/phantom.py; --config.train.num_steps=10 changes one of them. "
        "bonescan_jax/config.py explains all.",
        flag_values=values,
    )


def read_config(values: flags.FlagValues) -> ml_collections.ConfigDict:
    """The config of --config, with what --config.KEY=VALUE changed, checked.

    Raises:
        InputError: there is none, it cannot be loaded, or a setting cannot be used.
    """
    require(values, "config")
    try:
        config = values.config
        config.to_dict()  # where the file could not be loaded, the first touch says so
    except OSError as error:
        reason = str(error).splitlines()[-1].strip()
        raise InputError(f"--config: {reason}") from error
    except AttributeError as error:
        raise InputError(f"--config: {_NO_CONFIG}") from error
    if not isinstance(config, ml_collections.ConfigDict) or _names(config) != _names():
        raise InputError(f"--config: {_NO_CONFIG}")
    validate(config)
    return config


_NO_CONFIG = (
    "the file holds no get_config() that returns default_config() of bonescan_jax.config with "
    "some of its settings changed"
)


def _names(config: ml_collections.ConfigDict | None = None) -> list[str]:
    """The dotted names of all settings, of the program's if there is no config."""
    tree = (config or default_config()).to_dict()
    return sorted(
        f"{key}.{name}" if isinstance(section, dict) else key
        for key, section in tree.items()
        for name in (section if isinstance(section, dict) else [key])
    )


def last_of_each(arguments: list[str]) -> list[str]:
    """The arguments, of each --config.KEY=VALUE only the last: ml_collections joins tuples."""
    arguments = _with_equals(arguments)
    last = {argument.split("=")[0]: index for index, argument in enumerate(arguments)}
    return [
        argument
        for index, argument in enumerate(arguments)
        if not _SETTING.match(argument) or last[argument.split("=")[0]] == index
    ]


def _with_equals(arguments: list[str]) -> list[str]:
    """The arguments, with --config.KEY VALUE as --config.KEY=VALUE."""
    joined: list[str] = []
    for argument in arguments:
        if joined and _SETTING_ALONE.fullmatch(joined[-1]) and not _FLAG.match(argument):
            joined[-1] += f"={argument}"
        else:
            joined.append(argument)
    return joined


_SETTING = re.compile(r"--?(?:no)?config\.([^=]+)=")
_SETTING_ALONE = re.compile(r"--?config\.[^=]+")
_FLAG = re.compile(r"--?[a-zA-Z]")  # and no negative number


def parse_flags(values: flags.FlagValues, command: list[str]) -> list[str]:
    """Parses a command line, and loads the file of --config; returns what is beside flags.

    Raises:
        flags.Error: a flag is unknown or its value cannot be.
        InputError: a setting is unknown, or the file of --config cannot be loaded.
    """
    try:
        return values(command)
    except flags.Error:
        raise
    except Exception as error:  # the file is a program, which can raise anything
        for argument in command:
            refuse_unknown_setting(argument)
        if isinstance(error, SyntaxError):
            place = f"{error.filename}, line {error.lineno}"
            raise InputError(f"--config: {place}: is no Python: {error.msg}") from error
        reason = " ".join(str(error).split())
        raise InputError(
            f"--config: cannot be loaded: {type(error).__name__}: {reason}; expected a Python "
            "file such as configs/phantom.py"
        ) from error


def refuse_unknown_setting(argument: str) -> None:
    """Raises InputError if an argument is --config.KEY=VALUE of a setting that there is not."""
    match = _SETTING.match(argument)
    if match and match[1] not in _names():
        nearest = difflib.get_close_matches(match[1], _names(), 1)
        hint = f"did you mean --config.{nearest[0]}?" if nearest else "see bonescan_jax/config.py"
        raise InputError(f"--config.{match[1]}: there is no such setting; {hint}")


def changes_flag(values: flags.FlagValues) -> None:
    """Defines --config.KEY for a run that has its config."""
    config_flags.DEFINE_config_dict(
        "config",
        default_config(),
        "--config.data.dir=DIR and the like change what does not touch what the run has computed: "
        "where data lie, batches of evaluation.",
        flag_values=values,
    )


def read_changes(values: flags.FlagValues) -> dict[str, Any]:
    """Only what --config.KEY=VALUE changed, by name."""
    return dict(config_flags.get_override_values(values["config"]))


def workdir_flag(values: flags.FlagValues) -> None:
    """Defines --workdir."""
    string_flag(values, "workdir", None, "Folder of the run.")


def workdirs_flag(values: flags.FlagValues) -> None:
    """Defines --workdir of one run or of several."""
    text = (
        "Folder of the run, or file of bonescan export; several, as A,B,C, predict as one network."
    )
    string_flag(values, "workdir", None, text)


def read_workdirs(values: flags.FlagValues) -> list[Path]:
    """The folders of --workdir.

    Raises:
        InputError: there is none.
    """
    require(values, "workdir")
    if os.path.exists(values.workdir):  # a comma may be part of its name
        return [Path(values.workdir)]
    return [Path(os.path.expanduser(name)) for name in values.workdir.split(",") if name]


def weights_flags(values: flags.FlagValues) -> None:
    """Defines which weights and which predictor of a run count."""
    text = "The mean of all heads, one of them (head_1 …), or the best of these in validation."
    string_flag(values, "predictor", "best", text)
    text = "The weights saved last, or those that scored best of all validated and kept."
    flags.DEFINE_enum("checkpoint", "newest", ["newest", "best"], text, flag_values=values)


def choice_flags(values: flags.FlagValues) -> None:
    """Defines which of the predictions of a run count."""
    weights_flags(values)
    text = (
        "Test-time augmentation: averages with what is predicted on mirrored views, in twice the "
        "time; the views of a pair are mirrored together."
    )
    flags.DEFINE_bool("mirror", False, text, flag_values=values)
    text = "Reads each view of a pair without the other one, to see what that one gives."
    flags.DEFINE_bool("alone", False, text, flag_values=values)


def read_choice(values: flags.FlagValues) -> "Choice":
    """The choice of `choice_flags`, or of `weights_flags`, which leave mirrored views out."""
    from bonescan_jax.trained import Choice

    mirror, alone = (name in values and bool(values[name].value) for name in ("mirror", "alone"))
    return Choice(values.predictor, values.checkpoint, mirror, alone)


def process_flags(values: flags.FlagValues) -> None:
    """Which process of a job this is; the environment gives what a cluster's files set once."""
    text = "HOST:PORT of process 0 of a job of several, or auto: JAX asks the cluster. "
    environment = os.environ.get
    string_flag(
        values,
        "coordinator",
        environment("JAX_COORDINATOR_ADDRESS"),
        text + "Tasks of srun find each other by themselves.",
    )
    flags.DEFINE_integer(
        "num_processes",
        environment("JAX_NUM_PROCESSES"),
        "In the job; 1: this process is alone, also as a task of srun.",
        lower_bound=1,
        flag_values=values,
    )
    flags.DEFINE_integer(
        "process_id",
        environment("JAX_PROCESS_ID"),
        "Of this one, from 0; a pod of an indexed Kubernetes job knows its own.",
        lower_bound=0,
        flag_values=values,
    )


def in_job(values: flags.FlagValues, run: Callable[[], dict[str, Any]]) -> dict[str, Any] | None:
    """Runs a verb as one of the processes of a job; the first one has the result."""
    from bonescan_jax.cluster.distributed import is_primary, joined_processes

    with joined_processes(values.coordinator, values.num_processes, values.process_id):
        result = run()
        return result if is_primary() else None
