"""The table of simulated against real scans: like with like, and honest about misses."""

from dataclasses import replace

import numpy as np
import pytest

from bonescan_jax.errors import InputError
from bonescan_jax.phantom.body import draw_body
from bonescan_jax.phantom.patient import patient_generator
from bonescan_jax.phantom.real_views import NM1, REAL_VIEWS
from bonescan_jax.phantom.realism import (
    QUANTITIES,
    Row,
    lesions,
    markdown,
    measure,
    outside_of_range,
    simulated_features,
    validate,
)
from bonescan_jax.scans import ABNORMAL, NORMAL, VIEWS


@pytest.fixture(scope="module")
def measured():
    return [measure((0, patient)) for patient in range(1, 4)]


@pytest.fixture(scope="module")
def validated():
    return validate(3, seed=0, num_processes=1)


def quantity(name):
    return next(item for item in QUANTITIES if item.name == name)


def row(simulated, reason="because", spread=None):
    return Row("it", simulated, (1.0, 3.0), 1.0, spread, "somewhere", reason)


def test_real_and_simulated_views_are_measured_alike(measured):
    """Every feature that real views have stored is one that simulated views are measured by."""
    for patient in measured:
        assert patient.features == simulated_features((0, patient.patient))
        for view, features in zip(VIEWS, patient.features, strict=True):
            assert list(features) == list(REAL_VIEWS[view])
        assert list(patient.features[0]) == list(NM1)
    for view in VIEWS:
        for low, middle, high in REAL_VIEWS[view].values():
            assert low <= middle <= high


def test_regions_lie_where_they_are_named():
    """Marked bones are found where their region is looked for, in a patient's own pose."""
    body = draw_body(patient_generator(0, 2))
    hip, ankle = body.locate(np.array([(90, 868, 95), (80, 1622, 58)], np.float32), "femur", 0)
    assert hip[0] > 127 and ankle[1] > hip[1] + 200  # the patient's left is at the right
    right = body.locate(np.array([(-90, 868, 95)], np.float32), "femur", 1)[0]
    assert right[0] < 128 and right[1] == pytest.approx(hip[1], abs=12)
    vertex = body.locate(np.zeros((1, 3), np.float32), "trunk")[0]
    assert vertex[1] == pytest.approx(body.vertex, abs=6)


def test_noise_is_measured_free_of_structure(measured):
    """Poisson counts have variance over mean 1, on sloping tissue too."""
    for patient in measured:
        assert patient.noise == pytest.approx(1, abs=0.15)


def test_lesions_are_measured_over_the_bone_that_holds_them():
    """Uptakes are drawn ×2–25, in ribs half as much again."""
    found = []
    for number in range(1, 13):
        body = draw_body(patient_generator(0, number))
        malignant = [spot.where for spot in body.hot_spots if spot.kind == "malignant"]
        assert [where for where, _ in lesions(body)] == malignant
        found += lesions(body)
    assert len(found) > 5
    for where, times in found:
        assert 1 < times < (37.51 if where.startswith("rib") else 25.01)
    assert max(times for _, times in found) > 3


def test_box_statistics_are_those_of_known_boxes(measured):
    none = np.zeros((0, 5), np.int32)
    one = np.array([(10, 20, 20, 30, ABNORMAL)], np.int32)
    three = np.array([(0, 0, 4, 5, NORMAL)] * 2 + [(0, 0, 3, 10, ABNORMAL)], np.int32)
    patients = [
        replace(measured[0], boxes=(one, none)),
        replace(measured[0], boxes=(three, one)),
        replace(measured[0], boxes=(none, none)),
        replace(measured[0], boxes=(three[:1], none)),
    ]
    expected = {
        "boxes an annotated view": 6 / 4,
        "boxes an annotated anterior view": 5 / 3,
        "boxes an annotated posterior view": 1,
        "box area, median, pixels": 25,  # 100, 20, 20, 30, 100, 20
        "anterior views without hot spots": 1 / 4,
        "posterior views without hot spots": 3 / 4,
        "abnormal boxes an anterior view": 2 / 4,
        "abnormal anterior views": 2 / 4,
        "abnormal posterior views": 1 / 4,
        "Normal : Abnormal boxes, anterior": 3 / 2,
    }
    for name, value in expected.items():
        assert quantity(name).overall(patients) == pytest.approx(value), name


def test_rows_say_what_is_off(validated):
    rows, summary = validated
    assert [item.quantity for item in rows] == [item.name for item in QUANTITIES]
    off = [item.quantity for item in rows if not item.within]
    assert summary["off"] == off
    assert (summary["rows"], summary["alike"]) == (len(rows), len(rows) - len(off))
    assert summary["patients_per_second"] > 0
    for item in rows:
        assert item.interval[0] <= item.interval[1]
        assert item.ratio == pytest.approx(item.simulated / item.measured)


def test_a_row_is_alike_by_its_value_or_within_the_range_of_real_patients():
    assert row(1.15).within and row(0.86).within
    assert not row(1.16).within and not row(0.84).within
    assert row(1.5, spread=(0.5, 1.5)).within and not row(1.5, spread=(0.5, 1.4)).within


def test_nm1_is_out_of_range_where_no_patient_comes_near_to_it(measured):
    """Patients that are as NM1, but for one feature."""
    like = [replace(m, features=(dict(NM1), m.features[1])) for m in measured]
    assert outside_of_range(like) == []
    like = [
        replace(m, features=(NM1 | {"row of the crown": 10.0}, m.features[1])) for m in measured
    ]
    (found,) = outside_of_range(like)
    assert found.startswith("row of the crown: NM1 ")


def test_same_seed_same_table_in_two_processes(validated):
    finished = []
    rows, _ = validate(3, seed=0, num_processes=2, on_patient=finished.append)
    assert [(r.quantity, r.simulated) for r in rows] == [
        (r.quantity, r.simulated) for r in validated[0]
    ]
    assert sorted(finished) == [1, 2, 3]


def test_markdown_gives_the_reason_only_where_it_is_needed():
    lines = markdown([row(1.1), row(0.5), row(1.3, "")]).splitlines()
    assert len({line.count("|") for line in lines}) == 1  # a table
    assert lines[2].endswith("| 1.10 | yes |")
    assert lines[3].endswith("| 0.50 | no: because |")
    assert lines[4].endswith("| no: unexplained |")


def test_refuses_no_patients():
    with pytest.raises(InputError, match="at least 1, found 0"):
        validate(0, seed=0)
