"""Gain, overflow and the brightness of bone against the truth of simulated counts, after JPEG."""

import cv2
import numpy as np
import pytest

from bonescan_jax.errors import InputError
from bonescan_jax.scans.counts import bone_reference, estimate_gain, unwrap_grey
from bonescan_jax.scans.phantom import simulate_patient


def scan(gain: float = 1.0) -> np.ndarray:
    """Air, soft tissue and bone in the proportions of a real count image, Poisson noise."""
    rng = np.random.default_rng(0)
    expected = np.full((1024, 256), 0.3)
    expected[100:900, 60:200] = 18
    expected[100:900, 110:150] = 45
    expected[:50] = 0
    return np.floor(gain * rng.poisson(expected)).astype(np.int64)


def hot_body(gain: float, peak: float, sigma: float) -> np.ndarray:
    """Return round(gain × counts) (256, 128) with a Gaussian hot spot of such a peak in grey."""
    rng = np.random.default_rng(1)
    expected = np.full((256, 128), 0.1)
    expected[20:236, 20:108] = 8
    expected[60:200, 50:80] = 20
    expected = cv2.GaussianBlur(expected, (0, 0), 2)
    row, column = np.mgrid[:256, :128]
    distance = (row - 120) ** 2 + (column - 64) ** 2
    expected += peak / gain * np.exp(-distance / (2 * sigma**2))
    return np.rint(gain * rng.poisson(expected)).astype(np.int64)


def through_jpeg(grey: np.ndarray) -> np.ndarray:
    """Store as BS-80K does: modulo 256, JPEG of quality 100."""
    wrapped = (grey % 256).astype(np.uint8)
    _, data = cv2.imencode(".jpg", wrapped, [cv2.IMWRITE_JPEG_QUALITY, 100])
    return cv2.imdecode(data, cv2.IMREAD_UNCHANGED)


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


def test_lesions_all_over_the_skeleton_hardly_move_it(views):
    rng = np.random.default_rng(3)
    for view in views:
        reference = bone_reference(view.counts)
        bone = cv2.GaussianBlur(view.counts.astype(np.float32), (0, 0), 2) > 0.8 * reference
        rows, columns = np.nonzero(bone)
        chosen = rng.integers(len(rows), size=30)
        points = np.zeros(bone.shape, np.float32)
        points[rows[chosen], columns[chosen]] = 4 * reference * 2 * np.pi * 2.5**2
        lesions = rng.poisson(cv2.GaussianBlur(points, (0, 0), 2.5))
        np.testing.assert_allclose(bone_reference(view.counts + lesions), reference, rtol=0.15)


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
        found = estimate_gain(through_jpeg(np.rint(view.gain * view.counts).astype(np.int64)))
        np.testing.assert_allclose(found, view.gain, rtol=0.03)


@pytest.mark.parametrize("gain", [1.13, 1.5, 2.2, 3.0, 3.44])
def test_gain_of_a_small_crop(gain):
    grey = through_jpeg(hot_body(gain, 0, 4))[60:200, 30:100]
    np.testing.assert_allclose(estimate_gain(grey), gain, rtol=0.03)


def test_raw_counts_and_their_jpeg_have_a_gain_of_one(views):
    for view in views:
        assert estimate_gain(view.counts) == 1
        assert estimate_gain(view.counts.astype(np.float32)) == 1
        assert estimate_gain(through_jpeg(np.minimum(view.counts, 255))) == 1


def test_gain_of_a_16_bit_image(views):
    stretched = np.rint(17.3 * views[0].counts.astype(np.float64)).astype(np.uint16)
    np.testing.assert_allclose(estimate_gain(stretched), 17.3, rtol=0.01)


def test_a_hole_in_the_grey_values_does_not_move_the_gain():
    plain, hot = hot_body(2.2, 0, 6), hot_body(2.2, 1500, 6)
    np.testing.assert_allclose(
        estimate_gain(through_jpeg(hot)), estimate_gain(through_jpeg(plain)), rtol=0.01
    )


@pytest.mark.parametrize("gain", [1.0, 1.8, 3.2])
@pytest.mark.parametrize("sigma", [2.5, 8.0])
@pytest.mark.parametrize("peak", [300, 480, 700])
def test_overflow_is_undone(gain, sigma, peak):
    truth = hot_body(gain, peak, sigma)
    assert truth.max() >= 256
    scan = unwrap_grey(through_jpeg(truth))
    over = truth >= 256
    right = np.abs(scan.values.astype(np.int64) - truth) < 128
    assert right[over].mean() > (0.95 if truth.max() < 512 else 0.9)
    assert not scan.turns[~cv2.dilate(over.astype(np.uint8), np.ones((3, 3))).astype(bool)].any()


def test_total_of_a_hot_spot_that_wraps_four_times():
    truth = hot_body(2.0, 4.5 * 256, 6)
    values = unwrap_grey(through_jpeg(truth)).values
    np.testing.assert_allclose(values.sum(), truth.sum(), rtol=0.02)


def test_one_pixel_that_noise_carried_over():
    truth = hot_body(2.0, 0, 4)
    truth[118:123, 62:67] = np.maximum(truth[118:123, 62:67], 180)
    truth[119:122, 63:66], truth[120, 64] = 225, 262
    scan = unwrap_grey(through_jpeg(truth))
    assert np.argwhere(scan.turns).tolist() == [[120, 64]]


@pytest.mark.parametrize("sigma", [1.2, 3.0, 8.0])
def test_a_hot_spot_that_just_fits_stays_as_it_is(sigma):
    grey = through_jpeg(np.minimum(hot_body(1.5, 225, sigma), 255))
    assert grey.max() > 200
    scan = unwrap_grey(grey)
    assert not scan.turns.any()
    np.testing.assert_array_equal(scan.values, grey)


def test_views_without_overflow_stay_as_they_are(views):
    untouched = 0
    for view in views:
        truth = np.rint(view.gain * view.counts.astype(np.float64)).astype(np.int64)
        if truth.max() < 256:
            grey = through_jpeg(truth)
            np.testing.assert_array_equal(unwrap_grey(grey).values, grey)
            untouched += 1
    assert untouched


def test_the_parts_of_a_scan_agree():
    grey = through_jpeg(hot_body(2.0, 600, 5))
    scan = unwrap_grey(grey)
    np.testing.assert_array_equal(scan.values, grey + 256 * scan.turns.astype(np.uint16))
    assert scan.values.dtype == np.uint16
    assert scan.turns.dtype == np.uint8
    assert scan.gain == estimate_gain(grey)
    assert scan.reference == bone_reference(scan.values)


@pytest.mark.parametrize("shape", [(1, 1), (3, 40), (40, 3), (64, 64)])
def test_images_that_are_no_scans_do_not_fail(shape):
    noise = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    checks = (np.indices(shape).sum(axis=0) % 2 * 254 + 1).astype(np.uint8)
    flat = [np.full(shape, value, np.uint8) for value in (0, 1, 40, 255)]
    for grey in (*flat, noise, checks):
        assert unwrap_grey(grey).values.shape == shape


def test_only_8_bit_images_wrap():
    with pytest.raises(InputError, match="uint16"):
        unwrap_grey(np.zeros((8, 8), np.uint16))
