"""The processes of one job: how they find each other, what they must agree on, how they end.

One process needs none of this, and none of it happens then.
"""

import contextlib
import json
import os
import re
import sys
import time
import traceback
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from bonescan_jax.cluster.preemption import PREEMPTION, PreemptedError
from bonescan_jax.errors import InputError, RunError

# A process silent for so long is dead, and JAX ends the others: a whole job is down within a
# minute. Heartbeats come from a thread of their own: compiling or a slow disk delays none.
HEARTBEAT_SECONDS = 30
# At the end processes wait for the last one, which may still be writing.
SHUTDOWN_SECONDS = 120
# When the first process is gone, which coordinates them, JAX ends the others: each must have the
# time to say what is wrong with all of them, such as a setting that differs.
LAST_WORDS_SECONDS = 5
# What collectives on CPU (Gloo) and GPU (NCCL) and the heartbeat say of a process that is gone.
_LOST = re.compile("gloo|nccl|connection|heartbeat|socket closed", re.IGNORECASE)


@contextlib.contextmanager
def joined_processes(
    coordinator: str | None, num_processes: int | None, process_id: int | None
) -> Iterator[None]:
    """Runs the body as one of the processes of a job, if there is more than one.

    Where it raises, this process ends at once with the exit code that `bonescan` gives to the
    error: a process that took leave in order would wait for others that wait for it.

    Args:
        coordinator: host:port of process 0; "auto" to let JAX ask Cloud TPU, Kubernetes or MPI.
            None is one process, or the tasks of the Slurm step that this one is a task of.
        num_processes: in the job.
        process_id: of this one, from 0.

    Raises:
        InputError: the three do not fit together.
    """
    settings = initialize_settings(coordinator, num_processes, process_id, os.environ)
    if settings is None:
        yield
        return
    # JAX would take SIGTERM for itself; `preemption` listens to it, and alone.
    jax.config.update("jax_enable_preemption_service", False)
    jax.distributed.initialize(
        heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
        shutdown_timeout_seconds=SHUTDOWN_SECONDS,
        **settings,
    )
    PREEMPTION.alone = jax.process_count() == 1
    try:
        yield
    except PreemptedError:  # by agreement: all of them
        jax.distributed.shutdown()
        raise
    except Exception as error:
        _leave(error)
    jax.distributed.shutdown()


def initialize_settings(
    coordinator: str | None,
    num_processes: int | None,
    process_id: int | None,
    environment: Mapping[str, str],
) -> dict[str, Any] | None:
    """What `jax.distributed.initialize` has to be told, or None for one process alone.

    Raises:
        InputError: a part is missing or does not fit the others.
    """
    if coordinator == "auto":
        return {}
    if coordinator or num_processes is not None or process_id is not None:
        if num_processes == 1:
            return None
        _check_explicit(coordinator, num_processes, process_id)
        return {
            "coordinator_address": coordinator,
            "num_processes": num_processes,
            "process_id": process_id,
            "cluster_detection_method": "deactivate",
        }
    # Only `srun` sets this: in the batch script itself there is one process, whatever --ntasks is.
    if int(environment.get("SLURM_STEP_NUM_TASKS", 1)) > 1:
        # JAX takes the n-th GPU for the n-th task of a host, which is wrong where Slurm shows each
        # task a single one (--gpus-per-task): that one is number 0.
        bound = environment.get("CUDA_VISIBLE_DEVICES", "").count(",") == 0
        devices = [0] if bound and "CUDA_VISIBLE_DEVICES" in environment else None
        return {"cluster_detection_method": "slurm", "local_device_ids": devices}
    return None


def _check_explicit(
    coordinator: str | None, num_processes: int | None, process_id: int | None
) -> None:
    for name, value in (
        ("coordinator", coordinator),
        ("num_processes", num_processes),
        ("process_id", process_id),
    ):
        if value is None:
            raise InputError(
                f"--{name} is missing; --coordinator=HOST:PORT, --num_processes and --process_id "
                "go together"
            )
    if not coordinator.rpartition(":")[0] or not coordinator.rpartition(":")[2].isdigit():
        raise InputError(f"--coordinator is {coordinator!r}, expected HOST:PORT or auto")
    if not 0 <= process_id < num_processes:
        raise InputError(
            f"--process_id is {process_id}, expected 0 to {num_processes - 1} "
            f"(--num_processes={num_processes})"
        )


def is_primary() -> bool:
    """Whether this process writes what a job writes once: logs, reports, the result."""
    return not jax.distributed.is_initialized() or jax.process_index() == 0


def check_agreement(values: dict[str, Any]) -> None:
    """Checks that all processes of the job hold the same values.

    Processes that computed different things would wait for each other, or average nonsense.

    Args:
        values: name to what JSON can hold.

    Raises:
        InputError: on every process, if one of them holds another value than process 0.
    """
    if jax.process_count() == 1:
        return
    text = json.dumps(values, sort_keys=True).encode()
    length = int(multihost_utils.process_allgather(np.int32(len(text))).max())
    padded = np.frombuffer(text.ljust(length), np.uint8)
    everyone = [json.loads(row.tobytes()) for row in multihost_utils.process_allgather(padded)]
    for process, theirs in enumerate(everyone):
        for name in sorted(values.keys() | theirs.keys()):
            expected, found = everyone[0].get(name), theirs.get(name)
            if found != expected:
                raise InputError(
                    f"{name} is {found!r} in process {process} of {len(everyone)}, expected "
                    f"{expected!r} as in process 0; start all with the same command and data"
                )


def _leave(error: Exception) -> None:
    """Says why and exits now, so that the others do not wait for this process."""
    where = f"bonescan: process {jax.process_index()} of {jax.process_count()}"
    code = 1
    if isinstance(error, InputError | RunError):
        code = 2 if isinstance(error, InputError) else 1
        print(f"{where}: {error}", file=sys.stderr)
    elif isinstance(error, jax.errors.JaxRuntimeError) and _LOST.search(str(error)):
        reason = str(error).splitlines()[0]
        print(
            f"{where} stops, because it lost another process of the job, whose own log says why; "
            f"the same command continues from the last checkpoint ({reason})",
            file=sys.stderr,
        )
    else:
        traceback.print_exception(error)
    sys.stdout.flush()
    sys.stderr.flush()
    if jax.process_index() == 0:
        time.sleep(LAST_WORDS_SECONDS)
    os._exit(code)
