"""Kills a run again and again, at random moments of every phase, and compares how it ends.

Run by hand: .venv/bin/python -m tests.faults.kill --kills=50 [--config=configs/phantom.py]

The run is that of a config, cut down to few steps and patients. SIGKILL and SIGTERM take turns, and
so do the phases: start (imports), compile, train, save and evaluate; the moment within a phase is
random. After each kill the same command goes on, until the run is finished and compared with one
that nobody disturbed; then the next run begins. The last line is JSON: `bit_equal` weights,
moments, averages and scores; `steps_repeated`, the most that one kill cost, and how many of these
were done while a save was being written, as one that is not whole cannot be used.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from bonescan_jax.cluster.preemption import EXIT_CODE
from bonescan_jax.runs.checkpoint import VALIDATION
from bonescan_jax.runs.manifest import NAME, DamagedError, read, verify
from tests.compiling import FAST

ROOT = Path(__file__).parents[2]
NUM_STEPS, SAVE_EVERY, EVALUATE_EVERY = 12, 3, 6
SETTINGS = {
    "train.num_steps": NUM_STEPS,
    "train.warmup_steps": 2,
    "train.log_every_steps": 1,
    "train.save_every_steps": SAVE_EVERY,
    "train.eval_every_steps": EVALUATE_EVERY,
    "evaluate.batch_size": 1,
    "mesh.data": 1,
}
PHASES = ("train", "save", "evaluate", "compile", "start")
PATIENCE = 900  # seconds for a whole run, on a busy machine


class Run:
    """A workdir in a folder with data and compiled programs, and the command that trains in it."""

    def __init__(self, config: Path, changes: dict[str, Any], out: Path, name: str) -> None:
        self.workdir, self.cache = out / name, out / "cache"
        settings = SETTINGS | changes | {"data.dir": out / "data"}
        self.command = [sys.executable, "-m", "bonescan_jax", "train", f"--config={config}"]
        self.command += [f"--workdir={self.workdir}"]
        self.command += [f"--config.{name}={value}" for name, value in settings.items()]

    def start(self, cache: Path | None = None) -> subprocess.Popen:
        """Starts or continues; an empty `cache` makes it compile everything anew."""
        environment = os.environ | {
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": FAST,
            "JAX_COMPILATION_CACHE_DIR": str(cache or self.cache),
        }
        self.workdir.mkdir(parents=True, exist_ok=True)
        with (self.workdir / "stderr.txt").open("a") as errors:
            return subprocess.Popen(
                self.command, cwd=ROOT, env=environment, stdout=errors, stderr=errors
            )

    def finish(self) -> None:
        """Lets it run to its end."""
        code = self.start().wait(PATIENCE)
        assert code == 0, f"exit code {code}: {self.said()}"

    def said(self) -> str:
        """The end of what it wrote to its streams."""
        return (self.workdir / "stderr.txt").read_text()[-2000:]

    def steps_done(self) -> int:
        """The last step whose metrics are written."""
        return max((line["step"] for line in self.lines() if line["kind"] == "train"), default=0)

    def lines(self) -> list[dict[str, Any]]:
        """The metrics so far."""
        path = self.workdir / "metrics.jsonl"
        lines = path.read_text().split("\n")[:-1] if path.exists() else []
        return [json.loads(line) for line in lines]

    def saved(self) -> list[int]:
        """The steps that are whole on disk."""
        places = (self.workdir / "checkpoints").glob("[0-9]*")
        return sorted(int(path.name) for path in places if path.name.isdigit() and _whole(path))

    def log_written(self) -> int:
        """Changes when a process has restored what there was and begins to log: a file's number."""
        path = self.workdir / "metrics.jsonl"
        return path.stat().st_ino if path.exists() else 0

    def being_saved(self) -> int | None:
        """The step that is being written."""
        unfinished = (self.workdir / "checkpoints").glob("*.unfinished*")
        return next((int(path.name.split(".")[0]) for path in unfinished), None)

    def phase(self, log_before: int, step_before: int) -> str:
        """What it does now, if its last life left this log and ended at this step."""
        if self.log_written() == log_before:
            return "start"
        if self.being_saved() is not None:
            return "save"
        waiting = self.workdir / "checkpoints" / str(self.steps_done())
        if self.steps_done() in (EVALUATE_EVERY, NUM_STEPS) and _unscored(waiting):
            return "evaluate"
        return "train" if self.steps_done() > step_before else "compile"


