"""Compares simulated patients with what was measured on real scans: the table of docs/phantom.md.

On the real side stand whole-body views of BS-80K, measured by `features` as the simulated ones are;
figures of BS-80K as a whole (boxes, gains, chest crops); and NM1, the public count image of NEMA
WG04: one obese patient, who must be within the range of the simulated ones.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from bonescan_jax.cluster.cores import usable_cores
from bonescan_jax.errors import InputError
from bonescan_jax.phantom.body import PIXELS_MM, Body, draw_body
from bonescan_jax.phantom.features import rib_features, view_features
from bonescan_jax.phantom.files import side_by_side
from bonescan_jax.phantom.patient import (
    PhantomPatient,
    PhantomView,
    patient_generator,
    simulate_patient,
)
from bonescan_jax.phantom.real_views import NM1, REAL_VIEWS, SOURCE
from bonescan_jax.scans import ABNORMAL, HEIGHT, NORMAL, VIEWS, WIDTH
from bonescan_jax.scans.export import as_exported
from bonescan_jax.scans.masks import boxes_to_mask

# Where an anterior view is flat, in the canonical frame of `anatomy`: what varies there is noise.
# What the region moves with, then x and y from … to (mm).
_FLAT = (("femur", 55, 85, 1020, 1120), ("trunk", 40, 95, 650, 690), ("tibia", 50, 62, 1320, 1440))
# The right chest as BS-80K crops it: from the sternum's edge out and from above the collar bone
# down to the kidney, cut along the shoulder. The median crop is 68 × 171 pixels and has its
# brightest pixel, the joint of collar bone and breastbone, at a seventh of its height.
_CHEST = np.array([(-29, 264), (-29, 645), (-168, 645), (-168, 350)], float)
_RIBS = ("median", "95th percentile", "local contrast")  # of `rib_features`
ALIKE = 0.15  # simulated and measured value may differ by so much of the latter


@dataclass(frozen=True)
class Measured:
    """What one simulated patient gives to the table."""

    patient: int
    child: bool
    pixel: float  # mm: which camera
    features: tuple[dict[str, float], dict[str, float]]  # anterior, posterior
    noise: float  # variance over mean of the counts in flat regions
    gains: tuple[float, float]
    counts: tuple[int, int]
    boxes: tuple[np.ndarray, np.ndarray]  # (n, 5) as `Box`
    pixels: tuple[tuple[float, float], ...]  # view by view: share of abnormal, of normal pixels
    chest: tuple[float, ...]  # crop: largest grey value, 99th percentile, sum, ribs as `_RIBS`
    lesions: tuple[tuple[str, float], ...]  # bone, uptake over the bone around
    seconds: float  # that `simulate_patient` took


def _pixels(body: Body, region: tuple[str, float, float, float, float]) -> tuple[np.ndarray, ...]:
    """Return rows and columns of a region in the anterior view, sampled every 2 mm."""
    part, left, right, top, bottom = region
    x, y = np.meshgrid(np.arange(left, right, 2.0), np.arange(top, bottom, 2.0))
    sides = (None,) if part == "trunk" else (0, 1)
    found = []
    for side in sides:
        mirrored = [-1, 1] if side is None and left > 0 else [1 - 2 * (side or 0)]
        for mirror in mirrored:
            points = np.stack([mirror * x.ravel(), y.ravel(), np.full(x.size, 80.0)], 1)
            found.append(body.locate(points.astype(np.float32), part, side))
    column, row, _ = np.rint(np.concatenate(found)).astype(int).T
    inside = (row >= 0) & (row < HEIGHT) & (column >= 0) & (column < WIDTH)
    return row[inside], column[inside]


def _noise(image: np.ndarray, body: Body) -> float:
    """Variance over mean where the image is flat; second differences take slopes away."""
    image = image.astype(float)
    rough = np.zeros_like(image)
    rough[1:-1] = (image[:-2] - 2 * image[1:-1] + image[2:]) ** 2 / 6
    pixels = [_pixels(body, region) for region in _FLAT]
    return float(
        np.concatenate([rough[p] for p in pixels]).mean()
        / np.concatenate([image[p] for p in pixels]).mean()
    )


def _chest(view: PhantomView, body: Body) -> tuple[float, ...]:
    points = np.c_[_CHEST, np.full(len(_CHEST), 80.0)].astype(np.float32)
    corners = np.rint(body.locate(points, "trunk")[:, :2]).astype(np.int32)
    inside = cv2.fillPoly(np.zeros((HEIGHT, WIDTH), np.uint8), [corners], 1)
    left, top = np.maximum(corners.min(0), 0)
    right, bottom = np.max(corners, axis=0)
    crop = (view.grey * inside)[top:bottom, left:right]
    ribs = rib_features(crop) or dict.fromkeys(_RIBS, np.nan)
    whole = float(np.max(crop)), float(np.percentile(crop, 99)), float(crop.sum())
    return *whole, *(ribs[name] for name in _RIBS)


def lesions(body: Body) -> tuple[tuple[str, float], ...]:
    """Return of each malignant lesion its bone and its uptake over that of the bone around it."""
    return tuple(
        (spot.where, 1 + float((spot.excess / body.weight[spot.index]).max()))
        for spot in body.hot_spots
        if spot.kind == "malignant" and len(spot.index)
    )


def _features(simulated: PhantomPatient) -> tuple[dict[str, float], dict[str, float]]:
    """Measure both views as their export leaves them."""
    found = []
    for view in simulated.views:
        kept = as_exported(view.counts, view.gain)
        found.append(view_features(kept, float(kept.sum())))
    return found[0], found[1]


def simulated_features(task: tuple[int, int]) -> tuple[dict[str, float], dict[str, float]]:
    """Return the features of both views of patient task[1] of seed task[0]."""
    return _features(simulate_patient(*task))


def measure(task: tuple[int, int]) -> Measured:
    """Simulate patient task[1] of seed task[0] and measure all that the table needs."""
    seed, patient = task
    cv2.setNumThreads(1)
    start = time.perf_counter()
    simulated = simulate_patient(seed, patient)
    seconds = time.perf_counter() - start
    body = draw_body(patient_generator(seed, patient))
    anterior, posterior = simulated.views
    boxes = [np.array(view.boxes, np.int32).reshape(-1, 5) for view in simulated.views]
    masks = [boxes_to_mask(found, (HEIGHT, WIDTH), "ellipse") for found in boxes]
    return Measured(
        patient,
        simulated.child,
        body.pixel,
        _features(simulated),
        _noise(anterior.counts, body),
        (anterior.gain, posterior.gain),
        (int(anterior.counts.sum()), int(posterior.counts.sum())),
        (boxes[0], boxes[1]),
        tuple((float((m == ABNORMAL).mean()), float((m == NORMAL).mean())) for m in masks),
        _chest(anterior, body),
        lesions(body),
        seconds,
    )


# ---------------------------------------------------------------------------------------- the table

_PUBLISHED = "BS-80K, published use"
_ANNOTATIONS = "BS-80K, annotations"
_ANT, _POST = range(2)


@dataclass(frozen=True)
class Quantity:
    """One row to be: what is measured on real scans, and how on simulated ones.

    Of a quantity with `each` the simulated value is the median over patients and its interval
    their 10th to 90th percentile; of one with `overall` it is the value of all patients together
    and its interval the 95 % bootstrap interval over patients.
    """

    name: str
    measured: float
    source: str
    each: Callable[[Measured], float] | None = None
    overall: Callable[[Sequence[Measured]], float] | None = None
    pixel: float | None = None  # mm: of this camera alone
    spread: tuple[float, float] | None = None  # of real scans, 10th to 90th percentile
    reason: str = ""  # why it is off, if it is


@dataclass(frozen=True)
class Row:
    """One row of the table."""

    quantity: str
    simulated: float
    interval: tuple[float, float]
    measured: float
    spread: tuple[float, float] | None
    source: str
    reason: str

    @property
    def ratio(self) -> float:
        """Simulated over measured."""
        return self.simulated / self.measured

    @property
    def within(self) -> bool:
        """Whether the values differ by at most `ALIKE`, or the simulated is in the real range."""
        if self.spread is not None and self.spread[0] <= self.simulated <= self.spread[1]:
            return True
        return abs(self.ratio - 1) <= ALIKE


_REASONS = {
    "thorax: 25th percentile": "the darkest quarter is arms, flanks and the gaps between them: "
    "real ones fade out more than cross-sections that are ellipses",
    "thighs: local contrast": "it is of hands and femurs over faint soft tissue, which in seven "
    "real patients lie closer together",
    "legs: local contrast": "seen from behind, real shins hide deeper in the calf",
}


_SHARP_RIBS = (
    "ribs were set to patients 1 to 7, and those of four of them stand out more than in nine of "
    "ten others"
)
_CHEST_REASONS = {
    "largest grey value": "one pixel decides it, at the edge of the breastbone, and how much of "
    "that is in the crop differs by a few pixels",
    "95th percentile of the ribs": _SHARP_RIBS,
    "local contrast of the ribs": _SHARP_RIBS,
}


def _chest_rows(pixel: float, *measured: tuple[float, float, float]) -> tuple[Quantity, ...]:
    """Rows of BS-80K's chest crops of one camera: median, 10th and 90th percentile."""
    source = {PIXELS_MM[0]: "up to 700", PIXELS_MM[1]: "from 800 on"}[pixel]
    ribs = (f"{name} of the ribs" for name in _RIBS)
    names = ("largest grey value", "99th percentile", "sum of grey", *ribs)
    return tuple(
        Quantity(
            f"{name} of the chest crop, {pixel:g} mm", middle,
            f"BS-80K, chest crops of patients {source}",
            lambda m, place=place: m.chest[place],  # type: ignore[misc]
            pixel=pixel, spread=(low, high),
            reason=_CHEST_REASONS.get(name, ""),
        )
        for place, (name, (middle, low, high)) in enumerate(zip(names, measured, strict=True))
    )  # fmt: skip


