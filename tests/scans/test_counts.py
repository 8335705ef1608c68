"""The brightness of bone: steady under hot spots, proportional to gain."""

import numpy as np

from bonescan_jax.scans.counts import bone_reference


def scan(gain: float = 1.0) -> np.ndarray:
    """Air, soft tissue and bone in the proportions of a real count image, Poisson noise."""
    rng = np.random.default_rng(0)
    expected = np.full((1024, 256), 0.3)
    expected[100:900, 60:200] = 18
    expected[100:900, 110:150] = 45
    expected[:50] = 0
    return np.floor(gain * rng.poisson(expected)).astype(np.int64)


def test_it_lies_on_bone_and_follows_the_gain():
    reference = bone_reference(scan())
    assert 35 < reference < 60
    np.testing.assert_allclose(bone_reference(scan(3)), 3 * reference, rtol=0.05)


def test_a_full_bladder_and_lesions_hardly_move_it():
    pixels = scan()
    hot = pixels.copy()
    hot[500:530, 110:150], hot[200:220, 120:140] = 2000, 300
    np.testing.assert_allclose(bone_reference(hot), bone_reference(pixels), rtol=0.05)


def test_kinds_of_pixels_do_not_matter():
    pixels = scan()
    assert bone_reference(pixels.astype(np.uint8)) == bone_reference(pixels.astype(np.float32))


def test_an_empty_scan_has_one():
    assert bone_reference(np.zeros((16, 16), np.uint8)) == 1.0
