"""Several workers of one study, killed at random: every trial ends once, as with one worker alone.

By hand, with a database as `launch/postgres.sh start DIR` makes it and PGPASSFILE set:
    python -m tests.faults.sweep --out DIR --workers 8 --trials 40 --kills 10 \
        --storage postgresql+psycopg://bonescan@127.0.0.1:5433/bonescan
Without --storage the journal is used, and one of its lines is torn on purpose.
The last line is JSON.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import optuna

from bonescan_jax.sweep.storage import JOURNAL, open_storage
from bonescan_jax.sweep.trials import Claims, Trial
from bonescan_jax.sweep.worker import is_alive, trial_workdir
from tests.compiling import FAST
from tests.faults.processes import PATIENCE, ROOT, SETTINGS, bit_equal, prepare_data

STUDY = '''"""Trials of seconds."""

CONFIG = "configs/phantom.py"
SETTINGS = {settings!r}
TRIALS = {trials}
SEED = 7


def search(trial):
    return {{
        "train.learning_rate": trial.suggest_float("learning_rate", 1e-4, 1e-2, log=True),
        "augment.gain": trial.suggest_float("gain", 0.1, 0.4),
        "train.weight_decay": trial.suggest_categorical("weight_decay", [1e-4, 1e-3]),
    }}
'''
SHORT = SETTINGS | {
    "train.num_steps": 12,
    "train.save_every_steps": 3,
    "train.eval_every_steps": 6,
    "model.patch": 1,
    "loss.bones_weight": 0.0,
    "train.optimizer": "adamw",
}


def write_study(path: Path, trials: int, **settings: Any) -> Path:
    """A study of so many short trials."""
    path.write_text(STUDY.format(settings=SHORT | settings, trials=trials))
    return path


def start_worker(study: Path, out: Path, data: Path, storage: str | None) -> subprocess.Popen:
    """One `bonescan sweep`; what it says goes to OUT/said.txt."""
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": FAST,
        "JAX_COMPILATION_CACHE_DIR": str(data.parent / "cache"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "PYTHONPATH": str(ROOT),
    }
    command = [sys.executable, "-m", "bonescan_jax", "sweep", f"--study={study}", f"--out={out}"]
    command += [f"--config.data.dir={data}", *([f"--storage={storage}"] if storage else [])]
    out.mkdir(parents=True, exist_ok=True)
    with (out / "said.txt").open("a") as said:
        return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=said, stderr=said)


def read_trials(study: Path, out: Path, storage: str | None, count: int) -> list[Trial]:
    """The trials of a study as its storage has them."""
    opened = open_storage(storage, out)
    stored = optuna.load_study(study_name=study.stem, storage=opened)
    return Claims(stored, opened, count, "", lambda worker: is_alive(out, worker)).read()


def connections(storage: str) -> int:
    """Connections that the database holds for workers, without this one."""
    import psycopg  # noqa: PLC0415 - the journal needs none

    query = (
        "select count(*) from pg_stat_activity where backend_type = 'client backend' "
        "and pid <> pg_backend_pid()"
    )
    with psycopg.connect(storage.replace("+psycopg", "")) as connection:
        row = connection.execute(query).fetchone()
    return row[0] if row else 0


def tear_a_line(out: Path) -> None:
    """What a writer leaves that dies in the middle of a record."""
    with (out / JOURNAL).open("ab") as file:
        file.write(b'{"op_code":6,"worker_id":"torn","trial_')


def disturb(
    study: Path, out: Path, data: Path, storage: str | None, workers: int, kills: int, pause: float
) -> dict[str, Any]:
    """Runs a study by some workers, of which one is killed and replaced every now and then."""
    chance = random.Random(0)
    running = [start_worker(study, out, data, storage) for _ in range(workers)]
    codes: list[int] = []
    held = []
    done = 0
    try:
        while any(worker.poll() is None for worker in running):
            time.sleep(chance.uniform(0.5, 1.5) * pause)
            if storage:
                held.append(connections(storage))
            alive = [place for place, worker in enumerate(running) if worker.poll() is None]
            begun = len(list((out / "trials").glob("*")))
            if done == kills or not alive or begun <= done:  # in the middle of trials
                continue
            place = chance.choice(alive)
            order = (signal.SIGKILL, signal.SIGTERM)[done % 2]
            running[place].send_signal(order)
            codes.append(running[place].wait(PATIENCE))
            if not storage and done == 0:
                tear_a_line(out)
            running[place] = start_worker(study, out, data, storage)
            done += 1
    finally:
        for worker in running:
            worker.kill()
    return {
        "kills": done,
        "codes": sorted(codes),
        "ended_with": sorted(worker.wait() for worker in running),
        "most_connections": max(held, default=None),
    }


def compare(whole: list[Trial], many: list[Trial], one: Path, other: Path) -> dict[str, Any]:
    """Whether both did the same trials, once each, and reached the same."""
    return {
        "trials": len(many),
        "attempts": sum(len(trial.attempts) for trial in many),
        "states": sorted({trial.state for trial in many}),
        "left_running": sum(a.state.name == "RUNNING" for t in many for a in t.attempts),
        "ended_twice": sum(sum(a.state.name == "COMPLETE" for a in t.attempts) != 1 for t in many),
        "same_settings": [t.last.user_attrs["settings"] for t in whole]
        == [t.last.user_attrs["settings"] for t in many],
        "same_results": [t.last.values for t in whole] == [t.last.values for t in many],
        "same_reports": [t.last.intermediate_values for t in whole]
        == [t.last.intermediate_values for t in many],
        "bit_equal": all(
            bit_equal(trial_workdir(one, t.number), trial_workdir(other, t.number)) for t in whole
        ),
    }


def passed(result: dict[str, Any], trials: int) -> bool:
    """Whether nothing was lost, doubled, left or different."""
    return (
        result["trials"] == trials
        and result["states"] == ["done"]
        and not result["left_running"]
        and not result["ended_twice"]
        and all(result[name] for name in result if name.startswith(("same", "bit")))
        and set(result["ended_with"]) == {0}
    )


def run(
    out: Path, workers: int, trials: int, kills: int, storage: str | None, pause: float
) -> dict[str, Any]:
    """The study by one worker, then by many that are killed."""
    data = prepare_data(out)
    study = write_study(out / f"killed{random.randrange(10**9)}.py", trials)
    begun = time.monotonic()
    alone = start_worker(study, out / "alone", data, None)
    assert alone.wait(PATIENCE) == 0, (out / "alone" / "said.txt").read_text()[-2000:]
    serial = time.monotonic() - begun
    begun = time.monotonic()
    result = disturb(study, out / "many", data, storage, workers, kills, pause)
    whole = read_trials(study, out / "alone", None, trials)
    many = read_trials(study, out / "many", storage, trials)
    return {
        "workers": workers,
        **result,
        **compare(whole, many, out / "alone", out / "many"),
        "seconds_alone": round(serial),
        "seconds_disturbed": round(time.monotonic() - begun),
    }


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--trials", type=int, default=12)
    parser.add_argument("--kills", type=int, default=4)
    parser.add_argument("--pause", type=float, default=15.0, help="seconds between two kills")
    parser.add_argument("--storage")
    a = parser.parse_args()
    a.out.mkdir(parents=True, exist_ok=True)
    result = run(a.out, a.workers, a.trials, a.kills, a.storage, a.pause)
    print(json.dumps(result))
    sys.exit(not passed(result, a.trials))


if __name__ == "__main__":
    main()
