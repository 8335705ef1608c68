"""Own scans: boxes and masks, and what a scan without any is."""

import numpy as np
import pytest

from bonescan_jax.errors import InputError
from bonescan_jax.scans import ABNORMAL, HEIGHT, NORMAL, VIEWS, WIDTH
from bonescan_jax.scans.folder import open_folder
from tests.layout import voc
from tests.own_scans import (
    coco,
    count_reasons,
    decoded,
    mask,
    write_png,
    write_views,
)


def test_voc_and_coco_boxes_are_read_by_the_names_that_are_given(tmp_path):
    write_views(tmp_path)
    for patient, view in ((1, "anterior"), (1, "posterior"), (2, "anterior"), (2, "posterior")):
        (tmp_path / f"{patient}-{view}.xml").write_text(voc(((100, 300, 108, 305, NORMAL),)))
    names = [f"3-{view}.png" for view in VIEWS]
    (tmp_path / "boxes.json").write_text(coco(names, "Metastasis", height=HEIGHT, width=WIDTH))
    source = open_folder(tmp_path, classes={"Metastasis": "abnormal"})
    assert source.read(1, "anterior").boxes == ((100, 300, 108, 305, NORMAL),)
    assert source.read(3, "posterior").boxes == ((100, 300, 108, 305, ABNORMAL),)
    with pytest.raises(InputError, match=r"boxes\.json: category is 'Metastasis', expected"):
        open_folder(tmp_path)


def test_a_scan_without_annotation_is_left_out_or_empty_by_choice(tmp_path):
    written = write_views(tmp_path, 4)
    for patient, view in written:
        if patient > 1:
            write_png(tmp_path / "masks" / f"{patient}-{view}.png", mask())
    source = open_folder(tmp_path)
    assert source.patients == (2, 3, 4)
    assert count_reasons(source)["skipped"] == {"without annotation": 2}
    with pytest.raises(InputError, match="1-anterior.png: has no annotation"):
        open_folder(tmp_path, strict=True)
    source = open_folder(tmp_path, unannotated="empty")
    assert source.patients == (1, 2, 3, 4)
    assert source.read(1, "anterior").boxes == ()
    assert count_reasons(source)["noted"]["without annotation"] == 2


def test_two_annotations_of_a_scan_are_refused(tmp_path):
    write_views(tmp_path)
    (tmp_path / "1-anterior.xml").write_text(voc())
    write_png(tmp_path / "1-anterior_mask.png", mask())
    source = open_folder(tmp_path, unannotated="empty")
    assert source.patients == (2, 3)
    assert count_reasons(source)["skipped"] == {"several annotations": 1}


def test_a_mask_drawn_with_16_bits_is_stored_with_8(tmp_path):
    for patient, view in write_views(tmp_path):
        write_png(tmp_path / f"{patient}-{view}_mask.png", mask().astype(np.uint16))
    stored = decoded(open_folder(tmp_path).read(1, "anterior").mask)
    assert stored.dtype == np.uint8
    np.testing.assert_array_equal(stored, mask())
