"""How a run starts or goes on: one look at its workdir, and one agreement of all processes."""

import contextlib
import importlib.metadata
import json
import platform
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import ml_collections

from bonescan_jax.cluster.agreement import check_agreement, from_primary
from bonescan_jax.cluster.distributed import is_primary
from bonescan_jax.datasets.records import data_fingerprint
from bonescan_jax.errors import InputError
from bonescan_jax.input_pipeline import example_records
from bonescan_jax.runs.checkpoint import Saved, disk_errors_told, look_for_saved
from bonescan_jax.runs.lock import claimed, read_token
from bonescan_jax.runs.workdir import check_config, flatten, write_json
from bonescan_jax.tasks import validate

ENVIRONMENT = "environment.json"
# A network's disk may show a file that late to other hosts.
_TOKEN_SECONDS = 5.0
_PACKAGES = ("bonescan-jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain")


@contextlib.contextmanager
def started(workdir: Path, config: ml_collections.ConfigDict) -> Iterator[tuple[Saved, dict]]:
    """Holds a workdir for a run while the body runs; all processes have found the same.

    Yields:
        What is saved there, and the facts of the data: "num_examples" of the training split and
        "data_fingerprint".

    Raises:
        InputError: on every process: the run there is another one, the data are not those that it
            was started on, or workdir, data or settings differ between processes. The workdir is
            as it was, to the byte.
        BusyError: on every process: another run holds the workdir.
    """
    facts = {}
    with contextlib.ExitStack() as held:

        def look() -> tuple[str, str, Saved]:
            with disk_errors_told(workdir):
                facts.update(_facts(config))
                token = held.enter_context(claimed(workdir))
                check_config(workdir, config)
                saved = look_for_saved(workdir)
                if saved.step is not None:
                    _check_data(saved.position, config, facts)
                return token, str(workdir.absolute()), saved

        def view() -> dict[str, Any]:
            facts.update(facts or _facts(config))
            _check_sees(workdir, token, place)
            return {**flatten(json.loads(config.to_json())), **facts}

        token, place, saved = from_primary(look)
        check_agreement(view)
        yield Saved(*saved), facts


def _facts(config: ml_collections.ConfigDict) -> dict[str, Any]:
    validate(config)
    return {
        "num_examples": len(example_records(config, "train")),
        "data_fingerprint": data_fingerprint(Path(config.data.dir), config.data.name),
    }


def _check_data(
    position: dict[str, Any], config: ml_collections.ConfigDict, facts: dict[str, Any]
) -> None:
    found, expected = facts["num_examples"], position["num_examples"]
    if found != expected:
        raise InputError(
            f"{config.data.dir}: the training split of {config.data.name} holds {found} examples, "
            f"expected the {expected} that the run was started on"
        )
    # Programs before this one saved none.
    if position.get("data_fingerprint", facts["data_fingerprint"]) != facts["data_fingerprint"]:
        raise InputError(
            f"{config.data.dir}: {config.data.name} was prepared from other scans or with other "
            f"splits (fingerprint {facts['data_fingerprint'][:12]}), expected the data that the "
            f"run was started on ({position['data_fingerprint'][:12]})"
        )


def _check_sees(workdir: Path, token: str, place: str) -> None:
    """Raises InputError unless this process sees the folder that process 0 claimed at `place`."""
    deadline = time.monotonic() + _TOKEN_SECONDS
    while read_token(workdir) != token:
        if time.monotonic() > deadline:
            raise InputError(
                f"{workdir.absolute()} is not the folder that process 0 writes to, {place}, "
                "expected one --workdir on a disk that all hosts share (start tasks of srun that "
                "are runs of their own with --num_processes=1)"
            )
        time.sleep(0.1)


def trained_on(workdir: Path) -> str | None:
    """The fingerprint of the data that the run was trained on; None of a run of older programs."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, IndexError):
        return json.loads((workdir / ENVIRONMENT).read_text())["starts"][-1]["data_fingerprint"]
    return None


def record_start(workdir: Path, step: int, facts: dict[str, Any]) -> None:
    """Adds to environment.json what computes from this step on, and on which data."""
    if not is_primary():
        return
    path, starts = workdir / ENVIRONMENT, []
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        starts = json.loads(path.read_text())["starts"]
    devices = jax.devices()
    now = {
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "step": step,
        "commit": _commit(),
        "python": platform.python_version(),
        "packages": {name: importlib.metadata.version(name) for name in _PACKAGES},
        "processes": jax.process_count(),
        "devices": len(devices),
        "device_kind": devices[0].device_kind,
        **facts,
    }
    write_json(path, {"starts": [*starts, now]})


def _commit() -> str | None:
    """Of the checkout that this program runs from, None where it is in none."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40"]
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        said = subprocess.run(
            [*command, "--exclude=*"], capture_output=True, text=True, timeout=10, check=True
        )
        return said.stdout.strip()
    return None
