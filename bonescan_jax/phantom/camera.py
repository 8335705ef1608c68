"""The simulated gamma camera: projection, attenuation, blur and scatter of a body's activity.

Every bone and organ is projected from its true depth, blurred by the collimator (FWHM = √(4² + (2 +
0.55 d)²) mm at d cm), attenuated by the tissue in between (0.12 /cm) and scattered (0.3 × a
Gaussian of σ 35 mm).
"""

import functools

import cv2
import numpy as np
from scipy import ndimage

from bonescan_jax.phantom.anatomy import skeleton
from bonescan_jax.phantom.body import Body
from bonescan_jax.scans import HEIGHT, WIDTH
from bonescan_jax.scans.bones import BONES, COARSE

ATTENUATION = 0.012  # per mm, effective (broad beam) at 140 keV
LUNG_SAVES = 0.55  # share of the attenuation that a path through lung spares
SCATTER, SCATTER_MM = 0.3, 35.0
TABLE_GAP = 20.0  # mm of table and mattress, beside the gap that there is in front as well
_SLABS = 6  # depth ranges, each with one blur


OUTLINE = 0.6  # of soft tissue's counts: where bone gives less it is not seen
# Bones of each of `BONES` after the first.
_STEMS = (
    ("skull",), ("face", "mandible"), ("C", "T", "L"), ("sacrum", "coccyx"),
    ("ilium", "ischium", "pubis"), ("rib",), ("sternum", "manubrium"), ("clavicle", "scapula"),
    ("humerus", "radius", "ulna", "hand"), ("femur", "tibia", "fibula"), ("patella",), ("foot",),
)  # fmt: skip


@functools.cache
def bone_numbers() -> np.ndarray:
    """Return the number in `BONES` of each point of the skeleton, uint8."""
    bones = skeleton()
    numbers = np.zeros(len(bones.points), np.uint8)
    for number, stems in enumerate(_STEMS, start=1):
        numbers[bones.indices(*stems)] = number
    return numbers


class Camera:
    """One view of a body: where each point is imaged, how strongly, and how blurred."""

    def __init__(self, body: Body, view: str) -> None:
        anterior = view == "anterior"
        flip = slice(None) if anterior else slice(None, None, -1)
        self.flip = flip
        self.thickness = body.thickness[:, flip]
        # Photons scatter in the body: there is little scatter beside it (air is 1 % in NM1).
        inside = cv2.GaussianBlur((self.thickness > 20).astype(np.float32), (0, 0), 3.0)
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
        self.passed = np.exp(-depth * self.attenuation.ravel()[pixel]) / body.pixel**2
        if anterior:  # the upper head follows the body's outline
            face = np.where(self.thickness > 0, body.middle[:, flip] + self.thickness / 2, 0).max(1)
            plane = ndimage.gaussian_filter1d(ndimage.maximum_filter1d(face, 150), 40) + body.gap
            distance = plane[row] - z
        else:
            distance = z + TABLE_GAP + min(body.gap, 60.0)
        self.sigmas = np.linspace(30, 260, _SLABS)
        step = self.sigmas[1] - self.sigmas[0]
        self.slab = np.clip(np.rint((distance - 30) / step), 0, _SLABS - 1).astype(np.int32)
        self.sigmas = np.hypot(4, 2 + 0.055 * self.sigmas) / 2.355 / body.pixel  # pixels

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

    def bone_map(self, weight: np.ndarray, tissue: np.ndarray) -> np.ndarray:
        """Of which bone most of what each pixel shows comes, (512, 128) uint8: `scans.bones`.

        Args:
          weight: (n,) activity of the points, those of the skeleton first.
          tissue: (1024, 256) what `soft_tissue` says: where bone gives less than `OUTLINE` of that
            there is none.
        """
        numbers = bone_numbers()
        high, wide = HEIGHT // COARSE, WIDTH // COARSE
        shown = slice(len(numbers))
        row, column = (
            np.clip(axis[shown] / COARSE, 0, most - 1).astype(np.int32)
            for axis, most in ((self.row, high), (self.column, wide))
        )
        place = (numbers.astype(np.int32) * high + row) * wide + column
        amounts = np.bincount(place, (weight * self.passed)[shown], len(BONES) * high * wide)
        amounts = amounts.reshape(len(BONES), high, wide).astype(np.float32)
        sigma = float(np.median(self.sigmas)) / COARSE
        blurred = np.stack([cv2.GaussianBlur(each, (0, 0), sigma) for each in amounts])
        around = cv2.resize(tissue, (wide, high), interpolation=cv2.INTER_AREA) * COARSE**2
        outside = blurred.sum(0) < OUTLINE * around
        return np.where(outside, 0, blurred.argmax(0)).astype(np.uint8)

    def soft_tissue(self, uptake: np.ndarray) -> np.ndarray:
        """Even uptake through the whole thickness, attenuated on its way out."""
        image = (
            uptake[:, self.flip]
            * (1 - np.exp(-self.attenuation * self.thickness))
            / self.attenuation
        )
        return cv2.GaussianBlur(image, (0, 0), 1.9)


def scatter(image: np.ndarray, pixel: float) -> np.ndarray:
    """Return the scattered part of an image: broad, so computed at a quarter of the size.

    Args:
      image: (1024, 256) counts that were not scattered.
      pixel: size of pixels, mm.
    """
    small = cv2.resize(image, (WIDTH // 4, HEIGHT // 4), interpolation=cv2.INTER_AREA)
    small = cv2.GaussianBlur(small, (0, 0), SCATTER_MM / pixel / 4, borderType=cv2.BORDER_CONSTANT)
    return SCATTER * cv2.resize(small, (WIDTH, HEIGHT), interpolation=cv2.INTER_LINEAR)
