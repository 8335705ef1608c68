"""Files in, findings out: every kind of file, a mask of the file's own size, boxes inside it."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

import bonescan_jax.predict
from bonescan_jax.cluster.mesh import make_mesh
from bonescan_jax.config import default_config
from bonescan_jax.errors import InputError
from bonescan_jax.evaluate import load_network
from bonescan_jax.phantom.dicom import write_dicom
from bonescan_jax.predict import predict
from bonescan_jax.runs.workdir import read_config
from bonescan_jax.train import train
from tests.hot_spots import sprinkled_jpeg
from tests.layout import write_layout
from tests.scans.test_dicom import PIXELS, nm_dataset, save


@pytest.fixture(scope="module")
def workdir(tmp_path_factory: pytest.TempPathFactory, data_dir: Path) -> Path:
    """A run of one step: its findings mean nothing, their form does."""
    config = default_config()
    config.data.dir, config.data.name = str(data_dir), "phantom"
    config.data.crop_height = config.data.crop_width = 64
    config.model.filters, config.model.levels, config.model.dtype = (4, 8, 8), 2, "float32"
    config.train.batch_size, config.train.num_steps, config.train.warmup_steps = 8, 1, 0
    config.evaluate.batch_size = 8
    path = tmp_path_factory.mktemp("run")
    train(config, path)
    return path


def test_a_png_smaller_than_a_scan(workdir: Path, tmp_path: Path):
    pixels = np.random.default_rng(0).poisson(300, (900, 200)).astype(np.uint16)
    cv2.imwrite(str(tmp_path / "a.png"), pixels)
    result = predict(workdir, tmp_path / "a.png", tmp_path / "out", "mean", 0)
    found = json.loads((tmp_path / "out" / "a.json").read_text())
    mask = cv2.imread(str(tmp_path / "out" / found["mask"]), cv2.IMREAD_UNCHANGED)
    assert mask.shape == (900, 200)
    assert set(np.unique(mask)) <= {0, 1, 2}
    overlay = cv2.imread(str(tmp_path / "out" / found["overlay"]))
    assert overlay.shape[0] > 2 * 900  # shown at twice its size or more
    assert result["views"] == 1
    assert result["boxes_abnormal"] + result["boxes_normal"] == len(found["boxes"])
    for box in found["boxes"]:
        assert 0 <= box["xmin"] < box["xmax"] <= 200
        assert 0 <= box["ymin"] < box["ymax"] <= 900
        assert 0 < box["score"] <= 1
        inside = mask[box["ymin"] : box["ymax"], box["xmin"] : box["xmax"]]
        assert {"abnormal": 1, "normal": 2}[box["label"]] in inside


def test_notes_are_beside_the_findings(workdir: Path, tmp_path: Path):
    (tmp_path / "a.jpg").write_bytes(sprinkled_jpeg())
    save(nm_dataset(PIXELS["anterior"][None]), tmp_path / "b.dcm")
    for name, phrase in (("a.jpg", "times as rough as noise"), ("b.dcm", "which view this is")):
        predict(workdir, tmp_path / name, tmp_path / "out", "mean", 0)
        (note,) = json.loads((tmp_path / "out" / name[0]).with_suffix(".json").read_text())["notes"]
        assert phrase in note


def test_a_folder_in_the_layout_of_bs80k(workdir: Path, tmp_path: Path):
    """Both folders hold a 1.jpg: neither may overwrite the other."""
    source = write_layout(tmp_path / "source", (1, 2, 3))
    result = predict(workdir, source, tmp_path / "out", "head_1", 0)
    assert result["views"] == 6
    assert len(list((tmp_path / "out").glob("*.json"))) == 6
    assert predict(workdir, source, tmp_path / "two", "mean", 2)["views"] == 2


def test_a_network_of_both_views_takes_them_together_or_one(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    config = default_config()
    config.data.dir, config.data.name, config.data.views = str(data_dir), "phantom", "both"
    config.data.crop_height = config.data.crop_width = 64
    config.model.filters, config.model.levels, config.model.dtype = (4, 8, 8), 2, "float32"
    config.train.batch_size, config.train.num_steps, config.train.warmup_steps = 8, 1, 0
    config.evaluate.batch_size = 8
    train(config, tmp_path / "run")
    seen = []
    finder = bonescan_jax.predict._Finder.__call__

    def record(self: object, views: dict) -> dict:
        seen.append(sorted(views))
        return finder(self, views)

    monkeypatch.setattr(bonescan_jax.predict._Finder, "__call__", record)
    source = write_layout(tmp_path / "source", (1, 2))
    assert predict(tmp_path / "run", source, tmp_path / "out", "mean", 0)["views"] == 4
    assert seen == [[0, 1], [0, 1]]
    (source / "wholeBodyANT" / "1.jpg").unlink()
    assert predict(tmp_path / "run", source, tmp_path / "out", "mean", 0)["views"] == 3
    assert seen[2:] == [[0, 1], [1]]
    write_dicom(tmp_path / "dicom", 4, 0, num_processes=1)
    assert predict(tmp_path / "run", tmp_path / "dicom", tmp_path / "out", "mean", 0)["views"] == 8
    assert seen[4:] == [[0, 1]] * 4


def test_a_pruned_network_finds_what_its_head_finds(workdir: Path):
    config = read_config(workdir)
    network, weights, _ = load_network(config, workdir, make_mesh(config))
    pruned, kept = network.prune(weights, "head_1")
    image = np.random.default_rng(0).random((1, 64, 64, 1)).astype(np.float32)
    all_heads, _ = network.apply(weights["params"], weights["stats"], image, False)
    one_head, _ = pruned.apply(kept["params"], kept["stats"], image, False)
    np.testing.assert_array_equal(one_head[0], all_heads[0])
    assert len(kept["params"]["nodes"]) == 3


def test_bad_input_is_named(workdir: Path, tmp_path: Path):
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8 no image")
    for source, message in (
        (tmp_path / "nothing.jpg", "nothing.jpg: does not exist"),
        (tmp_path / "broken.jpg", "broken.jpg: "),
    ):
        with pytest.raises(InputError, match=message):
            predict(workdir, source, tmp_path / "out", "mean", 0)
    with pytest.raises(InputError, match="holds no config.json"):
        predict(tmp_path, tmp_path / "broken.jpg", tmp_path / "out", "mean", 0)


def test_config_of_another_program(tmp_path: Path):
    (tmp_path / "config.json").write_text('{"model": {"depth": 50}}')
    with pytest.raises(InputError, match=r"config.json: .*depth"):
        read_config(tmp_path)
