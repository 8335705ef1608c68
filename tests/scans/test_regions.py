"""Labelled images: the literal folder names, both layouts, and nothing wrong goes unsaid."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from bonescan_jax.errors import InputError
from bonescan_jax.scans.findings import count_findings
from bonescan_jax.scans.regions import FOLDERS, open_regions
from tests.exif import with_orientation
from tests.region_layout import write_class_folders, write_regions, zip_regions


def test_folders_are_those_of_bs80k_and_libs160k():
    parts = "ankleL ankleR chestL chestR elbowL elbowR head kneeL kneeR pelvis shoL shoR vertbra"
    literal = {f"{part}{view}" for part in (*parts.split(), "whole") for view in ("ANT", "POST")}
    assert set(FOLDERS) == literal
    assert FOLDERS["kneeLANT"] == ("kneeL", "anterior")
    assert FOLDERS["vertbraPOST"] == ("vertbra", "posterior")


def test_a_zip_file_gives_what_its_folder_gives(tmp_path: Path):
    root = write_regions(tmp_path / "source", ("kneeLANT", "headPOST"), (3, 1, 20))
    write_regions(tmp_path / "source", ("wholeBodyANT",), (1,))  # no region
    done = []
    folder = open_regions(root, on_file=lambda *progress: done.append(progress))
    keys = [(crop.patient, crop.region, crop.view, crop.abnormal) for crop in folder.crops]
    assert keys == [
        (patient, region, view, patient == 3)
        for patient in (1, 3, 20)
        for region, view in (("head", "posterior"), ("kneeL", "anterior"))
    ]
    assert (folder.num_found, folder.patients, folder.findings) == (6, (1, 3, 20), ())
    assert done[-1] == (6, 6)
    crop = folder.crops[0]
    assert folder.read_image(crop) == (root / "headPOST" / "1.jpg").read_bytes()

    zipped = open_regions(zip_regions(root, tmp_path / "temp.zip", "temp/"))
    assert zipped.fingerprint == folder.fingerprint
    assert [crop[:4] for crop in zipped.crops] == keys
    assert zipped.read_image(zipped.crops[0]) == folder.read_image(crop)
    (root / "headPOST" / "headPOST.txt").write_text("1.jpg 1\n3.jpg 1\n20.jpg 0\n")
    assert open_regions(root).fingerprint != folder.fingerprint


def test_class_folders_are_labels(tmp_path: Path):
    root = write_class_folders(tmp_path, "wholeANT", (1, 3, 4))
    moved = root / "wholeANT" / "Normal" / "4.jpg"
    found = open_regions(root)
    labels = {crop.patient: (crop.region, crop.abnormal) for crop in found.crops}
    assert labels == {1: ("whole", False), 3: ("whole", True), 4: ("whole", False)}
    moved.rename(root / "wholeANT" / "Abnormal" / "4.jpg")
    assert {crop.patient: crop.abnormal for crop in open_regions(root).crops}[4]
    assert open_regions(root).fingerprint != found.fingerprint


def test_what_is_wrong_is_left_out_and_said(tmp_path: Path):
    root = write_regions(tmp_path, patients=range(1, 21))
    write_class_folders(root, "chestRANT", (2,))  # 2.jpg is in two places now
    folder = root / "chestRANT"
    (folder / "4.jpg").write_bytes((folder / "4.jpg").read_bytes()[:400])
    color = cv2.imencode(".jpg", np.zeros((8, 8, 3), np.uint8))[1].tobytes()
    (folder / "5.jpg").write_bytes(color)
    large = cv2.imencode(".jpg", np.zeros((10, 300), np.uint8))[1].tobytes()
    (folder / "6.jpg").write_bytes(large)
    (folder / "1.jpg").write_bytes(with_orientation((folder / "1.jpg").read_bytes(), 6))
    (folder / "972(1).jpg").write_bytes(large)
    (folder / "007.jpg").write_bytes((folder / "7.jpg").read_bytes())
    (folder / "7.jpg").unlink()
    (folder / "notes.doc").write_text("?")
    lines = (folder / "chestRANT.txt").read_text().splitlines()
    (folder / "chestRANT.txt").write_text("\n".join([*lines[:-1], "9.jpg maybe"]))

    found = open_regions(root)
    assert found.patients == (3, *range(7, 20))
    counts = count_findings(found.findings)
    assert counts["skipped"] == {
        "two files of one id": 1,
        "image that cannot be used": 4,
        "name that is no patient number": 1,
        "image without a label": 1,
        "wrong line of a label file": 1,
    }
    assert counts["repaired"] == {"id with leading zeros": 1}
    assert counts["ignored"] == {"unknown file": 1}
    sentences = "\n".join(finding.sentence for finding in found.findings)
    assert "chestRANT/6.jpg: size is 300x10, expected at most 256x1024." in sentences
    assert "chestRANT/20.jpg: has no label, expected a line '20.jpg 0|1'" in sentences
    with pytest.raises(InputError, match="9 defects, expected none"):
        open_regions(root, strict=True)


@pytest.mark.parametrize("places", [(), ("a/b",), (".", "temp")])
def test_a_source_without_regions_or_with_them_twice_is_refused(
    tmp_path: Path, places: tuple[str, ...]
):
    (tmp_path / "source").mkdir()
    for place in places:
        write_regions(tmp_path / "source" / place, patients=(1,))
    with pytest.raises(InputError, match="expected folders as chestRANT or wholeANT"):
        open_regions(tmp_path / "source")


def test_a_source_of_which_most_is_wrong_is_refused(tmp_path: Path):
    root = write_regions(tmp_path, patients=range(1, 6))
    (root / "chestRANT" / "chestRANT.txt").unlink()
    with pytest.raises(InputError, match=r"5 of 5 images would be skipped.*1.jpg: has no label"):
        open_regions(root)
