"""Speed of data loading: from prepared records to batches, compared with PyTorch and MONAI."""

import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import jax
import ml_collections
import numpy as np

from bonescan_jax.augment import augment
from bonescan_jax.benchmark.child import Child, peers_python
from bonescan_jax.benchmark.measure import Rate, cores, print_table, read_config, spread
from bonescan_jax.benchmark.peers import LOADERS, ImagePair
from bonescan_jax.cluster.mesh import make_mesh
from bonescan_jax.datasets.decode import decode
from bonescan_jax.hyperparameters import section
from bonescan_jax.input_pipeline import (
    example_records,
    host_batches,
    training_batches,
    view_records,
)
from bonescan_jax.runs.progress import Progress


class _Contestant(NamedTuple):
    """A data loader, measured in its own process on `cores` cores."""

    name: str
    batches: Callable[..., Iterator[Any]]
    arguments: tuple[Any, ...]
    cores: int
    python: str = sys.executable


def benchmark_reading(
    config: ml_collections.ConfigDict, peer: str | None, rounds: int, seconds: float
) -> dict[str, Any]:
    """Images a second from files to batches: decode, crop, stack; then with augmentation."""
    config.data.views = "each"
    example_records(config, "train")  # raises if the data are missing, before any process starts
    most_cores = cores()
    batch = config.train.batch_size
    with tempfile.TemporaryDirectory() as folder:
        contestants = [
            _Contestant(
                f"ours, {count} core{'s' * (count > 1)}",
                _our_batches,
                (config.to_json(), count),
                count,
            )
            for count in sorted({1, most_cores})
        ] + [
            _Contestant(
                "ours, augmented",
                _our_augmented_batches,
                (config.to_json(), most_cores),
                most_cores,
            )
        ]
        if peer:
            contestants += _peer_contestants(config, Path(folder), most_cores)
        rates = _take_turns(contestants, batch, rounds, seconds)
    _print_table(rates, config)
    one, most = (
        rates["ours, 1 core"].median,
        rates[contestants[0 if most_cores == 1 else 1].name].median,
    )
    result = {
        "images_per_second_per_core": round(one, 1),
        "images_per_second": round(most, 1),
        "images_per_second_augmented": round(rates["ours, augmented"].median, 1),
        "cores": most_cores,
    }
    if peer:
        result |= {
            f"ratio_to_{name}": round(ours / _best(rates, name), 2)
            for name, ours in (
                ("torch", most),
                ("monai", most),
                ("monai_augmented", rates["ours, augmented"].median),
            )
        }
    return result


def _our_batches(config_json: str, threads: int) -> Iterator[Any]:
    """Batches of numpy arrays on the host, read and decoded in threads."""
    config = read_config(config_json)
    config.data.num_threads = threads
    config.data.num_workers = 0
    yield from host_batches(config, np.arange(config.train.batch_size), 0, 10**9)


def _our_augmented_batches(config_json: str, threads: int) -> Iterator[Any]:
    """The same on the device, and augmented there; waits for every batch."""
    config = read_config(config_json)
    config.data.num_threads = threads
    config.data.num_workers = 0
    config.mesh.data = config.mesh.spatial = 1

    @jax.jit
    def change(batch: dict[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
        return augment(
            batch["image"],
            batch["mask"],
            batch["gain"],
            batch["sample"],
            config.seed,
            section(config.augment),
        )

    waiting = None
    for batch in training_batches(config, make_mesh(config), 0, 10**9):
        changed = change(batch)
        if waiting is not None:
            yield jax.block_until_ready(waiting)
        waiting = changed


def _peer_contestants(
    config: ml_collections.ConfigDict, folder: Path, cores: int
) -> list[_Contestant]:
    """Each peer without worker processes and with one a core; the better one counts."""
    pairs = _write_pairs(config, folder)
    size = (config.data.crop_height, config.data.crop_width, config.train.batch_size)
    return [
        _Contestant(
            f"{name}, {workers} workers",
            _peer_batches,
            (name, pairs, *size, workers),
            cores,
            peers_python(),
        )
        for name in LOADERS
        for workers in sorted({0, cores})
    ]


def _peer_batches(*arguments: Any) -> Iterator[Any]:  # noqa: ANN401
    from bonescan_jax.benchmark.peers.input import peer_batches

    yield from peer_batches(*arguments)


def _write_pairs(config: ml_collections.ConfigDict, folder: Path) -> list[ImagePair]:
    """The training images as they came, with their masks as PNG, for those who read files."""
    pairs = []
    for number, record in enumerate(view_records(config, "train")):
        pair = ImagePair(str(folder / f"{number}.jpg"), str(folder / f"{number}.png"))
        Path(pair.image).write_bytes(record["image"])
        cv2.imwrite(pair.mask, decode(record, config.data.mask)["mask"])
        pairs.append(pair)
    return pairs


def _take_turns(
    contestants: list[_Contestant], batch_size: int, rounds: int, seconds: float
) -> dict[str, Rate]:
    rates: dict[str, list[float]] = {each.name: [] for each in contestants}
    with Progress("benchmark input", rounds * len(contestants)) as progress:
        for _ in range(rounds):
            for each in contestants:
                rates[each.name].append(batch_size * _in_own_process(each, seconds))
                progress.advance()
    return {name: spread(found) for name, found in rates.items()}


def _in_own_process(contestant: _Contestant, seconds: float) -> float:
    """Batches a second in a fresh process that may use so many cores only."""
    arguments = (contestant, seconds)
    with Child(contestant.name, contestant.python, _count_batches, arguments) as process:
        return process.receive()


def _count_batches(pipe: Any, contestant: _Contestant, seconds: float) -> None:  # noqa: ANN401
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: contestant.cores])
    cv2.setNumThreads(1)  # parallel over images, not within one
    batches = contestant.batches(*contestant.arguments)
    for _ in range(4):  # starts workers, compiles, fills buffers
        next(batches)
    started, done = time.monotonic(), 0
    while time.monotonic() - started < seconds:
        next(batches)
        done += 1
    pipe.send(done / (time.monotonic() - started))


def _best(rates: dict[str, Rate], peer: str) -> float:
    return max(rate.median for name, rate in rates.items() if name.startswith(f"{peer}, "))


def _print_table(rates: dict[str, Rate], config: ml_collections.ConfigDict) -> None:
    size = f"{config.data.crop_height}x{config.data.crop_width}"
    print_table(
        (f"loader, crops of {size}", "images/s", "lowest", "highest"),
        [
            (name, f"{rate.median:.0f}", f"{rate.low:.0f}", f"{rate.high:.0f}")
            for name, rate in rates.items()
        ],
    )
