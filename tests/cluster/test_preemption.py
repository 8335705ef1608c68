"""Worker processes leave signals and the accelerator to their parent."""

import multiprocessing
import os
import signal
from concurrent.futures import ProcessPoolExecutor

import pytest

from bonescan_jax.cluster.preemption import follow_parent


def _seen() -> tuple[str | None, bool]:
    return os.environ.get("JAX_PLATFORMS"), signal.getsignal(signal.SIGTERM) == signal.SIG_IGN


def test_a_worker_uses_the_cpu_and_ignores_signals(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("JAX_PLATFORMS")  # as on a machine with an accelerator
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, context, initializer=follow_parent) as pool:
        assert pool.submit(_seen).result() == ("cpu", True)