def _whole(place: Path) -> bool:
    try:
        verify(place)
    except (DamagedError, OSError):
        return False
    return True


def _unscored(place: Path) -> bool:
    try:
        return (place / NAME).exists() and VALIDATION not in read(place)
    except (DamagedError, OSError):
        return False


def kill_in_phase(
    run: Run, wanted: str, number: int, rng: random.Random, seconds: dict[str, float], empty: Path
) -> dict[str, Any] | None:
    """Starts a run and sends it a signal in the wanted phase, or None if it ended before."""
    before, log_before = max(run.saved(), default=0), run.log_written()
    process = run.start(empty if wanted == "compile" else None)
    started = time.monotonic()
    if wanted == "start":
        time.sleep(rng.uniform(0, seconds["start"]))
    else:
        while run.phase(log_before, before) != wanted and process.poll() is None:
            assert time.monotonic() < started + PATIENCE, f"never came to {wanted}: {run.said()}"
            time.sleep(0.002)
        time.sleep(rng.uniform(0, seconds[wanted]))
    phase = run.phase(log_before, before)
    if process.poll() is not None:
        assert process.returncode == 0, f"exit code {process.returncode}: {run.said()}"
        return None
    process.send_signal(number)
    sent = time.monotonic()
    code = process.wait(PATIENCE)
    waited = time.monotonic() - sent
    # What an earlier life did is still in the log that this one has not opened, and no loss of it.
    done = before if run.log_written() == log_before else run.steps_done()
    saved, being_saved = max(run.saved(), default=0), run.being_saved()
    in_save = phase != "start" and being_saved is not None
    return {
        "phase": phase,
        "signal": signal.Signals(number).name,
        "exit_code": code,
        "seconds_to_exit": round(waited, 1),
        "step": done,
        "steps_repeated": max(0, done - saved),
        "while_saving": max(0, done - being_saved) if in_save else 0,
    }


def final_state(workdir: Path) -> dict[str, np.ndarray]:
    """Name to array of all that the last checkpoint holds, read as it lies there."""
    items = {name: ocp.args.StandardRestore() for name in ("train", "average")}
    with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as checkpointer:
        place = (workdir / "checkpoints" / str(NUM_STEPS)).absolute()
        tree = checkpointer.restore(place, args=ocp.args.Composite(**items))
    leaves = jax.tree.leaves_with_path({name: tree[name] for name in items})
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}


def outcome(run: Run) -> dict[str, bytes]:
    """All that two runs of the same config must agree in, as bytes."""
    arrays = {name: array.tobytes() for name, array in final_state(run.workdir).items()}
    for line in run.lines():
        told = {key: value for key, value in line.items() if "second" not in key}
        arrays[f"{line['kind']} {line['step']}"] = json.dumps(told, sort_keys=True).encode()
    return arrays


def prepare(config: Path, data: Path) -> None:
    """Simulates a few patients for the config, unless there are some."""
    if data.exists():
        return
    command = [sys.executable, "-m", "bonescan_jax", "prepare", f"--config={config}"]
    command += [f"--data_dir={data}", "--patients=10"]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)