def _feature(view: int, name: str) -> Quantity:
    low, middle, high = REAL_VIEWS[VIEWS[view]][name]
    return Quantity(
        f"{VIEWS[view]}, {name}", middle, SOURCE, lambda m: m.features[view][name],
        pixel=PIXELS_MM[0],
        spread=(low, high), reason=_REASONS.get(name, ""),
    )  # fmt: skip


def _overall(
    name: str,
    measured: float,
    source: str,
    value: Callable[[Sequence[Measured]], float],
    reason: str = "",
    spread: tuple[float, float] | None = None,
) -> Quantity:
    return Quantity(name, measured, source, overall=value, reason=reason, spread=spread)


def _boxes(patients: Sequence[Measured], *views: int) -> list[np.ndarray]:
    return [patient.boxes[view] for patient in patients for view in views]


def _boxes_per_view(*views: int) -> Callable[[Sequence[Measured]], float]:
    """Mean number of boxes of the views that have any."""

    def value(patients: Sequence[Measured]) -> float:
        sizes = np.array([len(found) for found in _boxes(patients, *views)])
        return float(sizes[sizes > 0].mean()) if sizes.any() else 0.0

    return value


def _none(view: int) -> Callable[[Sequence[Measured]], float]:
    return lambda patients: float(np.mean([len(b) == 0 for b in _boxes(patients, view)]))


