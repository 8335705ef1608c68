"""Prepared records to batches on the mesh. A batch is a pure function of (config, split, step).

Because nothing else goes in, the position in the data is the step itself: a run continues with
the same samples in the same order on any number of hosts, devices and worker processes.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import grain
import jax
import ml_collections
import numpy as np
from absl import flags
from jax.sharding import Mesh

from bonescan_jax.datasets.bs80k import open_split
from bonescan_jax.errors import InputError
from bonescan_jax.parallel import local_rows, to_mesh
from bonescan_jax.scans import ABNORMAL, HEIGHT, WIDTH
from bonescan_jax.scans.counts import bone_reference
from bonescan_jax.scans.masks import boxes_to_mask

Example = dict[str, Any]

# How far from the middle of a crop the hot spot that it is laid around may lie.
OFF_CENTRE = 0.35


def scan_records(config: ml_collections.ConfigDict, split: str) -> grain.MapDataset:
    """The records of a split, of the views that config.data.views asks for, still encoded.

    Raises:
        InputError: the data set is not prepared, or the split is empty.
    """
    data = config.data
    records = grain.MapDataset.source(open_split(Path(data.dir), data.name, split))
    # Written in the order (patient, anterior before posterior).
    start, step = {"anterior": (0, 2), "posterior": (1, 2), "both": (0, 1)}[data.views]
    records = records[start::step]
    if not len(records):
        raise InputError(f"{data.dir}: split {split!r} of {data.name} holds no scans")
    return records


def decode(record: Example, mask_recipe: str) -> Example:
    """One whole scan: image and mask (1024, 256) uint8, and its brightness of bone."""
    image = cv2.imdecode(np.frombuffer(record["image"], np.uint8), cv2.IMREAD_GRAYSCALE)
    return {
        "image": image,
        "mask": boxes_to_mask(record["boxes"], (HEIGHT, WIDTH), mask_recipe),
        "reference": np.float32(bone_reference(image)),
    }


class TrainingExample:
    """Decodes and crops one sample; random by (seed, global sample index) only."""

    def __init__(self, data: ml_collections.ConfigDict, seed: int) -> None:
        self.size = (data.crop_height, data.crop_width)
        self.mask_recipe = data.mask
        self.hot_spot_crops = data.hot_spot_crops
        self.abnormal_crops = data.abnormal_crops
        self.seed = seed

    def __call__(self, index: int, record: Example) -> Example:
        """A record to image and mask of crop size, reference (f32) and sample index (i32)."""
        example = decode(record, self.mask_recipe)
        rng = np.random.Generator(np.random.Philox(key=[self.seed, index]))
        top, left = self._corner(rng, record["boxes"])
        window = np.s_[top : top + self.size[0], left : left + self.size[1]]
        example["image"], example["mask"] = example["image"][window], example["mask"][window]
        # Wraps after 2³¹ samples, 300,000 epochs of BS-80K.
        return {**example, "sample": np.int32(index % 2**31)}

    def _corner(self, rng: np.random.Generator, boxes: np.ndarray) -> tuple[int, int]:
        """Top and left of the crop: around a hot spot, or anywhere."""
        anywhere = rng.random(2)
        wants_hot_spot, wants_abnormal = rng.random(2) < (self.hot_spot_crops, self.abnormal_crops)
        pick, shift = rng.random(), rng.uniform(-OFF_CENTRE, OFF_CENTRE, 2)
        room = np.array([HEIGHT, WIDTH]) - self.size
        if not wants_hot_spot or not len(boxes):
            corner = anywhere * (room + 1)
        else:
            abnormal = boxes[:, 4] == ABNORMAL
            wanted = abnormal if wants_abnormal else ~abnormal
            pool = boxes[wanted] if wanted.any() else boxes
            xmin, ymin, xmax, ymax, _ = pool[int(pick * len(pool))]
            middle = np.array([ymin + ymax, xmin + xmax]) / 2
            corner = middle - (0.5 + shift) * self.size
        top, left = np.clip(np.floor(corner).astype(int), 0, room)
        return int(top), int(left)


class _BatchAt:
    """The rows of the batch of a step that this process loads, stacked."""

    def __init__(self, samples: grain.MapDataset, batch_size: int, rows: np.ndarray) -> None:
        self.samples, self.batch_size, self.rows = samples, batch_size, rows

    def __call__(self, step: int) -> dict[str, np.ndarray]:
        examples = [self.samples[int(step * self.batch_size + row)] for row in self.rows]
        return {name: np.stack([example[name] for example in examples]) for name in examples[0]}


def training_batches(
    config: ml_collections.ConfigDict, mesh: Mesh, start_step: int, num_steps: int
) -> Iterator[dict[str, jax.Array]]:
    """The batches of steps start_step … num_steps - 1 on the mesh: shuffled, repeated, prefetched.

    Every epoch is shuffled anew. Batches are decoded ahead, in threads or worker processes; as a
    step only queues work, the next batch travels to the devices while the step computes.
    """
    samples = (
        scan_records(config, "train")
        .seed(config.seed)
        .shuffle()
        .repeat()
        .map_with_index(TrainingExample(config.data, config.seed))
    )
    batch_size = config.train.batch_size
    rows = local_rows(mesh, batch_size)
    batches = (
        grain.MapDataset.range(start_step, num_steps)
        .map(_BatchAt(samples, batch_size, rows))
        .to_iter_dataset(
            grain.ReadOptions(
                num_threads=config.data.num_threads,
                # Grain warns where there are more threads than places to read into.
                prefetch_buffer_size=max(config.data.prefetch_batches, config.data.num_threads),
            )
        )
    )
    if config.data.num_workers:
        if not flags.FLAGS.is_parsed():  # Grain reads flags of its own; ours are parsed apart
            flags.FLAGS.mark_as_parsed()
        batches = batches.mp_prefetch(
            grain.MultiprocessingOptions(num_workers=config.data.num_workers)
        )
    return (to_mesh(batch, mesh, batch_size) for batch in batches)


class ScanBatch(NamedTuple):
    """Whole scans for evaluation; the last batch of a split is filled up with copies."""

    arrays: dict[str, jax.Array]  # image, mask (B, 1024, 256) uint8, reference (B,) f32
    records: list[Example]  # of the real scans only: patient, view, boxes, abnormal


def scan_batches(config: ml_collections.ConfigDict, split: str, mesh: Mesh) -> Iterator[ScanBatch]:
    """All scans of a split in order, whole, in batches of config.evaluate.batch_size."""
    records = scan_records(config, split)
    size = config.evaluate.batch_size
    rows = local_rows(mesh, size)
    for start in range(0, len(records), size):
        real = [records[index] for index in range(start, min(start + size, len(records)))]
        filled = [real[min(row, len(real) - 1)] for row in rows]
        examples = [decode(record, config.data.mask) for record in filled]
        arrays = {name: np.stack([each[name] for each in examples]) for name in examples[0]}
        yield ScanBatch(to_mesh(arrays, mesh, size), real)
