"""Maps of bones as files."""

import cv2
import numpy as np
import pytest

from bonescan_jax.scans.bones import BONES, decode_bones, encode_bones, window_of_bones


def test_a_map_comes_back_and_covers_the_scan():
    bones = np.random.default_rng(0).integers(0, len(BONES), (512, 128)).astype(np.uint8)
    coarse = decode_bones(encode_bones(bones))
    np.testing.assert_array_equal(coarse, bones)
    whole = np.repeat(np.repeat(bones, 2, 0), 2, 1)
    window = (slice(101, 164), slice(7, 40))
    np.testing.assert_array_equal(window_of_bones(coarse, window), whole[window])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "no picture"),
        (b"no PNG", "no picture"),
        (cv2.imencode(".png", np.zeros((1, 1), np.uint8))[1].tobytes(), r"\(1, 1\), expected"),
        (encode_bones(np.full((512, 128), 99, np.uint8)), "holds 99, expected less than 13"),
    ],
)
def test_what_is_no_map_is_refused(data: bytes, message: str):
    with pytest.raises(ValueError, match=message):
        decode_bones(data)
