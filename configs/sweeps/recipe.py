"""An ablation of the recipe on simulated patients: each part left out, with three seeds.

Command: bonescan sweep --study=configs/sweeps/recipe.py --out=DIR
         after bonescan prepare --config=configs/phantom.py --data_dir=data
"""

from collections.abc import Callable

CONFIG = "configs/phantom.py"
OBJECTIVES = {"validation.score": "maximize"}  # the mean Dice of abnormal and normal

# What differs from the recipe; docs/recipe.md says why each part is in it.
_WITHOUT = (
    {},
    {"train.optimizer": "adamw"},
    {"loss.bones_weight": 0.0},
    {"model.deep_supervision": False},
    {"augment.uptake": 0.0},
    {"augment.hidden_view": 0.1},
    {"data.abnormal_examples": 0.0},
    {"model.name": "unet"},
)


def sweep(add: Callable[..., None]) -> None:
    """Lists the trials."""
    for changed in _WITHOUT:
        for seed in range(3):
            add(seed=seed, **changed)