def disturb(
    kills: int,
    config: Path,
    out: Path,
    seed: int = 0,
    phases: tuple[str, ...] = PHASES,
    **changes: Any,
) -> dict[str, Any]:
    """Kills runs of a config as often as asked and compares each with an undisturbed one.

    Args:
        kills: how many, each time in the next of the phases.
        config: file of the run.
        out: folder for the runs.
        seed: of the moments.
        phases: some of PHASES.
        changes: settings of the config, by name.

    Returns:
        What the last line says.
    """
    rng = random.Random(seed)
    prepare(config, out / "data")
    whole = Run(config, changes, out, "whole")
    seconds = _measure(whole)
    expected = outcome(whole)
    deaths, unequal, runs = [], [], 0
    run = None
    while len(deaths) < kills or run:
        if run is None:
            run = Run(config, changes, out, f"killed_{runs}")
        if len(deaths) < kills:
            number = (signal.SIGKILL, signal.SIGTERM)[len(deaths) % 2]
            wanted = phases[len(deaths) % len(phases)]
            death = kill_in_phase(run, wanted, number, rng, seconds, out / f"empty_{len(deaths)}")
            shutil.rmtree(out / f"empty_{len(deaths)}", ignore_errors=True)
            if death:
                deaths.append(death)
                print(json.dumps(death), file=sys.stderr)
                continue
        else:
            run.finish()
        found = outcome(run)
        unequal += [name for name in expected if found.get(name) != expected[name]]
        runs, run = runs + 1, None
    return _summary(deaths, runs, unequal)


def _measure(run: Run) -> dict[str, float]:
    """Lets a run finish undisturbed, and tells about how long each phase takes on this machine."""
    began, seen = time.monotonic(), dict.fromkeys(PHASES, 0.0)
    process = run.start()
    last = began
    while process.poll() is None:
        time.sleep(0.01)
        now = time.monotonic()
        phase = run.phase(0, 0)
        seen[phase], last = seen[phase] + now - last, now
    assert process.returncode == 0, f"exit code {process.returncode}: {run.said()}"
    # A moment within one of several saves and evaluations; and in the first part of the phase, as
    # later ones are faster than this first one, which also compiled.
    seen["start"] /= 3
    seen["save"] /= 2 * (NUM_STEPS // SAVE_EVERY)
    seen["evaluate"] /= 2 * (NUM_STEPS // EVALUATE_EVERY)
    return seen


def _summary(deaths: list[dict[str, Any]], runs: int, unequal: list[str]) -> dict[str, Any]:
    terms = [death for death in deaths if death["signal"] == "SIGTERM"]
    worst = max(deaths, key=lambda death: death["steps_repeated"])
    return {
        "kills": len(deaths),
        "sigterm": len(terms),
        "phases": Counter(death["phase"] for death in deaths),
        "runs": runs,
        "bit_equal": not unequal,
        "unequal": sorted(set(unequal))[:5],
        "save_every_steps": SAVE_EVERY,
        "steps_repeated": worst["steps_repeated"],
        "steps_repeated_while_saving": worst["while_saving"],
        "steps_repeated_after_sigterm": max((d["steps_repeated"] for d in terms), default=0),
        # Before its first line a Python program cannot handle a signal: -15 is that of Python.
        "exit_codes_of_sigterm": Counter(str(death["exit_code"]) for death in terms),
        "longest_seconds_to_exit": max((d["seconds_to_exit"] for d in terms), default=0),
    }


def passed(result: dict[str, Any]) -> bool:
    """Whether nothing was lost that should not be."""
    return bool(
        result["bit_equal"]
        and result["steps_repeated"] - result["steps_repeated_while_saving"]
        <= result["save_every_steps"]
        and result["steps_repeated_after_sigterm"] == 0
        and set(result["exit_codes_of_sigterm"]) <= {str(EXIT_CODE), str(-signal.SIGTERM)}
    )


def main() -> None:
    """Runs it from the command line; exit code 0 if nothing was lost."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--config", type=Path, default=ROOT / "configs" / "phantom.py")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="keeps the runs here, instead of removing them")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        out = arguments.out or Path(folder)
        result = disturb(arguments.kills, arguments.config.absolute(), out, arguments.seed)
    print(json.dumps(result))
    sys.exit(not passed(result))


if __name__ == "__main__":
    main()
