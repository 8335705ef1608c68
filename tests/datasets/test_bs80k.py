"""Preparing and reading: byte for byte, all or nothing, without TensorFlow."""

import json
import os
import pickle
import signal
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from bonescan_jax.datasets import phantom
from bonescan_jax.datasets.bs80k import open_split, prepare
from bonescan_jax.datasets.records import read_settings
from bonescan_jax.errors import InputError
from bonescan_jax.scans import VIEWS, overflow
from bonescan_jax.scans.bs80k import KNOWN_DUPLICATES, open_bs80k
from bonescan_jax.scans.overflow import find_overflow
from bonescan_jax.scans.splits import SPLITS
from tests.hot_spots import sprinkled_jpeg
from tests.layout import PATIENTS, voc, write_layout, zip_layout

SETTINGS = {"name": "small-1", "split_seed": 0, "split_fractions": (0.6, 0.2, 0.2)}


@pytest.fixture
def layout(tmp_path):
    return write_layout(tmp_path / "source")


def test_records_are_the_scans_of_the_source(layout, tmp_path):
    data_dir = tmp_path / "a" / "data"
    summary = prepare(layout, data_dir, **SETTINGS)
    assert summary == {
        "name": "small-1",
        "path": str(data_dir / "small-1"),
        "already_prepared": False,
        "patients": 5,
        "views": 10,
        "patients_found": 5,
        "patients_skipped": 0,
        "splits": {"train": 3, "validation": 1, "test": 1},
        "repaired": {},
        "skipped": {},
        "excluded": {},
        "noted": {},
        "ignored": {},
    }
    scans = {(scan.patient, scan.view): scan for scan in open_bs80k(layout)}
    patients = json.loads((data_dir / "small-1" / "splits.json").read_text())["splits"]
    for split in SPLITS:
        records = open_split(data_dir, "small-1", split)
        assert len(records) == 2 * summary["splits"][split]
        keys = [(patient, view) for patient in patients[split] for view in VIEWS]
        for index, key in enumerate(keys):  # sorted by patient, anterior before posterior
            record, scan = records[index], scans.pop(key)
            assert (record["patient"], VIEWS[record["view"]]) == key
            assert record["image"] == scan.image
            assert record["boxes"].dtype == np.int32
            assert record["boxes"].shape == (len(scan.boxes), 5)
            assert [tuple(box) for box in record["boxes"].tolist()] == list(scan.boxes)
            assert record["abnormal"] == scan.abnormal
            found = find_overflow(scan.image)
            assert record["overflow"].dtype == np.int32
            for field, value in found.fields().items():
                np.testing.assert_array_equal(record[field], value)
    assert not scans


def test_a_zip_file_gives_the_same_records(layout, tmp_path, capfd):
    zipped = zip_layout(layout, tmp_path / "temp.zip", "temp/")
    seen = []
    prepare(zipped, tmp_path / "zip", **SETTINGS, on_scan=lambda *done: seen.append(done))
    assert seen == [(number, 10) for number in range(1, 11)]
    assert capfd.readouterr().out == ""  # standard output belongs to the command's result
    prepare(layout, tmp_path / "folder", **SETTINGS)
    for split in SPLITS:
        from_zip = open_split(tmp_path / "zip", "small-1", split)
        from_folder = open_split(tmp_path / "folder", "small-1", split)
        for one, other in zip(from_zip, from_folder, strict=True):
            np.testing.assert_equal(one, other)


def test_records_can_be_pickled_and_read_by_threads(layout, tmp_path):
    prepare(layout, tmp_path / "data", **SETTINGS)
    records = open_split(tmp_path / "data", "small-1", "train")
    expected = [record["image"] for record in records]
    copy = pickle.loads(pickle.dumps(records))
    order = [index % len(copy) for index in range(200)]
    with ThreadPoolExecutor(8) as pool:
        read = list(pool.map(lambda index: copy[index]["image"], order))
    assert read == [expected[index] for index in order]


def test_a_broken_source_leaves_nothing_if_strict(layout, tmp_path):
    (layout / "wholeBodyANT/ant/3.xml").write_text(voc()[:-5])
    (layout / "wholeBodyPOST/3.jpg").write_bytes(b"")
    with pytest.raises(InputError) as error:
        prepare(layout, tmp_path / "data", **SETTINGS, strict=True)
    assert str(error.value).count("\n") == 2
    assert not (tmp_path / "data").exists()


