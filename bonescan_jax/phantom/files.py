"""Writes simulated patients with their ground truth: any layout, and that of BS-80K."""

import multiprocessing
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar
from xml.etree import ElementTree as ET

import cv2
import numpy as np

from bonescan_jax.cluster.cores import usable_cores
from bonescan_jax.errors import InputError
from bonescan_jax.phantom.patient import PhantomView, simulate_patient
from bonescan_jax.scans import ABNORMAL, HEIGHT, NORMAL, VIEWS, WIDTH, Box
from bonescan_jax.scans.bones import encode_bones
from bonescan_jax.scans.bs80k import BONES_FOLDER, FOLDERS, XML_FOLDERS
from bonescan_jax.scans.writing import complete_folder

Task = TypeVar("Task")
Result = TypeVar("Result")

PatientTask = tuple[str, int, int, str]  # folder, seed, patient, class rule

# ------------------------------------------------------------------------------ files of any layout


def tally_view(view: PhantomView) -> dict[str, int]:
    """Return what is counted of a view."""
    labels = [box.label for box in view.boxes]
    return {
        "boxes_abnormal": labels.count(ABNORMAL),
        "boxes_normal": labels.count(NORMAL),
        "views_without_hot_spots": int(not labels),
        "abnormal_" + view.view: int(ABNORMAL in labels),
    }


def view_truth(view: PhantomView) -> dict[str, np.ndarray]:
    """Return what truth/<patient>.npz holds of a view; boxes are rows of `Box`."""
    return {
        f"counts_{view.view}": view.counts,
        f"mask_{view.view}": view.mask,
        f"boxes_{view.view}": np.array(view.boxes, np.int64).reshape(-1, 5),
        f"gain_{view.view}": np.array(view.gain),
    }


