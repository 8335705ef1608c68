"""What is written is what is read, and half a file is told."""

from pathlib import Path

import numpy as np
import pytest

from bonescan_jax.errors import InputError
from bonescan_jax.metrics.rows import pixel_counts, read_rows, write_rows
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
