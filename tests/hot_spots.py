"""Counts with one hot spot, and the grey values and JPEG files that they may come as."""

import cv2
import numpy as np


def hot_body(peak: float, sigma: float) -> np.ndarray:
    """Return counts (256, 128) int64 of a body with a Gaussian hot spot of such a peak."""
    rng = np.random.default_rng(1)
    expected = np.full((256, 128), 0.1)
    expected[20:236, 20:108] = 8
    expected[60:200, 50:80] = 20
    expected = cv2.GaussianBlur(expected, (0, 0), 2)
    row, column = np.mgrid[:256, :128]
    distance = (row - 120) ** 2 + (column - 64) ** 2
    expected += peak * np.exp(-distance / (2 * sigma**2))
    return rng.poisson(expected)


def stretch(counts: np.ndarray, gain: float) -> np.ndarray:
    """Return round(gain × counts), int64."""
    return np.rint(gain * counts.astype(np.float64)).astype(np.int64)


def wrap_after_gain(counts: np.ndarray, gain: float) -> np.ndarray:
    """Return grey values as published: round(gain × counts) mod 256."""
    return (stretch(counts, gain) % 256).astype(np.uint8)


def through_jpeg(grey: np.ndarray) -> np.ndarray:
    """Store uint8 as a JPEG file of quality 100 and read it again."""
    _, data = cv2.imencode(".jpg", grey, [cv2.IMWRITE_JPEG_QUALITY, 100])
    return cv2.imdecode(data, cv2.IMREAD_UNCHANGED)


def sprinkled_jpeg() -> bytes:
    """A whole-body view with bright pixels here and there, which no blurred hot spot has."""
    rng = np.random.default_rng(0)
    grey = rng.poisson(20, (1024, 256)).astype(np.uint8)
    grey[400:440, 100:140][rng.random((40, 40)) < 0.3] = 230
    grey[400:440, 100:140][rng.random((40, 40)) < 0.05] = 255
    return cv2.imencode(".jpg", grey, [cv2.IMWRITE_JPEG_QUALITY, 100])[1].tobytes()