def side_by_side(
    work: Callable[[Task], Result], tasks: Sequence[Task], processes: int
) -> Iterator[Result]:
    """Yield work(task) of every task in any order, done in one process or in several."""
    if processes == 1:
        yield from map(work, tasks)
        return
    # spawn: JAX may run threads in the parent, and a fork would copy their locks.
    chunk = max(1, min(4, len(tasks) // (4 * processes)))  # progress comes a chunk at a time
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        yield from pool.imap_unordered(work, tasks, chunk)


def for_each_patient(
    write_patient: Callable[[PatientTask], tuple[int, dict[str, int]]],
    out: Path,
    num_patients: int,
    seed: int,
    processes: int,
    rule: str,
) -> Iterator[tuple[int, dict[str, int]]]:
    """Yield what write_patient((out, seed, patient, rule)) returns, in one process or several.

    Patients come in any order.
    """
    tasks = [(str(out), seed, patient, rule) for patient in range(1, num_patients + 1)]
    return side_by_side(write_patient, tasks, processes)


def write_folder(
    out: Path,
    num_patients: int,
    num_processes: int | None,
    write_all: Callable[[Path, int], Counter[str]],
) -> dict[str, int | float]:
    """Make a folder of simulated patients that appears only when all is written.

    Args:
      out: must not exist or be empty.
      num_patients: at least 1.
      num_processes: None: one for each usable core.
      write_all: writes into the folder that it is given, in so many processes, and returns the sums
        of `tally_view`.

    Returns:
      Counts of patients, views, boxes by class, views without hot spots, and the seconds it took.

    Raises:
      InputError: `out` holds something, or `num_patients` is not positive.
    """
    out = Path(out).absolute()  # "." has no name to write beside
    if num_patients < 1:
        raise InputError(f"The number of patients must be at least 1, found {num_patients}.")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out} already holds something; expected a new or an empty folder.")
    start = time.monotonic()
    processes = min(num_processes or usable_cores(), num_patients)
    with complete_folder(out) as folder:
        totals = write_all(folder / out.name, processes)
    return {
        "patients": num_patients,
        "views": 2 * num_patients,
        "boxes_abnormal": totals["boxes_abnormal"],
        "boxes_normal": totals["boxes_normal"],
        "views_without_hot_spots": totals["views_without_hot_spots"],
        "seconds": round(time.monotonic() - start, 3),
    }


# ---------------------------------------------------------------------------------- BS-80K's files

_NAMES = {ABNORMAL: "Abnormal", NORMAL: "Normal"}


def _xml(folder: str, filename: str, boxes: tuple[Box, ...]) -> bytes:
    """Return the boxes of a view as Pascal VOC."""
    root = ET.Element("annotation")
    ET.SubElement(root, "folder").text = folder
    ET.SubElement(root, "filename").text = filename
    size = ET.SubElement(root, "size")
    for tag, value in (("width", WIDTH), ("height", HEIGHT), ("depth", 1)):
        ET.SubElement(size, tag).text = str(value)
    for box in boxes:
        item = ET.SubElement(root, "object")
        ET.SubElement(item, "name").text = _NAMES[box.label]
        corners = ET.SubElement(item, "bndbox")
        for tag in ("xmin", "ymin", "xmax", "ymax"):
            ET.SubElement(corners, tag).text = str(int(getattr(box, tag)))
    ET.indent(root)
    return ET.tostring(root)


def _write_patient(task: PatientTask) -> tuple[int, dict[str, int]]:
    """Simulate and write one patient; runs in a worker."""
    out, seed, patient = Path(task[0]), task[1], task[2]
    cv2.setNumThreads(1)
    tally: Counter[str] = Counter()
    truth: dict[str, np.ndarray] = {}
    for view in simulate_patient(seed, patient, task[3]).views:
        folder, annotations = FOLDERS[view.view], XML_FOLDERS[view.view]
        _, jpeg = cv2.imencode(".jpg", view.grey, [cv2.IMWRITE_JPEG_QUALITY, 100])
        (out / folder / f"{patient}.jpg").write_bytes(jpeg.tobytes())
        if view.boxes:  # BS-80K has no XML for a view without hot spots
            (out / folder / annotations / f"{patient}.xml").write_bytes(
                _xml(folder, f"{patient}.jpg", view.boxes)
            )
        path = out / folder / BONES_FOLDER / f"{patient}.png"
        path.write_bytes(encode_bones(view.bones))
        tally.update(tally_view(view))
        truth |= view_truth(view)
    np.savez_compressed(out / "truth" / f"{patient}.npz", allow_pickle=False, **truth)
    return patient, dict(tally)


def _write_all(
    out: Path,
    num_patients: int,
    seed: int,
    processes: int,
    on_patient: Callable[[int], None] | None,
    rule: str,
) -> Counter[str]:
    """Write every patient's files into `out`, in this process or in several."""
    for view in VIEWS:
        for inside in (XML_FOLDERS[view], BONES_FOLDER):
            (out / FOLDERS[view] / inside).mkdir(parents=True)
    (out / "truth").mkdir()
    totals: Counter[str] = Counter()
    labels: dict[str, dict[int, int]] = {view: {} for view in VIEWS}
    for patient, tally in for_each_patient(
        _write_patient, out, num_patients, seed, processes, rule
    ):
        for view in VIEWS:
            labels[view][patient] = tally.pop("abnormal_" + view)
        totals.update(tally)
        if on_patient is not None:
            on_patient(patient)
    for view, folder in FOLDERS.items():
        lines = [f"{patient}.jpg\t{label}\n" for patient, label in sorted(labels[view].items())]
        (out / folder / f"{folder}.txt").write_text("".join(lines))
    return totals


def write_bs80k(
    out: Path, num_patients: int, seed: int, num_processes: int | None = None,
    on_patient: Callable[[int], None] | None = None, rule: str = "bs80k",
) -> dict[str, int | float]:  # fmt: skip
    """Simulate patients 1 … num_patients into BS-80K's own layout, with the truth beside it.

    Args:
      out: folder to make; must not exist or be empty. It appears only when all is written.
      num_patients: how many.
      seed: same seed, same files.
      num_processes: None: one for each usable core.
      on_patient: called here with the patient's number as each is finished, in any order.
      rule: which hot spots are Abnormal, one of `uptake.CLASS_RULES`.

    Returns:
      What `write_folder` returns.

    Raises:
      InputError: as `write_folder`.
    """

    def write_all(folder: Path, processes: int) -> Counter[str]:
        return _write_all(folder, num_patients, seed, processes, on_patient, rule)

    return write_folder(out, num_patients, num_processes, write_all)
