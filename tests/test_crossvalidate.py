"""Classification through the same loop: it learns, every image is scored once, and bad input."""

import sys
from pathlib import Path

import ml_collections
import numpy as np
import pytest

import bonescan_jax.crossvalidate as module
from bonescan_jax.cli.main import main
from bonescan_jax.config import default_config
from bonescan_jax.crossvalidate import crossvalidate
from bonescan_jax.datasets.bs80k import prepare
from bonescan_jax.datasets.decode import decode_labelled
from bonescan_jax.datasets.regions import Regions
from bonescan_jax.errors import InputError
from bonescan_jax.input_pipeline import host_batches
from bonescan_jax.metrics.rows import read_rows, write_rows
from bonescan_jax.report.page import write_report
from bonescan_jax.report.pictures import picture_name
from bonescan_jax.runs.workdir import write_json
from bonescan_jax.scans import ABNORMAL, BACKGROUND, NORMAL
from bonescan_jax.tasks import validate
from bonescan_jax.trained import BEST
from tests.metrics.random_rows import random_rows
from tests.region_layout import PATIENTS, crop_jpeg, write_regions


@pytest.fixture(scope="module")
def regions_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("regions")
    source = write_regions(root / "source", ("chestRANT", "headANT"))
    fractions = (0.7, 0.1, 0.2)
    settings = {"split_seed": 0, "split_fractions": fractions, "num_folds": 2}
    prepare(source, root, name="regions", **settings, builder=Regions)
    return root


@pytest.fixture
def config(regions_dir: Path) -> ml_collections.ConfigDict:
    config = default_config()
    config.task = "classify"
    config.data.dir, config.data.name = str(regions_dir), "regions"
    config.data.regions, config.data.views, config.data.num_folds = ("chestR",), "anterior", 2
    config.data.crop_height, config.data.crop_width = 56, 40
    config.data.abnormal_examples = 0.3
    config.augment.thinning = 0.0
    config.model.filters, config.model.levels, config.model.dtype = (4, 8), 1, "float32"
    config.model.dropout = 0.1
    config.mesh.data = 1
    config.train.batch_size, config.train.num_steps = 16, 30
    config.train.warmup_steps, config.train.learning_rate = 5, 0.02
    config.train.ema_decay = 0.9
    config.train.eval_every_steps = 0
    config.evaluate.batch_size = 8
    return config


def test_out_of_fold_scores_of_every_image(config: ml_collections.ConfigDict, tmp_path: Path):
    summary = crossvalidate(config, tmp_path)
    assert (summary["folds"], summary["images"]) == (2, len(PATIENTS))
    assert summary["pooled_auc_low"] <= summary["pooled_auc"] <= summary["pooled_auc_high"]
    assert summary["auc"] == pytest.approx(np.mean(summary["fold_auc"]))
    assert summary["auc"] > 0.9, summary
    _, rows = read_rows(tmp_path / "evaluation" / "crossvalidation.rows.jsonl")
    assert sorted(row.patient for row in rows) == list(PATIENTS)
    assert {row.region for row in rows} == {"chestR"}
    assert all(row.abnormal == (row.patient % 3 == 0) for row in rows)
    text = Path(str(write_report([tmp_path])["report"])).read_text()
    assert all(f'id="{picture_name(row.patient, row.view, row.region)}"' in text for row in rows)
    # The Mann-Whitney statistic by counting pairs.
    scores = [[row.score for row in rows if row.abnormal == label] for label in (False, True)]
    differences = np.subtract.outer(scores[1], scores[0])
    pairs = (differences > 0).mean() + (differences == 0).mean() / 2
    assert summary["pooled_auc"] == pytest.approx(pairs)


