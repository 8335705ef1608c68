"""How processes of a job are found, from flags and Slurm; real ones are in tests/faults."""

import pytest

from bonescan_jax.cluster.distributed import initialize_settings
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


@pytest.mark.parametrize(
    ("visible", "devices"),
    [
        (None, None),  # no GPUs
        ("0,1,2,3", None),  # all of the host: JAX takes the one of this task's number
        ("2", [0]),  # bound by Slurm: the only one there is
    ],
)
def test_a_task_of_slurm_takes_one_gpu(visible: str | None, devices: list[int] | None):
    environment = STEP | ({"CUDA_VISIBLE_DEVICES": visible} if visible else {})
    settings = initialize_settings(None, None, None, environment)
    assert settings == {"cluster_detection_method": "slurm", "local_device_ids": devices}


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
