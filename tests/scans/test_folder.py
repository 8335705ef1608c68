"""Own scans: what comes back of a source, and what is left out and why."""

import cv2
import numpy as np
import pytest

from bonescan_jax.errors import InputError
from bonescan_jax.scans import VIEWS
from bonescan_jax.scans.folder import open_folder
from tests.hot_spots import hot_body, stretch, wrap_after_gain
from tests.layout import voc
from tests.own_scans import (
    HOT_SPOTS,
    coco,
    decoded,
    mask,
    write_png,
    write_views,
)

BOXES = {(column, row, column + 6, row + 8, label) for row, column, label in HOT_SPOTS}


def test_counts_of_16_bits_and_masks_come_back_as_they_are(tmp_path):
    written = write_views(tmp_path)
    for patient, view in written:
        write_png(tmp_path / f"{patient}-{view}_mask.png", mask())
    source = open_folder(tmp_path)
    assert source.patients == (1, 2, 3)
    assert source.missing == []
    for (patient, view), pixels in written.items():
        scan = source.read(patient, view)
        np.testing.assert_array_equal(decoded(scan.image), pixels)
        np.testing.assert_array_equal(decoded(scan.mask), mask())
        assert set(scan.boxes) == BOXES
        assert (scan.gain, scan.abnormal, len(scan.overflow)) == (1, True, 0)


@pytest.mark.parametrize(
    ("suffix", "options"), [(".png", []), (".jpg", [cv2.IMWRITE_JPEG_QUALITY, 100])]
)
def test_8_bit_values_are_unwrapped_only_where_it_is_asked_for(tmp_path, suffix, options):
    """The hot spot is known from simulated counts, and the view is smaller than a record."""
    truth, (top, left) = stretch(hot_body(400, 6), 2.0), (384, 64)
    stored = wrap_after_gain(hot_body(400, 6), 2.0)
    data = cv2.imencode(suffix, stored, options)[1].tobytes()
    for view in VIEWS:
        (tmp_path / f"1-{view}{suffix}").write_bytes(data)
    wrapped = open_folder(tmp_path, unannotated="empty")
    scan = wrapped.read(1, "anterior")
    kept = decoded(scan.image)[top : top + 256, left : left + 128]
    np.testing.assert_array_equal(kept, decoded(data))
    assert len(scan.overflow) == 0

    unwrapped = open_folder(tmp_path, unannotated="empty", unwrap=True)
    assert unwrapped.fingerprint == wrapped.fingerprint
    scan = unwrapped.read(1, "anterior")
    values = decoded(scan.image).astype(int)
    assert values.max() <= 255
    values.ravel()[scan.overflow[:, 0]] = scan.overflow[:, 1]
    found = values[top : top + 256, left : left + 128]
    assert values.sum() == found.sum()  # nothing outside
    hot = truth > 255
    assert hot.sum() > 200
    assert (np.abs(found - truth)[hot] <= 4).mean() > 0.95
    assert scan.gain == pytest.approx(2, rel=0.05)


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("1-anterior.xml", voc().replace("Abnormal", "Lesion"), "name is 'Lesion', expected"),
        ("1-anterior.xml", "<annotation", "is not well-formed XML"),
        ("1-anterior_mask.png", mask() * 3, "holds the value 6, expected 0"),
        ("1-anterior_mask.png", mask(900, 256), "size is 900x256, expected 1024x256"),
        ("1-anterior.png", b"\x89PNG\r\n\x1a\nno", "1-anterior.png: is a PNG with colours"),
        ("boxes.json", coco(["1-anterior.png"], width=255), "width in the COCO file is 255"),
    ],
)
def test_what_cannot_be_read_leaves_the_patient_out(tmp_path, name, content, sentence):
    write_views(tmp_path)
    if isinstance(content, np.ndarray):
        write_png(tmp_path / name, content)
    elif isinstance(content, bytes):
        (tmp_path / name).write_bytes(content)
    else:
        (tmp_path / name).write_text(content)
    with pytest.raises(InputError) as error:
        open_folder(tmp_path, unannotated="empty", strict=True)
    assert sentence in str(error.value)
    assert str(error.value).endswith("defects, expected none.")
    source = open_folder(tmp_path, unannotated="empty")
    assert source.patients == (2, 3)
