"""Data of the scan browser: what the rows say, no text that could run, pictures within a budget."""

import base64
import json
import re

import cv2
import numpy as np
import pytest

from bonescan_jax.datasets.decode import decode
from bonescan_jax.errors import InputError
from bonescan_jax.input_pipeline import view_records
from bonescan_jax.metrics.rows import write_rows
from bonescan_jax.report.browser import scan_browser
from bonescan_jax.report.page import write_report
from bonescan_jax.report.pictures import choose_patients, encode_picture, scan_pictures
from bonescan_jax.report.runs import load_runs
from bonescan_jax.report.scan_data import FALSE_ALARM, FURTHER, worst_first
from bonescan_jax.runs.workdir import write_config
from bonescan_jax.scans import VIEWS
from tests.report.scans import (
    OVERFLOWED,
    THRESHOLDS,
    counts_of,
    image,
    rows_with_further_marks,
    write_run,
)

EVIL = "</script><script>alert('x')</script>"


def decoded(text):
    """Grey values of a picture as the page makes them."""
    encoded, *extra = text.split(" ")
    pixels = cv2.imdecode(np.frombuffer(base64.b64decode(encoded), np.uint8), cv2.IMREAD_GRAYSCALE)
    pixels = pixels.astype(np.uint16)
    for place, value in zip(extra[::2], extra[1::2], strict=True):
        pixels.ravel()[int(place)] = int(value)
    return pixels


def test_candidates_are_hits_false_alarms_or_further_marks_as_defined(tmp_path, monkeypatch):
    rows = rows_with_further_marks(20)
    html = write_run(tmp_path, monkeypatch, rows).read_text()
    data = json.loads(re.search(r'id="data">(.*?)</script>', html)[1])
    lesions = [view["lesions"] for scan in data["scans"] for view in scan["views"]]
    views = [view for scan in data["runs"][0]["scans"] for view in scan["views"]]
    for label, name in enumerate(("abnormal", "normal"), 1):
        for least in (0.0, 0.3, THRESHOLDS[name], 0.8):
            outcomes = [
                each[-1]
                for view in views
                for each in view["candidates"]
                if each[0] == label and each[1] >= least
            ]
            hits, _, alarms = counts_of(rows, least, label)
            assert sum(outcome >= 0 for outcome in outcomes) == hits
            assert outcomes.count(FALSE_ALARM) == alarms
    assert any(each[-1] == FURTHER for view in views for each in view["candidates"])
    assert data["runs"][0]["thresholds"] == THRESHOLDS
    hit = next(e for v in views for e in v["candidates"] if e[-1] >= 0)
    place = next(place for place, v in enumerate(views) if hit in v["candidates"])
    assert lesions[place][hit[-1]][1:] == hit[2:6]  # random marks are the boxes of their lesions


def test_worst_is_missed_then_false_alarms_then_dice():
    def scan(patient, lesions, outcomes, dice):
        candidates = [[1, 0.9, 0, 0, 9, 9, outcome] for outcome in outcomes]
        return (
            {"patient": patient, "views": [{"lesions": [[1, 0, 0, 9, 9]] * lesions}]},
            {"dice": [dice, None], "views": [{"candidates": candidates}]},
        )

    scans = [
        scan(1, 1, [0], None),
        scan(2, 1, [0], 0.8),
        scan(3, 1, [0], 0.2),
        scan(4, 0, [FALSE_ALARM, FURTHER], 0.9),
        scan(5, 2, [0], 0.9),
    ]
    assert worst_first(*zip(*scans, strict=True), {"abnormal": 0.5, "normal": 0.5}) == [
        5,
        4,
        3,
        2,
        1,
    ]


def test_pictures_keep_every_pixel_where_it_is_and_what_overflowed():
    pixels = image(0, "anterior")
    shown = decoded(encode_picture(pixels).text)
    assert shown[OVERFLOWED[0]] == OVERFLOWED[1]
    other = shown != OVERFLOWED[1]
    error = shown[other].astype(float) - pixels[other]
    assert np.sqrt(np.mean(error**2)) < 3
    assert shown[100:900, 40:120].mean() > shown[100:900, 130:210].mean() + 30  # and not mirrored


