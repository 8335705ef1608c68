"""Several runs as one, mirrored views, unaveraged weights, and external test sets."""

import json
import re
from pathlib import Path

import jax
import ml_collections
import numpy as np
import pytest

from bonescan_jax.cluster.mesh import make_evaluation_mesh
from bonescan_jax.datasets.bs80k import prepare
from bonescan_jax.errors import InputError
from bonescan_jax.evaluate import DataSet, evaluate
from bonescan_jax.metrics.rows import ViewRow, read_rows
from bonescan_jax.predict import predict
from bonescan_jax.report.page import write_report
from bonescan_jax.report.pictures import picture_name
from bonescan_jax.train import train
from bonescan_jax.trained import Choice, Ensemble, load_trained
from tests.layout import write_layout

MEAN = Choice("mean")


@pytest.fixture(scope="module")
def data_of_folds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("folds")
    source = write_layout(root / "source", tuple(range(1, 11)))
    fractions = (0.6, 0.2, 0.2)
    prepare(
        source, root / "data", name="phantom", split_seed=0, split_fractions=fractions, num_folds=2
    )
    return root / "data"


def run_of(config: ml_collections.ConfigDict, workdir: Path, seed: int, fold: int = -1) -> Path:
    config.seed, config.train.num_steps, config.data.fold = seed, 1, fold
    train(config, workdir)
    return workdir


def shows_every_scan(folder: Path, rows: list[ViewRow]) -> str:
    """The page of a folder, which has a picture of every view that was scored."""
    text = Path(str(write_report([folder])["report"])).read_text()
    names = {
        picture_name(row.patient, view, None) for row in rows for view in row.view.split(" and ")
    }
    assert set(re.findall(r'id="(picture-[^"]*)"', text)) == names
    return text


def batch(views: int) -> dict[str, jax.Array]:
    pixels = np.random.default_rng(0).poisson(20, (2, 64, 32, views)).astype(np.float32)
    return {"image": pixels, "reference": np.full((2, views), 15, np.float32)}


def test_alone_a_view_of_a_pair_is_read_without_the_other(
    two_level_config: ml_collections.ConfigDict, tmp_path: Path
):
    two_level_config.data.views = "both"
    mesh = make_evaluation_mesh(jax.devices()[:1])
    members = load_trained([run_of(two_level_config, tmp_path / "run", 0)], mesh, MEAN, {})
    arrays = batch(2)
    alone = np.asarray(Ensemble(members, mesh, alone=True)(arrays))
    together = np.asarray(Ensemble(members, mesh)(arrays))
    assert np.abs(alone - together).max() > 1e-3  # or nothing would be shown
    for place in range(2):
        without = np.array(arrays["image"])
        without[..., 1 - place] = 0
        expected = np.asarray(Ensemble(members, mesh)(arrays | {"image": without}))
        np.testing.assert_allclose(alone[:, :, place], expected[:, :, place], atol=1e-6)


@pytest.mark.parametrize("views", ["each", "both"])
def test_mirrored_views_and_members_are_averaged(
    two_level_config: ml_collections.ConfigDict, tmp_path: Path, views: str
):
    two_level_config.data.views = views
    runs = [run_of(two_level_config, tmp_path / name, seed) for seed, name in enumerate("ab")]
    mesh = make_evaluation_mesh(jax.devices()[:1])
    members = load_trained(runs, mesh, MEAN, {})
    arrays = batch(2 if views == "both" else 1)
    turned = arrays | {"image": arrays["image"][:, :, ::-1]}
    plain = [Ensemble([each], mesh) for each in members]
    names = plain[0].names
    one = Ensemble(members[:1], mesh, mirror=True)
    assert one.names == (*names, *(f"{name} mirrored" for name in names))
    assert one.selected == "mean mirrored"
    straight = np.asarray(plain[0](arrays))
    back = np.asarray(plain[0](turned))[..., ::-1, :]
    assert np.abs(straight - back).max() > 1e-3  # or nothing would be shown
    both = np.asarray(one(arrays))
    np.testing.assert_allclose(both[: len(names)], straight, atol=1e-6)
    np.testing.assert_allclose(both[len(names) :], (straight + back) / 2, atol=1e-6)

    together = Ensemble(members, mesh)
    assert (together.names, together.selected) == (("member_1", "member_2", "ensemble"), "ensemble")
    said = np.asarray(together(arrays))
    others = [np.asarray(each(arrays))[-1] for each in plain]
    np.testing.assert_allclose(said, [*others, np.mean(others, 0)], atol=1e-6)
    mirrored = Ensemble(members, mesh, mirror=True)
    assert mirrored.selected == "ensemble mirrored"
    each = [Ensemble([each], mesh, mirror=True)(arrays) for each in members]
    np.testing.assert_allclose(
        np.asarray(mirrored(arrays))[mirrored.row], np.mean([a[-1] for a in each], 0), atol=1e-6
    )


