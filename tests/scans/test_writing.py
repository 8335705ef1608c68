"""A folder is complete or not there, and what is being written is nobody's leftover."""

from pathlib import Path

import pytest

from bonescan_jax.scans.writing import complete_folder


def test_it_appears_when_it_is_complete(tmp_path: Path):
    place = tmp_path / "a" / "set"
    with complete_folder(place) as folder:
        (folder / "set").mkdir()
        (folder / "set" / "file").write_text("all")
        assert not place.exists()
    assert (place / "file").read_text() == "all"
    assert list(place.parent.iterdir()) == [place]


def test_what_another_is_writing_is_left_alone(tmp_path: Path):
    place = tmp_path / "set"
    with complete_folder(place) as first:
        (first / "set").mkdir()
        with pytest.raises(KeyboardInterrupt), complete_folder(place) as second:
            raise KeyboardInterrupt
        assert not second.exists()
        assert (first / "set").exists()
    assert list(tmp_path.iterdir()) == [place]
