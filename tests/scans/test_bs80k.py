"""BS-80K's layout: folder and zip file, and every defect named."""

import cv2
import numpy as np
import pytest

from bonescan_jax.errors import InputError
from bonescan_jax.scans import ABNORMAL, HEIGHT, WIDTH, Box
from bonescan_jax.scans.bs80k import open_bs80k
from tests.layout import BOXES, PATIENTS, jpeg, voc, write_layout, zip_layout

ENTITY_BOMB = (
    '<!DOCTYPE bomb [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;">]><annotation>&b;</annotation>'
)


@pytest.fixture
def layout(tmp_path):
    return write_layout(tmp_path / "source")


def defects_of(source) -> list[str]:
    with pytest.raises(InputError) as error:
        open_bs80k(source)
    return str(error.value).splitlines()


def test_scans_hold_what_the_files_hold(layout):
    source = open_bs80k(layout)
    assert source.patients == PATIENTS
    scans = list(source)
    assert [(scan.patient, scan.view) for scan in scans] == [
        (patient, view) for patient in PATIENTS for view in ("anterior", "posterior")
    ]
    assert scans[0].image == (layout / "wholeBodyANT/1.jpg").read_bytes()
    assert scans[1].image == (layout / "wholeBodyPOST/1.jpg").read_bytes()
    assert scans[0].boxes == tuple(Box(*box) for box in BOXES)
    assert scans[0].abnormal
    assert source.read_patient(1) == (scans[0], scans[1])


def test_a_view_without_xml_has_no_hot_spots(layout):
    for scan in open_bs80k(layout).read_patient(2):
        assert scan.boxes == ()
        assert not scan.abnormal


@pytest.mark.parametrize("prefix", ["", "temp/"])
def test_folder_and_zip_file_give_the_same(layout, tmp_path, prefix):
    from_folder = open_bs80k(layout)
    from_zip = open_bs80k(zip_layout(layout, tmp_path / "temp.zip", prefix))
    assert list(from_zip) == list(from_folder)
    assert from_zip.fingerprint == from_folder.fingerprint


def test_the_folder_may_be_one_deeper_and_regions_and_truth_are_ignored(layout):
    fingerprint = open_bs80k(layout).fingerprint
    for ignored in ("chestRANT/1.jpg", "truth/1.npz", "wholeBodyANT/.DS_Store"):
        (layout / ignored).parent.mkdir(exist_ok=True)
        (layout / ignored).write_bytes(b"not an image")
    assert open_bs80k(layout.parent).fingerprint == fingerprint


def test_the_fingerprint_follows_the_files(layout):
    before = open_bs80k(layout).fingerprint
    (layout / "wholeBodyANT/ant/1.xml").write_text(voc(BOXES[:1]))
    assert open_bs80k(layout).fingerprint != before


def rgb_jpeg() -> bytes:
    return cv2.imencode(".jpg", np.zeros((HEIGHT, WIDTH, 3), np.uint8))[1].tobytes()


def good_jpeg(**size) -> bytes:
    return jpeg(np.random.default_rng(1), **size)


XML = "wholeBodyPOST/post/3.xml"
BROKEN_FILES = {
    "truncated image": ("wholeBodyANT/3.jpg", good_jpeg()[:-500], "truncated or damaged"),
    "truncated image, closed": (
        "wholeBodyANT/3.jpg",
        good_jpeg()[:-500] + b"\xff\xd9",
        "truncated or damaged",
    ),
    "empty image": ("wholeBodyANT/3.jpg", b"", "is no JPEG"),
    "colour image": ("wholeBodyPOST/3.jpg", rgb_jpeg(), "has 3 colour components, expected 1"),
    "small image": (
        "wholeBodyANT/3.jpg",
        good_jpeg(height=512),
        "size is 256x512, expected 256x1024",
    ),
    "name of an image": ("wholeBodyANT/three.jpg", good_jpeg(), "name is no patient number"),
    "one view only": ("wholeBodyANT/4.jpg", good_jpeg(), "has no posterior view"),
    "unknown class": (XML, voc().replace(">Abnormal<", ">abnormal<"), "name is 'abnormal'"),
    "box outside": (XML, voc(((0, 0, 257, 9, ABNORMAL),)), "xmax 257, ymax 9, expected 0 <="),
    "reversed box": (XML, voc(((9, 0, 3, 9, ABNORMAL),)), "xmin 9, ymin 0, xmax 3"),
    "box in fractions": (XML, voc(((0.5, 0, 3, 9, ABNORMAL),)), "four whole numbers"),
    "size in XML": (XML, voc().replace(">1024<", ">512<"), "size/height is '512', expected 1024"),
    "entity bomb": (XML, ENTITY_BOMB, "declares XML entities"),
    "malformed XML": (XML, voc()[:-5], "is no well-formed XML"),
    "encoding of XML": (
        XML,
        '<?xml version="1.0" encoding="no"?>' + voc(),
        "is no well-formed XML",
    ),
    "other XML": (XML, "<html/>", "root is <html>, expected <annotation>"),
    "XML without image": ("wholeBodyANT/ant/99.xml", voc(), "expected wholeBodyANT/99.jpg"),
    "label": ("wholeBodyANT/wholeBodyANT.txt", "1.jpg 2\n", "line 1 is '1.jpg 2', expected"),
    "label twice": ("wholeBodyANT/wholeBodyANT.txt", "1.jpg 1\n1.jpg 1\n", "1.jpg again"),
}


