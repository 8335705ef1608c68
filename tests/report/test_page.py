"""The report page: says what a run holds and what it lacks, loads nothing, trusts no text."""

import base64
import json
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest

from bonescan_jax.errors import InputError
from bonescan_jax.metrics.paired import compare_runs
from bonescan_jax.metrics.segmentation import CONVENTIONS, SCORES
from bonescan_jax.metrics.summary import choose_thresholds, summarize
from bonescan_jax.report.overlay import save_overlay
from bonescan_jax.report.page import write_report
from tests.metrics.random_rows import random_rows

EVIL = "<script>alert('x')</script>"
VOID = {"meta", "img", "br", "link"}


class Page(HTMLParser):
    """Reads the page back: table rows, text, pictures; checks that every tag is closed."""

    def __init__(self, html):
        super().__init__()
        self.open, self.rows, self.sources, self.text = [], [], [], ""
        self.feed(html)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        """Keep rows and pictures; nothing may run or load."""
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        attrs = dict(attrs)
        assert tag not in ("script", "iframe") and attrs.get("href", "data:,") == "data:,"
        if tag == "img":
            self.sources.append(attrs["src"])

    def handle_startendtag(self, tag, attrs):
        """Ignore elements that close themselves, as those of SVG do."""

    def handle_endtag(self, tag):
        """Check that it closes what was opened last."""
        assert self.open.pop() == tag

    def handle_data(self, data):
        """Keep text, that of cells by row."""
        if self.open and self.open[-1] in ("td", "th"):
            self.rows[-1].append(data)
        self.text += data


def read(workdir):
    return Page(Path(write_report([workdir])["report"]).read_text(encoding="utf-8"))


ROWS = random_rows(20)
FIGURES = summarize(ROWS, "mean", choose_thresholds(ROWS))


@pytest.fixture
def workdir(tmp_path):
    """A run that was evaluated and has predicted one scan, with markup in every name."""
    (tmp_path / "evaluation").mkdir()
    (tmp_path / "predictions").mkdir()
    config = {"seed": 7, "data": {"dir": EVIL}, "model": {"filters": [32, 64]}, "other": EVIL}
    (tmp_path / "config.json").write_text(json.dumps(config))
    steps = range(10, 60, 10)
    lines = [
        {"step": s, "seconds": 60 * s, "kind": "train", "loss": 1 / s, "loss_head_1": 2 / s,
         "learning_rate": 1e-3, "images_per_second": 100 + s}
        for s in steps
    ]  # fmt: skip
    lines += [{"step": s, "kind": "validation", "dice_abnormal": 0.1, EVIL: 1} for s in steps]
    text = "\n".join(map(json.dumps, lines)) + '\n{"step": 60, "kin'
    (tmp_path / "metrics.jsonl").write_text(text)
    masks = FIGURES["masks"] | {"head_1 mirrored": FIGURES["masks"]["threshold"]}
    evaluation = {
        "split": EVIL, "step": 50, "num_images": 2, "selected": "mean",
        "masks": masks | {EVIL: FIGURES["masks"]["threshold"]},
    }  # fmt: skip
    (tmp_path / "evaluation" / "test.json").write_text(json.dumps(FIGURES | evaluation))
    boxes = [{"xmin": 1, "ymin": 1, "xmax": 9, "ymax": 9, "label": "abnormal", "score": 0.5}]
    prediction = {"file": EVIL, "view": "anterior", "boxes": boxes, "overlay": "a_overlay.png"}
    (tmp_path / "predictions" / "a.json").write_text(json.dumps(prediction))
    save_overlay(tmp_path / "predictions" / "a_overlay.png", np.full((4, 4, 3), 90, np.uint8))
    return tmp_path


def test_full_page(workdir):
    page = read(workdir)
    for convention in CONVENTIONS:
        scores = [FIGURES["masks"]["mean"]["abnormal"][convention][name] for name in SCORES]
        cells = [f"{each['value']:.3f} " for each in scores]
        assert ["mean of the heads (used)", *cells] in page.rows
        assert f"{scores[0]['low']:.3f} to {scores[0]['high']:.3f}" in page.text
    names = {row[0] for row in page.rows}
    assert {"brightness threshold", "head 1, mirrored", EVIL} <= names
    lesions = FIGURES["lesions"]["abnormal"]
    first = lesions["centre"]["per_view"]["0.3"]
    (row, *_) = [
        row for row in page.rows if row[0] == f"abnormal, {lesions['num_lesions']} lesions"
    ]
    assert row[1].startswith(f"{first['value']:.3f}")
    assert f"{first['low']:.3f} to {first['high']:.3f}" in page.text
    assert not lesions["centre"]["per_view"]["2.0"]["reached"]
    assert "*" in page.text
    assert any(row[0].startswith("20 patients, ") for row in page.rows)
    assert any(row[0] == "0.45 to 0.6 M counts" for row in page.rows)
    at = lesions["centre"]["at_threshold"]
    (row, *_) = [row for row in page.rows if row[0].startswith("abnormal, if the centre")]
    assert row[1] == f"{at['threshold']:.3f}" and row[-3:] == [
        str(at[name]) for name in ("found", "missed", "false_positives")
    ]
    for text in ("skipped: 1", "1 abnormal, 0 normal", "32, 64", "50.0 min"):
        assert text in page.text
    for title in (
        "FROC curve, by centres",
        "ROC curve",
        "Precision-recall curve",
        "Reliability",
        "Training loss",
        "Validation Dice",
        "Learning rate",
        "Throughput",
    ):
        assert title in page.text
    (source,) = page.sources
    kind, data = source.split(",")
    assert kind == "data:image/jpeg;base64"
    shown = cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), cv2.IMREAD_COLOR_RGB)
    np.testing.assert_allclose(shown, np.full((4, 4, 3), 90), atol=3)
    assert not list(workdir.glob("*.tmp"))


