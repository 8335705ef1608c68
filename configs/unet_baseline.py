"""The baseline: a U-Net of the same widths as the quick start's UNet++, all else equal.

Command: bonescan train --config=configs/unet_baseline.py --workdir=runs/unet_baseline
Time: not measured.
Score: not measured.
"""

import runpy
from pathlib import Path

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    """The quick start with another network."""
    # By path: configs/ is no package, and a config may be read from any folder.
    config = runpy.run_path(str(Path(__file__).with_name("phantom.py")))["get_config"]()
    config.model.name = "unet"
    return config
