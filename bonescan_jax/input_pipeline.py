"""Prepared records to batches on the mesh. A batch is a pure function of (config, split, step).

Because nothing else goes in, the position in the data is the step itself: a run continues with
the same samples in the same order on any number of hosts, devices and worker processes.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import grain
import jax
import ml_collections
import numpy as np
from absl import flags
from jax.sharding import Mesh

from bonescan_jax.cluster.mesh import local_rows, to_mesh
from bonescan_jax.cluster.preemption import follow_parent
from bonescan_jax.datasets.bs80k import open_split
from bonescan_jax.datasets.records import Record
from bonescan_jax.datasets.regions import open_region_split
from bonescan_jax.errors import InputError
from bonescan_jax.scans import ABNORMAL, BACKGROUND, HEIGHT, NORMAL, VIEWS, WIDTH
from bonescan_jax.scans.jpeg import decode_top
from bonescan_jax.scans.masks import NEED_IMAGE, boxes_to_mask
from bonescan_jax.scans.regions import REGIONS
from bonescan_jax.scans.views import mirror

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
_NUMBERS = ("gain", "reference")  # of a view
WHOLE = (slice(0, HEIGHT), slice(0, WIDTH))


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


def decode(record: Record, mask_recipe: str, window: tuple[slice, slice] = WHOLE) -> View:
    """One view, or these rows and columns of it: image and mask, gain and brightness of bone."""
    # A hot spot reaches out of the window: a recipe that looks at it needs all of the image.
    rows = None if mask_recipe in NEED_IMAGE else window[0].stop
    image = _decode_pixels(record, rows)
    return {
        "image": image[window],
        "mask": boxes_to_mask(record["boxes"], (HEIGHT, WIDTH), mask_recipe, image, window),
        "gain": np.float32(record["gain"]),
        "reference": np.float32(record["reference"]),
    }


def _decode_pixels(record: Record, rows: int | None = None) -> np.ndarray:
    """Grey values, of the top rows only if their number is given.

    They are uint8, or uint16 where some ran over 255 and are set right.
    """
    image = decode_top(record["image"], rows)
    pixels, values = record["overflow"].T
    within = pixels < image.size
    if within.any():
        image = image.astype(np.uint16)
        image.ravel()[pixels[within]] = values[within]
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


def stack_examples(examples: Iterable[Sequence[View]], count: int) -> dict[str, np.ndarray]:
    """So many examples of V views to a batch; a second view is mirrored.

    Every pixel is copied once, to where the batch wants it, and an example is let go before the
    next is decoded: fresh memory is what costs here.

    Returns:
        image (B, H, W, V) uint16, mask (B, H, W, V) uint8, gain and reference (B, V) float32.
    """
    batch: dict[str, np.ndarray] = {}
    for row, views in enumerate(examples):
        if not batch:
            shape = (count, *views[0]["image"].shape, len(views))
            batch = {"image": np.empty(shape, np.uint16), "mask": np.empty(shape, np.uint8)}
            batch |= {name: np.empty((count, len(views)), np.float32) for name in _NUMBERS}
        for place, view in enumerate(views):
            for name in ("image", "mask"):
                batch[name][row, ..., place] = mirror(view[name]) if place else view[name]
            for name in _NUMBERS:
                batch[name][row, place] = view[name]
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
        mirrored = slice(WIDTH - columns.stop, WIDTH - columns.start)
        return [
            decode(record, self.mask_recipe, (rows, mirrored if place else columns))
            for place, record in enumerate(records)
        ]

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


def _abnormal(examples: ExampleRecords | SingleRecords) -> list[int]:
    """Which examples hold something abnormal."""
    return [
        index
        for index in range(len(examples))
        if any(record["abnormal"] for record in examples[index])
    ]


class _TrainingBatch:
    """Reads, decodes and stacks the rows of the batch of a step that this process loads."""

    def __init__(self, config: ml_collections.ConfigDict, rows: np.ndarray) -> None:
        self.examples = example_records(config, "train")
        self.order = _shuffled_indices(config, self.examples)
        if config.task == "classify":
            self.decode_one = LabelledExample(config)
        else:
            self.decode_one = TrainingExample(config.data, config.seed)
        self.batch_size, self.rows = config.train.batch_size, rows

    def __call__(self, step: int) -> dict[str, np.ndarray]:
        indices = step * self.batch_size + self.rows
        # Wraps after 2³¹ samples, 300,000 epochs of BS-80K.
        sample = (indices % 2**31).astype(np.int32)
        examples = (
            self.decode_one(index, self.examples[self.order[index]]) for index in indices.tolist()
        )
        return {**stack_examples(examples, len(indices)), "sample": sample}


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
    batches = grain.MapDataset.range(start_step, num_steps).map(_TrainingBatch(config, rows))
    return iter(_read_ahead(config, batches, config.data.num_workers))


def _read_ahead(
    config: ml_collections.ConfigDict, batches: grain.MapDataset, num_workers: int
) -> grain.IterDataset:
    """Makes batches before they are asked for, in threads or worker processes."""
    ahead = batches.to_iter_dataset(
        grain.ReadOptions(
            num_threads=config.data.num_threads,
            # Grain warns where there are more threads than places to read into.
            prefetch_buffer_size=max(config.data.prefetch_batches, config.data.num_threads),
        )
    )
    if not num_workers:
        return ahead
    if not flags.FLAGS.is_parsed():  # Grain reads flags of its own; ours are parsed apart
        flags.FLAGS.mark_as_parsed()
    workers = grain.MultiprocessingOptions(num_workers=num_workers)
    return ahead.mp_prefetch(workers, worker_init_fn=start_worker)


def start_worker(*_: int) -> None:
    """Makes a worker process end with its parent, and leave the accelerator to it.

    Were a worker to touch that, it would take memory from the training, or wait for a device that
    one process only may hold. Grain has imported JAX before, so its environment comes too late.
    """
    follow_parent()
    jax.config.update("jax_platforms", "cpu")


def _shuffled_indices(
    config: ml_collections.ConfigDict, examples: ExampleRecords | SingleRecords
) -> grain.MapDataset:
    """Endless indices of examples, those of abnormal ones as often as asked."""
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
    return grain.MapDataset.mix(streams, weights) if len(streams) > 1 else streams[0]


class ScanBatch(NamedTuple):
    """Whole scans for evaluation; the last batch of a split is filled up with copies."""

    arrays: dict[str, jax.Array]  # image, mask (B, H, W, V), gain, reference (B, V)
    records: list[Record]  # of the real views only, B × V: patient, view, boxes, abnormal


def scan_batches(config: ml_collections.ConfigDict, split: str, mesh: Mesh) -> Iterator[ScanBatch]:
    """All scans of a split in order, whole, in batches of config.evaluate.batch_size."""
    examples = example_records(config, split)
    size = config.evaluate.batch_size
    rows = local_rows(mesh, size)

    def batch_at(start: int) -> tuple[dict[str, np.ndarray], list[Record]]:
        real = [examples[index] for index in range(start, min(start + size, len(examples)))]
        filled = (real[min(row, len(real) - 1)] for row in rows)
        arrays = stack_examples((whole_views(config, each) for each in filled), len(rows))
        return arrays, [record for views in real for record in views]

    batches = grain.MapDataset.range(0, len(examples), size).map(batch_at)
    # In threads: processes would take longer to start than a split takes to read.
    for arrays, records in _read_ahead(config, batches, num_workers=0):
        yield ScanBatch(to_mesh(arrays, mesh, size), records)
