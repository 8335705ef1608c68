"""What is written is what is read, and half a file is told."""

import csv
from pathlib import Path

import numpy as np
import pytest

from bonescan_jax.errors import InputError
from bonescan_jax.metrics.rows import pixel_counts, read_rows, write_rows, write_tables
from tests.metrics.random_rows import random_rows


def test_rows_come_back_as_they_were(tmp_path: Path):
    rows = random_rows(5)
    write_rows(tmp_path / "evaluation" / "test.rows.jsonl", {"step": 7}, rows)
    about, found = read_rows(tmp_path / "evaluation" / "test.rows.jsonl")
    assert about["step"] == 7
    assert found == rows
    assert [path.name for path in (tmp_path / "evaluation").iterdir()] == ["test.rows.jsonl"]


def test_pixels_of_a_predictor_by_row_class_and_kind():
    rows = random_rows(3)
    counts = pixel_counts(rows, "mean")
    assert counts.shape == (6, 2, 3)
    np.testing.assert_array_equal(counts[4], rows[4].pixels["mean"])


def test_a_damaged_file_is_named(tmp_path: Path):
    path = tmp_path / "rows.jsonl"
    with pytest.raises(InputError, match=r"rows.jsonl: .*expected what `bonescan evaluate` writes"):
        read_rows(path)
    write_rows(path, {}, random_rows(3))
    whole = path.read_text()
    path.write_text(whole[:-100])
    with pytest.raises(InputError, match=r"rows.jsonl: "):
        read_rows(path)
    path.write_text(whole.replace("bonescan rows 1", "bonescan rows 9"))
    with pytest.raises(InputError, match="its format is 'bonescan rows 9'"):
        read_rows(path)


def test_tables_hold_a_line_for_each_view_candidate_and_lesion(tmp_path: Path):
    rows = random_rows(6)
    write_tables(tmp_path / "test", rows)
    tables = {
        kind: list(csv.DictReader((tmp_path / f"test_{kind}.csv").open()))
        for kind in ("views", "candidates", "lesions")
    }
    assert [int(line["patient"]) for line in tables["views"]] == [row.patient for row in rows]
    assert float(tables["views"][3]["score"]) == rows[3].score
    assert int(tables["views"][3]["mean_normal_missed"]) == rows[3].pixels["mean"][1][2]
    assert len(tables["candidates"]) == sum(len(row.candidates) for row in rows)
    owners = [(row.patient, row.view) for row in rows for _ in row.lesions]
    found = [(int(line["patient"]), line["view"]) for line in tables["lesions"]]
    assert found == owners
    write_tables(tmp_path / "empty", [rows[0]._replace(candidates=(), lesions=())])
    assert len((tmp_path / "empty_candidates.csv").read_text().splitlines()) == 1