@pytest.mark.parametrize("views", ["each", "both"])
def test_pictures_of_a_split_are_those_of_its_records(small_config, views):
    small_config.data.views = views
    records = list(view_records(small_config, "test"))
    found = list(scan_pictures(small_config, "test"))
    assert len(found) == len(records) == 4
    for record, (patient, name, picture) in zip(records, found, strict=True):
        assert (patient, name) == (
            record["patient"],
            f"picture-{record['patient']}-{VIEWS[record['view']]}",
        )
        expected = decode(record, "box")["image"].astype(float)
        assert np.sqrt(np.mean((decoded(picture.text) - expected) ** 2)) < 3


def test_without_the_evaluated_data_the_page_says_so(tmp_path, small_config):
    rows = rows_with_further_marks(2)
    path = tmp_path / "evaluation" / "test.rows.jsonl"
    write_config(tmp_path, small_config)
    write_rows(path, {"split": "test", "data_fingerprint": "of another"}, rows)
    page = scan_browser(load_runs([tmp_path]), 10**7)
    assert "is not the data set that was evaluated" in page.section and not page.pictures
    small_config.data.dir = str(tmp_path / "moved")
    write_config(tmp_path, small_config)
    page = scan_browser(load_runs([tmp_path]), 10**7)
    assert "The scans are not shown" in page.section and len(json.loads(page.data)["scans"]) == 2


def test_data_that_moved_are_found_where_one_says_they_are(tmp_path, small_config):
    patients = {int(record["patient"]) for record in view_records(small_config, "test")}
    rows = [row._replace(patient=min(patients)) for row in rows_with_further_marks(1)]
    path, here = tmp_path / "evaluation" / "test.rows.jsonl", small_config.data.dir
    small_config.data.dir = str(tmp_path / "moved")
    write_config(tmp_path, small_config)
    write_rows(path, {"split": "test"}, rows)
    page = scan_browser(load_runs([tmp_path]), 10**7, {"data.dir": here})
    names = [
        name for view in json.loads(page.data)["scans"][0]["views"] for name in view["pictures"]
    ]
    assert {name for _, name in names} <= set(page.pictures)


def test_beyond_the_budget_half_of_the_pictures_are_of_the_worst(tmp_path, monkeypatch):
    sizes = dict.fromkeys(range(100), 10)
    worst = list(range(100))
    assert choose_patients(worst, sizes, 1000) == set(worst)
    chosen = choose_patients(worst, sizes, 400)
    assert len(chosen) == 40 and set(range(20)) <= chosen
    assert max(chosen) > 60 and chosen == choose_patients(worst, sizes, 400)
    html = write_run(tmp_path, monkeypatch, rows_with_further_marks(6), max_megabytes=0.14)
    text = html.read_text()
    kept = {int(each) for each in re.findall(r'id="picture-(\d+)-anterior"', text)}
    assert 0 < len(kept) < 6 and f"it has the pictures of {len(kept)} of 6 patients" in text
    assert html.stat().st_size < 0.14e6


def test_no_text_of_the_rows_can_run(tmp_path, monkeypatch):
    rows = [row._replace(region=EVIL) for row in rows_with_further_marks(2)]
    html = write_run(tmp_path, monkeypatch, rows).read_text()
    assert EVIL not in html and "<script>alert" not in html
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', html)[1]
    allowed = dict(part.split(maxsplit=1) for part in policy.split("; "))
    checksums = (allowed.pop("style-src"), allowed.pop("script-src"))
    assert all(re.fullmatch(r"'sha256-[\w+/=]+'", each) for each in checksums)
    assert allowed.pop("img-src") == "data:" and set(allowed.values()) == {"'none'"}
    assert "default-src" in allowed
    assert len(re.findall("<script>", html)) == 1


def test_rows_of_another_format_are_refused(tmp_path):
    (tmp_path / "evaluation").mkdir()
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "evaluation" / "test.rows.jsonl").write_text("{}\n")
    with pytest.raises(InputError, match=r"test\.rows\.jsonl: its format"):
        write_report([tmp_path])