def test_runs_are_evaluated_as_one(two_level_config: ml_collections.ConfigDict, tmp_path: Path):
    runs = [run_of(two_level_config, tmp_path / name, seed) for seed, name in enumerate("ab")]
    choice = Choice("mean", mirror=True)
    scores = evaluate(runs, choice=choice, unaveraged=True)
    place = tmp_path / "a+b"
    assert scores["workdir"] == str(place)
    about, rows = read_rows(place / "evaluation" / "test.rows.jsonl")
    names = [f"{name}{way}" for way in ("", " mirrored") for name in
             ("member_1", "member_2", "ensemble")]  # fmt: skip
    assert list(rows[0].pixels) == [*names, *(f"{name} unaveraged" for name in names), "threshold"]
    assert about["selected"] == "ensemble mirrored"
    assert [each["step"] for each in about["members"]] == [1, 1]
    for number, run in enumerate(runs):
        evaluate([run], choice=choice)
        _, own = read_rows(run / "evaluation" / "test.rows.jsonl")
        assert [row.pixels["mean mirrored"] for row in own] == [
            row.pixels[f"member_{number + 1} mirrored"] for row in rows
        ]
    assert json.loads((place / "evaluation" / "test.json").read_text())["thresholds"]
    assert read_rows(place / "evaluation" / "validation.rows.jsonl")[1]
    assert "2 runs as one, steps 1, 1, mirrored" in shows_every_scan(place, rows)

    # Other runs of as many steps, scored into the same folder, choose thresholds of their own.
    evaluate(runs[:1], choice=MEAN, out=place)
    _, kept = read_rows(place / "evaluation" / "validation.rows.jsonl")
    evaluate(runs[1:], choice=MEAN, out=place)
    _, own = read_rows(place / "evaluation" / "validation.rows.jsonl")
    assert [row.score for row in own] != [row.score for row in kept]

    with pytest.raises(InputError, match=f"--workdir names {runs[0]} twice"):
        evaluate([runs[0], runs[0]])
    two_level_config.data.mask = "box"
    other = run_of(two_level_config, tmp_path / "c", 2)
    with pytest.raises(
        InputError, match="c/config.json: data.mask is 'box', expected 'ellipse' as in"
    ):
        evaluate([runs[0], other])


def test_several_runs_predict_as_one(two_level_config: ml_collections.ConfigDict, tmp_path: Path):
    runs = [run_of(two_level_config, tmp_path / name, seed) for seed, name in enumerate("ab")]
    source = write_layout(tmp_path / "source", (1,)) / "wholeBodyANT" / "1.jpg"
    found = {}
    for name, chosen in (("a", runs[:1]), ("b", runs[1:]), ("a+b", runs)):
        result, _ = predict(chosen, source, choice=Choice("mean", mirror=True))
        assert result["out"] == str(tmp_path / name / "predictions")
        (written,) = Path(result["out"]).rglob("*.json")
        found[name] = json.loads(written.read_text())
    assert result["predictor"] == "ensemble mirrored"
    alone = [found[name]["image_score"] for name in "ab"]
    assert found["a+b"]["image_score"] <= max(alone)  # the maximum of a mean
    assert found["a+b"]["image_score"] not in alone