def test_what_is_left_of_a_broken_source_is_whole(layout, tmp_path):
    (layout / "wholeBodyANT/ant/3.xml").write_text(voc()[:-5])
    (layout / "wholeBodyPOST/wholeBodyPOST.txt").write_text("1.jpg 1\n2.jpg 0\n3.jpg 1\n")
    told = []
    summary = prepare(layout, tmp_path, **SETTINGS, on_checked=lambda *all: told.append(all))
    assert (summary["patients_found"], summary["patients"], summary["views"]) == (5, 4, 8)
    assert summary["skipped"] == {"annotation cannot be read": 1}
    assert summary["repaired"] == {"label missing, taken from the boxes": 2}
    ((read, findings),) = told
    assert read == {"patients_found": 5, "patients_skipped": 1, "patients": 4, "views": 8}
    settings = json.loads((tmp_path / "small-1" / "splits.json").read_text())
    assert settings["findings"] == [list(finding) for finding in findings]
    records = [record for split in SPLITS for record in open_split(tmp_path, "small-1", split)]
    assert sorted({record["patient"] for record in records}) == [1, 2, 10, 11]
    assert [record["abnormal"] for record in records if record["patient"] == 10] == [1, 1]


def test_doubts_about_overflow_are_findings(layout, tmp_path):
    """They come up when records are written; the data set remembers them."""
    (layout / "wholeBodyANT/3.jpg").write_bytes(sprinkled_jpeg())
    for _ in range(2):
        assert prepare(layout, tmp_path, **SETTINGS)["noted"] == {"overflow in doubt": 1}
    ((outcome, _, sentence),) = read_settings(tmp_path / "small-1")["findings"]
    assert (outcome, sentence.split(":")[0]) == ("noted", "patient 3, anterior")


def write_copies(source, pairs):
    """Gives both ids of each pair the anterior image of the first."""
    for one, other in pairs:
        image = (source / "wholeBodyANT" / f"{one}.jpg").read_bytes()
        (source / "wholeBodyANT" / f"{other}.jpg").write_bytes(image)


def test_known_defects_of_bs80k_are_left_out_or_noted(tmp_path):
    pairs = [patient for pair in KNOWN_DUPLICATES for patient in pair]
    source = write_layout(tmp_path / "source", (1, 3, *pairs, 722, 779, 1240, 1654))
    write_copies(source, KNOWN_DUPLICATES)
    summary = prepare(source, tmp_path / "left_out", **SETTINGS)
    assert summary["excluded"] == {"looks like another kind of study": 3}
    assert sum(summary["noted"].values()) == 5  # four pairs, one child
    records = [r for s in SPLITS for r in open_split(tmp_path / "left_out", "small-1", s)]
    assert {record["patient"] for record in records} == {1, 3, *pairs, 1240}

    kept = prepare(source, tmp_path / "kept", **SETTINGS, keep_known_defects=True)
    assert (kept["patients"], kept["excluded"]) == (14, {})
    assert sum(kept["noted"].values()) == 8
    with pytest.raises(InputError, match="prepared with keep_known_defects True, expected False"):
        prepare(source, tmp_path / "kept", **SETTINGS)


def test_the_numbers_of_bs80k_mean_nothing_in_other_scans(tmp_path):
    source = write_layout(tmp_path / "source", (1, 312, 570, 722, 779, 828, 1240, 1654, 2244))
    summary = prepare(source, tmp_path, **SETTINGS)
    assert (summary["patients"], summary["excluded"], summary["noted"]) == (9, {}, {})


def test_who_shares_an_image_is_in_one_split_and_fold(tmp_path):
    source = write_layout(tmp_path / "source", tuple(range(1, 21)))
    pairs = [(11, 1), (11, 20), (2, 12), (3, 13), (4, 14)]  # the first two are one group
    write_copies(source, pairs)
    summary = prepare(source, tmp_path, **SETTINGS, num_folds=3)
    assert summary["noted"] == {"one person under several ids": 4}
    settings = json.loads((tmp_path / "small-1" / "splits.json").read_text())
    for splits in (settings["splits"], *settings["folds"]):
        split_of = {patient: split for split, ids in splits.items() for patient in ids}
        assert all(split_of[one] == split_of[other] for one, other in pairs)


def test_an_old_data_set_of_other_patients_is_refused(tmp_path):
    source = write_layout(tmp_path / "source", tuple(range(1, 6)))
    prepare(source, tmp_path, **SETTINGS)
    path = tmp_path / "small-1" / "splits.json"
    settings = json.loads(path.read_text())
    settings["splits"]["train"].pop()
    path.write_text(json.dumps(settings))
    with pytest.raises(InputError, match="was prepared with 4 patients, expected the 5"):
        prepare(source, tmp_path, **SETTINGS)


