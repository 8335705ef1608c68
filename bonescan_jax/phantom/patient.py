"""Simulates whole-body bone scans: body, camera, noise, and an annotator who boxes hot spots.

A patient is a function of (seed, patient) alone: `simulate_patient` gives the same arrays in any
process and in any order. Counts have Poisson noise, which nothing modifies afterwards.
"""

from dataclasses import dataclass

import numpy as np

from bonescan_jax.phantom.annotator import USUAL, Reader, annotate, merge_foci
from bonescan_jax.phantom.body import PIXEL_MM, Body, draw_body
from bonescan_jax.phantom.camera import Camera, scatter
from bonescan_jax.phantom.uptake import HotSpot
from bonescan_jax.scans import VIEWS, Box
from bonescan_jax.scans.bones import COARSE
from bonescan_jax.scans.export import as_exported

COUNTS = (0.1e6, 1.0e6)  # per view
# Fourteen patients of whom whole-body views are known have 280,000 to 975,000, half of them under
# 410,000; of the chest crops the gain, 1.1 to 2.4, says 430,000 to 930,000.
COUNTS_MEDIAN, COUNTS_SPREAD = 0.46e6, 0.38
LOW_COUNTS, LOW_SHARE = (0.1e6, 0.26e6), 0.04  # scans cut short, or late after the injection
# BS-80K's export brings every view to one sum of grey values: of 24 real views it is within a
# percent or two of this, while their gains run from 1.05 to 3.65.
BRIGHTNESS, BRIGHTNESS_SPREAD = 1.022e6, 0.006
BEHIND = 1.2  # BS-80K's readers box less from behind: so much more has to stand out there


@dataclass(frozen=True)
class PhantomView:
    """One view of a simulated patient with its truth."""

    view: str  # "anterior" | "posterior"
    counts: np.ndarray  # (1024, 256) uint16 Poisson counts
    grey: np.ndarray  # (1024, 256) uint8, as `as_exported` and `to_grey` make it
    mask: np.ndarray  # (1024, 256) uint8 class of each pixel: visible hot-spot pixels, else 0
    boxes: tuple[Box, ...]
    gain: float
    field: tuple[int, int, int, int]  # scanned rows and columns: top, bottom, left, right
    bones: np.ndarray  # (512, 128) uint8: `scans.bones`
    pixel: float = PIXEL_MM  # mm


@dataclass(frozen=True)
class PhantomPatient:
    """Both views of a simulated patient, anterior first."""

    patient: int
    views: tuple[PhantomView, PhantomView]
    hot_spots: tuple[HotSpot, ...]  # all of them, visible or not
    child: bool
    stature: float  # mm


def simulate_view(
    body: Body,
    view: str,
    counts: float,
    rng: np.random.Generator,
    brightness: float = BRIGHTNESS,
    reader: Reader = USUAL,
) -> PhantomView:
    """Take one view of a body.

    Args:
      body: of the patient.
      view: one of VIEWS.
      counts: expected from the body; the air around it adds some.
      rng: of the noise.
      brightness: sum of grey values that the gain brings the view to.
      reader: who boxes it.
    """
    camera = Camera(body, view)
    image = camera.soft_tissue(body.tissue)
    regions = camera.bone_map(body.weight, image)
    bones, top, left = camera.project(body.weight)
    image[top : top + bones.shape[0], left : left + bones.shape[1]] += bones
    spots = []
    for spot in body.hot_spots:
        own, top, left = camera.project(spot.excess, spot.index)
        image[top : top + own.shape[0], left : left + own.shape[1]] += own
        spots.append((spot, own, top, left))
    image += scatter(image, body.pixel) * camera.scattering
    top, bottom, left, right = body.field
    scanned = np.zeros_like(image)
    scanned[top:bottom, left:right] = 1
    image *= scanned
    scale = counts / float(image.sum())
    # Septal penetration and scatter reach far: 0.08 to 0.25 parts per million beside real bodies.
    air = counts * 1e-6 * rng.uniform(0.07, 0.22)
    expected = image * scale + air * scanned
    noisy = np.minimum(rng.poisson(expected), 65535).astype(np.uint16)
    seen = [(spot, own * scale, r, c) for spot, own, r, c in spots]
    field = (top, bottom, left, right)
    mask, boxes = annotate(merge_foci(seen), expected, field, reader)
    gain = brightness / max(1.0, float(noisy.sum()))
    grey = to_grey(as_exported(noisy, gain), gain)
    regions[scanned[::COARSE, ::COARSE] == 0] = 0
    return PhantomView(view, noisy, grey, mask, boxes, gain, field, regions, body.pixel)


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


def simulate_patient(seed: int, patient: int, rule: str = "bs80k") -> PhantomPatient:
    """Simulate both views of a patient.

    Args:
      seed: of the whole data set.
      patient: number within it.
      rule: which hot spots are Abnormal, one of `uptake.CLASS_RULES`.

    Returns:
      The patient; the same for the same (seed, patient, rule), whatever was simulated before. The
      counts of the two views differ by a few percent, and with them their gains.
    """
    rng = patient_generator(seed, patient)
    body = draw_body(rng, rule)
    counts = COUNTS_MEDIAN * np.exp(rng.normal(0, COUNTS_SPREAD))
    if rng.random() < LOW_SHARE:
        counts = rng.uniform(*LOW_COUNTS)
    reader = Reader(float(np.exp(rng.normal(0, 0.3))), bool(rng.random() < 0.85))
    views = []
    for view in VIEWS:
        total = float(np.clip(counts * rng.normal(1, 0.03), COUNTS[0] * 1.02, COUNTS[1] * 0.95))
        brightness = BRIGHTNESS * float(np.exp(rng.normal(0, BRIGHTNESS_SPREAD)))
        views.append(simulate_view(body, view, total, rng, brightness, reader))
        reader = reader._replace(strictness=BEHIND * reader.strictness)
    return PhantomPatient(patient, (views[0], views[1]), body.hot_spots, body.child, body.stature)