def _abnormal_views(view: int) -> Callable[[Sequence[Measured]], float]:
    return lambda patients: float(
        np.mean([(b[:, 4] == ABNORMAL).any() for b in _boxes(patients, view)])
    )


def _normal_over_abnormal(patients: Sequence[Measured]) -> float:
    labels = np.concatenate(_boxes(patients, _ANT))[:, 4]
    return float((labels == NORMAL).sum() / max(1, (labels == ABNORMAL).sum()))


def _abnormal_boxes(patients: Sequence[Measured]) -> float:
    return float(np.mean([(b[:, 4] == ABNORMAL).sum() for b in _boxes(patients, _ANT)]))


def _median_area(patients: Sequence[Measured]) -> float:
    boxes = np.concatenate(_boxes(patients, _ANT, _POST))
    sides = boxes[:, 2:4] - boxes[:, :2]
    return float(np.median(sides.prod(1))) if len(boxes) else 0.0


def _pixel_share(which: int) -> Callable[[Sequence[Measured]], float]:
    return lambda patients: float(100 * np.mean([[v[which] for v in p.pixels] for p in patients]))


def _lesion_contrast(patients: Sequence[Measured]) -> float:
    times = [times for patient in patients for _, times in patient.lesions]
    return float(np.median(times)) if times else 0.0


