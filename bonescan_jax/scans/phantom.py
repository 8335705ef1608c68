"""Simulates whole-body bone scans: the camera, the annotator, and BS-80K's own files.

A patient is a function of (seed, patient) alone: `simulate_patient` gives the same arrays in any
process and in any order. The physics: every bone and organ is projected from its true depth,
blurred by the collimator (FWHM = √(4² + (2 + 0.55 d)²) mm at d cm), attenuated by the tissue on
its way (0.12 /cm), scattered (0.35 × a Gaussian of σ 35 mm), and counted with Poisson noise;
nothing is done to the counts after that.
"""

import multiprocessing
import os
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar
from xml.etree import ElementTree as ET

import cv2
import numpy as np
from scipy import ndimage

from bonescan_jax.errors import InputError
from bonescan_jax.scans import ABNORMAL, HEIGHT, NORMAL, VIEWS, WIDTH, Box
from bonescan_jax.scans.body import PIXEL_MM, Body, draw_body
from bonescan_jax.scans.bs80k import FOLDERS, XML_FOLDERS
from bonescan_jax.scans.counts import bone_reference
from bonescan_jax.scans.uptake import HotSpot

ATTENUATION = 0.012  # per mm, effective (broad beam) at 140 keV
LUNG_SAVES = 0.55  # share of the attenuation that a path through lung spares
SCATTER, SCATTER_MM = 0.35, 35.0
DETECTOR_GAP, TABLE_GAP = 40.0, 55.0  # mm from skin, from the back through the table
# Per view. BS-80K's chest crops hold 27,000–87,000 counts (5th to 95th percentile of grey sum over
# gain) and a crop is some 9 % of a view.
COUNTS = (0.4e6, 1.2e6)
GAIN = (1.0, 3.3)  # grey per count, as in BS-80K
GAIN_MEDIAN, GAIN_SPREAD = 1.9, 0.3  # log-normal: variance over mean of its chest crops
# BS-80K's export brings all scans to about one brightness: between its crops of gain 1 and of gain
# 3 the sum of grey values differs by a tenth. Gain × counts of a view, and its spread:
BRIGHTNESS, BRIGHTNESS_SPREAD = 0.91e6, 0.12
_SLABS = 6  # depths that share one blur
EDGE = 0.4  # a hot spot reaches to this fraction of its own peak: what a person would box
# What a person would see and call hot: contrast over the ordinary uptake there, signal to noise
# (Rose: 5 is just seen), and brightness relative to bone, since a faint spot on a dim bone is none.
MIN_CONTRAST, MIN_SNR, MIN_BRIGHTNESS = 0.7, 8.0, 1.2
MERGE = 8.0  # pixels, 18 mm

Task, Result = TypeVar("Task"), TypeVar("Result")
# A hot spot as a view shows it: its own expected counts in a window, row and column of the window.
Seen = tuple[HotSpot, np.ndarray, int, int]


@dataclass(frozen=True)
class PhantomView:
    """One view of a simulated patient with its truth."""

    view: str  # "anterior" | "posterior"
    counts: np.ndarray  # (1024, 256) uint16 Poisson counts
    grey: np.ndarray  # (1024, 256) uint8, round(gain × counts) mod 256
    mask: np.ndarray  # (1024, 256) uint8 class of each pixel: visible hot-spot pixels, else 0
    boxes: tuple[Box, ...]
    gain: float
    field: tuple[int, int, int, int]  # scanned rows and columns: top, bottom, left, right


@dataclass(frozen=True)
class PhantomPatient:
    """Both views of a simulated patient, anterior first."""

    patient: int
    views: tuple[PhantomView, PhantomView]
    hot_spots: tuple[HotSpot, ...]  # all there are, seen or not
    child: bool
    stature: float  # mm


