"""The real run: BS-80K at full size, both views, UNet++ L4 with deep supervision.

Prepare: bonescan prepare --config=configs/bs80k.py --source=temp.zip --data_dir=data
Command: bonescan train --config=configs/bs80k.py --workdir=runs/bs80k
Machine: one H100, or a v5e-8 slice (the mesh takes all devices found).
Time: not measured.
Score: not measured.
"""

import ml_collections

from bonescan_jax.config import default_config


def get_config() -> ml_collections.ConfigDict:
    """The network of the paper on whole scans."""
    config = default_config()
    config.data.name = "bs80k"
    config.data.views = "both"
    config.data.num_workers = 4
    config.train.batch_size = 16
    config.train.num_steps = 0
    config.train.num_epochs = 60.0
    config.train.warmup_steps = 500
    config.train.eval_every_steps = 0
    config.train.eval_every_epochs = 5.0
    config.train.save_every_steps = 0
    config.train.save_every_epochs = 1.0
    config.train.ema_decay = 0.999
    config.evaluate.batch_size = 16
    return config
