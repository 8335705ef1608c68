"""The network whose weights are released: more patients, channels, variety and steps.

Command: see docs/recipe.md
"""

import runpy
from pathlib import Path

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    """The quick start's network, twice as wide, for an hour on two cores."""
    config = runpy.run_path(str(Path(__file__).with_name("phantom.py")))["get_config"]()
    config.model.patch = 2
    config.model.filters = (32, 64, 128, 256)
    config.data.hot_spot_crops = 0.7
    config.data.abnormal_crops = 0.85
    config.augment.rotation = 5.0
    config.augment.scale = 0.1
    config.augment.thinning = 0.4
    config.augment.gain = 0.4
    config.augment.uptake = 0.2
    config.augment.hidden_view = 0.3
    config.loss.bones_weight = 0.2
    config.train.optimizer = "muon"
    config.train.num_steps = 6600
    config.train.ema_decay = 0.998
    config.train.save_every_steps = 1000
    return config
