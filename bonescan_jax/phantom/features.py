"""Measures a whole-body view without knowing whether it is real or simulated."""

from typing import NamedTuple

import cv2
import numpy as np
from scipy import ndimage

from bonescan_jax.scans.counts import bone_reference

# Fractions of the body's height, from crown to toes.
BANDS = {
    "head": (0.0, 0.115),
    "neck and shoulders": (0.115, 0.21),
    "thorax": (0.21, 0.375),
    "abdomen and pelvis": (0.375, 0.54),
    "thighs and knees": (0.54, 0.74),
    "legs and feet": (0.74, 1.0),
}
_SMOOTH = 2.0  # pixels: below the camera's own blur
_BODY = 2.0  # parts per million of the view's sum: between air and soft tissue
_FEWEST = 100  # pixels that a contrast is measured on
_FINE, _COARSE = 1.5, 5.0  # pixels: local contrast is what lies between these two blurs


# The ribs in a crop of the right chest: its outer part, away from breastbone and kidney.
_RIB_ROWS, _RIB_COLUMNS = (0.3, 0.8), (0.0, 0.65)  # shares of the crop
_CUT = 5  # pixels along its cut edge that do not count
_FEWEST_RIBS = 150  # pixels
_RIB_SMOOTH = 1.2  # pixels: less noise, and ribs still as wide
_LAPLACE = 2.2  # pixels: a rib is about as wide as the Laplacian of a Gaussian of this size


def rib_features(crop: np.ndarray) -> dict[str, float] | None:
    """Measure the ribs in a crop of the right chest from in front, as BS-80K cuts it.

    Args:
        crop: (H, W) grey values after unwrapping, black outside of a polygon.

    Returns:
        Name and value of every feature, in grey values; None where too little is left of the crop.
    """
    values = crop.astype(np.float32)
    inside = cv2.morphologyEx((values > 0).astype(np.uint8), cv2.MORPH_CLOSE, np.ones((7, 7)))
    inside = np.pad(inside[1:-1, 1:-1], 1)
    inside = cv2.erode(inside, np.ones((2 * _CUT + 1,) * 2, np.uint8))
    rows, columns = np.nonzero(inside)
    if not len(rows):
        return None
    chosen = np.zeros(crop.shape, bool)
    chosen[_part(rows, _RIB_ROWS), _part(columns, _RIB_COLUMNS)] = True
    chosen &= inside > 0
    if chosen.sum() < _FEWEST_RIBS:
        return None
    smooth = cv2.GaussianBlur(values, (0, 0), _RIB_SMOOTH)[chosen]
    edges = _LAPLACE**2 * ndimage.gaussian_laplace(values, _LAPLACE)[chosen]
    return {
        "median": float(np.median(smooth)),
        "95th percentile": float(np.percentile(smooth, 95)),
        "local contrast": float(edges.std()),
    }


def _part(places: np.ndarray, shares: tuple[float, float]) -> slice:
    """The part of an axis between two shares of where `places` lie on it."""
    first, length = int(places.min()), int(np.ptp(places))
    return slice(first + int(shares[0] * length), first + int(shares[1] * length))


class _Geometry(NamedTuple):
    """Where the body lies in a view."""

    body: np.ndarray  # (H, W) bool
    top: int  # first row of the body
    height: int  # rows
    middle: np.ndarray  # (height,) column of the midline


def view_features(pixels: np.ndarray, counts: float) -> dict[str, float]:
    """Measure one whole-body view.

    Args:
        pixels: (H, W) counts, or grey values after unwrapping; any unit.
        counts: of the view: how strong its noise is.

    Returns:
        Name and value of every feature. Brightness is in parts per million of the view's sum, so
        that it means the same whatever the gain; contrasts are free of the share of noise.
    """
    share = pixels.astype(np.float32) * np.float32(1e6 / max(float(pixels.sum()), 1.0))
    smooth = cv2.GaussianBlur(share, (0, 0), _SMOOTH)
    place = _locate(smooth)
    found = {
        "height of the body, pixels": float(place.height),
        "area of the body, pixels": float(place.body.sum()),
        "row of the crown": float(place.top),
    }
    found |= _band_features(share, smooth, place)
    found |= _texture_features(share, place, 1e6 / counts)
    found |= _spine_features(share, smooth, place, 1e6 / counts)
    found["asymmetry of the trunk"] = _asymmetry(share, place)
    found["bone reference"] = 1e6 * bone_reference(pixels) / max(float(pixels.sum()), 1.0)
    return {name: float(value) for name, value in found.items()}


