"""Orientation against OpenCV, which turns images unless it is told not to."""

import cv2
import numpy as np
import pytest

from bonescan_jax.scans.exif import read_orientation, turn
from tests.exif import with_orientation

IMAGE = np.random.default_rng(0).integers(0, 256, (24, 16)).astype(np.uint8)
JPEG, PNG = (cv2.imencode(suffix, IMAGE)[1].tobytes() for suffix in (".jpg", ".png"))


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_turned_as_viewers_turn_them(orientation, order):
    data = np.frombuffer(with_orientation(JPEG, orientation, order), np.uint8)
    assert read_orientation(data.tobytes()) == orientation
    assert read_orientation(with_orientation(PNG, orientation, order)) == orientation
    stored = cv2.imdecode(data, cv2.IMREAD_GRAYSCALE | cv2.IMREAD_IGNORE_ORIENTATION)
    shown = cv2.imdecode(data, cv2.IMREAD_GRAYSCALE)
    np.testing.assert_array_equal(turn(stored, orientation), shown)


def test_a_header_that_cannot_be_read_turns_nothing():
    for image in (JPEG, PNG):
        assert read_orientation(image) == 1
        for orientation in (0, 9, 65535):
            assert read_orientation(with_orientation(image, orientation)) == 1
        whole = with_orientation(image, 3)
        for end in range(90):
            assert read_orientation(whole[:end]) in (1, 3)
        rng = np.random.default_rng(0)
        for _ in range(200):
            damaged = bytearray(whole)
            for at in rng.integers(2, 80, 4):
                damaged[at] = rng.integers(256)
            assert read_orientation(bytes(damaged)) in range(1, 9)