def test_masks_are_pooled_over_pixels(
    small_config: ml_collections.ConfigDict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def evaluate(workdirs: list[Path], split: str) -> None:
        (workdir,) = workdirs
        fold = int(workdir.name[-1])
        counts = [[[fold, 1, 2], [9, 0, 0]], [[0, 1, 0], [0, 0, fold]]]
        about = {
            **{"step": 4, "min_area": small_config.evaluate.min_area, "selected": "head_1"},
            **{"checkpoint": "newest", "mirror": False, "alone": False},
        }
        rows = [
            row._replace(pixels={"head_1": each, "threshold": each})
            for row, each in zip(random_rows(1, fold), counts, strict=True)
        ]
        evaluated.append(fold)
        write_rows(workdir / "evaluation" / f"{split}.rows.jsonl", about, rows)

    def train(config: ml_collections.ConfigDict, workdir: Path) -> dict:
        write_json(workdir / "evaluation" / BEST, {"predictor": "head_1"})
        return {"step": 4}

    evaluated: list[int] = []
    monkeypatch.setattr(module, "train", train)
    monkeypatch.setattr(module, "evaluate", evaluate)
    summary = crossvalidate(small_config, tmp_path)
    found, invented, missed = 0 + 1 + 2 + 3 + 4, 5 * 2, 5 * 2
    assert summary["pooled_dice_abnormal"] == pytest.approx(
        2 * found / (2 * found + invented + missed)
    )
    assert summary["pooled_dice_normal"] == pytest.approx(2 * 45 / (2 * 45 + 10))
    each = [2 * fold / (2 * fold + 2 + 2) for fold in range(5)]
    assert summary["fold_dice_abnormal"] == pytest.approx(each)
    assert summary["dice_abnormal"] == pytest.approx(np.mean(each))
    assert (summary["folds"], summary["images"]) == (5, 10)
    crossvalidate(small_config, tmp_path)
    assert evaluated == [0, 1, 2, 3, 4]  # a second call finds what the first one scored
    # But not what somebody has scored in another way since.
    path = tmp_path / "fold_2" / "evaluation" / "test.rows.jsonl"
    about, rows = read_rows(path)
    for name, value in (("mirror", True), ("checkpoint", "best"), ("selected", "threshold")):
        write_rows(path, about | {name: value}, rows)
        crossvalidate(small_config, tmp_path)
        assert evaluated.pop() == 2
    small_config.evaluate.min_area += 1
    crossvalidate(small_config, tmp_path)
    assert evaluated == [0, 1, 2, 3, 4] * 2
    small_config.data.num_folds = 2  # of the five it was prepared with
    with pytest.raises(InputError, match="data.num_folds is 2, expected 5"):
        crossvalidate(small_config, tmp_path)


def test_an_image_lies_in_the_middle_and_its_mask_says_its_class():
    rng = np.random.default_rng(0)
    record = {
        "image": crop_jpeg(rng, True),
        "abnormal": 1,
        "gain": 1.5,
        "reference": 20.0,
        "overflow": np.array([[0, 600]], np.int32),  # its first pixel ran over 255
    }
    whole = decode_labelled(record, (64, 48))
    rows, columns = np.nonzero(whole["mask"])
    assert set(np.unique(whole["mask"])) == {BACKGROUND, ABNORMAL}
    assert not whole["image"][whole["mask"] == BACKGROUND].any()
    assert whole["image"][rows.min(), columns.min()] == 600
    assert (whole["gain"], whole["reference"]) == (1.5, 20.0)
    assert abs(rows.min() - (63 - rows.max())) <= 1
    assert abs(columns.min() - (47 - columns.max())) <= 1
    part = decode_labelled(record | {"abnormal": 0}, (32, 32))
    assert (part["mask"] == NORMAL).all()
    top, left = rows.min() + (np.ptp(rows) - 31) // 2, columns.min() + (np.ptp(columns) - 31) // 2
    np.testing.assert_array_equal(part["image"], whole["image"][top : top + 32, left : left + 32])


def test_abnormal_images_come_as_often_as_asked(config: ml_collections.ConfigDict):
    config.data.abnormal_examples = 0.8
    batches = list(host_batches(config, np.arange(8), 0, 10))
    labels = np.concatenate([(batch["mask"] == ABNORMAL).any((1, 2, 3)) for batch in batches])
    assert 0.75 < labels.mean() < 0.95  # 0.8 and a third of the rest


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"task": "detect"}, "task is 'detect', expected one of segment, classify"),
        ({"task": "segment"}, "data.name is 'regions', which has no boxes"),
        ({"data.views": "both"}, "data.views is 'both', expected each, anterior or posterior"),
        ({"data.regions": ("knee",)}, "data.regions holds 'knee', expected some of ankleL"),
    ],
)
def test_what_cannot_be_is_named(config: ml_collections.ConfigDict, changes: dict, sentence: str):
    config.update_from_flattened_dict(changes)
    with pytest.raises(InputError, match=sentence):
        validate(config)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["crossvalidate", "--config={config}"], "--workdir is missing"),
        (
            ["crossvalidate", "--config={config}", "--workdir=w", "--config.data.fold=1"],
            "fold is 1",
        ),
        (["prepare", "--config={config}"], "--source is missing"),
        (["prepare", "--config={config}", "--source=empty"], "expected folders as chestRANT"),
        (["train", "--config={config}", "--workdir=w"], "bonescan prepare"),
        (
            ["predict", "--workdir=classified", "--input=x"],
            "config.json: task is 'classify', expected 'segment'",
        ),
    ],
)
def test_the_command_line_refuses_with_a_sentence(
    config: ml_collections.ConfigDict,
    capsys: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    arguments: list[str],
    sentence: str,
):
    (tmp_path / "empty").mkdir()
    (tmp_path / "classified").mkdir()
    (tmp_path / "classified" / "config.json").write_text(config.to_json())
    file = Path(__file__).parent.parent / "configs" / "bs80k_regions.py"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        sys, "argv", ["bonescan", *(each.format(config=file) for each in arguments)]
    )
    with pytest.raises(SystemExit) as leaving:
        main()
    output = capsys.readouterr()
    assert (leaving.value.code, output.out) == (2, "")
    assert sentence in output.err
    assert not (tmp_path / "w").exists()
