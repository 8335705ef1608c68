"""Prepared records to batches on the mesh. A batch is a pure function of (config, split, step).

Because nothing else goes in, the position in the data is the step itself: a run continues with
the same samples in the same order on any number of hosts, devices and worker processes.
"""

from collections.abc import Iterator, Sequence
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
from bonescan_jax.scans import ABNORMAL, HEIGHT, VIEWS, WIDTH
from bonescan_jax.scans.counts import bone_reference
from bonescan_jax.scans.masks import boxes_to_mask

Record = dict[str, Any]  # one view, as `datasets.bs80k.open_split` gives it
Example = dict[str, Any]  # arrays of one sample

# The views that make one example, and in turn the examples of one patient.
_EXAMPLES = {
    "anterior": (("anterior",),),
    "posterior": (("posterior",),),
    "each": (("anterior",), ("posterior",)),
    "both": (("anterior", "posterior"),),
}
# How far from the middle of a crop the hot spot that it is laid around may lie.
OFF_CENTRE = 0.35


class ExampleRecords:
    """The records of a split, still encoded, in tuples: the views that make one example."""

    def __init__(self, records: Sequence[Record], views: str) -> None:
        self.records, self.examples = records, _EXAMPLES[views]

    def __len__(self) -> int:
        return len(self.records) // len(VIEWS) * len(self.examples)

    def __getitem__(self, index: int) -> tuple[Record, ...]:
        # Records were written in the order (patient, anterior before posterior).
        patient, example = divmod(int(index), len(self.examples))
        first = patient * len(VIEWS)
        return tuple(self.records[first + VIEWS.index(view)] for view in self.examples[example])


def example_records(config: ml_collections.ConfigDict, split: str) -> ExampleRecords:
    """The examples of a split: single views, or both of a patient, as config.data.views says.

    Raises:
        InputError: the data set is not prepared, or the split is empty.
    """
    data = config.data
    examples = ExampleRecords(open_split(Path(data.dir), data.name, split), data.views)
    if not len(examples):
        raise InputError(f"{data.dir}: split {split!r} of {data.name} holds no scans")
    return examples


def decode(record: Record, mask_recipe: str) -> Example:
    """One whole view: image and mask (1024, 256), its gain and its brightness of bone."""
    image = cv2.imdecode(np.frombuffer(record["image"], np.uint8), cv2.IMREAD_GRAYSCALE)
    return {
        "image": image.astype(np.uint16),
        "mask": boxes_to_mask(record["boxes"], (HEIGHT, WIDTH), mask_recipe),
        "gain": np.float32(2.0),
        "reference": np.float32(bone_reference(image)),
    }


def mirror(pixels: np.ndarray) -> np.ndarray:
    """Swaps left and right of (…, H, W, K) or (H, W) pixels of a view that stands beside another.

    The patient's right is on the left of an anterior view and on the right of a posterior one:
    mirrored, the posterior view lies on the anterior one. Mirrored again, it is as it was.
    """
    return pixels[:, ::-1]


def stack_views(views: Sequence[Example]) -> Example:
    """Views to one example: pixels (H, W, V), gain and reference (V,); the second is mirrored."""
    pixels = {
        name: [view[name] if place == 0 else mirror(view[name]) for place, view in enumerate(views)]
        for name in ("image", "mask")
    }
    return {
        **{name: np.stack(planes, axis=-1) for name, planes in pixels.items()},
        **{name: np.stack([view[name] for view in views]) for name in ("gain", "reference")},
    }


def view_records(config: ml_collections.ConfigDict, split: str) -> Iterator[Record]:
    """The records of all views of a split, one after the other, in the order of `scan_batches`.

    Raises:
        InputError: as `example_records`.
    """
    examples = example_records(config, split)
    return (record for index in range(len(examples)) for record in examples[index])


class TrainingExample:
    """Decodes and crops one sample; random by (seed, global sample index) only."""

    def __init__(self, data: ml_collections.ConfigDict, seed: int) -> None:
        self.size = (data.crop_height, data.crop_width)
        self.mask_recipe = data.mask
        self.hot_spot_crops = data.hot_spot_crops
        self.abnormal_crops = data.abnormal_crops
        self.seed = seed

    def __call__(self, index: int, records: Sequence[Record]) -> Example:
        """The records of an example to pixels of crop size, and its sample index (i32)."""
        rng = np.random.Generator(np.random.Philox(key=[self.seed, index]))
        top, left = self._corner(rng, _boxes(records))
        rows, columns = slice(top, top + self.size[0]), slice(left, left + self.size[1])
        views = [decode(record, self.mask_recipe) for record in records]
        for place, view in enumerate(views):
            of_view = columns if place == 0 else slice(WIDTH - columns.stop, WIDTH - columns.start)
            for name in ("image", "mask"):
                view[name] = view[name][rows, of_view]
        # Wraps after 2³¹ samples, 300,000 epochs of BS-80K.
        return {**stack_views(views), "sample": np.int32(index % 2**31)}

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


def _boxes(records: Sequence[Record]) -> np.ndarray:
    """(N, 5) boxes of all views of an example; those of a second view mirrored like its pixels."""
    boxes = [records[0]["boxes"]]
    for record in records[1:]:
        xmin, ymin, xmax, ymax, label = record["boxes"].T
        boxes.append(np.stack([WIDTH - xmax, ymin, WIDTH - xmin, ymax, label], axis=1))
    return np.concatenate(boxes)


def _abnormal(examples: ExampleRecords) -> list[int]:
    """Which examples hold an abnormal box."""
    return [index for index in range(len(examples)) if ABNORMAL in _boxes(examples[index])[:, 4]]


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
    samples = _shuffled_examples(config).map_with_index(TrainingExample(config.data, config.seed))
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


def _shuffled_examples(config: ml_collections.ConfigDict) -> grain.MapDataset:
    """Endless examples of the training split, those with an abnormal box as often as asked."""
    examples = example_records(config, "train")
    share = config.data.abnormal_examples
    pools = {"abnormal": _abnormal(examples) if share else [], "every": range(len(examples))}
    shares = {"abnormal": share if pools["abnormal"] else 0.0}
    shares["every"] = 1 - shares["abnormal"]
    streams = [
        grain.MapDataset.source(pools[name]).seed(config.seed).shuffle().repeat()
        for name in pools
        if shares[name]
    ]
    weights = [weight for weight in shares.values() if weight]
    return grain.MapDataset.mix(streams, weights).map(examples.__getitem__)


class ScanBatch(NamedTuple):
    """Whole scans for evaluation; the last batch of a split is filled up with copies."""

    arrays: dict[str, jax.Array]  # image, mask (B, 1024, 256, V), gain, reference (B, V)
    records: list[Record]  # of the real views only, B × V: patient, view, boxes, abnormal


def scan_batches(config: ml_collections.ConfigDict, split: str, mesh: Mesh) -> Iterator[ScanBatch]:
    """All scans of a split in order, whole, in batches of config.evaluate.batch_size."""
    examples = example_records(config, split)
    size = config.evaluate.batch_size
    rows = local_rows(mesh, size)
    for start in range(0, len(examples), size):
        real = [examples[index] for index in range(start, min(start + size, len(examples)))]
        stacked = []
        for row in rows:
            views = real[min(row, len(real) - 1)]
            stacked.append(stack_views([decode(record, config.data.mask) for record in views]))
        arrays = {name: np.stack([each[name] for each in stacked]) for name in stacked[0]}
        records = [record for views in real for record in views]
        yield ScanBatch(to_mesh(arrays, mesh, size), records)
