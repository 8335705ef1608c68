"""Which part of a scan a training step sees: crops around hot spots, and anywhere."""

import math
from collections.abc import Sequence

import ml_collections
import numpy as np

from bonescan_jax.datasets.decode import View, decode, decode_bones_of
from bonescan_jax.datasets.records import Record
from bonescan_jax.scans import ABNORMAL, HEIGHT, WIDTH

CLASS_BITS = 2  # of a mask; the others are the number of the bone
# How far from the middle of a crop the hot spot that it is laid around may lie.
OFF_CENTRE = 0.35


class TrainingExample:
    """Decodes and crops one sample; random by (seed, global sample index) only.

    With `bones` the mask of a pixel is its class + 4 × the number of its bone: so both go the same
    way through augmentation.
    """

    def __init__(self, data: ml_collections.ConfigDict, seed: int, bones: bool = False) -> None:
        self.size = (data.crop_height, data.crop_width)
        self.mask_recipe = data.mask
        self.hot_spot_crops = data.hot_spot_crops
        self.abnormal_crops = data.abnormal_crops
        self.seed = seed
        self.bones = bones

    def __call__(self, index: int, records: Sequence[Record]) -> list[View]:
        """The records of an example to views of crop size."""
        rng = np.random.Generator(np.random.Philox(key=[self.seed, index]))
        top, left = self._corner(rng, _boxes(records))
        rows, columns = slice(top, top + self.size[0]), slice(left, left + self.size[1])
        mirrored = slice(WIDTH - columns.stop, WIDTH - columns.start)
        windows = [(rows, mirrored if place else columns) for place in range(len(records))]
        return [self._view(record, window) for record, window in zip(records, windows, strict=True)]

    def _view(self, record: Record, window: tuple[slice, slice]) -> View:
        view = decode(record, self.mask_recipe, window)
        if self.bones:
            view["mask"] = view["mask"] | decode_bones_of(record, window) << CLASS_BITS
        return view

    def _corner(self, rng: np.random.Generator, boxes: list[list[int]]) -> tuple[int, int]:
        """Top and left of the crop: around a hot spot, or anywhere."""
        # Plain numbers: NumPy takes a microsecond for each sum of two.
        *anywhere, hot_spot, abnormal, pick, down, right = rng.random(7).tolist()
        room = (HEIGHT - self.size[0], WIDTH - self.size[1])
        if hot_spot >= self.hot_spot_crops or not boxes:
            corner = [part * (most + 1) for part, most in zip(anywhere, room, strict=True)]
        else:
            wants_abnormal = abnormal < self.abnormal_crops
            wanted = [box for box in boxes if (box[4] == ABNORMAL) == wants_abnormal]
            pool = wanted or boxes
            xmin, ymin, xmax, ymax, _ = pool[int(pick * len(pool))]
            corner = [
                middle - (0.5 + (-OFF_CENTRE + 2 * OFF_CENTRE * shift)) * size
                for middle, shift, size in zip(
                    ((ymin + ymax) / 2, (xmin + xmax) / 2), (down, right), self.size, strict=True
                )
            ]
        top, left = (
            min(max(math.floor(part), 0), most) for part, most in zip(corner, room, strict=True)
        )
        return top, left


def _boxes(records: Sequence[Record]) -> list[list[int]]:
    """The boxes of all views of an example; those of a second view mirrored like its pixels."""
    boxes = records[0]["boxes"].tolist()
    for record in records[1:]:
        for xmin, ymin, xmax, ymax, label in record["boxes"].tolist():
            boxes.append([WIDTH - xmax, ymin, WIDTH - xmin, ymax, label])
    return boxes
