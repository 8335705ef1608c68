"""Pictures of scans as text that a page can hold: lossy, but far below the noise of counting."""

import base64
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import cv2
import ml_collections
import numpy as np

from bonescan_jax.cluster.cores import usable_cores
from bonescan_jax.datasets.records import Record
from bonescan_jax.input_pipeline import view_records
from bonescan_jax.report.overlay import display_window
from bonescan_jax.scans import VIEWS
from bonescan_jax.scans.regions import REGIONS
from bonescan_jax.tasks import task_of

# On real scans WebP at 90 errs by 1.3 grey values (root mean square), and one count is 1 to 3.6.
QUALITY = 90
_AHEAD = 4  # records that wait for each thread


class Picture(NamedTuple):
    """One view of a patient, encoded."""

    level: float  # grey value that is shown black where nobody chooses, see `display_window`
    text: str  # WebP in base64, then of every pixel above 255 its flat index and grey value


def picture_name(patient: int, view: str, region: str | None) -> str:
    """Names the picture of a view, and the element of the page that holds it."""
    return "-".join(str(part) for part in ("picture", patient, region, view) if part is not None)


def encode_picture(image: np.ndarray) -> Picture:
    """Encodes grey values.

    Args:
        image: (H, W) uint8, or uint16 where pixels had run over 255.
    """
    _, encoded = cv2.imencode(
        ".webp", np.minimum(image, 255).astype(np.uint8), [cv2.IMWRITE_WEBP_QUALITY, QUALITY]
    )
    above = np.flatnonzero(image > 255)
    extra = np.stack([above, image.ravel()[above]], axis=1).ravel()
    text = " ".join((base64.b64encode(encoded.tobytes()).decode(), *map(str, extra.tolist())))
    return Picture(round(display_window(image.astype(np.float32)), 1), text)


def scan_pictures(
    config: ml_collections.ConfigDict, split: str, patients: Collection[int] | None = None
) -> Iterator[tuple[int, str, Picture]]:
    """Patient, name and picture of every view of a split, from the prepared data set.

    Args:
        config: of the run.
        split: train, validation, test or all.
        patients: only of these; None: of all.

    Raises:
        InputError: the data set is not prepared, or a record cannot be read.
    """
    task = task_of(config)

    def encode(record: Record) -> tuple[int, str, Picture]:
        (view,) = task.whole_views(config, (record,))
        region = REGIONS[record["region"]] if "region" in record else None
        patient = int(record["patient"])
        name = picture_name(patient, VIEWS[record["view"]], region)
        return patient, name, encode_picture(view["image"])

    records: Iterable[Record] = (
        record
        for record in view_records(config, split)
        if patients is None or int(record["patient"]) in patients
    )
    waiting: deque[Future[tuple[int, str, Picture]]] = deque()
    with ThreadPoolExecutor(usable_cores()) as threads:
        for record in records:
            waiting.append(threads.submit(encode, record))
            if len(waiting) > _AHEAD * usable_cores():
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def choose_patients(worst_first: Sequence[int], sizes: Mapping[int, int], budget: int) -> set[int]:
    """The patients whose pictures fit into a page.

    All if they fit. Otherwise half of the budget goes to the worst, so that what went wrong can be
    seen, and the other half to a random choice of the rest, so that the page is not only of those.

    Args:
        worst_first: all patients.
        sizes: bytes of the pictures of each patient; one without pictures may lack.
        budget: bytes for all.
    """
    if sum(sizes.values()) <= budget:
        return set(sizes)
    candidates = [patient for patient in worst_first if patient in sizes]
    chosen, used = _take(candidates, sizes, budget // 2)
    rest = [patient for patient in candidates if patient not in chosen]
    # The same seed always: the page of a run does not change by making it again.
    shuffled = [rest[i] for i in np.random.default_rng(0).permutation(len(rest))]
    return chosen | _take(shuffled, sizes, budget - used)[0]


def _take(patients: Sequence[int], sizes: Mapping[int, int], budget: int) -> tuple[set[int], int]:
    """Patients in this order until the next one does not fit, and the bytes of their pictures."""
    chosen, used = set(), 0
    for patient in patients:
        if used + sizes[patient] > budget:
            break
        chosen.add(patient)
        used += sizes[patient]
    return chosen, used
