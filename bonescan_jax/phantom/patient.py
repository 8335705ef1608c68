"""Simulates whole-body bone scans: body, camera, noise, and an annotator who boxes hot spots.

A patient is a function of (seed, patient) alone: `simulate_patient` gives the same arrays in any
process and in any order. Counts have Poisson noise, which nothing modifies afterwards.
"""

from dataclasses import dataclass

import numpy as np

from bonescan_jax.phantom.annotator import annotate, merge_foci
from bonescan_jax.phantom.body import Body, draw_body
from bonescan_jax.phantom.camera import Camera, scatter
from bonescan_jax.phantom.uptake import HotSpot
from bonescan_jax.scans import VIEWS, WIDTH, Box

# Per view. BS-80K's chest crops hold 27,000–87,000 counts (5th to 95th percentile of grey sum over
# gain) and a crop is some 9 % of a view.
COUNTS = (0.4e6, 1.2e6)
GAIN = (1.0, 3.3)  # grey per count, as in BS-80K
GAIN_MEDIAN, GAIN_SPREAD = 1.9, 0.3  # log-normal: variance over mean of its chest crops
# BS-80K's export brings all scans to about one brightness: between its crops of gain 1 and of gain
# 3 the sum of grey values differs by a tenth. Gain × counts of a view, and its spread:
BRIGHTNESS, BRIGHTNESS_SPREAD = 0.91e6, 0.12


@dataclass(frozen=True)
class PhantomView:
    """One view of a simulated patient with its truth."""

    view: str  # "anterior" | "posterior"
    counts: np.ndarray  # (1024, 256) uint16 Poisson counts
    grey: np.ndarray  # (1024, 256) uint8, as `to_grey` makes it
    mask: np.ndarray  # (1024, 256) uint8 class of each pixel: visible hot-spot pixels, else 0
    boxes: tuple[Box, ...]
    gain: float
    field: tuple[int, int, int, int]  # scanned rows and columns: top, bottom, left, right


@dataclass(frozen=True)
class PhantomPatient:
    """Both views of a simulated patient, anterior first."""

    patient: int
    views: tuple[PhantomView, PhantomView]
    hot_spots: tuple[HotSpot, ...]  # all of them, visible or not
    child: bool
    stature: float  # mm


def simulate_view(
    body: Body, view: str, counts: float, gain: float, rng: np.random.Generator
) -> PhantomView:
    """Take one view of a body.

    Args:
      body: of the patient.
      view: one of VIEWS.
      counts: expected from the body; the air around it adds some.
      gain: grey values per count.
      rng: of the noise.
    """
    camera = Camera(body, view)
    image = camera.soft_tissue(body.tissue)
    bones, top, left = camera.project(body.weight)
    image[top : top + bones.shape[0], left : left + bones.shape[1]] += bones
    spots = []
    for spot in body.hot_spots:
        own, top, left = camera.project(spot.excess, spot.index)
        image[top : top + own.shape[0], left : left + own.shape[1]] += own
        spots.append((spot, own, top, left))
    image += scatter(image) * camera.scattering
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
    mask, boxes = annotate(merge_foci(seen), expected, field)
    return PhantomView(view, noisy, to_grey(noisy, gain), mask, boxes, gain, field)


def to_grey(counts: np.ndarray, gain: float) -> np.ndarray:
    """Return grey values (uint8) as BS-80K's are: min(255, round(gain × (counts mod 256))).

    The published formula, round(gain × counts) mod 256, makes no rings of exactly 255, as real
    scans have them; see `bonescan_jax.scans.unwrap`.
    """
    wrapped = (counts % 256).astype(np.float64)
    return np.minimum(np.rint(gain * wrapped), 255).astype(np.uint8)


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
