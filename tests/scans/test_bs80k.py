"""BS-80K's layout: what is read of a folder or a zip file."""

import os

import pytest

from bonescan_jax.scans import Box
from bonescan_jax.scans.annotations import parse_boxes
from bonescan_jax.scans.bs80k import open_bs80k
from bonescan_jax.scans.findings import count_findings
from tests.layout import BOXES, PATIENTS, voc, zip_layout
from tests.scans.bs80k_files import LABELS


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


TRUNCATED = "truncated or damaged"


def test_unknown_files_are_ignored_and_counted(layout):
    fingerprint = open_bs80k(layout).fingerprint
    names = [b"Thumbs.db", b".DS_Store", b"3.JPG", b"\xff\n\x1b[31m.jpg~"]
    for name in names:
        (layout / "wholeBodyANT" / os.fsdecode(name)).write_bytes(b"?")
    source = open_bs80k(layout, strict=True)
    assert count_findings(source.findings)["ignored"] == {"unknown file": len(names)}
    sentences = "".join(finding.sentence for finding in source.findings)
    assert sentences.isprintable()
    assert r"\udcff\n\x1b[31m.jpg~" in sentences
    assert source.fingerprint == fingerprint


def test_labels_may_be_separated_by_any_white_space(layout):
    labels = layout / LABELS
    labels.write_text(labels.read_text().replace("\t", "    ").replace("\n", "\r\n"))
    assert not open_bs80k(layout, strict=True).findings


@pytest.mark.parametrize("encoding", ["gb2312", "GBK"])
def test_xml_in_a_chinese_encoding_is_read(encoding):
    text = f"""<?xml version="1.0" encoding="{encoding}"?><annotation><folder>骨扫描</folder>
        <object><name>Abnormal</name><bndbox><xmin>10</xmin><ymin>20</ymin><xmax>30</xmax>
        <ymax>40</ymax></bndbox></object></annotation>"""
    boxes, _ = parse_boxes(text.encode(encoding))
    assert len(boxes) == 1


def test_a_folder_of_the_layout_that_is_a_link_is_read(layout, tmp_path):
    (layout / "wholeBodyPOST").rename(tmp_path / "elsewhere")
    (layout / "wholeBodyPOST").symlink_to(tmp_path / "elsewhere")
    assert open_bs80k(layout).patients == PATIENTS