@pytest.mark.parametrize("case", BROKEN_FILES)
def test_each_broken_file_is_named_in_one_sentence(layout, case):
    path, content, message = BROKEN_FILES[case]
    (layout / path).write_bytes(content if isinstance(content, bytes) else content.encode())
    named = [line for line in defects_of(layout) if line.startswith(f"{path}: ")]
    assert any(message in line for line in named)
    assert all(line.endswith(".") for line in named)


def test_all_defects_are_named_and_counted(layout):
    (layout / "wholeBodyANT/1.jpg").write_bytes(b"")
    (layout / "wholeBodyPOST/10.jpg").write_bytes(rgb_jpeg())
    (layout / "wholeBodyANT/ant/3.xml").write_text(voc().replace(">Normal<", ">benign<"))
    lines = defects_of(layout)
    assert [line.split(":")[0] for line in lines[:-1]] == [
        "wholeBodyANT/1.jpg",
        "wholeBodyANT/ant/3.xml",
        "wholeBodyANT/ant/3.xml",
        "wholeBodyPOST/10.jpg",
    ]
    assert lines[-1] == f"{layout}: 4 defects, expected none."


def test_labels_and_images_must_match(layout):
    labels = layout / "wholeBodyANT/wholeBodyANT.txt"
    labels.write_text(labels.read_text().replace("3.jpg\t1\n", "77.jpg 0\n"))
    missing_line, missing_image, _ = defects_of(layout)
    assert "3.jpg has no line" in missing_line
    assert "77.jpg has no image" in missing_image


def test_labels_may_be_separated_by_any_white_space(layout):
    labels = layout / "wholeBodyANT/wholeBodyANT.txt"
    labels.write_text(labels.read_text().replace("\t", "    ").replace("\n", "\r\n"))
    assert open_bs80k(layout).read_patient(1)[0].abnormal


def test_missing_label_files_and_xml_folders_are_one_sentence(layout):
    (layout / "wholeBodyANT/wholeBodyANT.txt").unlink()
    for file in (layout / "wholeBodyPOST/post").iterdir():
        file.unlink()
    no_labels, no_xml, _ = defects_of(layout)
    assert no_labels.startswith("wholeBodyANT/wholeBodyANT.txt: is missing")
    assert no_xml.startswith("wholeBodyPOST/post: holds no XML file")


def test_a_damaged_member_of_a_zip_file_is_named(layout, tmp_path):
    path = zip_layout(layout, tmp_path / "damaged.zip", "temp/")
    image = (layout / "wholeBodyANT/1.jpg").read_bytes()
    data = bytearray(path.read_bytes())
    data[data.index(image) + 1000] ^= 0xFF
    path.write_bytes(data)
    damaged, _ = defects_of(path)
    assert damaged.startswith("temp/wholeBodyANT/1.jpg: cannot be read (Bad CRC-32")


def test_sources_that_cannot_be_opened_are_one_sentence(layout, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.zip").write_text("no zip")
    encrypted = zip_layout(layout, tmp_path / "encrypted.zip")
    data = encrypted.read_bytes()
    entry = b"PK\1\2" + data[data.rindex(b"PK\1\2") + 4 :][:4]  # signature and two versions
    encrypted.write_bytes(data.replace(entry + b"\0", entry + b"\1"))  # bit 0 of the flags
    (tmp_path / "half" / "wholeBodyANT").mkdir(parents=True)
    (tmp_path / "half" / "wholeBodyANT" / "1.jpg").write_bytes(good_jpeg())
    for name, message in {
        "nowhere": "does not exist",
        "empty": "holds none of them",
        "text.zip": "is no readable zip file",
        "encrypted.zip": "is encrypted",
        "half": "wholeBodyPOST holds no file",
    }.items():
        (line,) = defects_of(tmp_path / name)
        assert line.startswith(f"{tmp_path / name}: ")
        assert message in line