def test_an_external_test_set_is_scored_at_the_thresholds_of_the_training(
    two_level_config: ml_collections.ConfigDict, tmp_path: Path
):
    two_level_config.data.views = "anterior"
    run = run_of(two_level_config, tmp_path / "run", 0)
    source = write_layout(tmp_path / "source", tuple(range(50, 56)))
    folder = tmp_path / "elsewhere"
    prepare(source, folder, name="bs80k", split_seed=3, split_fractions=(0.4, 0.3, 0.3))
    own = evaluate([run], choice=MEAN)
    chosen = json.loads((run / "evaluation" / "test.json").read_text())["thresholds"]
    scores = evaluate([run], choice=MEAN, other_data=DataSet("bs80k", folder))
    place = run / "on_elsewhere_bs80k"
    assert (scores["split"], scores["num_images"]) == ("all", 6)
    assert scores["workdir"] == str(place)
    written = json.loads((place / "evaluation" / "all.json").read_text())
    assert written["thresholds"] == chosen
    assert (written["data"], written["data_dir"]) == ("bs80k", str(folder))
    _, rows = read_rows(place / "evaluation" / "all.rows.jsonl")
    assert [row.patient for row in rows] == list(range(50, 56))
    text = shows_every_scan(place, rows)
    assert f"All scans of bs80k in {folder}: 6 views of 6 patients" in text
    text = shows_every_scan(run, read_rows(run / "evaluation" / "test.rows.jsonl")[1])
    assert "The same networks on other data" in text and "run on elsewhere bs80k" in text
    # The run's own results stay as they were.
    assert (
        json.loads((run / "evaluation" / "test.json").read_text())["dice_abnormal"]
        == (own["dice_abnormal"])
    )
    only = DataSet("bs80k", folder)
    assert evaluate([run], "test", MEAN, other_data=only)["num_images"] == 2
    # Without the data of the training, what was kept does.
    elsewhere = {"data.dir": str(tmp_path / "gone")}
    again = evaluate([run], choice=MEAN, other_data=only, changes=elsewhere)
    assert again["dice_abnormal"] == scores["dice_abnormal"]
    # Another choice needs other thresholds.
    with pytest.raises(InputError, match="Thresholds are chosen on the data that the runs were"):
        evaluate([run], choice=Choice("head_1"), other_data=only, changes=elsewhere)
    known = DataSet("phantom", Path(two_level_config.data.dir))
    with pytest.raises(InputError, match="is the data that .*run was trained on"):
        evaluate([run], choice=MEAN, other_data=known)
    with pytest.raises(InputError, match="splits.json: cannot be read"):
        evaluate([run], choice=MEAN, other_data=DataSet("regions", folder))


def test_folds_predict_as_one_on_an_external_test_set_only(
    two_level_config: ml_collections.ConfigDict, data_of_folds: Path, tmp_path: Path
):
    external = two_level_config.data.dir
    two_level_config.data.update({"dir": str(data_of_folds), "views": "anterior", "num_folds": 2})
    runs = [run_of(two_level_config, tmp_path / f"fold_{fold}", 0, fold) for fold in range(2)]
    with pytest.raises(InputError, match="fold_1: was trained on fold 1, expected 0"):
        evaluate(runs, choice=MEAN)
    scores = evaluate(runs, choice=MEAN, other_data=DataSet("phantom", Path(external)))
    assert scores["num_images"] == 10
    place = tmp_path / "fold_0+fold_1" / "on_data_phantom"
    assert Path(scores["workdir"]) == place
    shows_every_scan(place, read_rows(place / "evaluation" / "all.rows.jsonl")[1])
    assert "The same networks" in Path(str(write_report([place.parent])["report"])).read_text()
    for run in runs:  # thresholds were chosen on what each has not seen
        _, rows = read_rows(run / "evaluation" / "validation.rows.jsonl")
        assert rows
