"""Evaluation: left is left on both views, and any number of devices gives the same scores."""

import json
from pathlib import Path
from typing import Any

import cv2
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

from bonescan_jax import evaluate as evaluation
from bonescan_jax import trained
from bonescan_jax.cluster.mesh import make_evaluation_mesh
from bonescan_jax.datasets.bs80k import prepare
from bonescan_jax.errors import InputError
from bonescan_jax.evaluate import evaluate
from bonescan_jax.metrics.rows import read_rows
from bonescan_jax.scans import ABNORMAL, HEIGHT, WIDTH
from bonescan_jax.tasks import build_network, segment
from bonescan_jax.train import train
from bonescan_jax.trained import Choice
from tests.layout import FOLDERS, voc

SPOT = (40, 300, 50, 310)  # xmin, ymin, xmax, ymax of the only hot spot, on posterior views


def write_spots(root: Path, patients: int) -> Path:
    """Every patient has one abnormal spot at the left edge of the posterior view."""
    rng = np.random.default_rng(0)
    for folder, xml_folder in FOLDERS.items():
        (root / folder / xml_folder).mkdir(parents=True)
        posterior = folder == "wholeBodyPOST"
        for patient in range(1, patients + 1):
            image = rng.poisson(20, (HEIGHT, WIDTH)).astype(np.uint8)
            if posterior:
                xmin, ymin, xmax, ymax = SPOT
                image[ymin:ymax, xmin:xmax] = 180
                boxes = ((*SPOT, ABNORMAL),)
                (root / folder / xml_folder / f"{patient}.xml").write_text(voc(boxes))
            data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 100])[1]
            (root / folder / f"{patient}.jpg").write_bytes(data.tobytes())
        lines = [f"{patient}.jpg {int(posterior)}\n" for patient in range(1, patients + 1)]
        (root / folder / f"{folder}.txt").write_text("".join(lines))
    return root


def hot_is_abnormal(network: Any, mesh: Any, mirror: bool) -> Any:
    """The predict step of a network that calls abnormal what is bright in its input."""
    del mesh, mirror

    def step(weights: Any, image: jax.Array, reference: jax.Array) -> jax.Array:
        hot = jnp.moveaxis(image, -1, 1) > 120
        found = jnp.stack([~hot, hot, jnp.zeros_like(hot)], -1) * 0.8 + 0.1
        return jnp.stack([found] * len(segment.predictor_names(network)))

    return jax.jit(step)