def test_doubts_of_unwrapping_are_noted(layout, tmp_path, monkeypatch):
    def doubtful(image):
        return find_overflow(image)._replace(doubts=("hot spots are rough",))

    monkeypatch.setattr(overflow, "find_overflow", doubtful)
    first = prepare(layout, tmp_path, **SETTINGS)
    assert first["noted"] == {"overflow in doubt": 10}
    settings = json.loads((tmp_path / "small-1" / "splits.json").read_text())
    sentences = [sentence for _, _, sentence in settings["findings"]]
    assert "patient 3, posterior: hot spots are rough." in sentences
    assert prepare(layout, tmp_path, **SETTINGS)["noted"] == {"overflow in doubt": 10}


def test_an_old_data_set_that_parts_one_person_is_refused(tmp_path):
    source = write_layout(tmp_path / "source", tuple(range(1, 6)))
    write_copies(source, [(1, 2)])
    prepare(source, tmp_path, **SETTINGS)
    path = tmp_path / "small-1" / "splits.json"
    settings = json.loads(path.read_text())
    splits = {"train": [1, 3, 4], "validation": [2], "test": [5]}
    path.write_text(json.dumps(settings | {"splits": splits}))
    with pytest.raises(InputError, match="with patients 1, 2 in different splits"):
        prepare(source, tmp_path, **SETTINGS)