def _locate(smooth: np.ndarray) -> _Geometry:
    """Find the body in a smoothed view (H, W): the largest part above air."""
    number, labels, stats, _ = cv2.connectedComponentsWithStats(
        (smooth > _BODY).astype(np.uint8), connectivity=4
    )
    if number == 1:
        return _Geometry(smooth > _BODY, 0, len(smooth), np.full(len(smooth), smooth.shape[1] / 2))
    body = labels == 1 + np.argmax(stats[1:, cv2.CC_STAT_AREA])
    rows = np.flatnonzero(body.sum(1) >= 6)
    top, height = int(rows[0]), int(rows[-1] - rows[0] + 1)
    part = np.where(body, smooth, 0)[top : top + height]
    columns = np.arange(smooth.shape[1])
    broad = max(1, round(0.04 * height))
    # The spine is the brightest near the middle; without one, in the legs, the body's own middle.
    centre = _follow(part, columns, broad)
    near = np.abs(columns - centre[:, None]) < 0.05 * height
    return _Geometry(body, top, height, _follow(part**2 * near, columns, broad))


def _follow(weight: np.ndarray, columns: np.ndarray, broad: int) -> np.ndarray:
    """Return the centroid (H,) of each row of weights (H, W), averaged over rows around it."""
    moment, mass = (
        np.convolve(np.pad(v, broad, mode="edge"), np.ones(2 * broad + 1), "valid")
        for v in ((weight * columns).sum(1), weight.sum(1))
    )
    return moment / np.maximum(mass, 1e-6)


def _rows(place: _Geometry, first: float, last: float) -> slice:
    """Return the rows between two fractions of the body's height."""
    return slice(
        place.top + round(first * place.height), place.top + max(1, round(last * place.height))
    )


def _band_features(share: np.ndarray, smooth: np.ndarray, place: _Geometry) -> dict[str, float]:
    found = {}
    for name, (first, last) in BANDS.items():
        rows = _rows(place, first, last)
        body = place.body[rows]
        values = smooth[rows][body]
        found[f"{name}: share of counts, %"] = float(share[rows].sum() / 1e4)
        found[f"{name}: body pixels a row"] = float(body.sum() / max(1, len(body)))
        for percent in (25.0, 50.0, 95.0):
            found[f"{name}: {percent:g}th percentile"] = _percentile(values, percent)
    for percent in (90.0, 99.0, 99.9):
        found[f"{percent:g}th percentile of the body"] = _percentile(smooth[place.body], percent)
    return found


def _percentile(values: np.ndarray, percent: float) -> float:
    return float(np.percentile(values, percent)) if len(values) else 0.0


def _contrast(share: np.ndarray, where: np.ndarray, unit: float) -> float:
    """Return local contrast: standard deviation between two blurs over the mean, without noise.

    Args:
        share: (H, W), in parts per million.
        where: (H, W) bool.
        unit: parts per million that a count is worth: variance over mean of the noise.
    """
    if np.count_nonzero(where) < _FEWEST:
        return 0.0
    between = cv2.GaussianBlur(share, (0, 0), _FINE) - cv2.GaussianBlur(share, (0, 0), _COARSE)
    mean = float(share[where].mean())
    impulse = np.zeros((61, 61), np.float32)
    impulse[30, 30] = 1
    impulse = cv2.GaussianBlur(impulse, (0, 0), _FINE) - cv2.GaussianBlur(impulse, (0, 0), _COARSE)
    noise = unit * mean * float((impulse**2).sum())
    return float(np.sqrt(max(0.0, float(between[where].var()) - noise)) / max(mean, 1e-6))


