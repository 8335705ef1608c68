"""The table of a terminal shows the figures that JSON holds."""

import pytest

from bonescan_jax.metrics.summary import choose_thresholds, summarize
from bonescan_jax.metrics.text import text_table
from tests.metrics.random_rows import random_rows

ROWS = random_rows(60)
THRESHOLDS = choose_thresholds(random_rows(30, seed=1))


@pytest.fixture(scope="module")
def figures() -> dict:
    return summarize(ROWS, "mean", THRESHOLDS)


def shown(each: dict) -> str:
    if each["low"] is None:
        return f"{each['value']:.3f}"
    return f"{each['value']:.3f} ({each['low']:.3f}-{each['high']:.3f})"


def test_every_group_of_counts_and_overflow_has_its_line(figures: dict):
    lines = text_table(figures).splitlines()
    assert max(map(len, lines)) <= 100
    assert [line.split("  ")[0] for line in lines[:2]] == ["abnormal", "all views"]
    groups = [e for e in figures["groups"]["abnormal"] if e["kind"] in ("counts", "overflow")]
    assert len(groups) > 4
    for line, group in zip(lines[2:], groups, strict=False):
        assert line.startswith(group["group"] + " ")
        star = "" if group["reached"] else "*"
        parts = (group["num_views"], group["num_lesions"], shown(group["dice"]))
        expected = [*map(str, parts), shown(group["sensitivity_at_1"]) + star]
        assert [part.strip() for part in line.split("  ") if part][1:] == expected
    # Columns begin at one place.
    place = lines[0].index("Dice")
    assert all(line[place - 2 : place] == "  " and line[place] != " " for line in lines[1:4])


def test_all_views_and_patients_have_their_figures(figures: dict):
    text = text_table(figures)
    lesions = figures["lesions"]["normal"]
    for each in (
        lesions["centre"]["per_view"]["1.0"],
        lesions["centre"]["average_precision"],
        figures["masks"]["mean"]["normal"]["pooled"]["dice"],
        figures["patients"]["auc"],
    ):
        assert shown(each) in text
    assert f"{figures['patients']['abnormal']} of 60 patients abnormal: AUC" in text


def test_a_star_is_explained_where_there_is_one(figures: dict):
    assert "curve ends before" in text_table(figures)
    all_found = [row for row in ROWS if all(each.dice > 0 for each in row.lesions)]
    assert "curve ends before" not in text_table(summarize(all_found, "mean", THRESHOLDS))


def test_classified_images_have_an_auc_only():
    rows = [row._replace(pixels={}, candidates=(), lesions=()) for row in ROWS]
    lines = text_table(summarize(rows, "head_1", choose_thresholds(rows))).splitlines()
    assert len(lines) == 3
    assert "false positives" not in lines[-1]
    assert "120 images abnormal: AUC" in lines[0]
