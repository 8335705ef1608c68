"""Defects of a source in BS-80K's layout: each is named, and repaired or skipped."""

import errno
import os
import struct

import cv2
import numpy as np
import pytest

from bonescan_jax.errors import InputError
from bonescan_jax.scans import ABNORMAL, HEIGHT, WIDTH, Box
from bonescan_jax.scans.bs80k import open_bs80k
from bonescan_jax.scans.findings import count_findings
from tests.exif import with_orientation
from tests.layout import BOXES, PATIENTS, voc
from tests.scans.bs80k_files import (
    ALL,
    ANT,
    LABELS,
    POST,
    WITHOUT_3,
    XML,
    defects_of,
    good_jpeg,
    label_lines,
)

ENTITY_BOMB = (
    '<!DOCTYPE bomb [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;">]><annotation>&b;</annotation>'
)


def rgb_jpeg() -> bytes:
    return cv2.imencode(".jpg", np.zeros((HEIGHT, WIDTH, 3), np.uint8))[1].tobytes()


def png() -> bytes:
    return cv2.imencode(".png", np.zeros((HEIGHT, WIDTH), np.uint8))[1].tobytes()


def declare_size(data: bytes, height: int, width: int) -> bytes:
    """Changes the size in the header only."""
    at = data.index(b"\xff\xc0") + 5
    return data[:at] + struct.pack(">HH", height, width) + data[at + 4 :]


def with_scans(data: bytes, number: int) -> bytes:
    """More scans after the first; each would go over the whole image again."""
    scan = b"\xff\xda\0\x08\x01\x01\0\0\x3f\0"
    return data[:-2] + scan * number + b"\xff\xd9"


def one_box(*sides: object) -> str:
    return voc(((*sides, ABNORMAL),))


DECODE, UNREADABLE = "image that cannot be decoded", "annotation cannot be read"
TRUNCATED = "truncated or damaged"

