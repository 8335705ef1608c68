"""Grey values that ran over 255: found once, when a data set is prepared, by every usable core."""

import multiprocessing
import os
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from typing import Any, NamedTuple, TypeVar

import cv2
import numpy as np

from bonescan_jax.cluster.cores import usable_cores
from bonescan_jax.scans import HEIGHT, WIDTH
from bonescan_jax.scans.export import scan_doubt
from bonescan_jax.scans.jpeg import decode_top
from bonescan_jax.scans.unwrap import unwrap_grey, unwrapping_doubts

# Processes take a second or two to start: fewer scans are done sooner in this one.
_MIN_SCANS = 128
_AHEAD = 4  # scans that wait for each worker

Item = TypeVar("Item")


class Overflow(NamedTuple):
    """What `bonescan_jax.scans.unwrap.unwrap_grey` found, without the pixels that are as stored."""

    gain: float  # grey per count
    reference: float  # brightness of bone, in grey values
    values: np.ndarray  # (N, 2) int32: flat index of a pixel, its grey value unwrapped
    doubts: tuple[str, ...] = ()  # phrases about what may still be wrong
    whole_sum: float | None = None  # of the grey values of a whole-body view, unwrapped
    scan_doubt: str | None = None  # why a whole-body view is no bone scan

    def fields(self) -> dict[str, Any]:
        """The fields of a record."""
        return {
            "gain": np.float32(self.gain),
            "reference": np.float32(self.reference),
            "overflow": self.values,
        }


def find_overflow(image: bytes) -> Overflow:
    """Unwraps an encoded grey image.

    Args:
        image: a JPEG file of 8 bit; decoded as for reading the records.
    """
    grey = decode_top(image)
    found = unwrap_grey(grey)
    pixels = np.flatnonzero(found.values != grey)
    values = np.stack([pixels, found.values.ravel()[pixels]], axis=1).astype(np.int32)
    doubts = unwrapping_doubts(found)
    overflow = Overflow(float(found.gain), float(found.reference), values, doubts)
    if grey.shape != (HEIGHT, WIDTH):
        return overflow
    whole_sum = float(found.values.sum(dtype=np.float64))
    return overflow._replace(whole_sum=whole_sum, scan_doubt=scan_doubt(found.values))


def start_workers(num_scans: int, num_processes: int | None = None) -> Executor:
    """Processes, one for each usable core if not told; a thread where they do not pay."""
    processes = num_processes or usable_cores()
    if num_scans < _MIN_SCANS or processes == 1:
        return ThreadPoolExecutor(1)
    # spawn: JAX may run threads here, and a fork would copy their locks.
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(processes, context, initializer=_end_with_parent)


def find_overflows(
    scans: Iterable[tuple[Item, bytes]], workers: Executor
) -> Iterator[tuple[Item, Overflow]]:
    """Unwraps encoded images, in order; reads only a few of them ahead.

    Args:
        scans: anything and its encoded image.
        workers: what `start_workers` gave.

    Returns:
        Each thing with the overflow of its image.
    """
    waiting: deque[tuple[Item, Future[Overflow]]] = deque()
    most = _AHEAD * usable_cores()
    for item, image in scans:
        waiting.append((item, workers.submit(find_overflow, image)))
        if len(waiting) > most:
            done, overflow = waiting.popleft()
            yield done, overflow.result()
    for done, overflow in waiting:
        yield done, overflow.result()


def _end_with_parent() -> None:
    """Workers whose parent was killed would wait for work for ever."""
    cv2.setNumThreads(1)

    def watch() -> None:
        parent = multiprocessing.parent_process()
        assert parent is not None  # this is a worker
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
