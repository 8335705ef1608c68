"""Overflow against the truth of simulated counts, wrapped before or after the gain, after JPEG."""

import cv2
import numpy as np
import pytest

from bonescan_jax.errors import InputError
from bonescan_jax.phantom.patient import simulate_patient, to_grey
from bonescan_jax.scans.counts import bone_reference, estimate_gain
from bonescan_jax.scans.jpeg import decode_jpeg
from bonescan_jax.scans.unwrap import unwrap_grey, unwrapping_doubts
from tests.hot_spots import hot_body, sprinkled_jpeg, stretch, through_jpeg, wrap_after_gain


@pytest.mark.parametrize("gain", [1.0, 1.8, 3.2])
@pytest.mark.parametrize("sigma", [2.5, 8.0])
@pytest.mark.parametrize("turns", [1.2, 1.9, 2.7])
@pytest.mark.parametrize("wrapped_before_gain", [True, False])
def test_overflow_is_undone(gain, sigma, turns, wrapped_before_gain):
    period = 256 if wrapped_before_gain else 256 / gain
    counts = hot_body(turns * period, sigma)
    grey = through_jpeg((to_grey if wrapped_before_gain else wrap_after_gain)(counts, gain))
    scan, truth = unwrap_grey(grey), (counts / period).astype(int)
    assert truth.any()
    right = scan.turns == truth
    # At a gain of 3.2 only 80 of 256 counts are told apart, and the rest is 255.
    hard = wrapped_before_gain and gain > 3
    assert right[truth > 0].mean() > (0.7 if hard else 0.95 if truth.max() < 2 else 0.9)
    assert not scan.turns[
        ~cv2.dilate((truth > 0).astype(np.uint8), np.ones((3, 3))).astype(bool)
    ].any()
    exact = right & (grey < 254)
    np.testing.assert_allclose(scan.values[exact], stretch(counts, gain)[exact], rtol=0.03, atol=3)


@pytest.mark.parametrize("wrap", [to_grey, wrap_after_gain])
def test_total_of_a_hot_spot_that_wraps_four_times(wrap):
    counts = hot_body(4.5 * (256 if wrap is to_grey else 128), 6)
    values = unwrap_grey(through_jpeg(wrap(counts, 2.0))).values
    np.testing.assert_allclose(values.sum(dtype=float), 2.0 * counts.sum(), rtol=0.05)


def test_one_pixel_that_noise_carried_over():
    counts = hot_body(0, 4)
    counts[118:123, 62:67] = np.maximum(counts[118:123, 62:67], 90)
    counts[119:122, 63:66], counts[120, 64] = 113, 131
    scan = unwrap_grey(through_jpeg(wrap_after_gain(counts, 2.0)))
    assert np.argwhere(scan.turns).tolist() == [[120, 64]]


@pytest.mark.parametrize("sigma", [1.2, 3.0, 8.0])
def test_a_hot_spot_that_just_fits_stays_as_it_is(sigma):
    grey = through_jpeg(to_grey(hot_body(120, sigma), 1.5))
    assert 200 < grey.max() < 254
    scan = unwrap_grey(grey)
    assert not scan.turns.any()
    np.testing.assert_array_equal(scan.values, grey)


def test_a_hot_spot_that_was_only_clipped_gets_its_top_but_no_turns():
    counts, gain = hot_body(200, 6), 2.0
    grey = through_jpeg(to_grey(counts, gain))
    assert counts.max() < 256 and (grey >= 254).sum() > 40
    scan = unwrap_grey(grey)
    assert not scan.turns.any()
    assert (scan.values != grey).sum() <= (grey >= 254).sum()
    top = grey >= 254
    missing = gain * counts[top].sum() - grey[top].sum(dtype=float)
    added = scan.values[top].sum(dtype=float) - grey[top].sum(dtype=float)
    assert 0.3 * missing < added < 1.3 * missing
    assert scan.values.max() <= 255 * scan.gain + 1


def test_views_without_overflow_stay_as_they_are():
    untouched = 0
    for view in (view for patient in (1, 2, 3) for view in simulate_patient(5, patient).views):
        if (view.gain * view.counts).max() < 253:
            grey = through_jpeg(view.grey)
            np.testing.assert_array_equal(unwrap_grey(grey).values, grey)
            untouched += 1
    assert untouched


def test_the_parts_of_a_scan_agree():
    grey = through_jpeg(to_grey(hot_body(600, 5), 2.0))
    scan = unwrap_grey(grey)
    lost = scan.values.astype(float) - grey
    exact = grey < 254
    np.testing.assert_allclose(lost[exact], (256 * scan.gain * scan.turns)[exact], atol=0.51)
    assert (lost >= 0).all() and not lost[(scan.turns == 0) & exact].any()
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


def test_a_black_hole_in_a_hot_area_stays_black():
    y, x = np.mgrid[:128, :128]
    mean = 230 * np.exp(-((y - 64) ** 2 + (x - 64) ** 2) / 1500)
    grey = np.clip(np.random.default_rng(0).poisson(mean), 0, 253).astype(np.uint8)
    grey[58:70, 58:70] = 0
    assert (unwrap_grey(grey).values[58:70, 58:70] == 0).all()


def test_pixels_left_alone_are_told():
    grey = np.random.default_rng(0).integers(0, 256, (256, 256)).astype(np.uint8)
    grey[:, :100] = 5
    scan = unwrap_grey(grey)
    assert scan.left_alone > 3072
    assert "left as they are" in unwrapping_doubts(scan)[0]


def test_rough_hot_spots_are_told_and_others_not():
    rough = unwrap_grey(decode_jpeg(sprinkled_jpeg()))
    assert rough.turns.any() and not rough.left_alone
    (doubt,) = unwrapping_doubts(rough)
    assert "times as rough as noise makes them, expected at most 6" in doubt
    smooth = unwrap_grey(through_jpeg(to_grey(hot_body(600, 5), 2.0)))
    assert smooth.turns.any() and not unwrapping_doubts(smooth)
