"""The processes of one job: how they find each other, and how they end.

One process needs none of this, and none of it happens then.
"""

import contextlib
import os
import re
import sys
import time
import traceback
from collections.abc import Iterator, Mapping
from typing import Any

import jax

from bonescan_jax.cluster.preemption import EXIT_CODE, PREEMPTION, PreemptedError
from bonescan_jax.errors import BusyError, InputError, RunError

# Clusters start processes one by one, and make a node first where none is free, which takes many
# minutes; JAX' own 5 would be a failure of the job each time.
START_SECONDS = 30 * 60

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
        if jax.process_count() > 1:  # a TPU slice knows without being told
            raise InputError(
                f"this machine is one of {jax.process_count()} of a slice, expected "
                "--coordinator=auto on each of them"
            )
        _say_devices()
        yield
        return
    print(
        f"bonescan: waits for the other processes of the job, {START_SECONDS // 60} minutes at "
        "most",
        file=sys.stderr,
    )
    # JAX would take SIGTERM for itself; `preemption` listens to it, and alone.
    jax.config.update("jax_enable_preemption_service", False)
    jax.distributed.initialize(
        initialization_timeout=START_SECONDS,
        heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
        shutdown_timeout_seconds=SHUTDOWN_SECONDS,
        **settings,
    )
    PREEMPTION.alone = jax.process_count() == 1
    try:
        _say_devices()
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
    """The arguments of `jax.distributed.initialize`, or None for a single process.

    Raises:
        InputError: a part is missing or does not fit the others.
    """
    if coordinator == "auto":
        return {}
    if coordinator or num_processes is not None or process_id is not None:
        if num_processes == 1:
            return None
        if coordinator and num_processes is not None and process_id is None:
            # Only here: a job of pods that each do a run of their own has such numbers too.
            index = environment.get("JOB_COMPLETION_INDEX")
            process_id = int(index) if index else None
        _check_explicit(coordinator, num_processes, process_id)
        return {
            "coordinator_address": coordinator,
            "num_processes": num_processes,
            "process_id": process_id,
            "cluster_detection_method": "deactivate",
        }
    # Only `srun` sets this: in the batch script itself there is one process, whatever --ntasks is.
    if int(environment.get("SLURM_STEP_NUM_TASKS", 1)) > 1:
        return {
            "cluster_detection_method": "slurm",
            "local_device_ids": _gpus_of_task(environment),
        }
    return None


def _gpus_of_task(environment: Mapping[str, str]) -> list[int] | None:
    """Which of the GPUs that a task of Slurm sees are its own; None where it sees none.

    Slurm shows each task either its own GPUs (--gpus-per-task, --gpu-bind) or all of the node, of
    which JAX would take one a task, whatever is left.

    Raises:
        InputError: the tasks of this node cannot share its GPUs evenly.
    """
    if "CUDA_VISIBLE_DEVICES" not in environment:
        return None
    visible = len(environment["CUDA_VISIBLE_DEVICES"].split(","))
    on_node = int(environment.get("SLURM_GPUS_ON_NODE", visible))
    if visible == 1 or visible < on_node or "SLURM_GPUS_PER_TASK" in environment:
        return list(range(visible))
    tasks = _tasks_of_node(environment)
    share, left = divmod(visible, tasks)
    if left:
        raise InputError(
            f"Slurm gives this node {tasks} tasks and {visible} GPUs, expected a number of GPUs "
            "that the tasks divide: set --ntasks-per-node and --gpus-per-node"
        )
    first = share * int(environment["SLURM_LOCALID"])
    return list(range(first, first + share))


def _tasks_of_node(environment: Mapping[str, str]) -> int:
    """How many tasks of the step run on this node, from Slurm's "4(x2),3": 4, 4 and 3."""
    tasks: list[int] = []
    for part in environment["SLURM_STEP_TASKS_PER_NODE"].split(","):
        count, _, times = part.rstrip(")").partition("(x")
        tasks += [int(count)] * int(times or 1)
    return tasks[int(environment["SLURM_NODEID"])]


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
    assert coordinator and process_id is not None and num_processes is not None
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


def _say_devices() -> None:
    """One line for the log: which process this is, and what it computes on."""
    devices = jax.local_devices()
    limit = (devices[0].memory_stats() or {}).get("bytes_limit")
    memory = f", {limit / 2**30:.1f} GiB each" if limit else ""
    print(
        f"bonescan: process {jax.process_index()} of {jax.process_count()}: {len(devices)} devices "
        f"({devices[0].device_kind}{memory})",
        file=sys.stderr,
    )


def _leave(error: Exception) -> None:
    """Says why and exits now, so that the others do not wait for this process."""
    where = f"bonescan: process {jax.process_index()} of {jax.process_count()}"
    code = 1
    if isinstance(error, InputError | RunError | BusyError):
        code = {InputError: 2, BusyError: EXIT_CODE}.get(type(error), 1)
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
