"""The released weights find what is plainly there in patients of no training, and little else."""

import json

import pytest

from bonescan_jax.phantom.files import write_bs80k
from bonescan_jax.predict import predict
from bonescan_jax.runs.weights_file import read_weights_file, released_weights
from bonescan_jax.scans import ABNORMAL, Box
from bonescan_jax.scans.bs80k import FOLDERS, open_bs80k

# Of each view its true abnormal boxes, and those found.
Findings = list[tuple[list[Box], list[dict]]]


def meet(box: dict, truth: Box) -> bool:
    width = min(box["xmax"], truth.xmax) - max(box["xmin"], truth.xmin)
    height = min(box["ymax"], truth.ymax) - max(box["ymin"], truth.ymin)
    return width > 0 and height > 0


@pytest.fixture(scope="module")
def findings(tmp_path_factory: pytest.TempPathFactory) -> Findings:
    root = tmp_path_factory.mktemp("released")
    views: Findings = []
    for seed in (8, 9, 12, 16, 20):  # patients of no training, seven with lesions and three without
        scans, out = root / f"scans_{seed}", root / f"found_{seed}"
        write_bs80k(scans, 2, seed=seed, num_processes=1)
        predict([released_weights()], scans, out)
        for scan in open_bs80k(scans):
            path = out / FOLDERS[scan.view] / f"{scan.patient}-{scan.view}.json"
            boxes = json.loads(path.read_text())["boxes"]
            truth = [box for box in scan.boxes if box.label == ABNORMAL]
            views.append((truth, [box for box in boxes if box["label"] == "abnormal"]))
    return views


def test_most_lesions_are_found(findings: Findings):
    hits = [any(meet(box, each) for box in found) for truth, found in findings for each in truth]
    assert len(hits) > 20
    assert sum(hits) / len(hits) > 0.6


def test_little_else_is_called_abnormal(findings: Findings):
    false = [
        not any(meet(box, each) for each in truth) for truth, found in findings for box in found
    ]
    assert sum(false) / len(findings) < 1.5


def test_the_card_has_scores_and_limits():
    path = released_weights()
    card = read_weights_file(path).card
    assert card["scores"]["sensitivity_at_1_abnormal"] > 0.5
    assert any("not a diagnosis" in limit for limit in card["limits"])
    assert path.stat().st_size < 6e6
