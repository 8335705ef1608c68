"""Whether a pruned search finds as good a trial as one that sees every trial to its end.

    bonescan prepare --config=configs/phantom.py --patients=300 --seed=77 --data_dir=DATA
    python -m tests.accuracy.pruned_search --data_dir DATA --out DIR
Both searches sample the same 24 trials of a small network. The last line is JSON: steps of both,
the best score of both on validation, and the interval of the unpruned search's best over patients.
"""

import argparse
import json
from pathlib import Path

import numpy as np

from bonescan_jax.evaluate import evaluate
from bonescan_jax.metrics.rows import read_rows
from bonescan_jax.metrics.segmentation import pooled_dice
from bonescan_jax.sweep.status import load
from bonescan_jax.sweep.worker import trial_workdir, work

STUDY = '''"""Learning rate, loss and sampling of a small network."""

CONFIG = "configs/phantom.py"
SETTINGS = {{
    "data.crop_height": 64, "data.crop_width": 64, "model.filters": (8, 16, 32), "model.levels": 2,
    "loss.bones_weight": 0.0, "train.num_steps": 480, "train.eval_every_steps": 40,
    "train.save_every_steps": 120, "train.warmup_steps": 20,
}}
TRIALS = {trials}
PRUNER = {pruner!r}


def search(trial):
    return {{
        "train.learning_rate": trial.suggest_float("learning_rate", 1e-4, 3e-2, log=True),
        "train.optimizer": trial.suggest_categorical("optimizer", ["adamw", "muon"]),
        "loss.overlap_weight": trial.suggest_float("overlap_weight", 0.2, 2.0, log=True),
        "data.abnormal_examples": trial.suggest_float("abnormal_examples", 0.1, 0.8),
        "data.hot_spot_crops": trial.suggest_float("hot_spot_crops", 0.2, 0.9),
    }}
'''
RESAMPLES = 2000


def interval(workdir: Path) -> tuple[float, float]:
    """95 % over validation patients of the score of a run, the mean Dice of both classes."""
    evaluate([workdir], "validation")
    about, rows = read_rows(workdir / "evaluation" / "validation.rows.jsonl")
    patients = sorted({row.patient for row in rows})
    by_patient = {name: np.zeros((2, 3), np.int64) for name in patients}
    for row in rows:
        by_patient[row.patient] += np.asarray(row.pixels[about["selected"]])
    counts = np.stack([by_patient[name] for name in patients])
    rng = np.random.default_rng(0)
    scores = []
    for _ in range(RESAMPLES):
        dice = pooled_dice(counts[rng.integers(0, len(counts), len(counts))])
        scores.append(np.mean([value or 0.0 for value in dice.values()]))
    low, high = np.percentile(scores, (2.5, 97.5))
    return round(float(low), 4), round(float(high), 4)


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data_dir", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--trials", type=int, default=24)
    a = parser.parse_args()
    a.out.mkdir(parents=True, exist_ok=True)
    found = {}
    for pruner in ("successive_halving", "none"):
        study = a.out / f"search_{pruner}.py"
        study.write_text(STUDY.format(trials=a.trials, pruner=pruner))
        said = work(study, a.out / pruner, changes={"data.dir": a.data_dir})
        _, trials = load(study, a.out / pruner, None)
        examples = sum(max(trial.last.intermediate_values) for trial in trials)
        found[pruner] = said, examples
    (pruned, fewer), (whole, all_of_them) = found["successive_halving"], found["none"]
    best = whole["best"][0]
    low, high = interval(trial_workdir(a.out / "none", best["trial"]))
    print(
        json.dumps(
            {
                "share_of_steps": round(fewer / all_of_them, 3),
                "pruned": pruned["pruned"],
                "best_pruned": pruned["best"][0],
                "best_unpruned": best,
                "interval": [low, high],
            }
        )
    )


if __name__ == "__main__":
    main()
