"""Learning rate, loss and sampling on simulated patients: 24 sampled trials, poor ones end early.

Command: bonescan sweep --study=configs/sweeps/rates.py --out=DIR
         after bonescan prepare --config=configs/phantom.py --data_dir=data
"""

from typing import Any

import optuna

CONFIG = "configs/phantom.py"
# Validated often enough that a poor trial ends after an eighth of its steps.
SETTINGS = {"train.num_steps": 1600, "train.eval_every_steps": 200, "train.save_every_steps": 200}
TRIALS = 24
OBJECTIVES = {"validation.score": "maximize"}  # the mean Dice of abnormal and normal
SAMPLER = "random"  # the same trials with any number of workers; "tpe" learns from those before
PRUNER = "successive_halving"
REDUCTION = 3  # of the trials that reach 1, 3, … times the first validation, one in three goes on


def search(trial: optuna.Trial) -> dict[str, Any]:
    """The settings of a trial."""
    false_negatives = trial.suggest_float("false_negative_weight", 0.3, 0.7)
    return {
        "train.learning_rate": trial.suggest_float("learning_rate", 3e-4, 1e-2, log=True),
        "train.optimizer": trial.suggest_categorical("optimizer", ["adamw", "muon"]),
        # Tversky: what weighs more is made less often; 0.5 and 0.5 is Dice.
        "loss.false_negative_weight": false_negatives,
        "loss.false_positive_weight": 1 - false_negatives,
        "loss.cross_entropy_weight": trial.suggest_float(
            "cross_entropy_weight", 0.2, 2.0, log=True
        ),
        "data.abnormal_examples": trial.suggest_float("abnormal_examples", 0.0, 0.8),
        "data.hot_spot_crops": trial.suggest_float("hot_spot_crops", 0.3, 0.9),
    }
