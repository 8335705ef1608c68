"""Flags that several verbs share, and how they are read."""

import os
from collections.abc import Callable
from typing import Any

import ml_collections
from absl import flags
from ml_collections import config_flags

from bonescan_jax.errors import InputError


def require(values: flags.FlagValues, *names: str) -> None:
    """Raises InputError unless each of these flags was given."""
    for name in names:
        if values[name].value in (None, ""):
            raise InputError(f"--{name} is missing; see --help")


def refuse_positionals(rest: list[str]) -> None:
    """Raises InputError if there is anything beside flags."""
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
    """The config of --config, with what --config.KEY=VALUE changed."""
    require(values, "config")
    try:
        values.config.to_dict()  # where the file could not be loaded, the first touch says so
    except OSError as error:
        reason = str(error).splitlines()[-1].strip()
        raise InputError(f"--config: {reason}") from error
    return values.config


def workdir_flag(values: flags.FlagValues) -> None:
    """Defines --workdir."""
    string_flag(values, "workdir", None, "Folder of the run.")


def predictor_flag(values: flags.FlagValues) -> None:
    """Defines --predictor: which head's probabilities count."""
    text = "The mean of all heads, one of them (head_1 …), or the best of these in validation."
    string_flag(values, "predictor", "best", text)


def checkpoint_flag(values: flags.FlagValues) -> None:
    """Defines --checkpoint: which of the saved weights."""
    text = "The weights saved last, or those that scored best of all validated and kept."
    flags.DEFINE_enum("checkpoint", "newest", ["newest", "best"], text, flag_values=values)


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
