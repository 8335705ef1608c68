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
from bonescan_jax.datasets.regions import open_region_split
from bonescan_jax.errors import InputError
from bonescan_jax.parallel import local_rows, to_mesh
from bonescan_jax.scans import ABNORMAL, BACKGROUND, HEIGHT, NORMAL, VIEWS, WIDTH
from bonescan_jax.scans.masks import boxes_to_mask
from bonescan_jax.scans.regions import REGIONS

# One view, as `datasets.bs80k.open_split` or `datasets.regions.open_region_split` gives it.
Record = dict[str, Any]
# One view decoded: image and mask (H, W), gain and reference, as `decode` gives them.
View = dict[str, Any]

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


class SingleRecords:
    """The records of a split, still encoded, each an example of its own."""

    def __init__(self, records: Sequence[Record]) -> None:
        self.records = records

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> tuple[Record, ...]:
        return (self.records[int(index)],)


def example_records(
    config: ml_collections.ConfigDict, split: str
) -> ExampleRecords | SingleRecords:
    """The examples of a split: single views, or both of a patient, as config.data.views says.

    Raises:
        InputError: the data set is not prepared, or the split is empty.
    """
    data = config.data
    place = (Path(data.dir), data.name, split, data.fold)
    if data.name == "regions":
        views = [view for example in _EXAMPLES[data.views] for view in example]
        examples = SingleRecords(open_region_split(*place, data.regions or REGIONS, views))
    else:
        examples = ExampleRecords(open_split(*place), data.views)
    if not len(examples):
        raise InputError(f"{data.dir}: split {split!r} of {data.name} holds no scans")
    return examples


def decode(record: Record, mask_recipe: str) -> View:
    """One whole view: image and mask (1024, 256), its gain and its brightness of bone."""
    image = _decode_pixels(record)
    return {
        "image": image,
        "mask": boxes_to_mask(record["boxes"], (HEIGHT, WIDTH), mask_recipe, image),
        "gain": np.float32(record["gain"]),
        "reference": np.float32(record["reference"]),
    }


def _decode_pixels(record: Record) -> np.ndarray:
    """(H, W) grey values: uint8, or uint16 where some ran over 255 and are set right."""
    image = cv2.imdecode(np.frombuffer(record["image"], np.uint8), cv2.IMREAD_GRAYSCALE)
    if len(record["overflow"]):
        pixels, turns = record["overflow"].T
        image = image.astype(np.uint16)
        image.ravel()[pixels] += 256 * turns.astype(np.uint16)
    return image


def decode_labelled(record: Record, size: tuple[int, int]) -> View:
    """One view in the middle of an array of this height and width, cut where it is larger.

    Its mask has the class of the image's label wherever there is image, background elsewhere, so
    that it goes the way of any other mask.
    """
    image = _decode_pixels(record)
    label = ABNORMAL if record["abnormal"] else NORMAL
    return {
        "image": _fit(image, size),
        "mask": _fit(np.full(image.shape, label, np.uint8), size),
        "gain": np.float32(record["gain"]),
        "reference": np.float32(record["reference"]),
    }


