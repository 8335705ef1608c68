"""What a whole-body view measures, on bodies whose measures are known."""

import cv2
import numpy as np
import pytest

from bonescan_jax.phantom.features import view_features
from bonescan_jax.scans import HEIGHT, WIDTH

COUNTS = 400_000.0


def body(striped: float = 0.0, lopsided: float = 1.0) -> np.ndarray:
    """A rectangle of 600 × 80 pixels with a bright line, its spine, striped every 12 pixels."""
    image = np.zeros((HEIGHT, WIDTH), np.float32)
    image[50:650, 88:168] = 10
    image[50:650, 128:168] *= lopsided
    rows = np.arange(50, 650)
    image[50:650, 122:134] = 60 * (1 + striped * np.sin(2 * np.pi * rows / 12))[:, None]
    image = cv2.GaussianBlur(image, (0, 0), 1.5)
    return image * COUNTS / image.sum()


def noisy(image: np.ndarray, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).poisson(image).astype(np.uint16)


def test_size_and_place_of_the_body_are_found():
    found = view_features(noisy(body()), COUNTS)
    assert found["height of the body, pixels"] == pytest.approx(600, abs=12)
    assert found["area of the body, pixels"] == pytest.approx(600 * 80, rel=0.08)
    assert found["row of the crown"] == pytest.approx(50, abs=6)


def test_shares_of_the_bands_are_all_of_the_counts():
    found = view_features(noisy(body()), COUNTS)
    shares = [value for name, value in found.items() if name.endswith("share of counts, %")]
    assert len(shares) == 6 and sum(shares) == pytest.approx(100, abs=1)


def test_nothing_depends_on_the_unit_of_the_pixels():
    """Counts, or grey values of whatever gain, as 16-bit numbers."""
    counts = noisy(body())
    one, other = view_features(counts, COUNTS), view_features(counts * np.uint16(3), COUNTS)
    for name, value in one.items():
        assert other[name] == pytest.approx(value, rel=0.02, abs=0.01), name


def test_contrast_along_the_spine_is_that_of_its_stripes_and_not_of_the_noise():
    plain = view_features(noisy(body()), COUNTS)["spine: contrast along it"]
    striped = view_features(noisy(body(striped=0.3)), COUNTS)["spine: contrast along it"]
    assert plain < 0.025
    # Standard deviation of a sine, times what blurs of 1.5 (twice), less 1.5 and 4, pixels leave.
    wave = 2 * np.pi / 12
    left = np.exp(-((1.5 * wave) ** 2)) - np.exp(-((1.5**2 + 4.0**2) * wave**2) / 2)
    assert striped == pytest.approx(0.3 / np.sqrt(2) * left, rel=0.15)


def test_spine_over_its_sides_is_what_was_drawn():
    found = view_features(noisy(body()), COUNTS)
    assert found["thoracic spine over its sides"] == pytest.approx(6, rel=0.1)


def test_asymmetry_grows_with_the_difference_of_the_sides():
    even, uneven = (
        view_features(noisy(body(lopsided=times)), COUNTS)["asymmetry of the trunk"]
        for times in (1.0, 2.0)
    )
    assert uneven > even + 0.15


def test_an_empty_view_has_features_too():
    found = view_features(np.zeros((HEIGHT, WIDTH), np.uint16), 1.0)
    assert all(np.isfinite(value) for value in found.values())
