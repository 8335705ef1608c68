"""The quick start: simulated patients, a small UNet++ on crops of both views, two CPU cores.

Command: bash launch/local.sh
Time: 9 min 22 s for the whole job with installation, on 2 CPU cores (commit 35c514e, Python 3.11).
Score, 280 simulated patients of another seed, pooled Dice: abnormal 0.479 (brightness threshold
0.174), normal 0.650 (0.296); abnormal lesions found at one false positive a view 0.701 (95 %
interval 0.654 to 0.745; 0.746 with evaluate.min_area=4). Same run.
"""

import ml_collections

from bonescan_jax.config import default_config


def get_config() -> ml_collections.ConfigDict:
    """A network narrow and shallow enough for minutes on two cores; docs/recipe.md says why."""
    config = default_config()
    config.data.name = "phantom"
    config.data.views = "both"
    config.data.crop_height = 128
    config.data.crop_width = 128
    config.model.patch = 2
    config.model.filters = (16, 32, 64, 128)
    config.model.levels = 3
    config.model.dtype = "float32"  # XLA does not use the bf16 units of a CPU for convolutions
    # A few passes over the data need no other geometry than the flip gives; how regions take up
    # the tracer is what differs between simulated and real patients.
    config.augment.rotation = config.augment.scale = config.augment.shift = 0.0
    config.augment.thinning = 0.0
    config.augment.gain = 0.3
    config.augment.uptake = 0.15
    # In so few steps a network of both views learns to read one alone only if it often must.
    config.augment.hidden_view = 0.4
    # Most patients hold nothing abnormal, so what is there has to be seen often.
    config.data.abnormal_examples = 0.4
    config.data.hot_spot_crops = 0.8
    config.data.abnormal_crops = 0.9
    config.loss.bones_weight = 0.2
    config.train.batch_size = 8
    config.train.num_steps = 2200
    config.train.optimizer = "muon"
    config.train.learning_rate = 3e-3
    config.train.eval_every_steps = 0  # only at the end
    config.train.save_every_steps = 500
    # A point source 10 cm deep is imaged with an FWHM of 8.5 mm, as 16 pixels to 37 % of its peak:
    # what is smaller is no hot spot. That halves what is called abnormal in real scans for nothing.
    config.evaluate.min_area = 16
    return config