def test_a_full_disk_is_one_sentence_and_leaves_nothing(layout, tmp_path):
    program = (
        "import pathlib, resource, sys\n"
        "from bonescan_jax.datasets.bs80k import prepare\n"
        "source, data_dir = map(pathlib.Path, sys.argv[1:])\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))\n"
        f"prepare(source, data_dir, **{SETTINGS!r})\n"
    )
    command = [sys.executable, "-c", program, str(layout), str(tmp_path / "data")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    last = done.stderr.splitlines()[-1]
    assert "InputError: " in last
    assert f"{tmp_path / 'data' / 'small-1'}: the data set cannot be written" in last
    assert "File too large" in last
    assert not list((tmp_path / "data").iterdir())


def test_a_place_that_may_not_be_written_is_one_sentence(layout, tmp_path):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(InputError, match=r"small-1: the data set cannot be written \(.*exists\)"):
        prepare(layout, tmp_path / "file", **SETTINGS)


def test_an_image_that_is_gone_after_the_check_is_one_sentence(layout, tmp_path):
    with pytest.raises(InputError) as error:
        prepare(
            layout,
            tmp_path / "data",
            **SETTINGS,
            on_checked=lambda read, findings: (layout / "wholeBodyPOST/3.jpg").unlink(),
        )
    assert str(error.value) == (
        "wholeBodyPOST/3.jpg: cannot be read (No such file or directory), "
        "though it could be before."
    )
    assert not list((tmp_path / "data").iterdir())


def test_killed_in_the_middle_it_is_not_taken_for_complete(layout, tmp_path):
    program = (
        "import os, pathlib, signal, sys\n"
        "from bonescan_jax.datasets.bs80k import prepare\n"
        "source, data_dir = map(pathlib.Path, sys.argv[1:])\n"
        "die = lambda done, total: done == 9 and os.kill(os.getpid(), signal.SIGKILL)\n"
        f"prepare(source, data_dir, **{SETTINGS!r}, on_scan=die)\n"
    )
    command = [sys.executable, "-c", program, str(layout), str(tmp_path / "data")]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    (left,) = (tmp_path / "data").iterdir()
    assert left.name.startswith(".small-1-")
    with pytest.raises(InputError, match="holds no prepared data set"):
        open_split(tmp_path / "data", "small-1", "train")
    assert not prepare(layout, tmp_path / "data", **SETTINGS)["already_prepared"]
    assert len(open_split(tmp_path / "data", "small-1", "train")) == 6
    assert not left.exists()


def test_folds_are_chosen_when_reading(tmp_path):
    source = write_layout(tmp_path / "source", tuple(range(1, 11)))
    prepare(source, tmp_path / "data", **SETTINGS, num_folds=3)
    scans = {(scan.patient, scan.view): scan.image for scan in open_bs80k(source)}
    tested = []
    for fold in range(3):
        seen = {}
        for split in SPLITS:
            records = open_split(tmp_path / "data", "small-1", split, fold)
            copy = pickle.loads(pickle.dumps(records))
            keys = [(copy[i]["patient"], VIEWS[copy[i]["view"]]) for i in range(len(copy))]
            assert keys == sorted(keys)  # patient, anterior before posterior
            assert [record["image"] for record in records] == [scans[key] for key in keys]
            seen[split] = set(keys)
        assert sorted(key for keys in seen.values() for key in keys) == sorted(scans)
        assert len(seen["validation"]) == 4  # 0.2 of 10 patients
        tested += seen["test"]
    assert sorted(tested) == sorted(scans)
    for wrong in (3, -2):
        with pytest.raises(InputError, match=f"has no fold {wrong}, expected -1 .* its 3 folds"):
            open_split(tmp_path / "data", "small-1", "test", wrong)


def test_an_interrupted_preparation_leaves_nothing(layout, tmp_path):
    def interrupt(done: int, total: int) -> None:
        if done == total:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(layout, tmp_path / "data", **SETTINGS, on_scan=interrupt)
    assert not list((tmp_path / "data").iterdir())


def test_the_same_again_is_already_prepared_and_anything_else_is_refused(layout, tmp_path):
    data_dir = tmp_path / "data"
    first = prepare(layout, data_dir, **SETTINGS)
    files = {file: file.stat().st_mtime_ns for file in data_dir.rglob("*")}
    assert prepare(layout, data_dir, **SETTINGS) == first | {"already_prepared": True}

    with pytest.raises(InputError, match="was prepared with seed 0, expected 1"):
        prepare(layout, data_dir, **SETTINGS | {"split_seed": 1})
    (layout / "wholeBodyANT/ant/3.xml").write_text(voc(()))
    with pytest.raises(InputError, match="was prepared with source_sha256"):
        prepare(layout, data_dir, **SETTINGS)
    with pytest.raises(InputError, match="another folder with --data_dir or --config.data.dir"):
        prepare(layout, data_dir, **SETTINGS)
    (data_dir / "other").mkdir()
    with pytest.raises(InputError, match=r"other/splits\.json: cannot be read"):
        prepare(layout, data_dir, **SETTINGS | {"name": "other"})
    (data_dir / "other").rmdir()
    assert {file: file.stat().st_mtime_ns for file in data_dir.rglob("*")} | files == files


def test_too_few_patients_are_refused(tmp_path):
    source = write_layout(tmp_path / "source", PATIENTS[:2])
    with pytest.raises(InputError, match="found 2, expected at least 3"):
        prepare(source, tmp_path / "data", **SETTINGS)


def test_what_is_not_prepared_names_the_command(layout, tmp_path):
    with pytest.raises(InputError, match="bonescan prepare"):
        open_split(tmp_path, "small-1", "train")
    prepare(layout, tmp_path, **SETTINGS)
    with pytest.raises(InputError, match="holds no split 'val', expected one of"):
        open_split(tmp_path, "small-1", "val")


def test_tensorflow_is_never_imported(layout, tmp_path):
    program = (
        "import sys, pathlib\n"
        "from bonescan_jax.datasets.bs80k import open_split, prepare\n"
        "source, data_dir = map(pathlib.Path, sys.argv[1:])\n"
        f"prepare(source, data_dir, **{SETTINGS!r})\n"
        "assert open_split(data_dir, 'small-1', 'train')[0]['image'][:2] == b'\\xff\\xd8'\n"
        "assert 'tensorflow' not in sys.modules\n"
    )
    command = [sys.executable, "-c", program, str(layout), str(tmp_path / "data")]
    subprocess.run(command, check=True)


def test_phantoms_go_the_same_way(tmp_path, monkeypatch):
    def write(out, num_patients, seed, num_processes, on_patient, rule):
        write_layout(out, tuple(range(1, num_patients + 1)))

    monkeypatch.setattr(phantom, "write_bs80k", write)
    summary = phantom.prepare_phantom(tmp_path, num_patients=4, seed=0, **SETTINGS)
    assert summary["patients"] == 4
    assert len(open_split(tmp_path, "small-1", "train")) == 2 * summary["splits"]["train"]


def test_simulated_files_of_a_killed_process_are_removed_by_the_next(tmp_path, monkeypatch):
    program = (
        "import os, pathlib, signal, sys\n"
        "from bonescan_jax.datasets import phantom\n"
        "phantom.write_bs80k = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)\n"
        "phantom.prepare_phantom(pathlib.Path(sys.argv[1]), num_patients=4, seed=0, "
        f"**{SETTINGS!r})\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "data")]
    (tmp_path / "tmp").mkdir()
    environment = os.environ | {"TMPDIR": str(tmp_path / "tmp")}
    assert subprocess.run(command, env=environment, check=False).returncode == -signal.SIGKILL
    assert len(list((tmp_path / "tmp").iterdir())) == 1
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    phantom.prepare_phantom(tmp_path / "data", num_patients=4, seed=0, **SETTINGS)
    assert not list((tmp_path / "tmp").iterdir())