def _fit(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Pads with background, or cuts, as much on either side."""
    for axis, wanted in enumerate(size):
        missing = wanted - pixels.shape[axis]
        first = abs(missing) // 2
        if missing > 0:
            around = [(0, 0), (0, 0)]
            around[axis] = (first, missing - first)
            pixels = np.pad(pixels, around, constant_values=BACKGROUND)
        else:
            pixels = pixels.take(range(first, first + wanted), axis)
    return pixels


def whole_views(config: ml_collections.ConfigDict, records: Sequence[Record]) -> list[View]:
    """The records of an example to its views, uncropped: as they are evaluated."""
    if config.task == "classify":
        size = (config.data.crop_height, config.data.crop_width)
        return [decode_labelled(record, size) for record in records]
    return [decode(record, config.data.mask) for record in records]


def mirror(pixels: np.ndarray) -> np.ndarray:
    """Swaps left and right of (…, H, W, K) or (H, W) pixels of a view that stands beside another.

    The patient's right is on the left of an anterior view and on the right of a posterior one:
    mirrored, the posterior view lies on the anterior one. Mirrored again, it is as it was.
    """
    return pixels[:, ::-1]


def stack_examples(examples: Sequence[Sequence[View]]) -> dict[str, np.ndarray]:
    """B examples of V views to a batch; a second view is mirrored.

    Every pixel is copied once, to where the batch wants it: fresh memory is what costs here.

    Returns:
        image (B, H, W, V) uint16, mask (B, H, W, V) uint8, gain and reference (B, V) float32.
    """
    shape = (len(examples), *examples[0][0]["image"].shape, len(examples[0]))
    batch = {"image": np.empty(shape, np.uint16), "mask": np.empty(shape, np.uint8)}
    for name, pixels in batch.items():
        for row, views in enumerate(examples):
            for place, view in enumerate(views):
                pixels[row, ..., place] = mirror(view[name]) if place else view[name]
    for name in ("gain", "reference"):
        batch[name] = np.array([[view[name] for view in views] for views in examples], np.float32)
    return batch


def view_records(config: ml_collections.ConfigDict, split: str) -> Iterator[Record]:
    """The records of all views of a split, one after the other, in the order of `scan_batches`.

    Raises:
        InputError: as `example_records`.
    """
    examples = example_records(config, split)
    return (record for index in range(len(examples)) for record in examples[index])


class LabelledExample:
    """Decodes one sample that has a label for the whole image, and no boxes; nothing is random."""

    def __init__(self, config: ml_collections.ConfigDict) -> None:
        self.config = config

    def __call__(self, index: int, records: Sequence[Record]) -> list[View]:
        """The records of an example to views of crop size."""
        return whole_views(self.config, records)


class TrainingExample:
    """Decodes and crops one sample; random by (seed, global sample index) only."""

    def __init__(self, data: ml_collections.ConfigDict, seed: int) -> None:
        self.size = (data.crop_height, data.crop_width)
        self.mask_recipe = data.mask
        self.hot_spot_crops = data.hot_spot_crops
        self.abnormal_crops = data.abnormal_crops
        self.seed = seed

    def __call__(self, index: int, records: Sequence[Record]) -> list[View]:
        """The records of an example to views of crop size."""
        rng = np.random.Generator(np.random.Philox(key=[self.seed, index]))
        top, left = self._corner(rng, _boxes(records))
        rows, columns = slice(top, top + self.size[0]), slice(left, left + self.size[1])
        views = [decode(record, self.mask_recipe) for record in records]
        for place, view in enumerate(views):
            of_view = columns if place == 0 else slice(WIDTH - columns.stop, WIDTH - columns.start)
            for name in ("image", "mask"):
                view[name] = view[name][rows, of_view]
        return views

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


def _abnormal(examples: ExampleRecords | SingleRecords) -> list[int]:
    """Which examples hold something abnormal."""
    return [
        index
        for index in range(len(examples))
        if any(record["abnormal"] for record in examples[index])
    ]


class _BatchAt:
    """The rows of the batch of a step that this process loads, stacked."""

    def __init__(self, samples: grain.MapDataset, batch_size: int, rows: np.ndarray) -> None:
        self.samples, self.batch_size, self.rows = samples, batch_size, rows

    def __call__(self, step: int) -> dict[str, np.ndarray]:
        indices = step * self.batch_size + self.rows
        # Wraps after 2³¹ samples, 300,000 epochs of BS-80K.
        sample = (indices % 2**31).astype(np.int32)
        return {**stack_examples([self.samples[int(i)] for i in indices]), "sample": sample}


def training_batches(
    config: ml_collections.ConfigDict, mesh: Mesh, start_step: int, num_steps: int
) -> Iterator[dict[str, jax.Array]]:
    """The batches of steps start_step … num_steps - 1 on the mesh, shuffled and repeated.

    As a step only queues work, the next batch travels to the devices while the step computes.
    """
    batch_size = config.train.batch_size
    batches = host_batches(config, local_rows(mesh, batch_size), start_step, num_steps)
    return (to_mesh(batch, mesh, batch_size) for batch in batches)


def host_batches(
    config: ml_collections.ConfigDict, rows: np.ndarray, start_step: int, num_steps: int
) -> Iterator[dict[str, np.ndarray]]:
    """Those rows of the batches of steps start_step … num_steps - 1, still on the host.

    Every epoch is shuffled anew. Batches are decoded ahead, in threads or worker processes.
    """
    if config.task == "classify":
        decode_one = LabelledExample(config)
    else:
        decode_one = TrainingExample(config.data, config.seed)
    samples = _shuffled_examples(config).map_with_index(decode_one)
    batches = (
        grain.MapDataset.range(start_step, num_steps)
        .map(_BatchAt(samples, config.train.batch_size, rows))
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
    return iter(batches)


def _shuffled_examples(config: ml_collections.ConfigDict) -> grain.MapDataset:
    """Endless examples of the training split, the abnormal ones as often as asked."""
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
    indices = grain.MapDataset.mix(streams, weights) if len(streams) > 1 else streams[0]
    return indices.map(examples.__getitem__)


class ScanBatch(NamedTuple):
    """Whole scans for evaluation; the last batch of a split is filled up with copies."""

    arrays: dict[str, jax.Array]  # image, mask (B, H, W, V), gain, reference (B, V)
    records: list[Record]  # of the real views only, B × V: patient, view, boxes, abnormal


def scan_batches(config: ml_collections.ConfigDict, split: str, mesh: Mesh) -> Iterator[ScanBatch]:
    """All scans of a split in order, whole, in batches of config.evaluate.batch_size."""
    examples = example_records(config, split)
    size = config.evaluate.batch_size
    rows = local_rows(mesh, size)
    for start in range(0, len(examples), size):
        real = [examples[index] for index in range(start, min(start + size, len(examples)))]
        filled = [real[min(row, len(real) - 1)] for row in rows]
        arrays = stack_examples([whole_views(config, records) for records in filled])
        records = [record for views in real for record in views]
        yield ScanBatch(to_mesh(arrays, mesh, size), records)