# Name, rows as fractions of the height, distance from the midline as fractions of the height.
_TEXTURES = (
    ("head", 0.0, 0.115, 0.0, 0.05),
    ("shoulders", 0.13, 0.19, 0.06, 0.16),
    ("ribs", 0.22, 0.34, 0.025, 0.085),
    ("pelvis", 0.375, 0.48, 0.0, 0.095),
    ("thighs", 0.52, 0.62, 0.0, 0.12),
    ("knees", 0.64, 0.74, 0.0, 0.12),
    ("legs", 0.76, 0.9, 0.0, 0.12),
)


def _zone(place: _Geometry, rows: slice, near: float, far: float) -> np.ndarray:
    """Return (H, W) bool: the body's pixels of some rows at some distance from the midline."""
    zone = np.zeros_like(place.body)
    middle = place.middle[rows.start - place.top : rows.stop - place.top, None]
    away = np.abs(np.arange(zone.shape[1]) - middle) / place.height
    zone[rows] = (away >= near) & (away < far) & place.body[rows]
    return zone


def _texture_features(share: np.ndarray, place: _Geometry, unit: float) -> dict[str, float]:
    found = {}
    for name, first, last, near, far in _TEXTURES:
        zone = _zone(place, _rows(place, first, last), near, far)
        found[f"{name}: local contrast"] = _contrast(share, zone, unit)
    return found


def _spine_features(
    share: np.ndarray, smooth: np.ndarray, place: _Geometry, unit: float
) -> dict[str, float]:
    """How bright the spine is over its sides, and how well its vertebrae can be told apart."""
    found = {}
    for name, first, last in (("thoracic", 0.2, 0.3), ("lumbar", 0.31, 0.39)):
        rows = _rows(place, first, last)
        spine, beside = (
            float(smooth[zone].mean()) if zone.any() else 0.0
            for zone in (_zone(place, rows, 0, 0.007), _zone(place, rows, 0.03, 0.04))
        )
        found[f"{name} spine over its sides"] = spine / max(beside, 1e-6)
        found[f"{name} spine: brightness"] = spine
    rows = _rows(place, 0.18, 0.39)
    middle = place.middle[rows.start - place.top : rows.stop - place.top]
    half = max(2, round(0.01 * place.height))
    columns = np.rint(middle)[:, None].astype(int) + np.arange(-half, half + 1)
    columns = np.clip(columns, 0, share.shape[1] - 1)
    strip = np.take_along_axis(share[rows], columns, axis=1)
    found["spine: contrast along it"] = _ripple(strip.mean(1), unit / strip.shape[1])
    return found


def _ripple(profile: np.ndarray, unit: float) -> float:
    """Return the standard deviation of a profile (n,) between two blurs over its mean."""

    def blur(values: np.ndarray, sigma: float) -> np.ndarray:
        return cv2.GaussianBlur(values.astype(np.float32)[None], (0, 1), sigma, sigmaY=0.01)[0]

    impulse = np.zeros(61)
    impulse[30] = 1
    between = (blur(profile, 1.5) - blur(profile, 4.0))[4:-4]
    power = float(((blur(impulse, 1.5) - blur(impulse, 4.0)) ** 2).sum())
    noise = unit * float(profile.mean()) * power
    return float(np.sqrt(max(0.0, float(between.var()) - noise)) / max(float(profile.mean()), 1e-6))


def _asymmetry(share: np.ndarray, place: _Geometry) -> float:
    """Return the mean difference of left and right over their mean, from shoulder to hip."""
    blurred = cv2.GaussianBlur(share, (0, 0), 4.0)
    rows = _rows(place, 0.15, 0.48)
    middle = place.middle[rows.start - place.top : rows.stop - place.top, None]
    reach = np.arange(1, round(0.1 * place.height), dtype=np.float32)
    sides = []
    for sign in (-1, 1):
        columns = np.clip(middle + sign * reach, 0, share.shape[1] - 1).astype(np.float32)
        lines = np.broadcast_to(
            np.arange(rows.start, rows.stop, dtype=np.float32)[:, None], columns.shape
        )
        sides.append(cv2.remap(blurred, columns, np.ascontiguousarray(lines), cv2.INTER_LINEAR))
    left, right = sides
    return float(np.abs(left - right).mean() / max(float((left + right).mean() / 2), 1e-6))
