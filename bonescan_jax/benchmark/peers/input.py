"""Loaders of PyTorch and MONAI. Runs in `.venv-peers`."""

from collections.abc import Iterator, Sequence
from typing import Any

import cv2
import monai.data
import monai.transforms as mt
import numpy as np
import torch

from bonescan_jax.benchmark.peers import ImagePair


class _CropDataset(torch.utils.data.Dataset):
    """Reads a pair with OpenCV and cuts the same random crop from both."""

    def __init__(self, pairs: Sequence[ImagePair], height: int, width: int) -> None:
        self.pairs, self.height, self.width = pairs, height, width

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        pair = self.pairs[index]
        image = cv2.imread(pair.image, cv2.IMREAD_GRAYSCALE)
        mask = cv2.imread(pair.mask, cv2.IMREAD_GRAYSCALE)
        assert image is not None and mask is not None, pair
        top = np.random.randint(image.shape[0] - self.height + 1)
        left = np.random.randint(image.shape[1] - self.width + 1)
        window = np.s_[top : top + self.height, left : left + self.width]
        return torch.from_numpy(image[window].copy()), torch.from_numpy(mask[window].copy())


def _monai_transforms(height: int, width: int, augmented: bool) -> mt.Compose:
    """MONAI's own transforms, in the order of its tutorials; the changes are those of ours."""
    both = ["image", "mask"]
    steps: list[Any] = [
        mt.LoadImaged(keys=both, reader="PILReader"),
        mt.EnsureChannelFirstd(keys=both),
        mt.RandSpatialCropd(keys=both, roi_size=(width, height), random_size=False),
    ]
    if augmented:
        steps += [
            mt.RandFlipd(keys=both, prob=0.5, spatial_axis=0),
            mt.RandAffined(
                keys=both,
                prob=1.0,
                rotate_range=np.deg2rad(5),
                scale_range=0.1,
                translate_range=4,
                mode=("bilinear", "nearest"),
                padding_mode="reflection",
            ),
            mt.RandGaussianNoised(keys="image", prob=1.0, std=1.0),
            mt.RandAdjustContrastd(keys="image", prob=1.0, gamma=(0.85, 1.15)),
        ]
    return mt.Compose(steps)


def peer_batches(
    peer: str,
    pairs: Sequence[ImagePair],
    height: int,
    width: int,
    batch_size: int,
    workers: int,
) -> Iterator[Any]:
    """Endless batches of random crops as a peer loads them.

    Args:
        peer: one of `LOADERS`: PyTorch's DataLoader with OpenCV, or MONAI's with or without affine,
            flip, noise and contrast.
        pairs: the files.
        height: of a crop, in pixels.
        width: of a crop, in pixels.
        batch_size: images in a batch.
        workers: processes; 0 loads in this one.
    """
    settings = {
        "batch_size": batch_size,
        "num_workers": workers,
        "shuffle": True,
        "drop_last": True,
        "persistent_workers": workers > 0,
    }
    if peer == "torch":
        loader = torch.utils.data.DataLoader(_CropDataset(pairs, height, width), **settings)
    else:
        transforms = _monai_transforms(height, width, peer == "monai_augmented")
        items = [pair._asdict() for pair in pairs]
        loader = monai.data.DataLoader(monai.data.Dataset(items, transforms), **settings)
    while True:
        yield from loader
