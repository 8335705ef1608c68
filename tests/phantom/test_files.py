"""Simulated patients in the files of BS-80K, with the truth beside them."""

import signal
import subprocess
import sys

import cv2
import numpy as np
import pytest
from defusedxml import ElementTree

from bonescan_jax.errors import InputError
from bonescan_jax.phantom import files
from bonescan_jax.phantom.files import write_bs80k
from bonescan_jax.phantom.patient import simulate_patient
from bonescan_jax.scans import ABNORMAL, HEIGHT, WIDTH


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    out = tmp_path_factory.mktemp("phantom") / "bs80k"
    finished = []
    summary = write_bs80k(out, 6, seed=3, num_processes=2, on_patient=finished.append)
    return out, summary, finished


def test_files_have_bs80ks_layout(written):
    out, summary, finished = written
    assert sorted(finished) == [1, 2, 3, 4, 5, 6]
    assert (summary["patients"], summary["views"]) == (6, 12)
    tally = {"Abnormal": 0, "Normal": 0}
    without = 0
    for number in range(1, 7):
        patient = simulate_patient(3, number)
        for view, images, annotations in zip(
            patient.views, ("wholeBodyANT", "wholeBodyPOST"), ("ant", "post"), strict=True
        ):
            labels = dict(
                line.split("\t")
                for line in (out / images / f"{images}.txt").read_text().splitlines()
            )
            assert labels[f"{number}.jpg"] == str(int(any(b.label == ABNORMAL for b in view.boxes)))
            image = cv2.imread(str(out / images / f"{number}.jpg"), cv2.IMREAD_UNCHANGED)
            assert image.dtype == np.uint8 and image.shape == (HEIGHT, WIDTH)  # one component
            assert np.abs(image.astype(int) - view.grey).max() <= 2
            xml = out / images / annotations / f"{number}.xml"
            assert xml.exists() == bool(view.boxes)  # BS-80K: no hot spots, no XML
            if not xml.exists():
                without += 1
                continue
            root = ElementTree.parse(xml).getroot()
            assert (root.findtext("size/width"), root.findtext("size/height")) == ("256", "1024")
            corners = [
                tuple(
                    int(item.findtext(f"bndbox/{tag}")) for tag in ("xmin", "ymin", "xmax", "ymax")
                )
                for item in root.iter("object")
            ]
            assert corners == [tuple(box[:4]) for box in view.boxes]
            for item in root.iter("object"):
                tally[item.findtext("name")] += 1
    assert (tally["Abnormal"], tally["Normal"]) == (
        summary["boxes_abnormal"],
        summary["boxes_normal"],
    )
    assert without == summary["views_without_hot_spots"]


def test_truth_lies_beside_the_files(written):
    out, _, _ = written
    with np.load(out / "truth" / "4.npz") as truth:
        for view in simulate_patient(3, 4).views:
            np.testing.assert_array_equal(truth[f"counts_{view.view}"], view.counts)
            np.testing.assert_array_equal(truth[f"mask_{view.view}"], view.mask)
            assert truth[f"gain_{view.view}"] == view.gain


def test_files_follow_the_class_rule(tmp_path):
    summaries = [
        write_bs80k(tmp_path / rule, 2, seed=18, num_processes=1, rule=rule)
        for rule in ("bs80k", "malignant")
    ]
    assert summaries[0]["boxes_abnormal"] > summaries[1]["boxes_abnormal"]


def test_refuses_a_folder_that_holds_something(tmp_path):
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(InputError, match="already holds something"):
        write_bs80k(tmp_path, 1, seed=0)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_nothing_half_written_stays_behind(tmp_path, monkeypatch):
    def fail(task):
        raise RuntimeError("disk full")

    monkeypatch.setattr(files, "_write_patient", fail)
    with pytest.raises(RuntimeError, match="disk full"):
        write_bs80k(tmp_path / "out", 2, seed=0, num_processes=1)
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_left_is_removed_by_the_next(tmp_path):
    program = (
        "import os, pathlib, signal, sys\n"
        "from bonescan_jax.phantom.files import write_folder\n"
        "def die(folder, processes):\n"
        "    folder.mkdir()\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "write_folder(pathlib.Path(sys.argv[1]), 1, 1, die)\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "out")]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".out")
    (tmp_path / "out").mkdir()  # an empty folder may be there
    write_bs80k(tmp_path / "out", 1, seed=0, num_processes=1)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (tmp_path / "out" / "truth" / "1.npz").exists()
