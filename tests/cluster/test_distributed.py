"""How processes of a job are found, from flags and Slurm; real ones are in tests/faults."""

import jax
import pytest

from bonescan_jax.cluster.distributed import initialize_settings, joined_processes
from bonescan_jax.errors import InputError

STEP = {"SLURM_JOB_ID": "7", "SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "1"}


@pytest.mark.parametrize(
    "environment",
    [
        {},
        # The batch script itself, where no others are: they would be waited for in vain.
        {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "4", "SLURM_PROCID": "0"},
        {"SLURM_JOB_ID": "7", "SLURM_STEP_NUM_TASKS": "1"},
    ],
)
def test_one_process_starts_nothing(environment: dict[str, str]):
    assert initialize_settings(None, None, None, environment) is None
    assert initialize_settings("localhost:1", 1, 0, environment) is None


def test_flags_come_before_what_slurm_says():
    settings = initialize_settings("host:8476", 2, 1, STEP)
    assert settings["coordinator_address"] == "host:8476"
    assert (settings["num_processes"], settings["process_id"]) == (2, 1)
    assert settings["cluster_detection_method"] == "deactivate"
    assert initialize_settings("auto", None, None, {}) == {}


NODE = {"SLURM_STEP_TASKS_PER_NODE": "3,4(x2)", "SLURM_NODEID": "1", "SLURM_LOCALID": "1"}


@pytest.mark.parametrize(
    ("changes", "devices"),
    [
        ({}, None),  # no GPUs
        # All of the node, which has four tasks: this is the second of them.
        ({"CUDA_VISIBLE_DEVICES": "0,1,2,3"}, [1]),
        ({"CUDA_VISIBLE_DEVICES": "0,1,2,3,4,5,6,7", "SLURM_GPUS_ON_NODE": "8"}, [2, 3]),
        # Bound by Slurm: those that are seen are this task's own.
        ({"CUDA_VISIBLE_DEVICES": "2"}, [0]),
        ({"CUDA_VISIBLE_DEVICES": "2,3", "SLURM_GPUS_ON_NODE": "8"}, [0, 1]),
        ({"CUDA_VISIBLE_DEVICES": "0,1", "SLURM_GPUS_PER_TASK": "2"}, [0, 1]),
    ],
)
def test_a_task_of_slurm_takes_its_share_of_gpus(
    changes: dict[str, str], devices: list[int] | None
):
    settings = initialize_settings(None, None, None, STEP | NODE | changes)
    assert settings == {"cluster_detection_method": "slurm", "local_device_ids": devices}


def test_gpus_that_tasks_cannot_share_evenly_are_refused():
    environment = STEP | NODE | {"CUDA_VISIBLE_DEVICES": "0,1,2,3,4,5"}
    with pytest.raises(InputError, match="4 tasks and 6 GPUs, expected .*--ntasks-per-node"):
        initialize_settings(None, None, None, environment)


def test_a_task_of_slurm_may_be_a_run_of_its_own():
    assert initialize_settings(None, 1, None, STEP | NODE) is None


def test_a_pod_is_one_of_many_processes_only_where_the_job_says_so():
    pod = {"JOB_COMPLETION_INDEX": "1"}
    assert initialize_settings(None, None, None, pod) is None
    assert initialize_settings("host:8476", 2, None, pod)["process_id"] == 1
    assert initialize_settings("host:8476", 2, 0, pod)["process_id"] == 0


@pytest.mark.parametrize(
    ("coordinator", "number", "process", "message"),
    [
        (None, 2, 0, "--coordinator is missing"),
        ("host:1", None, 0, "--num_processes is missing"),
        ("host:1", 2, None, "--process_id is missing"),
        ("host", 2, 0, "--coordinator is 'host', expected HOST:PORT"),
        ("host:1", 2, 2, "--process_id is 2, expected 0 to 1"),
    ],
)
def test_what_does_not_fit_is_named(
    coordinator: str | None, number: int | None, process: int | None, message: str
):
    with pytest.raises(InputError, match=message):
        initialize_settings(coordinator, number, process, {})


def test_one_machine_of_a_slice_alone_is_refused(monkeypatch: pytest.MonkeyPatch):
    """Each would think itself the first one, and all would write."""
    monkeypatch.setattr(jax, "process_count", lambda: 4)
    message = "one of 4 of a slice, expected --coordinator=auto"
    with pytest.raises(InputError, match=message), joined_processes(None, None, None):
        pass


def test_the_log_says_which_devices_a_process_has(capsys: pytest.CaptureFixture):
    with joined_processes(None, None, None):
        pass
    assert capsys.readouterr().err == "bonescan: process 0 of 1: 8 devices (cpu)\n"