def _core_share(patients: Sequence[Measured]) -> float:
    core = ("C", "T", "L", "sacrum", "coccyx", "rib", "ilium", "ischium", "pubis")
    found = [where.startswith(core) for patient in patients for where, _ in patient.lesions]
    return float(np.mean(found)) if found else 0.0


QUANTITIES = (
    *(_feature(view, name) for view in (_ANT, _POST) for name in REAL_VIEWS[VIEWS[view]]),
    Quantity("variance over mean of counts, flat regions", 1, "Poisson", lambda m: m.noise),
    Quantity(
        "gain, grey values a count", 2.4, "BS-80K, whole body, 28 views", lambda m: m.gains[0],
        spread=(1.05, 3.65),
    ),
    Quantity(
        "counts a view", 410e3, "BS-80K, whole body, 28 views", lambda m: m.counts[0],
        spread=(280e3, 975e3),
    ),
    *_chest_rows(PIXELS_MM[0], (68, 54, 91), (36, 30, 45), (89_100, 74_800, 104_700),
        (12.4, 9.97, 15.6), (19.6, 15.9, 24.5), (2.04, 1.52, 2.87),
    ),
    *_chest_rows(PIXELS_MM[1], (57, 44, 74), (30, 24, 37), (90_700, 74_400, 108_500),
        (9.54, 7.26, 12.2), (15.0, 11.7, 19.1), (1.47, 1.08, 2.07),
    ),
    _overall("boxes an annotated view", 23080 / 5479, _ANNOTATIONS, _boxes_per_view(_ANT, _POST)),
    _overall("boxes an annotated anterior view", 13823 / 2924, _ANNOTATIONS, _boxes_per_view(_ANT)),
    _overall(
        "boxes an annotated posterior view", 9257 / 2555, _ANNOTATIONS, _boxes_per_view(_POST),
    ),
    _overall("abnormal boxes an anterior view", 4194 / 3247, _ANNOTATIONS, _abnormal_boxes),
    _overall("box area, median, pixels", 90, _ANNOTATIONS, _median_area),
    _overall(
        "abnormal pixels, %", 0.07, _PUBLISHED, _pixel_share(0),
        "a few patients with diseased marrow hold most of them: it varies as their number does",
    ),
    _overall(
        "normal pixels, %", 0.15, _PUBLISHED, _pixel_share(1), spread=(0.11, 0.19),
        reason="masks of other recipes fill their boxes; ellipses, counted here, leave out a fifth",
    ),
    _overall("anterior views without hot spots", 323 / 3247, _ANNOTATIONS, _none(_ANT)),
    _overall("posterior views without hot spots", 692 / 3247, _ANNOTATIONS, _none(_POST)),
    _overall("abnormal anterior views", 1183 / 3247, _ANNOTATIONS, _abnormal_views(_ANT)),
    _overall("abnormal posterior views", 1053 / 3247, _ANNOTATIONS, _abnormal_views(_POST)),
    _overall("Normal : Abnormal boxes, anterior", 9629 / 4194, _ANNOTATIONS, _normal_over_abnormal),
    _overall("malignant lesion over bone, median", 4.5, "literature", _lesion_contrast),
    _overall("malignant lesions in spine, ribs, pelvis", 0.7, "literature", _core_share),
)  # fmt: skip


