"""The figures of a split are those of its rows, whoever computes them."""

import json

import numpy as np
import pytest
from scipy.special import expit, logit
from sklearn.metrics import brier_score_loss, log_loss, roc_auc_score

from bonescan_jax.metrics.images import images_of
from bonescan_jax.metrics.rows import pixel_counts
from bonescan_jax.metrics.summary import choose_thresholds, headline, summarize
from bonescan_jax.scans import ABNORMAL
from tests.metrics.random_rows import random_rows

ROWS = random_rows(40)
THRESHOLDS = choose_thresholds(random_rows(30, seed=1))


@pytest.fixture(scope="module")
def figures() -> dict:
    return json.loads(json.dumps(summarize(ROWS, "mean", THRESHOLDS)))  # all of it is JSON


def test_masks_and_images_against_other_computations(figures: dict):
    true, invented, missed = pixel_counts(ROWS, "mean")[:, ABNORMAL - 1].sum(0)
    masks = figures["masks"]["mean"]["abnormal"]
    dice, recall = (masks["pooled"][score] for score in ("dice", "recall"))
    assert dice["value"] == pytest.approx(2 * true / (2 * true + invented + missed))
    assert dice["low"] < dice["value"] < dice["high"]
    assert recall["value"] == pytest.approx(true / (true + missed))
    assert "lesions" not in figures["masks"]["threshold"]["abnormal"]
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
    assert masks["lesions"]["dice"]["value"] == pytest.approx(np.mean(drawn))


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


def test_the_operating_point_is_that_of_counting(figures: dict):
    threshold = THRESHOLDS.candidates["abnormal"]
    kept = [
        each
        for row in ROWS
        for each in row.candidates
        if each.label == ABNORMAL and each.score >= threshold
    ]
    hits = sum(bool(each.overlaps) for each in kept)
    at = figures["lesions"]["abnormal"]["centre"]["at_threshold"]
    assert (at["found"], at["false_positives"]) == (hits, len(kept) - hits)
    assert at["found"] + at["missed"] == figures["lesions"]["abnormal"]["num_lesions"]
    precision, recall = (at[score]["value"] for score in ("precision", "recall"))
    assert (precision, recall) == pytest.approx((hits / len(kept), hits / (hits + at["missed"])))
    assert at["f1"]["value"] == pytest.approx(2 * precision * recall / (precision + recall))
    for score in ("precision", "recall", "f1"):
        assert at[score]["low"] < at[score]["value"] < at[score]["high"]


def test_groups_share_all_views_and_lesions(figures: dict):
    groups = figures["groups"]["abnormal"]
    whole = figures["lesions"]["abnormal"]
    for kind in ("counts", "overflow", "number", "size"):
        of_kind = [each for each in groups if each["kind"] == kind]
        assert sum(each["num_lesions"] for each in of_kind) == whole["num_lesions"]
    # All lesions are of one size, so this group is all of the split.
    (size,) = [each for each in groups if each["kind"] == "size"]
    assert size["recall"] == whole["centre"]["at_threshold"]["recall"]
    assert size["sensitivity_at_1"]["value"] == whole["centre"]["per_view"]["1.0"]["value"]
    assert "precision" not in size


def test_a_group_is_scored_as_a_split_of_its_own_would_be(figures: dict):
    overflowed = [row for row in ROWS if row.overflow]
    (group,) = [e for e in figures["groups"]["abnormal"] if e["group"] == "pixels above 255"]
    alone = summarize(overflowed, "mean", THRESHOLDS)
    assert group["num_views"] == len(overflowed)
    assert group["dice"] == alone["masks"]["mean"]["abnormal"]["pooled"]["dice"]
    lesions = alone["lesions"]["abnormal"]["centre"]
    assert group["sensitivity_at_1"] | {"reached": group["reached"]} == lesions["per_view"]["1.0"]
    assert group["precision"] == lesions["at_threshold"]["precision"]


@pytest.mark.parametrize("what", ["images", "patients"])
def test_calibration_of_images_and_patients(figures: dict, what: str):
    images = images_of(ROWS) if what == "images" else images_of(ROWS).by_patient()
    temperature = getattr(THRESHOLDS, f"{what[:-1]}_temperature")
    found = figures[what]["calibration"]
    assert found["temperature"] == temperature
    scaled = expit(logit(images.scores.clip(1e-7, 1 - 1e-7)) / temperature)
    for way, scores in (("as_predicted", images.scores), ("with_temperature", scaled)):
        brier, error = (found[way][name] for name in ("brier", "calibration_error"))
        assert brier["value"] == pytest.approx(brier_score_loss(images.labels, scores))
        points = found[way]["reliability"]
        assert sum(each["number"] for each in points) == len(scores)
        distances = [abs(each["score"] - each["share"]) * each["number"] for each in points]
        assert error["value"] == pytest.approx(sum(distances) / len(scores))
        assert error["low"] < error["value"] < error["high"]
    # The temperature is chosen on other patients: what it minimizes is the entropy there.
    other = images_of(random_rows(30, seed=1))
    other = other if what == "images" else other.by_patient()
    entropy = [
        log_loss(other.labels, expit(logit(other.scores.clip(1e-7, 1 - 1e-7)) / each))
        for each in (temperature, 0.9 * temperature, 1.1 * temperature)
    ]
    assert entropy[0] == min(entropy)


def test_the_headline_is_the_values_of_the_figures(figures: dict):
    found = headline(ROWS, "mean")
    expected = {
        f"{what[:-1]}_auc": figures[what]["auc"]["value"] for what in ("images", "patients")
    }
    for name in ("abnormal", "normal"):
        lesions = figures["lesions"][name]["centre"]
        masks = figures["masks"]["mean"][name]
        expected |= {
            f"dice_{name}": masks["pooled"]["dice"]["value"],
            f"sensitivity_at_1_{name}": lesions["per_view"]["1.0"]["value"],
            f"average_precision_{name}": lesions["average_precision"]["value"],
        }
    assert found == pytest.approx(expected)
    quiet = [row._replace(abnormal=False, lesions=(), candidates=()) for row in ROWS]
    quiet = headline([row._replace(pixels={"mean": [[0] * 3] * 2}) for row in quiet], "mean")
    assert quiet == dict.fromkeys(expected)


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
    found = headline(rows, "head_1")
    assert found == {
        name: figures[what]["auc"]["value"]
        for name, what in (("image_auc", "images"), ("patient_auc", "patients"))
    }