class _Camera:
    """One view of a body: where each point lands, how much of it gets there, how blurred."""

    def __init__(self, body: Body, view: str) -> None:
        anterior = view == "anterior"
        flip = slice(None) if anterior else slice(None, None, -1)
        self.flip = flip
        self.thickness = body.thickness[:, flip]
        # Photons scatter in the body: little scatter is seen beside it (air is 1 % in NM1).
        inside = cv2.GaussianBlur((self.thickness > 20).astype(np.float32), (0, 0), 5.0)
        self.scattering = 0.05 + 0.95 * inside
        self.attenuation = ATTENUATION * (1 - LUNG_SAVES * body.lung[:, flip])
        x, self.row, z = body.points.T
        self.column = x if anterior else (WIDTH - 1) - x
        row = np.clip(np.rint(self.row), 0, HEIGHT - 1).astype(np.int32)
        column = np.clip(np.rint(self.column), 0, WIDTH - 1).astype(np.int32)
        pixel = row * WIDTH + column
        sign = 1 if anterior else -1
        skin = (body.middle[:, flip] + sign * body.thickness[:, flip] / 2).ravel()
        depth = np.maximum(sign * (skin[pixel] - z), 2.0)
        self.passed = np.exp(-depth * self.attenuation.ravel()[pixel]) / PIXEL_MM**2
        if anterior:  # the upper head follows the body's outline
            face = np.where(self.thickness > 0, body.middle[:, flip] + self.thickness / 2, 0).max(1)
            plane = (
                ndimage.gaussian_filter1d(ndimage.maximum_filter1d(face, 150), 40) + DETECTOR_GAP
            )
            distance = plane[row] - z
        else:
            distance = z + TABLE_GAP
        self.sigmas = np.linspace(30, 260, _SLABS)
        step = self.sigmas[1] - self.sigmas[0]
        self.slab = np.clip(np.rint((distance - 30) / step), 0, _SLABS - 1).astype(np.int32)
        self.sigmas = np.hypot(4, 2 + 0.055 * self.sigmas) / 2.355 / PIXEL_MM  # pixels

    def project(
        self, weight: np.ndarray, index: np.ndarray | None = None
    ) -> tuple[np.ndarray, int, int]:
        """Project points with their activity; return the image around them and its corner.

        Args:
          weight: (k,) activity of the points.
          index: (k,) which points; all if None.
        """
        pick = slice(None) if index is None else index
        row, column, slab = self.row[pick], self.column[pick], self.slab[pick]
        weight = weight * self.passed[pick]
        top, left = (max(0, int(v.min()) - 12) for v in (row, column))
        bottom, right = min(HEIGHT, int(row.max()) + 14), min(WIDTH, int(column.max()) + 14)
        high, wide = bottom - top, right - left
        if high < 2 or wide < 2:
            return np.zeros((0, 0), np.float32), top, left
        r, c = np.floor(row).astype(np.int32), np.floor(column).astype(np.int32)
        inside = (r >= top) & (r < bottom - 1) & (c >= left) & (c < right - 1)
        fr, fc = row - r, column - c
        cell = np.where(inside, (slab * high + (r - top)) * wide + (c - left), 0)
        weight = np.where(inside, weight, 0)
        size = _SLABS * high * wide
        volume = np.zeros(size)
        for dr, dc, part in (
            (0, 0, (1 - fr) * (1 - fc)),
            (0, 1, (1 - fr) * fc),
            (1, 0, fr * (1 - fc)),
            (1, 1, fr * fc),
        ):
            volume += np.bincount(cell + (dr * wide + dc), weight * part, size)
        image = np.zeros((high, wide), np.float32)
        for layer, sigma in zip(
            volume.reshape(_SLABS, high, wide).astype(np.float32), self.sigmas, strict=True
        ):
            if layer.any():
                image += cv2.GaussianBlur(
                    layer, (0, 0), float(sigma), borderType=cv2.BORDER_CONSTANT
                )
        return image, top, left

    def soft_tissue(self, uptake: np.ndarray) -> np.ndarray:
        """Even uptake through the whole thickness, attenuated on its way out."""
        image = (
            uptake[:, self.flip]
            * (1 - np.exp(-self.attenuation * self.thickness))
            / self.attenuation
        )
        return cv2.GaussianBlur(image, (0, 0), 1.9)


