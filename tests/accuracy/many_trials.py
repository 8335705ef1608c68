"""How long a study of thousands of trials keeps its users waiting.

    python -m tests.accuracy.many_trials --out DIR [--trials 2000] [--storage URL]
The last line is JSON: seconds to claim the next trial (medians, with the sampler that learns from
all), for the status and for the page, and its size.
"""

import argparse
import json
import math
import statistics
import time
from pathlib import Path

import numpy as np
import optuna
from optuna.trial import TrialState

from bonescan_jax.sweep.page import write_study_report
from bonescan_jax.sweep.sampling import SeededSampler, make_sampler
from bonescan_jax.sweep.status import status
from bonescan_jax.sweep.storage import open_storage
from bonescan_jax.sweep.study import read_study
from bonescan_jax.sweep.trials import SETTINGS, TRIAL, WORKER, Claims
from bonescan_jax.sweep.worker import MEASURED, join_study

STUDY = '''"""A search of ten parameters."""

CONFIG = "configs/phantom.py"
SETTINGS = {{"train.eval_every_steps": 100}}
TRIALS = {trials}
PRUNER = "successive_halving"
SAMPLER = "tpe"


def search(trial):
    return {{
        "train.learning_rate": trial.suggest_float("learning_rate", 1e-4, 1e-2, log=True),
        "train.weight_decay": trial.suggest_float("weight_decay", 1e-6, 1e-2, log=True),
        "train.optimizer": trial.suggest_categorical("optimizer", ["adamw", "muon"]),
        "train.ema_decay": trial.suggest_float("ema_decay", 0.9, 0.999),
        "augment.gain": trial.suggest_float("gain", 0.0, 0.5),
        "augment.uptake": trial.suggest_float("uptake", 0.0, 0.3),
        "loss.bones_weight": trial.suggest_float("bones_weight", 0.05, 0.5),
        "loss.cross_entropy_weight": trial.suggest_float("cross_entropy", 0.1, 2.0),
        "data.hot_spot_crops": trial.suggest_float("hot_spot_crops", 0.0, 1.0),
        "model.levels": trial.suggest_int("levels", 2, 3),
    }}
'''


def made_up(study_file: Path, out: Path, url: str | None, count: int) -> None:
    """Trials with made-up scores: the rate matters most, and poor ones were pruned."""
    study = read_study(study_file)
    storage = open_storage(url, out)
    joined = join_study(study, storage)
    dice = np.random.default_rng(0)
    trials = []
    for number in range(count):
        drawn = optuna.create_study(sampler=SeededSampler(0, number))
        asked = drawn.ask()
        settings = study.settings(asked, number)
        rate = math.log10(settings["train.learning_rate"])
        score = 0.5 - 0.1 * (rate + 2.6) ** 2 + 0.05 * (settings["train.optimizer"] == "muon")
        score += float(dice.normal(0, 0.02))
        steps = 20 if score > 0.45 else 4
        curve = {800 * k: score * (1 - math.exp(-k / 6)) for k in range(1, steps + 1)}
        frozen = asked.study.trials[0]
        trials.append(
            optuna.create_trial(
                state=TrialState.COMPLETE if steps == 20 else TrialState.PRUNED,
                value=curve[800 * steps],
                params=frozen.params,
                distributions=frozen.distributions,
                intermediate_values=curve,
                user_attrs={
                    WORKER: "made-up",
                    TRIAL: number,
                    SETTINGS: settings,
                    MEASURED: {"validation.score": curve[800 * steps], "seconds": 30.0 * steps},
                    "devices": 1,
                },
            )
        )
    joined.add_trials(trials)


def seconds_to_ask(study_file: Path, out: Path, url: str | None, times: int) -> list[float]:
    """Of a worker that has been there for a while: to claim a trial and sample its settings."""
    study = read_study(study_file)
    storage = open_storage(url, out)
    joined = join_study(study, storage)
    claims = Claims(joined, storage, study.trials, "asks", lambda worker: False)
    found = []
    for _ in range(times):
        begun = time.monotonic()
        claimed = claims.claim()
        assert claimed is not None
        number, attempt = claimed
        joined.sampler = make_sampler(study.sampler, study.seed, number)
        study.settings(optuna.trial.Trial(joined, attempt._trial_id), number)
        found.append(time.monotonic() - begun)
    return found


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--trials", type=int, default=2000)
    parser.add_argument("--storage")
    a = parser.parse_args()
    a.out.mkdir(parents=True, exist_ok=True)
    study = a.out / f"many{time.time_ns()}.py"
    study.write_text(STUDY.format(trials=a.trials + 20))
    made_up(study, a.out, a.storage, a.trials)
    asks = seconds_to_ask(study, a.out, a.storage, 11)
    begun = time.monotonic()
    status(study, a.out, a.storage)
    told = time.monotonic()
    page = write_study_report(study, a.out, a.storage)
    print(
        json.dumps(
            {
                "trials": a.trials,
                "first_ask": round(asks[0], 3),
                "ask": round(statistics.median(asks[1:]), 3),
                "slowest_ask": round(max(asks[1:]), 3),
                "status": round(told - begun, 2),
                "page": round(time.monotonic() - told, 2),
                "megabytes": round(Path(page["report"]).stat().st_size / 1e6, 2),
                "report": page["report"],
            }
        )
    )


if __name__ == "__main__":
    main()
