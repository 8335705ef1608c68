"""BS-80K's crops of body regions: is the image abnormal? Here the right chest from in front.

Prepare: bonescan prepare --config=configs/bs80k_regions.py --source=temp.zip --data_dir=data
Command: bonescan crossvalidate --config=configs/bs80k_regions.py --workdir=runs/regions
Time: 21 minutes for all five folds on 2 CPU cores that had other work too.
Score: AUC 0.971 (95 % interval 0.961 to 0.981) over the 2,925 crops of chestRANT, 193 abnormal,
each scored by the run that never saw the patient; by fold 0.975, 0.971, 0.961, 0.984, 0.969.
Measured with the data loading of commit a477aa0. Again at commit 5434671, in 21 minutes of one
core: 0.973 in the mean over folds, pooled 0.972 (0.960 to 0.980).

The source may also be a folder that holds some of the region folders, or LIBS-160K's wholeANT and
wholePOST: --config.data.regions="('whole',)" with --config.data.crop_height=1024 and
--config.data.crop_width=256. One run on the fixed splits: bonescan train with the same flags.
"""

import ml_collections

from bonescan_jax.config import default_config


def get_config() -> ml_collections.ConfigDict:
    """The encoder of a narrow UNet++ on whole crops, in minutes on two cores."""
    config = default_config()
    config.task = "classify"
    config.data.name = "regions"
    config.data.regions = ("chestR",)
    config.data.views = "anterior"
    config.data.crop_height = 224  # no crop of a chest is larger than 224×95
    config.data.crop_width = 96
    # One image in fifteen is abnormal.
    config.data.abnormal_examples = 0.25
    config.model.filters = (8, 16, 32, 64, 128)
    config.model.dropout = 0.3
    config.model.dtype = "float32"  # XLA does not use the bf16 units of a CPU for convolutions
    config.train.batch_size = 32
    config.train.num_steps = 0
    config.train.num_epochs = 4.0
    config.train.learning_rate = 3e-3
    config.train.weight_decay = 1e-2
    config.train.eval_every_steps = 0  # only at the end
    config.train.save_every_steps = 0
    config.train.save_every_epochs = 1.0
    config.evaluate.batch_size = 64
    return config
