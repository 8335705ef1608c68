"""Prepared records to batches on the mesh. A batch is a pure function of (config, split, step).

Because nothing else goes in, the position in the data is the step itself: a run continues with
the same samples in the same order on any number of hosts, devices and worker processes.
"""

from collections.abc import Collection, Generator, Iterable, Iterator, Sequence
from pathlib import Path

import grain
import jax
import ml_collections
import numpy as np
from absl import flags
from jax.sharding import Mesh

from bonescan_jax.cluster.mesh import DATA, local_rows, to_mesh
from bonescan_jax.cluster.preemption import follow_parent
from bonescan_jax.datasets.bs80k import open_split
from bonescan_jax.datasets.decode import View
from bonescan_jax.datasets.folder import open_folder_split
from bonescan_jax.datasets.records import Record
from bonescan_jax.datasets.regions import open_region_split
from bonescan_jax.errors import InputError
from bonescan_jax.scans import VIEWS
from bonescan_jax.scans.regions import REGIONS
from bonescan_jax.scans.views import mirror
from bonescan_jax.tasks import task_of
from bonescan_jax.tasks.task import ScanBatch

# The views that make one example, and in turn the examples of one patient.
_EXAMPLES = {
    "anterior": (("anterior",),),
    "posterior": (("posterior",),),
    "each": (("anterior",), ("posterior",)),
    "both": (("anterior", "posterior"),),
}
_NUMBERS = ("gain", "reference")  # of a view


class ExampleRecords:
    """The records of a split, still encoded, in tuples: the views that make one example."""

    def __init__(
        self, records: Sequence[Record], missing: Collection[int] = (), *, views: str
    ) -> None:
        """`missing` numbers the records of views that a patient has not: none is an example."""
        # Records were written in the order (patient, anterior before posterior).
        every = (
            tuple(first + VIEWS.index(view) for view in example)
            for first in range(0, len(records), len(VIEWS))
            for example in _EXAMPLES[views]
        )
        self.records = records
        self.places = [places for places in every if not set(places).issubset(missing)]

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> tuple[Record, ...]:
        return tuple(self.records[place] for place in self.places[int(index)])


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
        examples: ExampleRecords | SingleRecords = SingleRecords(
            open_region_split(*place, data.regions or REGIONS, views)
        )
    elif data.name == "folder":
        examples = ExampleRecords(*open_folder_split(*place), views=data.views)
    else:
        examples = ExampleRecords(open_split(*place), views=data.views)
    if not len(examples):
        raise InputError(f"{data.dir}: split {split!r} of {data.name} holds no scans")
    return examples


def stack_examples(examples: Iterable[Sequence[View]], count: int) -> dict[str, np.ndarray]:
    """Stacks `count` examples of V views into a batch; a second view is mirrored.

    Every pixel is copied once, into the batch, and each example is freed before the next is
    decoded: allocating memory is what costs time here.

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

    Without those that stand for the missing view of a patient.

    Raises:
        InputError: as `example_records`.
    """
    examples = example_records(config, split)
    return (
        record
        for index in range(len(examples))
        for record in examples[index]
        if not record.get("missing")
    )


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
        self.decode_one = task_of(config).training_example(config)
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
) -> Generator[dict[str, jax.Array], None, None]:
    """The batches of steps start_step … num_steps - 1 on the mesh, shuffled and repeated.

    As a step only queues work, the next batch travels to the devices while the step computes.
    """
    batch_size = config.train.batch_size
    batches = host_batches(config, local_rows(mesh, batch_size), start_step, num_steps)
    try:
        for batch in batches:
            yield to_mesh(batch, mesh, batch_size)
    finally:
        batches.close()


def host_batches(
    config: ml_collections.ConfigDict, rows: np.ndarray, start_step: int, num_steps: int
) -> grain.DatasetIterator[dict[str, np.ndarray]]:
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
    """Endless indices of examples, abnormal ones as often as the config asks."""
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


def scan_batches(config: ml_collections.ConfigDict, split: str, mesh: Mesh) -> Iterator[ScanBatch]:
    """All scans of a split in order, whole, in batches of config.evaluate.batch_size.

    A batch that the devices do not divide is made larger until they do.
    """
    examples = example_records(config, split)
    task = task_of(config)
    size = -(-config.evaluate.batch_size // mesh.shape[DATA]) * mesh.shape[DATA]
    rows = local_rows(mesh, size)

    def batch_at(start: int) -> tuple[dict[str, np.ndarray], list[Record]]:
        real = [examples[index] for index in range(start, min(start + size, len(examples)))]
        filled = (real[min(row, len(real) - 1)] for row in rows)
        arrays = stack_examples((task.whole_views(config, each) for each in filled), len(rows))
        return arrays, [record for views in real for record in views]

    batches = grain.MapDataset.range(0, len(examples), size).map(batch_at)
    # In threads: processes would take longer to start than a split takes to read.
    for arrays, records in _read_ahead(config, batches, num_workers=0):
        yield ScanBatch(to_mesh(arrays, mesh, size), records)
