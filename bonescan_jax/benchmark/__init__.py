"""Measures this program's parts, and what others would use for the same work, in one run.

Every figure is the median of several rounds; on CPUs contestants take turns within a round, so
that what else the machine does meets all of them.
"""

from typing import Any

import ml_collections

from bonescan_jax.benchmark.child import peers_python
from bonescan_jax.benchmark.inference import benchmark_inference
from bonescan_jax.benchmark.input import benchmark_reading
from bonescan_jax.benchmark.loop import benchmark_loop
from bonescan_jax.benchmark.step import benchmark_step
from bonescan_jax.errors import InputError
from bonescan_jax.tasks import validate

KINDS = {
    "input": benchmark_reading,
    "step": benchmark_step,
    "loop": benchmark_loop,
    "inference": benchmark_inference,
}
WITH_PEERS = ("input", "step")


def benchmark(
    config: ml_collections.ConfigDict, what: str, peer: str | None, rounds: int, seconds: float
) -> dict[str, Any]:
    """Measures `what` and prints a Markdown table to standard error.

    Args:
        config: of the run whose parts are measured; for input and loop its data must be prepared.
        what: one of `KINDS`.
        peer: "torch" measures PyTorch and MONAI (`launch/setup.sh peers`) beside ours, None
            ours alone.
        rounds: how often each contestant is measured.
        seconds: how long at least, each time.

    Returns:
        The figures of the JSON line.

    Raises:
        InputError: config or data cannot be used, or the peer is not installed.
    """
    validate(config)
    if peer and what not in WITH_PEERS:
        raise InputError(f"--peer=torch: found with --what={what}, which measures ours alone")
    if peer:
        peers_python()  # refuses before anything is measured
    return KINDS[what](config, peer, rounds, seconds)
