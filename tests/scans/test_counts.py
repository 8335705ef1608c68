"""Gain and the brightness of bone against the truth of simulated counts, after JPEG."""

import cv2
import numpy as np
import pytest

from bonescan_jax.phantom.patient import simulate_patient, to_grey
from bonescan_jax.scans.counts import bone_reference, estimate_gain
from tests.hot_spots import hot_body, through_jpeg


def scan(gain: float = 1.0) -> np.ndarray:
    """Air, soft tissue and bone in the proportions of a real count image, Poisson noise."""
    rng = np.random.default_rng(0)
    expected = np.full((1024, 256), 0.3)
    expected[100:900, 60:200] = 18
    expected[100:900, 110:150] = 45
    expected[:50] = 0
    return np.floor(gain * rng.poisson(expected)).astype(np.int64)


@pytest.fixture(scope="module")
def views():
    return [view for patient in (1, 2, 3) for view in simulate_patient(5, patient).views]


def test_it_lies_on_bone_and_follows_the_gain():
    reference = bone_reference(scan())
    assert 35 < reference < 60
    np.testing.assert_allclose(bone_reference(scan(3)), 3 * reference, rtol=0.05)


def test_a_full_bladder_and_lesions_hardly_move_it():
    pixels = scan()
    hot = pixels.copy()
    hot[500:530, 110:150], hot[200:220, 120:140] = 2000, 300
    np.testing.assert_allclose(bone_reference(hot), bone_reference(pixels), rtol=0.02)


@pytest.mark.parametrize(("number", "most"), [(30, 0.1), (120, 0.18)])
def test_lesions_all_over_the_skeleton_hardly_move_it(views, number, most):
    rng, changes = np.random.default_rng(3), []
    for view in views:
        reference = bone_reference(view.counts)
        bone = cv2.GaussianBlur(view.counts.astype(np.float32), (0, 0), 2) > 0.8 * reference
        rows, columns = np.nonzero(bone)
        chosen = rng.integers(len(rows), size=number)
        points = np.zeros(bone.shape, np.float32)
        points[rows[chosen], columns[chosen]] = 4 * reference * 2 * np.pi * 2.5**2
        lesions = rng.poisson(cv2.GaussianBlur(points, (0, 0), 2.5))
        changes.append(abs(bone_reference(view.counts + lesions) / reference - 1))
    # One view in twenty has soft tissue so near to bone that 120 lesions move it by a quarter.
    assert np.median(changes) < most / 2
    assert max(changes) < 1.5 * most


def test_half_the_counts_have_half_the_reference(views):
    counts = views[0].counts
    half = np.random.default_rng(4).binomial(counts, 0.5)
    np.testing.assert_allclose(bone_reference(half), bone_reference(counts) / 2, rtol=0.06)


def test_kinds_of_pixels_do_not_matter():
    pixels = scan()
    assert bone_reference(pixels.astype(np.uint8)) == bone_reference(pixels.astype(np.float32))


def test_an_empty_scan_has_one():
    assert bone_reference(np.zeros((16, 16), np.uint8)) == 1.0


def test_gain_of_phantoms_after_jpeg(views):
    for view in views:
        found = estimate_gain(through_jpeg(view.grey))
        np.testing.assert_allclose(found, view.gain, rtol=0.03)


@pytest.mark.parametrize("gain", [1.13, 1.5, 2.2, 3.0, 3.44])
def test_gain_of_a_small_crop(gain):
    grey = through_jpeg(to_grey(hot_body(0, 4), gain))[60:200, 30:100]
    np.testing.assert_allclose(estimate_gain(grey), gain, rtol=0.03)


def test_raw_counts_and_their_jpeg_have_a_gain_of_one(views):
    for view in views:
        assert estimate_gain(view.counts) == 1
        assert estimate_gain(view.counts.astype(np.float32)) == 1
        assert estimate_gain(through_jpeg(np.minimum(view.counts, 255).astype(np.uint8))) == 1


def test_gain_of_a_16_bit_image(views):
    stretched = np.rint(17.3 * views[0].counts.astype(np.float64)).astype(np.uint16)
    np.testing.assert_allclose(estimate_gain(stretched), 17.3, rtol=0.01)


def test_a_hole_in_the_grey_values_does_not_move_the_gain():
    plain, hot = (through_jpeg(to_grey(hot_body(peak, 6), 2.2)) for peak in (0, 700))
    np.testing.assert_allclose(estimate_gain(hot), estimate_gain(plain), rtol=0.01)


@pytest.mark.parametrize("scale", [2.0**-20, 2.0**-7, 1e-3, 5e4])
def test_brightness_of_bone_follows_the_unit(scale):
    y, x = np.mgrid[:256, :128]
    counts = np.random.default_rng(0).poisson(60 * np.exp(-((y - 128) ** 2 + (x - 64) ** 2) / 3000))
    expected = bone_reference(counts.astype(np.float32))
    scaled = bone_reference((counts * scale).astype(np.float32))
    assert scaled == pytest.approx(expected * scale, rel=0.01)