def outside_of_range(patients: Sequence[Measured]) -> list[str]:
    """Return what of NM1, one real patient, no simulated patient of a thousand comes near to.

    A feature of NM1 may be as far out as the 0.5th or 99.5th percentile of simulated patients.
    """
    outside = []
    for name, value in NM1.items():
        low, high = np.percentile([m.features[0][name] for m in patients], (0.5, 99.5))
        if not low <= value <= high:
            outside.append(f"{name}: NM1 {_number(value)}, simulated {_number(low)} – "
                           f"{_number(high)}")  # fmt: skip
    return outside


def _row(quantity: Quantity, patients: Sequence[Measured]) -> Row:
    if quantity.each is not None:
        chosen = [
            patient
            for patient in patients
            if not patient.child and quantity.pixel in (None, patient.pixel)
        ]
        values = [quantity.each(patient) for patient in chosen or patients]
        # A chest that is cut too small has no ribs to measure.
        simulated = float(np.nanmedian(values))
        interval = tuple(np.nanpercentile(values, (10, 90)))
    else:
        assert quantity.overall is not None  # it has one of the two
        simulated = quantity.overall(patients)
        rng = np.random.default_rng(0)
        again = []
        for _ in range(200):
            picked = rng.integers(len(patients), size=len(patients))
            again.append(quantity.overall([patients[i] for i in picked]))
        interval = tuple(np.percentile(again, (2.5, 97.5)))
    return Row(
        quantity.name,
        simulated,
        interval,
        quantity.measured,
        quantity.spread,
        quantity.source,
        quantity.reason,
    )


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def markdown(rows: Sequence[Row]) -> str:
    """Return the rows as a Markdown table, with the reason where one is off; see `Row.within`."""
    lines = [
        "| quantity | simulated (interval) | measured | source | ratio | alike |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        measured = _number(row.measured)
        if row.spread is not None:
            measured += f" ({' – '.join(_number(end) for end in row.spread)})"
        simulated = f"{_number(row.simulated)} ({' – '.join(_number(v) for v in row.interval)})"
        verdict = "yes" if row.within else f"no: {row.reason or 'unexplained'}"
        cells = (row.quantity, simulated, measured, row.source, f"{row.ratio:.2f}", verdict)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def validate(
    num_patients: int,
    seed: int,
    num_processes: int | None = None,
    on_patient: Callable[[int], None] | None = None,
) -> tuple[list[Row], dict[str, Any]]:
    """Simulate patients 1 … num_patients and compare them with real scans.

    Args:
      num_patients: how many; intervals shrink with their square root.
      seed: same seed, same table.
      num_processes: None: one for each usable core.
      on_patient: called here with the patient's number as each is finished, in any order.

    Returns:
      The rows, and a summary: numbers of patients and rows, how many of these are alike
      (`Row.within`), which are not, which features of NM1 are out of range, and how many patients
      a second `simulate_patient` makes in so many processes.

    Raises:
      InputError: `num_patients` is not positive.
    """
    if num_patients < 1:
        raise InputError(f"The number of patients must be at least 1, found {num_patients}.")
    processes = min(num_processes or usable_cores(), num_patients)
    patients = []
    tasks = [(seed, patient) for patient in range(1, num_patients + 1)]
    for measured in side_by_side(measure, tasks, processes):
        patients.append(measured)
        if on_patient is not None:
            on_patient(measured.patient)
    patients.sort(key=lambda measured: measured.patient)
    rows = [_row(quantity, patients) for quantity in QUANTITIES]
    return rows, {
        "patients": num_patients,
        "rows": len(rows),
        "alike": sum(row.within for row in rows),
        "off": [row.quantity for row in rows if not row.within],
        "nm1_outside": outside_of_range(patients),
        "patients_per_second": round(processes / np.mean([p.seconds for p in patients]), 2),
    }
