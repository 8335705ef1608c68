"""Compares simulated patients with what was measured on real scans: the table of docs/phantom.md.

Two kinds of measurement stand on the real side. BS-80K's figures are of a population. NM1, the
public count image of NEMA WG04, is one patient with 3.6 M counts in one view: for it every body is
imaged once more with NM1's counts, so that percentiles of counts mean the same on both sides.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from bonescan_jax.cluster.cores import usable_cores
from bonescan_jax.errors import InputError
from bonescan_jax.phantom.body import Body, draw_body
from bonescan_jax.phantom.files import side_by_side
from bonescan_jax.phantom.patient import (
    PhantomView,
    patient_generator,
    simulate_patient,
    simulate_view,
)
from bonescan_jax.scans import ABNORMAL, HEIGHT, NORMAL, WIDTH
from bonescan_jax.scans.masks import boxes_to_mask

NM1_COUNTS = 3_596_452
PERCENTILES = (50, 90, 95, 99, 99.9)
# Where the regions of NM1 lie in the canonical frame of `anatomy`: what they move with, then
# x and y from … to (mm). The tracer in limbs and ribs is taken from both sides.
_REGIONS = {
    "skull": ("trunk", -50, 50, 8, 88),
    "face": ("trunk", -22, 22, 120, 165),
    "manubrium and T-spine": ("trunk", -17, 17, 250, 335),
    "L1": ("trunk", -16, 16, 570, 602),
    "ribs": ("trunk", 45, 124, 335, 470),
    "sacro-iliac": ("trunk", 36, 62, 760, 800),
    "femur": ("femur", 96, 118, 1080, 1120),
    "tibia": ("tibia", 70, 92, 1380, 1500),
    "thigh soft tissue": ("femur", 55, 85, 1020, 1120),
    "abdomen": ("trunk", 40, 95, 650, 705),
    "calf": ("tibia", 50, 62, 1320, 1440),
}
_FLAT = ("thigh soft tissue", "abdomen", "calf")  # no edges: what varies there is noise
_BLADDER = ("trunk", -45, 45, 820, 930)
_BLADDER_EDGE = 0.4  # of its peak; gives NM1's 176
# The right chest as BS-80K crops it: from the sternum's edge out and from above the collar bone
# down to the kidney, cut along the shoulder. The median crop is 68 × 171 pixels and has its
# brightest pixel, the joint of collar bone and breastbone, at a seventh of its height.
_CHEST = np.array([(-14, 260), (-14, 645), (-168, 645), (-168, 350)], float)


@dataclass(frozen=True)
class Measured:
    """What one simulated patient gives to the table."""

    patient: int
    regions: dict[str, float]  # mean counts a pixel, anterior, at NM1's counts
    percentiles: tuple[float, ...]  # of the counts of all pixels, likewise
    air: float  # mean counts a pixel above the head, likewise
    noise: float  # variance over mean of the counts in flat regions
    grey_noise: float  # of the grey values
    gain: float
    counts: tuple[int, int]  # anterior, posterior
    boxes: tuple[np.ndarray, np.ndarray]  # (n, 5) as `Box`
    pixels: tuple[tuple[float, float], ...]  # view by view: share of abnormal, of normal pixels
    chest: tuple[float, float, float]  # crop: largest grey value, 99th percentile, sum
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
    pixels = [_pixels(body, _REGIONS[name]) for name in _FLAT]
    return float(
        np.concatenate([rough[p] for p in pixels]).mean()
        / np.concatenate([image[p] for p in pixels]).mean()
    )


def _chest(view: PhantomView, body: Body) -> tuple[float, float, float]:
    points = np.c_[_CHEST, np.full(len(_CHEST), 80.0)].astype(np.float32)
    corners = np.rint(body.locate(points, "trunk")[:, :2]).astype(np.int32)
    inside = cv2.fillPoly(np.zeros((HEIGHT, WIDTH), np.uint8), [corners], 1)
    left, top = np.maximum(corners.min(0), 0)
    right, bottom = np.max(corners, axis=0)
    crop = (view.grey * inside)[top:bottom, left:right]
    return float(np.max(crop)), float(np.percentile(crop, 99)), float(crop.sum())


def lesions(body: Body) -> tuple[tuple[str, float], ...]:
    """Return of each malignant lesion its bone and its uptake over that of the bone around it."""
    return tuple(
        (spot.where, 1 + float((spot.excess / body.weight[spot.index]).max()))
        for spot in body.hot_spots
        if spot.kind == "malignant" and len(spot.index)
    )


def measure(task: tuple[int, int]) -> Measured:
    """Simulate patient task[1] of seed task[0] and measure all that the table needs."""
    seed, patient = task
    cv2.setNumThreads(1)
    start = time.perf_counter()
    simulated = simulate_patient(seed, patient)
    seconds = time.perf_counter() - start
    rng = patient_generator(seed, patient)
    body = draw_body(rng)
    anterior, _ = simulated.views
    like_nm1 = simulate_view(body, "anterior", NM1_COUNTS, 1.0, rng)
    regions = {name: _pixels(body, region) for name, region in _REGIONS.items()}
    means = {name: float(like_nm1.counts[where].mean()) for name, where in regions.items()}
    bladder = like_nm1.counts[_pixels(body, _BLADDER)]
    means["bladder"] = float(bladder[bladder > _BLADDER_EDGE * bladder.max()].mean())
    top, _, left, right = like_nm1.field
    air = like_nm1.counts[top : max(top + 1, int(body.vertex) - 8), left:right]
    boxes = [np.array(view.boxes, np.int32).reshape(-1, 5) for view in simulated.views]
    masks = [boxes_to_mask(found, (HEIGHT, WIDTH), "ellipse") for found in boxes]
    return Measured(
        patient,
        means,
        tuple(np.percentile(like_nm1.counts, PERCENTILES)),
        float(air.mean()),
        _noise(anterior.counts, body),
        _noise(anterior.grey, body),
        anterior.gain,
        (int(simulated.views[0].counts.sum()), int(simulated.views[1].counts.sum())),
        (boxes[0], boxes[1]),
        tuple((float((m == ABNORMAL).mean()), float((m == NORMAL).mean())) for m in masks),
        _chest(anterior, body),
        lesions(body),
        seconds,
    )


# ---------------------------------------------------------------------------------------- the table

_NM1 = "NM1"
_CROPS = "BS-80K, 2,925 chest crops"
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
    measured: tuple[float, float]  # the same twice, or a range
    source: str
    each: Callable[[Measured], float] | None = None
    overall: Callable[[Sequence[Measured]], float] | None = None
    reason: str = ""  # why it is off, if it is


@dataclass(frozen=True)
class Row:
    """One row of the table."""

    quantity: str
    simulated: float
    interval: tuple[float, float]
    measured: tuple[float, float]
    source: str
    ratio: float  # simulated over measured; over the nearer end of a range, 1 within it
    reason: str

    @property
    def within(self) -> bool:
        """Whether simulated and measured value differ by at most 20 %."""
        return 0.8 <= self.ratio <= 1.2


def _region(name: str, counts: float, reason: str = "") -> Quantity:
    return Quantity(
        f"{name}, counts a pixel", (counts, counts), _NM1, lambda m: m.regions[name], reason=reason
    )


def _percentile(number: int, counts: float, reason: str = "") -> Quantity:
    name = f"{PERCENTILES[number]:g}th percentile of counts"
    return Quantity(name, (counts, counts), _NM1, lambda m: m.percentiles[number], reason=reason)


def _overall(
    name: str,
    measured: float | tuple[float, float],
    source: str,
    value: Callable[[Sequence[Measured]], float],
    reason: str = "",
) -> Quantity:
    ends = measured if isinstance(measured, tuple) else (measured, measured)
    return Quantity(name, ends, source, overall=value, reason=reason)


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
    _region("skull", 37),
    _region("face", 99),
    _region("manubrium and T-spine", 121),
    _region("L1", 66),
    _region("ribs", 40),
    _region("sacro-iliac", 50),
    _region("femur", 37),
    _region("tibia", 33),
    _region("thigh soft tissue", 18),
    _region("abdomen", 23),
    _region(
        "calf", 23, "NM1's patient is obese, with stout calves; the simulated ones are as slim as "
        "those of BS-80K, and a slimmer calf gives fewer counts a pixel"
    ),
    _region(
        "bladder", 176, "it holds what the patient has not yet voided: between patients it varies "
        "more than tenfold, and NM1 is one of them"
    ),
    Quantity("air above the head, counts a pixel", (0.3, 0.3), _NM1, lambda m: m.air),
    _percentile(
        0, 1, "half of the pixels lie outside the body: the middle one holds 0 or 1 count, "
        "by the patient's size"
    ),
    _percentile(1, 43),
    _percentile(2, 56),
    _percentile(3, 92),
    _percentile(
        4, 171, "the brightest 260 pixels are the bladder and hot spots, which vary more between "
        "patients than all else"
    ),
    Quantity("variance over mean of counts, flat regions", (1, 1), _NM1, lambda m: m.noise),
    Quantity(
        "variance over mean of grey over gain, flat regions", (1, 1), _CROPS,
        lambda m: m.grey_noise / m.gain,
    ),
    Quantity("gain, grey values a count", (1.97, 1.97), _CROPS, lambda m: m.gain),
    Quantity(
        "largest grey value of the chest crop", (59, 59), _CROPS, lambda m: m.chest[0],
        reason="one pixel decides it, in nine of ten crops at the joint of collar bone and "
        "breastbone, which is a little too bright in the phantom",
    ),
    Quantity("99th percentile of the chest crop", (30, 30), _CROPS, lambda m: m.chest[1]),
    Quantity("sum of grey of the chest crop", (90363, 90363), _CROPS, lambda m: m.chest[2]),
    _overall(
        "counts a view, median", (0.5e6, 1.2e6), "usual for BS-80K's scans",
        lambda patients: float(np.median([p.counts for p in patients])),
    ),
    _overall("boxes an annotated view", 23080 / 5479, _ANNOTATIONS, _boxes_per_view(_ANT, _POST)),
    _overall("boxes an annotated anterior view", 13823 / 2924, _ANNOTATIONS, _boxes_per_view(_ANT)),
    _overall(
        "boxes an annotated posterior view", 9257 / 2555, _ANNOTATIONS, _boxes_per_view(_POST),
        "spine and back ribs show their lesions best from behind, and here the same reader with "
        "the same thresholds boxes both views; BS-80K's readers box less there",
    ),
    _overall("box area, median, pixels", 90, _ANNOTATIONS, _median_area),
    _overall(
        "abnormal pixels, %", 0.07, _PUBLISHED, _pixel_share(0),
        "0.07 % at 1.3 boxes a view is 142 pixels a box in the mean if masks fill their boxes, "
        "181 as the ellipses counted here: with the same median of 90 pixels BS-80K has more very "
        "large boxes than lesions that stay within one bone and its neighbours",
    ),
    _overall("normal pixels, %", (0.11, 0.19), _PUBLISHED, _pixel_share(1)),
    _overall("anterior views without hot spots", 323 / 3247, _ANNOTATIONS, _none(_ANT)),
    _overall(
        "posterior views without hot spots", 692 / 3247, _ANNOTATIONS, _none(_POST),
        "a bladder that shows from behind is boxed here whenever it stands out",
    ),
    _overall("abnormal anterior views", 1183 / 3247, _ANNOTATIONS, _abnormal_views(_ANT)),
    _overall("abnormal posterior views", 1053 / 3247, _ANNOTATIONS, _abnormal_views(_POST)),
    _overall("Normal : Abnormal boxes, anterior", 9629 / 4194, _ANNOTATIONS, _normal_over_abnormal),
    _overall("malignant lesion over bone, median", 4.5, "literature", _lesion_contrast),
    _overall("malignant lesions in spine, ribs, pelvis", 0.7, "literature", _core_share),
)  # fmt: skip


def _row(quantity: Quantity, patients: Sequence[Measured]) -> Row:
    if quantity.each is not None:
        values = [quantity.each(patient) for patient in patients]
        simulated = float(np.median(values))
        interval = tuple(np.percentile(values, (10, 90)))
    else:
        assert quantity.overall is not None  # it has one of the two
        simulated = quantity.overall(patients)
        rng = np.random.default_rng(0)
        again = []
        for _ in range(200):
            picked = rng.integers(len(patients), size=len(patients))
            again.append(quantity.overall([patients[i] for i in picked]))
        interval = tuple(np.percentile(again, (2.5, 97.5)))
    low, high = quantity.measured
    nearest = min(max(simulated, low), high)
    row = (quantity.name, simulated, interval, quantity.measured, quantity.source)
    return Row(*row, ratio=simulated / nearest, reason=quantity.reason)


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def markdown(rows: Sequence[Row]) -> str:
    """Return the rows as a Markdown table, with the reason where one is off by more than 20 %."""
    lines = [
        "| quantity | simulated (interval) | measured | source | ratio | within 20 % |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        low, high = (_number(end) for end in row.measured)
        measured = low if low == high else f"{low} – {high}"
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
      The rows, and a summary: numbers of patients and rows, how many of these lie within 20 %,
      which do not, and how many patients a second `simulate_patient` makes in so many processes.

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
        "within_20_percent": sum(row.within for row in rows),
        "off": [row.quantity for row in rows if not row.within],
        "patients_per_second": round(processes / np.mean([p.seconds for p in patients]), 2),
    }