# What is wrong: file, content, part of the sentence, what it is counted as, who is left.
BROKEN_FILES = {
    "truncated": (ANT, good_jpeg()[:-500], TRUNCATED, DECODE, WITHOUT_3),
    "truncated, closed": (ANT, good_jpeg()[:-500] + b"\xff\xd9", TRUNCATED, DECODE, WITHOUT_3),
    "empty image": (ANT, b"", "is no JPEG", DECODE, WITHOUT_3),
    "PNG named JPEG": (ANT, png(), "is no JPEG", DECODE, WITHOUT_3),
    "colours": (POST, rgb_jpeg(), "has 3 colour comp", "image with colours", WITHOUT_3),
    "small": (
        ANT,
        good_jpeg(height=512),
        "size is 256x512, expected 256x1024",
        "image of another size",
        WITHOUT_3,
    ),
    "absurd size": (
        ANT,
        declare_size(good_jpeg(), 0xFFFF, 0xFFFF),
        "size is 65535x65535",
        "image of another size",
        WITHOUT_3,
    ),
    "many scans": (ANT, with_scans(good_jpeg(), 1000), "has 1001 scans", DECODE, WITHOUT_3),
    "turned by viewers": (
        ANT,
        with_orientation(good_jpeg(), 3),
        "Exif orientation is 3, expected 1",
        "image that a viewer turns",
        WITHOUT_3,
    ),
    "no number": (
        "wholeBodyANT/three.jpg",
        good_jpeg(),
        "name is no patient number",
        "name that is no patient number",
        ALL,
    ),
    "zeros": (
        "wholeBodyANT/003.jpg",
        good_jpeg(),
        "expected 3.jpg",
        "id with leading zeros",
        WITHOUT_3,
    ),
    "two annotations": (
        "wholeBodyPOST/post/03.xml",
        voc(),
        "is one of several files of patient 3",
        "two files of one id",
        WITHOUT_3,
    ),
    "one view only": (
        "wholeBodyANT/4.jpg",
        good_jpeg(),
        "has no posterior view",
        "view without the other one",
        ALL,
    ),
    "unknown class": (
        XML,
        voc().replace(">Abnormal<", ">abnormal<"),
        "name is 'abnormal'",
        UNREADABLE,
        WITHOUT_3,
    ),
    "partly outside": (
        XML,
        one_box(3, 0, 257, 9),
        "xmax 257, ymax 9, expected",
        "box partly outside of the image",
        ALL,
    ),
    "huge box": (
        XML,
        one_box(3, "-" + "9" * 5000, "9" * 5000, 9),
        "expected whole numbers",
        "box partly outside of the image",
        ALL,
    ),
    "outside": (
        XML,
        one_box(300, 0, 310, 9),
        "xmin 300",
        "box without a pixel of the image",
        WITHOUT_3,
    ),
    "empty box": (
        XML,
        one_box(9, 0, 9, 9),
        "xmin 9",
        "box without a pixel of the image",
        WITHOUT_3,
    ),
    "no box": (XML, voc(()), "calls 3.jpg abnormal", "abnormal without a box", WITHOUT_3),
    "reversed box": (
        XML,
        one_box(9, 0, 3, 9),
        "xmin 9, ymin 0, xmax 3",
        "box with sides in reversed order",
        ALL,
    ),
    "fractions": (
        XML,
        one_box(0.5, 0, 3, 9),
        "expected whole numbers",
        "box in fractions of a pixel",
        ALL,
    ),
    "NaN": (XML, one_box("nan", 0, 3, 9), "expected four numbers", UNREADABLE, WITHOUT_3),
    "size in XML": (
        XML,
        voc().replace(">1024<", ">512<"),
        "size/height is '512', expected 1024",
        UNREADABLE,
        WITHOUT_3,
    ),
    "entities": (XML, ENTITY_BOMB, "declares XML entities", UNREADABLE, WITHOUT_3),
    "malformed": (XML, voc()[:-5], "is not well-formed XML", UNREADABLE, WITHOUT_3),
    "nested": (XML, "<a>" * 1000 + "</a>" * 1000, "nested deeper", UNREADABLE, WITHOUT_3),
    "huge XML": (
        XML,
        voc() + " " * (1 << 20),
        "holds more than 1048576 bytes",
        "file that cannot be read",
        WITHOUT_3,
    ),
    "encoding": (
        XML,
        '<?xml version="1.0" encoding="no"?>' + voc(),
        "is not well-formed XML",
        UNREADABLE,
        WITHOUT_3,
    ),
    "other XML": (XML, "<html/>", "root is 'html', expected", UNREADABLE, WITHOUT_3),
    "XML without image": (
        "wholeBodyANT/ant/99.xml",
        voc(),
        "expected wholeBodyANT/99.jpg",
        "XML without an image",
        ALL,
    ),
    "wrong line": (
        LABELS,
        label_lines(p1="1.jpg 2\n"),
        "line 1 is '1.jpg 2', expected",
        "wrong line of a label file",
        ALL,
    ),
    "label twice": (LABELS, label_lines() + "1.jpg 1\n", "1.jpg again", "label given twice", ALL),
    "label without image": (
        LABELS,
        label_lines() + "77.jpg 0\n",
        "77.jpg has no image",
        "label without an image",
        ALL,
    ),
    "label missing": (
        LABELS,
        label_lines(p3=""),
        "3.jpg has no line",
        "label missing, taken from the boxes",
        ALL,
    ),
    "label against boxes": (
        LABELS,
        label_lines(p3="3.jpg 0\n"),
        "3.jpg is 0, expected 1 by its boxes",
        "label against the boxes, taken from the boxes",
        ALL,
    ),
}


@pytest.mark.parametrize("case", BROKEN_FILES)
def test_each_broken_file_is_named_counted_and_repaired_or_skipped(layout, case):
    path, content, message, reason, patients = BROKEN_FILES[case]
    (layout / path).write_bytes(content if isinstance(content, bytes) else content.encode())
    named = [line for line in defects_of(layout) if line.startswith(f"{path}: ")]
    assert any(message in line for line in named)
    assert all(line.endswith(".") for line in named)

    source = open_bs80k(layout)
    assert source.patients == patients
    counts = count_findings(source.findings)
    assert (counts["repaired"] | counts["skipped"])[reason] == 1
    for scan in source:  # whoever is left is whole, and the label follows the boxes
        assert (scan.image[:2], scan.image[-2:]) == (b"\xff\xd8", b"\xff\xd9")
        assert all(0 <= x < X <= WIDTH and 0 <= y < Y <= HEIGHT for x, y, X, Y, _ in scan.boxes)
        assert scan.abnormal == any(box.label == ABNORMAL for box in scan.boxes)


@pytest.mark.parametrize(
    ("sides", "repaired"),
    [
        ((9, 20, 3, 10), [(3, 10, 9, 20)]),
        ((-5, 1000, 10, 1030), [(0, 1000, 10, 1024)]),
        ((0.5, 2, 3.2, 9), [(0, 2, 4, 9)]),
        ((300, 20, 250, 10), [(250, 10, 256, 20)]),
        ((256, 0, 300, 9), []),
        ((5, 5, 5, 9), []),
    ],
)
def test_a_box_is_repaired_to_what_it_covers(layout, sides, repaired):
    other = (100, 100, 110, 110, ABNORMAL)
    (layout / XML).write_text(voc(((*sides, ABNORMAL), other)))
    _, posterior = open_bs80k(layout).read_patient(3)
    assert posterior.boxes == (*(Box(*box, ABNORMAL) for box in repaired), Box(*other))