def _scatter(image: np.ndarray) -> np.ndarray:
    """Return the scattered part of an image: broad, so computed at a quarter of the size."""
    small = cv2.resize(image, (WIDTH // 4, HEIGHT // 4), interpolation=cv2.INTER_AREA)
    small = cv2.GaussianBlur(
        small, (0, 0), SCATTER_MM / PIXEL_MM / 4, borderType=cv2.BORDER_CONSTANT
    )
    return SCATTER * cv2.resize(small, (WIDTH, HEIGHT), interpolation=cv2.INTER_LINEAR)


def _is_visible(
    spot: np.ndarray, around: np.ndarray, ordinary: np.ndarray, bone: float, kind: str
) -> bool:
    """Return whether a reader would mark a hot spot.

    Args:
      spot: its own expected counts.
      around: expected counts of all else at the same pixels.
      ordinary: what of them is no hot spot: of two foci in one joint neither hides the other.
      bone: expected counts of bone in this view.
      kind: HotSpot.kind; bladder and kidneys are expected, so they must stand out more: kidneys
        are as bright as the spine in most patients, and no reader boxes these.
    """
    peak = int(spot.argmax())
    contrast = spot.flat[peak] / max(ordinary.flat[peak], 1e-6)
    snr = float(np.sqrt((spot**2 / (around + spot + 0.05)).sum()))
    need = {"kidney": 4.5, "bladder": 2.2}.get(kind, MIN_CONTRAST)
    bright = spot.flat[peak] + around.flat[peak] > MIN_BRIGHTNESS * bone
    return bright and contrast > need and snr > MIN_SNR


def _merge(spots: list[Seen]) -> list[Seen]:
    """Join the benign foci of one joint, peaks within MERGE pixels: a reader sees them as one."""
    merged: list[Seen] = []
    for spot, image, top, left in spots:
        if image.size == 0 or image.max() <= 0:
            continue
        row, column = np.unravel_index(image.argmax(), image.shape)
        for number, (other, theirs, their_top, their_left) in enumerate(merged):
            peak = np.unravel_index(theirs.argmax(), theirs.shape)
            away = np.hypot(row + top - peak[0] - their_top, column + left - peak[1] - their_left)
            if spot.kind == other.kind == "benign" and away < MERGE:
                corner = min(top, their_top), min(left, their_left)
                joint = np.zeros((
                    max(top + image.shape[0], their_top + theirs.shape[0]) - corner[0],
                    max(left + image.shape[1], their_left + theirs.shape[1]) - corner[1],
                ), np.float32)  # fmt: skip
                for part, y, x in ((image, top, left), (theirs, their_top, their_left)):
                    y, x = y - corner[0], x - corner[1]  # noqa: PLW2901
                    joint[y : y + part.shape[0], x : x + part.shape[1]] += part
                merged[number] = (other, joint, *corner)
                break
        else:
            merged.append((spot, image, top, left))
    return merged


def _annotate(
    spots: list[Seen],
    total: np.ndarray,
    field: tuple[int, int, int, int],
) -> tuple[np.ndarray, tuple[Box, ...]]:
    """Box what a reader of this view sees; touching spots of one class share a box.

    Args:
      spots: hot spot, its expected counts in a window, row and column of the window.
      total: (1024, 256) expected counts.
      field: scanned rows and columns.

    Returns:
      mask (1024, 256) uint8 and boxes.
    """
    layers = {NORMAL: np.zeros((HEIGHT, WIDTH), bool), ABNORMAL: np.zeros((HEIGHT, WIDTH), bool)}
    ordinary = total.copy()
    windows = []
    for _, image, top, left in spots:
        windows.append((slice(top, top + image.shape[0]), slice(left, left + image.shape[1])))
        ordinary[windows[-1]] -= image
    ordinary = np.maximum(ordinary, 0)
    bone = bone_reference(np.rint(ordinary))
    visible = [
        _is_visible(image, np.maximum(total[w] - image, 0), ordinary[w], bone, spot.kind)
        for (spot, image, _, _), w in zip(spots, windows, strict=True)
    ]
    # Nobody boxes one kidney and leaves out the other.
    kidney = any(v for v, (spot, *_) in zip(visible, spots, strict=True) if spot.kind == "kidney")
    for seen, (spot, image, _, _), window in zip(visible, spots, windows, strict=True):
        if seen or (kidney and spot.kind == "kidney"):
            layers[spot.label][window] |= image > EDGE * image.max()
    layers[NORMAL] &= ~layers[ABNORMAL]
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    scanned = np.zeros((HEIGHT, WIDTH), bool)
    scanned[field[0] : field[1], field[2] : field[3]] = True
    boxes = []
    for label, layer in layers.items():
        numbered, _ = ndimage.label(layer & scanned, np.ones((3, 3)))
        for number, (rows, columns) in enumerate(ndimage.find_objects(numbered), start=1):
            part = numbered[rows, columns] == number
            if part.sum() < 6:  # the crumb of a spot that another class covers
                continue
            mask[rows, columns][part] = label
            boxes.append(Box(columns.start, rows.start, columns.stop, rows.stop, label))
    return mask, tuple(sorted(boxes, key=lambda box: (box.ymin, box.xmin)))


def simulate_view(
    body: Body, view: str, counts: float, gain: float, rng: np.random.Generator
) -> PhantomView:
    """Take one view of a body.

    Args:
      body: who lies on the table.
      view: one of VIEWS.
      counts: to expect from the body; the air around it adds some.
      gain: grey values a count.
      rng: of the noise.
    """
    camera = _Camera(body, view)
    image = camera.soft_tissue(body.tissue)
    bones, top, left = camera.project(body.weight)
    image[top : top + bones.shape[0], left : left + bones.shape[1]] += bones
    spots = []
    for spot in body.hot_spots:
        own, top, left = camera.project(spot.excess, spot.index)
        image[top : top + own.shape[0], left : left + own.shape[1]] += own
        spots.append((spot, own, top, left))
    image += _scatter(image) * camera.scattering
    top, bottom, left, right = body.field
    if view == "posterior":
        left, right = WIDTH - right, WIDTH - left
    scanned = np.zeros_like(image)
    scanned[top:bottom, left:right] = 1
    image *= scanned
    scale = counts / float(image.sum())
    air = 0.3 * counts / 3.6e6 * rng.uniform(0.5, 1.3)  # 0.3 a pixel in NM1 with its 3.6 M counts
    expected = image * scale + air * scanned
    noisy = np.minimum(rng.poisson(expected), 65535).astype(np.uint16)
    seen = [(spot, own * scale, r, c) for spot, own, r, c in spots]
    field = (top, bottom, left, right)
    mask, boxes = _annotate(_merge(seen), expected, field)
    return PhantomView(view, noisy, to_grey(noisy, gain), mask, boxes, gain, field)


def to_grey(counts: np.ndarray, gain: float) -> np.ndarray:
    """Return BS-80K's grey values (uint8): round(gain × counts) mod 256; hot spots wrap."""
    return (np.rint(gain * counts.astype(np.float64)).astype(np.int64) % 256).astype(np.uint8)


def patient_generator(seed: int, patient: int) -> np.random.Generator:
    """Return the generator that draws a patient: first the body, then the views."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, patient])))


def simulate_patient(seed: int, patient: int) -> PhantomPatient:
    """Simulate both views of a patient.

    Args:
      seed: of the whole data set.
      patient: number within it.

    Returns:
      The patient; the same for the same (seed, patient), whatever was simulated before. Both views
      share one gain, as one export of one study does; their counts differ by a few percent.
    """
    rng = patient_generator(seed, patient)
    body = draw_body(rng)
    gain = float(np.clip(GAIN_MEDIAN * np.exp(rng.normal(0, GAIN_SPREAD)), *GAIN))
    counts = BRIGHTNESS * np.exp(rng.normal(0, BRIGHTNESS_SPREAD)) / gain
    views = []
    for view in VIEWS:
        total = float(np.clip(counts * rng.normal(1, 0.05), COUNTS[0] * 1.01, COUNTS[1] * 0.97))
        views.append(simulate_view(body, view, total, gain, rng))
    return PhantomPatient(patient, (views[0], views[1]), body.hot_spots, body.child, body.stature)


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
        f"gain_{view.view}": np.float64(view.gain),
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
    write_patient: Callable[[tuple[str, int, int]], tuple[int, dict[str, int]]],
    out: Path,
    num_patients: int,
    seed: int,
    processes: int,
) -> Iterator[tuple[int, dict[str, int]]]:
    """Call write_patient((out, seed, patient)) in one process or several; yield what it returns.

    Patients come in any order.
    """
    tasks = [(str(out), seed, patient) for patient in range(1, num_patients + 1)]
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
      num_processes: None: one for each processor.
      write_all: writes into the folder that it is given, in so many processes, and returns the sums
        of `tally_view`.

    Returns:
      Counts of patients, views, boxes by class, views without hot spots, and the seconds it took.

    Raises:
      InputError: `out` holds something, or `num_patients` is not positive.
    """
    out = Path(out)
    if num_patients < 1:
        raise InputError(f"The number of patients must be at least 1, found {num_patients}.")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out} already holds something; expected a new or an empty folder.")
    start = time.monotonic()
    processes = min(num_processes or os.cpu_count() or 1, num_patients)
    partial = out.parent / f".{out.name}.partial-{os.getpid()}"
    try:
        totals = write_all(partial, processes)
        if out.exists():
            out.rmdir()
        partial.rename(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
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


def _write_patient(task: tuple[str, int, int]) -> tuple[int, dict[str, int]]:
    """Simulate and write one patient; runs in a worker."""
    out, seed, patient = Path(task[0]), task[1], task[2]
    cv2.setNumThreads(1)
    tally: Counter[str] = Counter()
    truth = {}
    for view in simulate_patient(seed, patient).views:
        folder, annotations = FOLDERS[view.view], XML_FOLDERS[view.view]
        _, jpeg = cv2.imencode(".jpg", view.grey, [cv2.IMWRITE_JPEG_QUALITY, 100])
        (out / folder / f"{patient}.jpg").write_bytes(jpeg.tobytes())
        if view.boxes:  # BS-80K has no XML for a view without hot spots
            (out / folder / annotations / f"{patient}.xml").write_bytes(
                _xml(folder, f"{patient}.jpg", view.boxes)
            )
        tally.update(tally_view(view))
        truth |= view_truth(view)
    np.savez_compressed(out / "truth" / f"{patient}.npz", **truth)
    return patient, dict(tally)


def _write_all(
    out: Path,
    num_patients: int,
    seed: int,
    processes: int,
    on_patient: Callable[[int], None] | None,
) -> Counter[str]:
    """Write every patient's files into `out`, in this process or in several."""
    for view in VIEWS:
        (out / FOLDERS[view] / XML_FOLDERS[view]).mkdir(parents=True)
    (out / "truth").mkdir()
    totals: Counter[str] = Counter()
    labels: dict[str, dict[int, int]] = {view: {} for view in VIEWS}
    for patient, tally in for_each_patient(_write_patient, out, num_patients, seed, processes):
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
    on_patient: Callable[[int], None] | None = None,
) -> dict[str, int | float]:  # fmt: skip
    """Simulate patients 1 … num_patients into BS-80K's own layout, with the truth beside it.

    Args:
      out: folder to make; must not exist or be empty. It appears only when all is written.
      num_patients: how many.
      seed: same seed, same files.
      num_processes: None: one for each processor.
      on_patient: called here with the patient's number as each is finished, in any order.

    Returns:
      What `write_folder` returns.

    Raises:
      InputError: as `write_folder`.
    """

    def write_all(folder: Path, processes: int) -> Counter[str]:
        return _write_all(folder, num_patients, seed, processes, on_patient)

    return write_folder(out, num_patients, num_processes, write_all)
