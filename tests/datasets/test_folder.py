"""Own scans as a data set: counts as they are, missing views never scored, and the whole way."""

import itertools
import json
import sys

import numpy as np
import pytest

from bonescan_jax.cli.main import main
from bonescan_jax.datasets.bs80k import prepare
from bonescan_jax.datasets.decode import decode
from bonescan_jax.datasets.folder import Folder, open_folder_split
from bonescan_jax.datasets.records import ALL, data_fingerprint
from bonescan_jax.errors import InputError
from bonescan_jax.input_pipeline import example_records
from bonescan_jax.scans import VIEWS
from bonescan_jax.scans.export import as_exported
from tests.hot_spots import hot_body, stretch, wrap_after_gain
from tests.layout import zip_layout
from tests.own_scans import counts, mask, write_dicom_folder, write_png

SETTINGS = {
    "name": "folder",
    "split_seed": 0,
    "split_fractions": (0.6, 0.2, 0.2),
    "builder": Folder,
}


@pytest.fixture
def run(capfd, monkeypatch):
    """Runs a command; its line of JSON."""

    def of_verb(verb, *arguments):
        monkeypatch.setattr(sys, "argv", ["bonescan", verb, *arguments])
        main()  # leaves with SystemExit where it fails
        return json.loads(capfd.readouterr().out.splitlines()[-1])

    return of_verb


def test_records_hold_the_counts_of_dicom_and_the_masks(tmp_path):
    truth = write_dicom_folder(tmp_path / "scans", 6)
    result = prepare(tmp_path / "scans", tmp_path / "data", **SETTINGS)
    assert (result["patients"], result["views"], result["views_missing"]) == (6, 12, 0)
    assert result["skipped"] == {}
    records, missing = open_folder_split(tmp_path / "data", "folder", ALL)
    assert missing == frozenset()
    assert len(records) == 12
    for record, key in zip(records, sorted(truth), strict=True):
        view = decode(record, "ellipse")
        assert (record["patient"], VIEWS[record["view"]]) == key
        np.testing.assert_array_equal(view["image"], as_exported(truth[key]))
        np.testing.assert_array_equal(view["mask"], mask())
        assert view["gain"] == 1
        window = (slice(290, 354), slice(100, 164))
        np.testing.assert_array_equal(
            decode(record, "box", window)["image"], as_exported(truth[key])[window]
        )
        np.testing.assert_array_equal(decode(record, "box", window)["mask"], mask()[window])


def test_a_zip_file_gives_the_same_records_and_another_choice_is_another_data_set(tmp_path):
    write_dicom_folder(tmp_path / "scans", 4)
    prepare(tmp_path / "scans", tmp_path / "a", **SETTINGS)
    zipped = zip_layout(tmp_path / "scans", tmp_path / "scans.zip", "ours/")
    prepare(zipped, tmp_path / "b", **SETTINGS)
    assert data_fingerprint(tmp_path / "a", "folder") == data_fingerprint(tmp_path / "b", "folder")
    assert prepare(zipped, tmp_path / "a", **SETTINGS)["already_prepared"]
    prepare(zipped, tmp_path / "c", **SETTINGS, options={"unwrap": False})
    with pytest.raises(InputError, match="was prepared with unwrap False, expected True"):
        prepare(zipped, tmp_path / "c", **SETTINGS, options={"unwrap": True})


def test_wrapped_values_are_decoded_unwrapped_with_unwrap_and_wrapped_without(tmp_path, run):
    (tmp_path / "config.py").write_text(
        "from bonescan_jax.config import default_config\n"
        "def get_config():\n"
        "    config = default_config()\n"
        "    config.data.name = 'folder'\n"
        "    return config\n"
    )
    truth = stretch(hot_body(400, 6), 2.0)
    for patient, view in itertools.product(range(1, 4), VIEWS):
        grey = wrap_after_gain(hot_body(400, 6), 2.0)
        grey[0, patient] = 1  # in air: the same image would be one person's
        write_png(tmp_path / f"scans/{patient}-{view}.png", grey)
    command = [f"--config={tmp_path / 'config.py'}", f"--source={tmp_path / 'scans'}"]
    command += ["--unannotated=empty"]
    right = {}
    for unwrap in ("unwrap", "nounwrap"):
        run("prepare", *command, f"--data_dir={tmp_path / unwrap}", f"--{unwrap}")
        records, _ = open_folder_split(tmp_path / unwrap, "folder", ALL)
        view = decode(records[0], "ellipse", (slice(384, 640), slice(64, 192)))
        right[unwrap] = (np.abs(view["image"].astype(int) - truth) <= 4)[truth > 255].mean()
    assert right["unwrap"] > 0.95
    assert right["nounwrap"] == 0


@pytest.fixture
def single_views(tmp_path):
    """Eight patients, of whom the second has an anterior view only."""
    rng = np.random.default_rng(0)
    for patient in range(1, 9):
        for view in VIEWS[: 1 if patient == 2 else 2]:
            write_png(tmp_path / f"scans/{patient}-{view}.png", counts(rng))
            write_png(tmp_path / f"scans/{patient}-{view}_mask.png", mask())
    result = prepare(tmp_path / "scans", tmp_path / "data", **SETTINGS)
    assert (result["views"], result["views_missing"]) == (15, 1)
    assert result["noted"] == {"view missing": 1}
    return tmp_path / "data"


@pytest.mark.parametrize(
    ("views", "examples"), [("each", 15), ("anterior", 8), ("posterior", 7), ("both", 8)]
)
def test_a_missing_view_is_no_example_alone(single_views, small_config, views, examples):
    small_config.data.update({"dir": str(single_views), "name": "folder", "views": views})
    found = example_records(small_config, ALL)
    assert len(found) == examples
    assert all(any(not record["missing"] for record in found[i]) for i in range(examples))


@pytest.mark.parametrize("views", ["each", "both"])
def test_own_scans_go_the_whole_way(tmp_path, run, views):
    """Prepare, a training step, evaluate and report; a missing view is no row."""
    write_dicom_folder(tmp_path / "scans", 6)
    min((tmp_path / "scans").glob("*/2.dcm")).unlink()  # one view of a patient is missing
    (tmp_path / "config.py").write_text(
        "from bonescan_jax.config import default_config\n"
        "def get_config():\n"
        "    config = default_config()\n"
        f"    config.data.update(name='folder', dir={str(tmp_path / 'data')!r}, views={views!r})\n"
        "    config.data.update(crop_height=64, crop_width=64, num_folds=2)\n"
        "    config.model.update(filters=(4, 8, 8), levels=2, dtype='float32')\n"
        "    config.mesh.data = 1\n"
        "    config.train.update(batch_size=2, num_steps=1, warmup_steps=0)\n"
        "    config.evaluate.batch_size = 2\n"
        "    return config\n"
    )

    config, workdir = f"--config={tmp_path / 'config.py'}", f"--workdir={tmp_path / 'run'}"
    prepared = run("prepare", config, f"--source={tmp_path / 'scans'}")
    assert prepared["views_missing"] == 1
    run("train", config, workdir)
    scores = run("evaluate", workdir, "--split=all")
    assert scores["num_images"] == prepared["views"]
    rows = (tmp_path / "run/evaluation/all.rows.jsonl").read_text().splitlines()
    assert sum("candidates" in row for row in rows) == prepared["views"]
    run("report", workdir)
