"""Overflow: what is stored gives back what was unwrapped, in order, whoever does the work."""

import cv2
import numpy as np

from bonescan_jax.phantom.patient import to_grey
from bonescan_jax.scans import HEIGHT, WIDTH, overflow
from bonescan_jax.scans.overflow import find_overflow, find_overflows, start_workers
from bonescan_jax.scans.unwrap import unwrap_grey


def images(number: int) -> list[bytes]:
    """Views with a hot spot that runs over 255, each at a place of its own."""
    rows, columns = np.indices((HEIGHT, WIDTH))
    made = []
    for index in range(number):
        rng = np.random.default_rng(index)
        distance = (rows - 100 - 40 * index) ** 2 + (columns - 120) ** 2
        grey = to_grey(rng.poisson(8 + 400 * np.exp(-distance / 200)), 2.0)
        encoded = cv2.imencode(".jpg", grey, [cv2.IMWRITE_JPEG_QUALITY, 100])
        made.append(encoded[1].tobytes())
    return made


def test_what_is_stored_gives_back_the_unwrapped_values():
    (image,) = images(1)
    grey = cv2.imdecode(np.frombuffer(image, np.uint8), cv2.IMREAD_GRAYSCALE)
    expected = unwrap_grey(grey)
    assert expected.turns.any()
    found = find_overflow(image)
    assert found.values.dtype == np.int32
    assert found.values.shape[1] == 2
    values = grey.astype(np.uint16)
    values.ravel()[found.values[:, 0]] = found.values[:, 1]
    np.testing.assert_array_equal(values, expected.values)
    assert (found.gain, found.reference) == (expected.gain, expected.reference)


def test_damage_is_not_taken_for_overflow():
    damaged = np.zeros((HEIGHT, WIDTH), np.uint8)
    damaged[512:] = 255
    options = [cv2.IMWRITE_JPEG_QUALITY, 100]
    assert not len(find_overflow(cv2.imencode(".jpg", damaged, options)[1].tobytes()).values)


def test_processes_and_a_thread_give_the_same_in_order(monkeypatch):
    made = images(5)
    expected = [find_overflow(image) for image in made]
    for most_in_this_process in (1000, 1):
        monkeypatch.setattr(overflow, "_MIN_SCANS", most_in_this_process)
        monkeypatch.setattr(overflow, "_AHEAD", 1)
        with start_workers(len(made)) as workers:
            pairs = list(find_overflows(enumerate(made), workers))
        assert [number for number, _ in pairs] == list(range(5))
        for (_, found), wanted in zip(pairs, expected, strict=True):
            np.testing.assert_equal(found, wanted)
