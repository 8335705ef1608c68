"""How many processor cores this process may use; on a shared node fewer than the machine has."""

import os


def usable_cores() -> int:
    """Cores that the scheduler granted (CPU affinity), at least 1.

    Python 3.13 and later also honours the environment variable PYTHON_CPU_COUNT.
    """
    if hasattr(os, "process_cpu_count"):
        return os.process_cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):  # Linux
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
