"""The short form of `tests/faults/sweep.py`: workers are killed, nothing is lost or different."""

from pathlib import Path

from tests.faults.sweep import passed, run


def test_workers_that_are_killed_lose_and_double_nothing(tmp_path: Path, data_dir: Path):
    """SIGKILL, then SIGTERM, and a line of the journal is torn."""
    (tmp_path / "data").symlink_to(data_dir)
    result = run(tmp_path, workers=2, trials=2, kills=2, storage=None, pause=0.5)
    assert result["kills"] == 2
    assert passed(result, 2), result
