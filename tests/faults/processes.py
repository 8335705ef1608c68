"""Two processes of one job on loopback: one is killed, the other ends, the job continues.

Run by hand: .venv/bin/python -m tests.faults.processes --out=DIR
The last line is JSON: after how many seconds the other process ended, what it said, whether the
continued job ended with the weights of an undisturbed one, bit for bit.
"""

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from bonescan_jax.datasets.bs80k import prepare
from bonescan_jax.runs.workdir import read_config
from tests.compiling import FAST
from tests.layout import write_layout
from tests.test_train import saved_state

ROOT = Path(__file__).parents[2]
# A run of seconds; what is not said here is as in configs/phantom.py.
SETTINGS = {
    "data.views": "each",
    "data.crop_height": 32,
    "data.crop_width": 32,
    "model.filters": (4, 8),
    "model.levels": 1,
    "train.batch_size": 8,
    "train.num_steps": 40,
    "train.warmup_steps": 1,
    "train.log_every_steps": 1,
    "train.eval_every_steps": 0,
    "train.save_every_steps": 10,
    "evaluate.batch_size": 8,
}
LIMIT_SECONDS = 60  # in which the others must have ended
PATIENCE = 3600  # seconds for a whole run on a busy machine


def prepare_data(out: Path) -> Path:
    """A prepared data set "phantom" of ten patients."""
    if not (out / "data").exists():
        source = write_layout(out / "source", tuple(range(1, 11)))
        prepare(source, out / "data", name="phantom", split_seed=0, split_fractions=(0.6, 0.2, 0.2))
    return out / "data"


def start(
    workdir: Path,
    data: Path,
    processes: int = 1,
    devices: int = 1,
    of_last: dict[str, Any] | None = None,
    workdir_of_last: Path | None = None,
    **changes: Any,
) -> list[subprocess.Popen]:
    """Starts `bonescan train`, see `start_verb`; what the processes say goes to the workdir.

    `changes` are settings of all, `of_last` and `workdir_of_last` of the last one alone.
    """
    settings = SETTINGS | {"data.dir": str(data)} | changes
    command = ["train", "--config=configs/phantom.py", f"--workdir={workdir}"]
    command += [f"--config.{name}={value}" for name, value in settings.items()]
    last = [f"--config.{name}={value}" for name, value in (of_last or {}).items()]
    last += [f"--workdir={workdir_of_last or workdir}"]
    return start_verb(command, workdir, data.parent / "cache", processes, devices, last)


def start_verb(
    command: list[str],
    said: Path,
    cache: Path,
    processes: int = 1,
    devices: int = 1,
    of_last: Sequence[str] = (),
) -> list[subprocess.Popen]:
    """Starts `bonescan` as this many processes of one job, each with so many simulated devices.

    Args:
        command: verb and flags, those of the last process followed by `of_last`.
        said: folder for what they say, said_PROCESS.txt.
        cache: folder for what they compile.
        processes: of the job.
        devices: of each.
        of_last: flags.
    """
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices} {FAST}",
        # Compiling is most of the work, and the same for every run of the same devices.
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    command = [sys.executable, "-m", "bonescan_jax", *command]
    if processes > 1:
        command += [f"--coordinator=localhost:{port}", f"--num_processes={processes}"]
    said.mkdir(parents=True, exist_ok=True)
    started = []
    for number in range(processes):
        if number == processes - 1:
            command += of_last
        mine = [f"--process_id={number}"] if processes > 1 else []
        with (said / f"said_{number}.txt").open("a") as output:
            started.append(
                subprocess.Popen(
                    command + mine, cwd=ROOT, env=environment, stdout=output, stderr=output
                )
            )
    return started


def finish(workdir: Path, running: list[subprocess.Popen]) -> None:
    """Waits until all have ended well."""
    for number, process in enumerate(running):
        code = process.wait(PATIENCE)
        said = (workdir / f"said_{number}.txt").read_text()
        assert code == 0, f"process {number} exited with {code}: {said[-2000:]}"


def wait_for_step(workdir: Path, step: int, running: list[subprocess.Popen]) -> None:
    """Waits until metrics.jsonl holds a step."""
    path = workdir / "metrics.jsonl"
    for _ in range(PATIENCE * 50):
        if path.exists() and f'"step": {step},' in path.read_text():
            return
        assert all(process.poll() is None for process in running), "ended before it was disturbed"
        time.sleep(0.02)
    raise TimeoutError(f"{path}: step {step} did not come")


def weights(workdir: Path) -> list[np.ndarray]:
    """All arrays of the newest checkpoint of a workdir."""
    config = read_config(workdir)
    config.mesh.data = 1
    return jax.tree.leaves(saved_state(config, workdir))


def bit_equal(one: Path, other: Path) -> bool:
    """Whether two runs ended with the same state, bit for bit."""
    pairs = zip(weights(one), weights(other), strict=True)
    return all(np.array_equal(a, b) for a, b in pairs)


def kill_one(workdir: Path, data: Path, victim: int) -> dict[str, Any]:
    """Kills one of two processes in the middle of a run and tells how the other ended."""
    running = start(workdir, data, processes=2)
    try:
        wait_for_step(workdir, 15, running)
        running[victim].send_signal(signal.SIGKILL)
        killed = time.monotonic()
        code = running[1 - victim].wait(LIMIT_SECONDS * 2)
        seconds = time.monotonic() - killed
    finally:
        for process in running:
            process.kill()
    said = (workdir / f"said_{1 - victim}.txt").read_text().splitlines()
    reasons = [line for line in said if "another process" in line or "another task" in line]
    return {
        "victim": victim,
        "exit_code": code,
        "seconds": round(seconds, 1),
        "message": reasons[0][:200] if reasons else None,
    }


def main() -> None:
    """Kills the second and then the first process of a job, continuing it each time."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    out = parser.parse_args().out
    data = prepare_data(out)
    finish(out / "whole", start(out / "whole", data, processes=2))
    kills, equal = [], []
    for victim in (1, 0):
        workdir = out / f"killed_{victim}"
        kills.append(kill_one(workdir, data, victim))
        print(json.dumps(kills[-1]), file=sys.stderr)
        finish(workdir, start(workdir, data, processes=2))
        equal.append(bit_equal(out / "whole", workdir))
    slowest = max(kill["seconds"] for kill in kills)
    told = all(kill["message"] and kill["exit_code"] for kill in kills)
    print(json.dumps({"seconds": slowest, "bit_equal": all(equal), "told": told, "kills": kills}))
    sys.exit(not (slowest <= LIMIT_SECONDS and all(equal) and told))


if __name__ == "__main__":
    main()
