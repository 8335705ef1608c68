"""Own scans: every kind of file and annotation, whose they are, and what is left out and why."""

import json

import cv2
import numpy as np
import pytest

from bonescan_jax.errors import InputError
from bonescan_jax.scans import ABNORMAL, HEIGHT, NORMAL, VIEWS, WIDTH
from bonescan_jax.scans.findings import count_findings
from bonescan_jax.scans.folder import open_folder
from tests.layout import voc
from tests.own_scans import HOT_SPOTS, counts, mask, write_dicom_folder, write_png

BOXES = {(column, row, column + 6, row + 8, label) for row, column, label in HOT_SPOTS}


def write_views(root, patients=3, suffix="png", height=HEIGHT, width=WIDTH):
    """PNGs or JPEGs named by patient and view; returns what they hold."""
    rng, written = np.random.default_rng(0), {}
    for patient in range(1, patients + 1):
        for view in VIEWS:
            written[patient, view] = counts(rng, height, width)
            if suffix == "png":
                write_png(root / f"{patient}-{view}.png", written[patient, view])
            else:
                grey = np.minimum(written[patient, view], 255).astype(np.uint8)
                jpeg = cv2.imencode(".jpg", grey, [cv2.IMWRITE_JPEG_QUALITY, 100])[1]
                (root / f"{patient}-{view}.jpg").write_bytes(jpeg.tobytes())
    return written


def coco(names, category="Abnormal", **image):
    """COCO JSON with one box, 8 pixels wide and 4 high, on each image."""
    return json.dumps(
        {
            "categories": [{"id": 7, "name": category}],
            "images": [{"id": n, "file_name": name, **image} for n, name in enumerate(names)],
            "annotations": [
                {"id": n, "image_id": n, "category_id": 7, "bbox": [100, 300.5, 8, 4]}
                for n in range(len(names))
            ],
        }
    )


def decoded(data):
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)


def found(source):
    return count_findings(source.findings)


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


def test_views_of_dicom_are_paired_by_header_and_no_identifier_is_kept(tmp_path):
    truth = write_dicom_folder(tmp_path, 4)
    source = open_folder(tmp_path)
    assert source.patients == (1, 2, 3, 4)
    for (patient, view), pixels in truth.items():
        np.testing.assert_array_equal(decoded(source.read(patient, view).image), pixels)


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


def test_8_bit_values_are_unwrapped_only_where_it_is_asked_for(tmp_path):
    write_views(tmp_path, suffix="jpg")
    source = open_folder(tmp_path, unannotated="empty")
    scan = source.read(1, "anterior")
    assert len(scan.overflow) == 0
    original = cv2.imdecode(
        np.frombuffer((tmp_path / "1-anterior.jpg").read_bytes(), np.uint8), cv2.IMREAD_UNCHANGED
    )
    assert np.abs(decoded(scan.image).astype(int) - original).max() <= 1
    assert open_folder(tmp_path, unannotated="empty", unwrap=True).fingerprint == source.fingerprint


def test_a_scan_without_annotation_is_left_out_or_empty_by_choice(tmp_path):
    written = write_views(tmp_path, 4)
    for patient, view in written:
        if patient > 1:
            write_png(tmp_path / "masks" / f"{patient}-{view}.png", mask())
    source = open_folder(tmp_path)
    assert source.patients == (2, 3, 4)
    assert found(source)["skipped"] == {"without annotation": 2}
    with pytest.raises(InputError, match="1-anterior.png: has no annotation"):
        open_folder(tmp_path, strict=True)
    source = open_folder(tmp_path, unannotated="empty")
    assert source.patients == (1, 2, 3, 4)
    assert source.read(1, "anterior").boxes == ()
    assert found(source)["noted"]["without annotation"] == 2


def test_the_table_says_whose_scan_it_is_and_which_holds_nothing(tmp_path):
    rng = np.random.default_rng(0)
    lines = ["file,patient,view,label"]
    for number in range(6):
        write_png(tmp_path / f"image{number}.png", counts(rng))
        lines.append(f"image{number}.png,Smith{number // 2},{VIEWS[number % 2]},0")
    write_png(tmp_path / "other.png", counts(rng))
    (tmp_path / "patients.csv").write_text("\n".join([*lines, "gone.png,Smith9,anterior,0"]))
    source = open_folder(tmp_path)
    assert source.patients == (1, 2, 3)  # no name
    assert found(source)["ignored"] == {"file not in patients.csv": 1}
    assert found(source)["skipped"] == {"line without a file": 1}
    (tmp_path / "patients.csv").write_text("\n".join(lines).replace("Smith", "4"))
    assert open_folder(tmp_path).patients == (40, 41, 42)
    (tmp_path / "patients.csv").write_text("\n".join([*lines, lines[1]]))
    with pytest.raises(InputError, match=r"patients\.csv: has image0\.png more than once"):
        open_folder(tmp_path)
    (tmp_path / "patients.csv").write_text("file,patient\n")
    with pytest.raises(InputError, match=r"patients\.csv: has no column view"):
        open_folder(tmp_path)


def test_a_patient_with_one_view_keeps_it(tmp_path):
    write_views(tmp_path)
    (tmp_path / "2-posterior.png").unlink()
    source = open_folder(tmp_path, unannotated="empty")
    assert source.missing == [(2, "posterior")]
    scan = source.read(2, "posterior")
    assert scan.missing
    assert not decoded(scan.image).any()
    assert not source.read(2, "anterior").missing


@pytest.mark.parametrize(("height", "width"), [(900, 200), (1100, 400)])
def test_other_sizes_are_padded_or_cropped_with_what_is_annotated(tmp_path, height, width):
    written = write_views(tmp_path, height=height, width=width)
    for patient, view in written:
        write_png(tmp_path / f"{patient}-{view}_mask.png", mask(height, width))
    source = open_folder(tmp_path)
    assert found(source)["noted"] == {"another size": 6}
    for key, pixels in written.items():
        scan = source.read(*key)
        image = decoded(scan.image)
        assert image.shape == (HEIGHT, WIDTH)
        hot = decoded(scan.mask) == ABNORMAL
        assert image[hot].sum() == pixels[mask(height, width) == ABNORMAL].sum()
        assert image.sum() == pixels.sum()


def test_a_body_that_does_not_fit_is_refused(tmp_path):
    write_views(tmp_path, height=1600, width=600)
    with pytest.raises(InputError, match="scan that cannot be used: 6"):
        open_folder(tmp_path, unannotated="empty")
    with pytest.raises(InputError, match="the body does not fit into 1024x256"):
        open_folder(tmp_path, unannotated="empty", strict=True)


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


def test_two_annotations_of_a_scan_are_refused(tmp_path):
    write_views(tmp_path)
    (tmp_path / "1-anterior.xml").write_text(voc())
    write_png(tmp_path / "1-anterior_mask.png", mask())
    source = open_folder(tmp_path, unannotated="empty")
    assert source.patients == (2, 3)
    assert found(source)["skipped"] == {"several annotations": 1}