def test_an_abnormal_view_that_lost_its_annotation_is_not_called_free_of_hot_spots(layout):
    (layout / XML).unlink()
    source = open_bs80k(layout)
    assert source.patients == WITHOUT_3
    assert count_findings(source.findings)["skipped"] == {"abnormal without XML": 1}


def test_without_label_and_annotation_nothing_is_known(layout):
    (layout / LABELS).write_text(label_lines(p2=""))
    source = open_bs80k(layout)
    assert 2 not in source.patients
    assert count_findings(source.findings)["skipped"] == {"neither XML nor label": 1}


def test_ids_too_long_for_a_record_are_no_ids(layout):
    name = f"{10**9}.jpg"
    (layout / "wholeBodyANT" / name).write_bytes(good_jpeg())
    (sentence, _) = defects_of(layout)
    assert sentence.startswith(f"wholeBodyANT/{name}: name is no patient number")


def test_more_than_half_skipped_is_one_sentence(layout):
    for patient in (1, 2, 3):
        (layout / f"wholeBodyANT/{patient}.jpg").write_bytes(b"")
    with pytest.raises(InputError) as error:
        open_bs80k(layout)
    assert str(error.value) == (
        f"{layout}: 3 of 5 patients would be skipped (3 x {DECODE}), expected at most half; "
        "--strict names every defect."
    )


def test_all_defects_are_named_and_counted(layout):
    (layout / "wholeBodyANT/1.jpg").write_bytes(b"")
    (layout / "wholeBodyPOST/10.jpg").write_bytes(rgb_jpeg())
    (layout / "wholeBodyANT/ant/3.xml").write_text(voc().replace(">Normal<", ">benign<"))
    lines = defects_of(layout)
    assert [line.split(":")[0] for line in lines[:-1]] == [
        "wholeBodyANT/1.jpg",
        "wholeBodyANT/ant/3.xml",
        "wholeBodyPOST/10.jpg",
    ]
    assert lines[-1] == f"{layout}: 3 defects, expected none."


def test_a_missing_label_file_is_made_up_for_by_the_annotations(layout):
    (layout / LABELS).unlink()
    source = open_bs80k(layout)
    assert source.patients == tuple(patient for patient in PATIENTS if patient != 2)
    assert count_findings(source.findings)["repaired"] == {"label file missing": 1}


def test_a_folder_of_annotations_that_is_lost_is_refused(layout):
    for file in (layout / "wholeBodyPOST/post").iterdir():
        file.unlink()
    with pytest.raises(InputError, match="wholeBodyPOST/post: holds no XML file though"):
        open_bs80k(layout)


def test_links_in_a_loop_and_files_that_may_not_be_read(layout):
    (layout / "wholeBodyANT" / "again").symlink_to(layout)
    (layout / "wholeBodyANT" / "3.jpg").unlink()
    (layout / "wholeBodyANT" / "3.jpg").symlink_to("3.jpg")
    (sentence, _) = defects_of(layout)
    assert sentence.startswith("wholeBodyANT/3.jpg: cannot be read (Too many levels of symbolic")
    assert open_bs80k(layout).patients == WITHOUT_3


def test_a_pipe_is_not_waited_for(layout):
    os.mkfifo(layout / "wholeBodyANT" / "pipe")
    (layout / "wholeBodyANT" / "3.jpg").unlink()
    (layout / "wholeBodyANT" / "3.jpg").symlink_to("pipe")
    (sentence, _) = defects_of(layout)
    assert sentence == "wholeBodyANT/3.jpg: is no ordinary file, expected one."


def test_a_folder_that_may_not_be_listed_is_one_sentence(layout, monkeypatch):
    def deny(path):  # the tests may run as root, who may do everything
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "scandir", deny)
    (sentence,) = defects_of(layout)
    assert sentence.startswith(f"{layout}: cannot be listed (Permission denied)")


def test_a_single_id_with_zeros_is_the_id(layout):
    for path in (ANT, POST, XML, "wholeBodyANT/ant/3.xml"):
        (layout / path).rename((layout / path).with_stem("0003"))
    (layout / LABELS).write_text(label_lines(p3="003.jpg\t1\n"))
    source = open_bs80k(layout)
    assert source.patients == PATIENTS
    assert source.read_patient(3)[0].boxes == tuple(Box(*box) for box in BOXES)
    assert count_findings(source.findings)["repaired"] == {"id with leading zeros": 5}