def test_a_spot_on_the_left_of_a_posterior_view_is_found_there(
    small_config: ml_collections.ConfigDict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """With both views side by side, where one is mirrored, and a last batch that is not full."""
    source = write_spots(tmp_path / "source", 15)
    fractions = (0.6, 0.2, 0.2)
    prepare(source, tmp_path / "data", name="phantom", split_seed=0, split_fractions=fractions)
    small_config.data.update({"dir": str(tmp_path / "data"), "views": "both", "mask": "box"})
    workdir = tmp_path / "run"
    workdir.mkdir()
    (workdir / "config.json").write_text(small_config.to_json())
    network = build_network(small_config)
    monkeypatch.setattr(trained, "load_network", lambda *_: (network, {}, 7))
    monkeypatch.setattr(segment, "make_predict_step", hot_is_abnormal)
    scores = evaluate([workdir], "test", Choice("mean"))
    written = json.loads((workdir / "evaluation" / "test.json").read_text())
    assert scores["num_images"] == 6
    assert scores["dice_abnormal"] == 1
    assert written["masks"]["mean"]["abnormal"]["pooled"]["dice"]["value"] == 1
    lesions = written["lesions"]["abnormal"]
    assert lesions["num_lesions"] == 3
    for rule in ("centre", "overlap"):
        assert lesions[rule]["per_view"]["0.3"]["value"] == 1
        assert lesions[rule]["curve"]["false_positives"][0] == 0
    _, rows = read_rows(workdir / "evaluation" / "test.rows.jsonl")
    assert [row.view for row in rows] == ["anterior", "posterior"] * 3
    for row in rows:
        assert [each.box for each in row.lesions] == [SPOT] * (row.view == "posterior")
        sure = [each.box for each in row.candidates if each.score > 0.5]
        assert sure == [SPOT] * (row.view == "posterior")

    # The recipe that looks at pixels for the mask in a box.
    small_config.data.mask = "otsu"
    (workdir / "config.json").write_text(small_config.to_json())
    evaluate([workdir], "test", Choice("mean"))
    _, rows = read_rows(workdir / "evaluation" / "test.rows.jsonl")
    assert all(0 < each.area <= 100 for row in rows for each in row.lesions)
    assert written["image_auc"]["auc"] == 1


def test_any_number_of_devices_gives_the_scores_of_the_training(
    small_config: ml_collections.ConfigDict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Trained on 4 × 2 devices; 1, 3 and 8 score it, none of which fits its batch."""
    small_config.train.num_steps = 1
    small_config.mesh.update({"data": 4, "spatial": 2})
    train(small_config, tmp_path)
    scores, rows = [], []
    for count in (1, 3, 8):
        mesh = make_evaluation_mesh(jax.devices()[:count])
        monkeypatch.setattr(evaluation, "make_evaluation_mesh", lambda mesh=mesh: mesh)
        scores.append(evaluate([tmp_path], "test", Choice("mean")))
        rows.append(read_rows(tmp_path / "evaluation" / "test.rows.jsonl")[1])
    names = ("dice_abnormal", "dice_normal", "num_images", "step")
    for other in scores[1:]:
        assert [other[name] for name in names] == pytest.approx([scores[0][name] for name in names])
    for row, *others in zip(*rows, strict=True):
        for other in others:
            assert other.score == pytest.approx(row.score, rel=1e-4)
            assert other._replace(score=0, candidates=()) == row._replace(score=0, candidates=())
            for one, same in zip(row.candidates, other.candidates, strict=True):
                assert one._replace(score=0, overlaps=()) == same._replace(score=0, overlaps=())

    evaluate([tmp_path], "test", Choice("mean"), against=tmp_path)
    compared = json.loads((tmp_path / "evaluation" / "test_against.json").read_text())
    assert {each["value"] for each in compared["differences"].values()} <= {0, None}
    with pytest.raises(InputError, match="nobody/evaluation/test.rows.jsonl"):
        evaluate([tmp_path], "test", Choice("mean"), against=tmp_path / "nobody")


def test_data_that_moved_are_named_and_the_rest_of_the_config_stays(
    small_config: ml_collections.ConfigDict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "config.json").write_text(small_config.to_json())
    seen = {}

    def stop(config: ml_collections.ConfigDict, *_: Any) -> None:
        seen.update(config.data)
        raise InputError("far enough")

    monkeypatch.setattr(trained, "load_network", stop)
    with pytest.raises(InputError, match="far enough"):
        evaluate([tmp_path], "test", Choice("mean"), changes={"data.dir": "elsewhere"})
    assert seen["dir"] == "elsewhere"
    with pytest.raises(InputError, match="--config.model.levels: belongs to the run"):
        evaluate([tmp_path], "test", Choice("mean"), changes={"model.levels": 1})


def test_other_data_than_those_of_the_training_are_told(
    small_config: ml_collections.ConfigDict, tmp_path: Path, capsys: pytest.CaptureFixture
):
    """Prepared from the same patients with another split: some of the test were trained on."""
    small_config.train.num_steps = 1
    run = tmp_path / "run"
    train(small_config, run)
    assert evaluate([run], "test", Choice("mean"))["same_data"] is True
    assert "trained on" not in capsys.readouterr().err
    source = write_spots(tmp_path / "source", 10)
    fractions = (0.6, 0.2, 0.2)
    prepare(source, tmp_path / "data", name="phantom", split_seed=1, split_fractions=fractions)
    changes = {"data.dir": str(tmp_path / "data")}
    assert evaluate([run], "test", Choice("mean"), changes=changes)["same_data"] is False
    assert "is not the data that" in capsys.readouterr().err
    assert json.loads((run / "evaluation" / "test.json").read_text())["same_data"] is False
