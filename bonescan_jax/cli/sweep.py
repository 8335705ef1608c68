"""The verb of many runs: sweep."""

from pathlib import Path
from typing import Any

from absl import flags

from bonescan_jax.cli.flags import (
    changes_flag,
    integer_flag,
    read_changes,
    refuse_positionals,
    require,
    string_flag,
)
from bonescan_jax.cli.verb import Verb
from bonescan_jax.errors import InputError


def storage_flag(values: flags.FlagValues) -> None:
    """Defines where a study is kept."""
    text = (
        "journal:FILE (default: study.log in --out), on one machine or a small shared disk; "
        "postgresql+psycopg://USER@HOST/NAME for clusters, password in PGPASSWORD or PGPASSFILE."
    )
    string_flag(values, "storage", None, text)


def require_optuna() -> None:
    """Raises InputError where the extra is not installed."""
    try:
        import optuna  # noqa: F401
    except ImportError as error:
        raise InputError(
            "sweeps need the extra sweep: bash launch/setup.sh sweep, or "
            "pip install 'bonescan-jax[sweep]'"
        ) from error


def _define_sweep(values: flags.FlagValues) -> None:
    string_flag(values, "study", None, "File of the study, such as configs/sweeps/rates.py.")
    storage_flag(values)
    string_flag(values, "out", None, "Folder of the sweep, on a disk that all workers share.")
    changes_flag(values)
    integer_flag(values, "trials", 0, "Ends after so many trials; 0: when none is left.", 0)
    text = (
        "Stays while trials of other workers run, to go on with those of one that dies; --nowait "
        "frees its device."
    )
    flags.DEFINE_bool("wait", True, text, flag_values=values)
    text = "Only tells what has become of the trials."
    flags.DEFINE_bool("status", False, text, flag_values=values)


def _run_sweep(values: flags.FlagValues, rest: list[str]) -> dict[str, Any]:
    refuse_positionals(rest)
    require(values, "study", "out")
    require_optuna()
    study, out = Path(values.study), Path(values.out)
    if values.status:
        from bonescan_jax.sweep.status import status

        return status(study, out, values.storage)
    from bonescan_jax.sweep.worker import work

    return work(study, out, values.storage, read_changes(values), values.trials, values.wait)


VERBS = {
    "sweep": Verb(
        "sweep --study=FILE --out=DIR [--storage=URL] [--config.data.dir=DIR …] [--status]",
        "Works on the trials of a study, or tells what has become of them.\n\n"
        "One call is one worker. Start one or a thousand, by any scheduler and at any time: they\n"
        "share the trials, none is done twice and none is lost. A trial is a run in\n"
        "OUT/trials/NUMBER, a workdir as of bonescan train. Killed, it goes on from its last\n"
        "checkpoint, by whichever worker is there.\n\n"
        "On SIGTERM, SIGINT (Ctrl-C) or SIGHUP a worker saves, hands its trial back and exits\n"
        "with code 75: the same command goes on.",
        _define_sweep,
        _run_sweep,
    ),
}
