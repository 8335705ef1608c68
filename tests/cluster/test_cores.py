"""Cores a process may use, on a node that it shares."""

import os
import subprocess
import sys

import pytest

PROGRAM = """
import os, sys
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
from bonescan_jax.cluster.cores import usable_cores
assert "jax" not in sys.modules
print(usable_cores())
"""


def count(**environment: str) -> str:
    left = {key: value for key, value in os.environ.items() if key != "PYTHON_CPU_COUNT"}
    command = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(
        command, env=left | environment, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no CPU affinity")
def test_affinity_counts_and_not_what_the_machine_has():
    assert count() == "1"


@pytest.mark.skipif(sys.version_info < (3, 13), reason="PYTHON_CPU_COUNT came with Python 3.13")
def test_the_environment_may_say_otherwise():
    assert count(PYTHON_CPU_COUNT="5") == "5"
