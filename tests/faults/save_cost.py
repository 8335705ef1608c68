"""What saving costs the steps, and how long restoring takes, for the network of a config.

Run by hand: .venv/bin/python -m tests.faults.save_cost [--config=configs/bs80k.py] [--rounds=5]

The last line is JSON, medians: `blocked_seconds`, for which no step can begin; `background_seconds`
until the step is whole on disk, and `background_cpu_seconds` of it on all cores, which steps on a
CPU have to share; `stall`, blocked and shared time of one save a minute as a fraction of it, an
upper bound; `restore_seconds`, checksums and all.
"""

import argparse
import json
import os
import runpy
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import ml_collections

from bonescan_jax.cluster.mesh import make_mesh
from bonescan_jax.runs.checkpoint import Checkpoints, look_for_saved
from bonescan_jax.train_step import make_initial_state


def measure(config: ml_collections.ConfigDict, workdir: Path, rounds: int) -> dict[str, Any]:
    """Saves and restores the first state of a run as often as asked."""
    config.mesh.data = 1
    init, abstract = make_initial_state(config, make_mesh(config))
    state = jax.block_until_ready(jax.tree.map(_noise, init(config.seed)))
    seen = {name: [] for name in ("blocked", "background", "background_cpu", "restore")}
    checkpoints = Checkpoints(workdir, 1, look_for_saved(workdir))
    for step in range(1, rounds + 2):
        began = time.monotonic()
        checkpoints.save(step, state, {})
        blocked, cpu = time.monotonic(), time.process_time()
        checkpoints.wait()
        written = time.monotonic()
        seen["blocked"].append(blocked - began)
        seen["background"].append(written - blocked)
        seen["background_cpu"].append(time.process_time() - cpu)
        again = Checkpoints(workdir, 1, look_for_saved(workdir))
        jax.block_until_ready(again.restore(abstract)[0])
        seen["restore"].append(time.monotonic() - written)
    # The first round also loads what later ones have ready.
    medians = {name: statistics.median(values[1:]) for name, values in seen.items()}
    shared = medians["background_cpu"] / os.cpu_count() if jax.default_backend() == "cpu" else 0.0
    size = sum(path.stat().st_size for path in workdir.rglob("*") if path.is_file())
    return {
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(state.params)),
        "megabytes": round(size / 1e6, 1),
        **{f"{name}_seconds": round(value, 3) for name, value in medians.items()},
        "stall": round((medians["blocked"] + shared) / 60, 4),
    }


def _noise(leaf: jax.Array) -> jax.Array:
    """As hard to compress as weights that were trained; the first moments are all zero."""
    if not jax.numpy.issubdtype(leaf.dtype, jax.numpy.floating):
        return leaf
    return jax.device_put(jax.random.normal(jax.random.key(0), leaf.shape), leaf.sharding)


def main() -> None:
    """Runs it from the command line; exit code 0 if saving and restoring are fast enough."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, default=Path("configs/bs80k.py"))
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        config = runpy.run_path(str(arguments.config))["get_config"]()
        result = measure(config, Path(folder), arguments.rounds)
    print(json.dumps(result))
    sys.exit(not (result["stall"] <= 0.02 and result["restore_seconds"] <= 5))


if __name__ == "__main__":
    main()
