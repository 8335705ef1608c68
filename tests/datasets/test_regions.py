"""Labelled images prepared and read: byte for byte, by region, view and fold, defects left out."""

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from bonescan_jax.datasets.bs80k import prepare
from bonescan_jax.datasets.regions import Regions, open_region_split
from bonescan_jax.errors import InputError
from bonescan_jax.scans import VIEWS
from bonescan_jax.scans.bs80k import KNOWN_DUPLICATES
from bonescan_jax.scans.regions import REGIONS
from bonescan_jax.scans.splits import SPLITS
from tests.region_layout import write_regions

SETTINGS = {
    "name": "regions",
    "split_seed": 0,
    "split_fractions": (0.6, 0.2, 0.2),
    "num_folds": 2,
    "builder": Regions,
}


def read(data_dir: Path, **which: object) -> list[dict]:
    return [
        record
        for split in SPLITS
        for record in open_region_split(data_dir, "regions", split, **which)
    ]


def test_records_are_the_images_of_the_source(tmp_path: Path):
    source = write_regions(tmp_path / "source", ("chestRANT", "headANT", "headPOST"), range(1, 11))
    (source / "headPOST" / "4.jpg").unlink()  # not every patient has every image
    told = []
    summary = prepare(source, tmp_path, **SETTINGS, on_scan=lambda *done: told.append(done))
    assert {name: summary[name] for name in ("patients", "images", "abnormal", "splits")} == {
        "patients": 10,
        "images": 29,
        "abnormal": 9,
        "splits": {"train": 6, "validation": 2, "test": 2},
    }
    assert told[-1] == (29, 29)
    folders = {("chestR", 0): "chestRANT", ("head", 0): "headANT", ("head", 1): "headPOST"}
    seen = set()
    for record in read(tmp_path):
        region = REGIONS[record["region"]]
        seen.add((record["patient"], region, VIEWS[record["view"]]))
        path = source / folders[region, record["view"]] / f"{record['patient']}.jpg"
        assert record["image"] == path.read_bytes()
        assert record["abnormal"] == (record["patient"] % 3 == 0)
    assert len(seen) == 29
    heads = read(tmp_path, regions=("head",), views=("posterior",))
    assert [record["patient"] for record in heads] != sorted(range(1, 11))
    assert sorted(record["patient"] for record in heads) == [1, 2, 3, 5, 6, 7, 8, 9, 10]


def test_folds_part_the_patients(tmp_path: Path):
    source = write_regions(tmp_path / "source", ("chestRANT", "chestLANT"), range(1, 13))
    prepare(source, tmp_path, **SETTINGS)
    tested = []
    for fold in range(2):
        patients = {
            split: {r["patient"] for r in open_region_split(tmp_path, "regions", split, fold)}
            for split in SPLITS
        }
        assert not patients["test"] & (patients["train"] | patients["validation"])
        assert not patients["train"] & patients["validation"]
        assert set.union(*patients.values()) == set(range(1, 13))
        tested += patients["test"]
    assert sorted(tested) == list(range(1, 13))
    with pytest.raises(InputError, match="has no fold 2, expected -1 .* or one of its 2 folds"):
        open_region_split(tmp_path, "regions", "test", 2)


def test_known_defects_are_left_out_with_their_reason(tmp_path: Path):
    pairs = [patient for pair in KNOWN_DUPLICATES for patient in pair]
    patients = (1, 2, 3, *pairs, 722)
    source = write_regions(tmp_path / "source", ("elbowLPOST", "headANT", "elbowRPOST"), patients)
    for patient in (1, 2, 722):  # the others have two elbows of their own
        shutil.copy(source / f"elbowLPOST/{patient}.jpg", source / f"elbowRPOST/{patient}.jpg")
    for one, other in KNOWN_DUPLICATES:
        shutil.copy(source / f"headANT/{one}.jpg", source / f"headANT/{other}.jpg")
    summary = prepare(source, tmp_path / "left", **SETTINGS)
    assert (summary["images"], summary["patients"]) == (36 - 3 - 4, 11)
    assert summary["excluded"] == {
        "looks like another kind of study": 3,
        "the same image in two folders, so one of the labels is of another one": 4,
    }
    assert {record["patient"] for record in read(tmp_path / "left")} == {1, 2, 3, *pairs}
    assert summary["noted"] == {"one person under several ids": 4}
    kept = prepare(source, tmp_path / "kept", **SETTINGS, keep_known_defects=True)
    assert (kept["images"], kept["excluded"]) == (36, {})


def test_blank_images_join_nobody(tmp_path: Path):
    source = write_regions(tmp_path / "source", patients=range(1, 9))
    blank = cv2.imencode(".jpg", np.zeros((40, 30), np.uint8))[1].tobytes()
    for patient in range(1, 7):
        (source / "chestRANT" / f"{patient}.jpg").write_bytes(blank)
    assert prepare(source, tmp_path, **SETTINGS)["noted"] == {}


def test_a_pixel_that_wrapped_is_stored_with_its_value(tmp_path: Path):
    source = write_regions(tmp_path / "source", patients=range(1, 7))
    y, x = np.mgrid[:56, :40]
    grey = 20 + 400 * np.exp(-((y - 28) ** 2 + (x - 20) ** 2) / 40)
    wrapped = np.rint(grey).astype(int)
    image = cv2.imencode(".jpg", (wrapped % 256).astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, 100])
    (source / "chestRANT" / "3.jpg").write_bytes(image[1].tobytes())
    prepare(source, tmp_path, **SETTINGS)
    (record,) = [record for record in read(tmp_path) if record["patient"] == 3]
    stored = cv2.imdecode(image[1], cv2.IMREAD_GRAYSCALE).astype(int)
    stored.ravel()[record["overflow"][:, 0]] = record["overflow"][:, 1]
    agrees = np.abs(stored - wrapped) < 20
    assert agrees.mean() > 0.99
    assert agrees[20:36, 12:28].all()


def test_other_settings_or_another_kind_of_data_set_are_refused(tmp_path: Path, data_dir: Path):
    source = write_regions(tmp_path / "source", patients=range(1, 7))
    assert not prepare(source, tmp_path, **SETTINGS)["already_prepared"]
    assert prepare(source, tmp_path, **SETTINGS)["already_prepared"]
    with pytest.raises(InputError, match="prepared with seed 0, expected 1"):
        prepare(source, tmp_path, **(SETTINGS | {"split_seed": 1}))
    with pytest.raises(InputError, match="holds whole scans with boxes"):
        open_region_split(data_dir, "phantom", "train")
    with pytest.raises(InputError, match="holds no prepared data set"):
        open_region_split(tmp_path, "nothing", "train")
