"""Writes which samples every step saw, so that two runs can be compared: samples.jsonl."""

import json
import os
from pathlib import Path

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from bonescan_jax.cluster.distributed import is_primary
from bonescan_jax.cluster.mesh import replicated
from bonescan_jax.train_step import Batch


class SampleLog:
    """Appends a line per step: the sample numbers and a checksum of each sample's pixels.

    A continued run writes the steps it repeats once more. Writing waits for every step, so a run
    that is logged is slower.
    """

    def __init__(self, workdir: Path, mesh: Mesh, wanted: bool) -> None:
        self.checksums = jax.jit(_checksums, out_shardings=replicated(mesh)) if wanted else None
        path = workdir / "samples.jsonl" if wanted and is_primary() else Path(os.devnull)
        self.file = path.open("a", buffering=1)

    def write(self, step: int, batch: Batch) -> None:
        """Logs the batch of a step, if wanted."""
        if self.checksums is None:
            return
        samples, checksums = jax.device_get(self.checksums(batch))
        line = {"step": step, "samples": samples.tolist(), "checksums": checksums.tolist()}
        self.file.write(json.dumps(line) + "\n")

    def close(self) -> None:
        """Closes the file."""
        self.file.close()


def _checksums(batch: Batch) -> tuple[jax.Array, jax.Array]:
    """(B,) sample numbers and (B,) uint32 sums of pixels times odd factors, modulo 2³²."""
    total = jnp.zeros(len(batch["sample"]), jnp.uint32)
    for name in ("image", "mask"):
        pixels = batch[name].astype(jnp.uint32)
        # Odd factors of their own, so that pixels that swap places change the sum.
        factors = jnp.arange(pixels[0].size, dtype=jnp.uint32).reshape(pixels.shape[1:])
        total = 31 * total + (pixels * (2 * factors + 1)).sum((1, 2, 3), dtype=jnp.uint32)
    return batch["sample"], total