def test_a_comparison_stands_below_the_scores(workdir):
    thresholds = (choose_thresholds(ROWS),) * 2
    found = compare_runs(ROWS, random_rows(20, noise=2.0), ("mean", "mean"), thresholds)
    path = workdir / "evaluation" / "test_against.json"
    path.write_text(json.dumps({"against": EVIL, **found}))
    page = read(workdir)
    expected = found["differences"]["average_precision_abnormal"]
    (row,) = [row for row in page.rows if row[0] == "average precision abnormal"]
    assert row[1:3] == [f"{expected['first']:.3f}", f"{expected['second']:.3f}"]
    assert row[3].startswith(f"{expected['value']:.3f}")
    assert "of 20 patients" in page.text


def test_an_evaluation_of_an_older_program_has_a_page_too(workdir):
    path = workdir / "evaluation" / "test.json"
    evaluation = json.loads(path.read_text())
    path.write_text(json.dumps({k: v for k, v in evaluation.items() if k not in FIGURES}))
    text = read(workdir).text
    assert "Lesions found" not in text and "An older program has evaluated this run" in text
    # So does one of the layout before masks had conventions.
    older = {"split": "test", "images": {"auc": None}, "lesions": {}, "masks": {"abnormal": {}}}
    (workdir / "evaluation" / "test.json").write_text(json.dumps(older))
    assert "An older program has evaluated this run" in read(workdir).text


def test_result_holds_the_headline(workdir):
    evaluation = json.loads((workdir / "evaluation" / "test.json").read_text())
    evaluation |= {"dice_abnormal": 0.4, "dice_normal": 0.6, "dice_threshold_abnormal": 0.1}
    (workdir / "evaluation" / "test.json").write_text(json.dumps(evaluation))
    result = write_report([workdir])
    assert (result["dice_abnormal"], result["dice_threshold_abnormal"]) == (0.4, 0.1)
    assert result["images_per_second"] > 0
    assert result["workdir"] == str(workdir)


def test_what_is_missing_is_said(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    text = read(tmp_path).text
    for sentence in (
        "has not been evaluated yet",
        "No training step has been logged",
        "No scan has been predicted yet",
    ):
        assert sentence in text


def test_resumed_run_draws_the_later_record_and_survives_a_torn_middle(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    records = [{"step": s, "kind": "train", "loss": 9.0, "images_per_second": 1} for s in (1, 2)]
    again = [{"step": s, "kind": "train", "loss": 0.5, "images_per_second": 2} for s in (1, 2)]
    nothing = {"step": 3, "kind": "train", "loss": float("nan"), "images_per_second": 2}
    lines = [*map(json.dumps, records), '{"step": 3, "kind', *map(json.dumps, again),
             json.dumps(nothing)]  # fmt: skip
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines))
    page = read(tmp_path)
    assert "skipped: 1" in page.text
    assert "images per second, median2.0" in page.text
    assert ">8<" not in (tmp_path / "report.html").read_text()  # no axis reaches to the loss of 9


def test_not_a_workdir_and_broken_files(workdir, tmp_path_factory):
    with pytest.raises(InputError, match=r"config\.json: not found"):
        write_report([tmp_path_factory.mktemp("empty")])
    for name in ("evaluation/test.json", "config.json"):
        whole = (workdir / name).read_text()
        (workdir / name).write_text('{"split": ')
        with pytest.raises(InputError, match=f"{name}: expected JSON"):
            write_report([workdir])
        (workdir / name).write_text(whole)
    (workdir / "config.json").write_text("[]")
    with pytest.raises(InputError, match="JSON object, found list"):
        write_report([workdir])
    assert not (workdir / "report.html").exists()


def test_pictures_come_from_the_folder_only(workdir):
    save_overlay(workdir / "secret.png", np.zeros((2, 2, 3), np.uint8))
    path = workdir / "predictions" / "a.json"
    for overlay in ("../secret.png", "absent.png", None):
        path.write_text(json.dumps({"file": "a", "boxes": [], "overlay": overlay}))
        page = read(workdir)
        assert page.sources == [] and "Picture not found" in page.text
