"""The figures of a split are those of its rows, whoever computes them."""

import json

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from bonescan_jax.metrics.rows import pixel_counts
from bonescan_jax.metrics.summary import choose_thresholds, summarize
from bonescan_jax.scans import ABNORMAL
from tests.metrics.random_rows import random_rows

ROWS = random_rows(40)
THRESHOLDS = choose_thresholds(random_rows(30, seed=1))


@pytest.fixture(scope="module")
def figures() -> dict:
    return json.loads(json.dumps(summarize(ROWS, "mean", THRESHOLDS)))  # all of it is JSON


def test_masks_and_images_against_other_computations(figures: dict):
    true, invented, missed = pixel_counts(ROWS, "mean")[:, ABNORMAL - 1].sum(0)
    dice = figures["masks"]["abnormal"]["dice"]
    assert dice["value"] == pytest.approx(2 * true / (2 * true + invented + missed))
    assert dice["low"] < dice["value"] < dice["high"]
    assert figures["masks"]["abnormal"]["recall"]["value"] == pytest.approx(true / (true + missed))
    scores, labels = [row.score for row in ROWS], [row.abnormal for row in ROWS]
    assert figures["images"]["auc"]["value"] == pytest.approx(roc_auc_score(labels, scores))
    patients = [
        (max(pair, key=lambda row: row.score).score, any(row.abnormal for row in pair))
        for pair in zip(ROWS[::2], ROWS[1::2], strict=True)
    ]
    scores, labels = zip(*patients, strict=True)
    assert figures["patients"]["auc"]["value"] == pytest.approx(roc_auc_score(labels, scores))
    assert (figures["num_patients"], figures["patients"]["number"]) == (40, 40)
    drawn = [each.dice for row in ROWS for each in row.lesions if each.label == ABNORMAL]
    assert figures["masks"]["abnormal"]["lesion_dice"]["value"] == pytest.approx(np.mean(drawn))


def test_sensitivities_are_those_of_counting(figures: dict):
    lesions = figures["lesions"]["abnormal"]
    number = sum(each.label == ABNORMAL for row in ROWS for each in row.lesions)
    assert lesions["num_lesions"] == number
    # In these rows a candidate with an overlap is the hit of its lesion, others are false.
    ranked = sorted(
        (
            (each.score, bool(each.overlaps))
            for row in ROWS
            for each in row.candidates
            if each.label == ABNORMAL
        ),
        reverse=True,
    )
    for per, scans in (("per_view", 80), ("per_patient", 40)):
        for rate in (0.3, 0.5, 1.0, 2.0):
            hits = false = 0
            for _, hit in ranked:
                hits, false = hits + hit, false + (not hit)
                if false > rate * scans + 1e-9:
                    break
            found = lesions["centre"][per][str(rate)]
            assert found["value"] == pytest.approx(hits / number)
            assert found["reached"] == (sum(not hit for _, hit in ranked) >= rate * scans)
        assert lesions["centre"][per]["mean"]["value"] == pytest.approx(
            np.mean([lesions["centre"][per][str(rate)]["value"] for rate in (0.3, 0.5, 1.0, 2.0)])
        )


def test_groups_share_all_views_and_lesions(figures: dict):
    groups = figures["groups"]["abnormal"]
    number = figures["lesions"]["abnormal"]["num_lesions"]
    for words in ("counts", "pixel", "lesions"):
        of_kind = [each for each in groups if words in each["group"] and "num_views" in each]
        assert sum(each["num_lesions"] for each in of_kind) == number
    by_size = [each for each in groups if "num_views" not in each]
    assert sum(each["num_lesions"] for each in by_size) == number


def test_thresholds_come_from_the_validation_rows_alone(figures: dict):
    kept = figures["thresholds"]["candidates"]["abnormal"]
    assert figures["lesions"]["abnormal"]["centre"]["at_threshold"]["threshold"] == kept
    assert kept in {each.score for row in random_rows(30, seed=1) for each in row.candidates}
    assert figures["images"]["threshold"] == THRESHOLDS.image


def test_classified_images_have_no_lesions():
    rows = [row._replace(pixels={}, candidates=(), lesions=()) for row in ROWS]
    figures = summarize(rows, "head_1", choose_thresholds(rows))
    assert "lesions" not in figures
    assert figures["images"]["auc"]["value"] > 0.5
