"""What is saved comes back bit for bit or not at all, and the right steps are kept."""

import resource
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bonescan_jax.errors import RunError
from bonescan_jax.runs import manifest
from bonescan_jax.runs.checkpoint import Checkpoints, look_for_saved, restore_weights
from bonescan_jax.train_step import TrainState
from tests.faults.corrupt import corrupt

POSITION = {"seed": 0, "next_sample": 0, "num_examples": 1, "seconds": 0.0}


def state_at(step: int) -> TrainState:
    """A small state that only this step has."""
    values = jnp.arange(64, dtype=jnp.float32) * 1.1 + step
    average = {"params": {"kernel": values / 3}, "stats": {}}
    optimizer = {"count": jnp.int32(step), "moment": values**2}
    return TrainState(jnp.int32(step), {"kernel": values}, {}, optimizer, average)


def abstract() -> TrainState:
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding),
        state_at(0),
    )


def opened(workdir: Path, keep: int) -> Checkpoints:
    return Checkpoints(workdir, keep, look_for_saved(workdir))


def save_steps(workdir: Path, steps: tuple[int, ...], keep: int = 9) -> Checkpoints:
    checkpoints = opened(workdir, keep)
    for step in steps:
        checkpoints.save(step, state_at(step), POSITION)
    checkpoints.wait()
    return checkpoints


def steps_in(workdir: Path) -> list[int]:
    return sorted(int(path.name) for path in (workdir / "checkpoints").iterdir())


def test_every_damage_to_every_file_is_noticed(tmp_path: Path):
    save_steps(tmp_path / "run", (1, 2)).close()
    (tmp_path / "scratch").mkdir()
    result = corrupt(tmp_path / "run", abstract(), tmp_path / "scratch")
    every = result["files"] * result["damages"]
    assert result["files"] > 10
    assert (result["fell_back"], result["refused"], result["wrong"]) == (every, every, 0)


def test_a_step_in_another_steps_place_is_no_good(tmp_path: Path):
    save_steps(tmp_path, (1, 2)).close()
    place = tmp_path / "checkpoints"
    shutil.rmtree(place / "2")
    shutil.copytree(place / "1", place / "2")
    assert look_for_saved(tmp_path).step == 1


def test_a_run_goes_on_after_a_damaged_step_and_writes_it_anew(tmp_path: Path):
    save_steps(tmp_path, (1, 2)).close()
    (tmp_path / "checkpoints" / "2" / manifest.NAME).unlink()
    checkpoints = opened(tmp_path, 2)
    assert int(checkpoints.restore(abstract())[0].step) == 1
    checkpoints.save(2, state_at(2), POSITION)
    checkpoints.close()
    state, position = opened(tmp_path, 2).restore(abstract())
    assert position == POSITION
    jax.tree.map(np.testing.assert_array_equal, state, state_at(2))


def test_a_damaged_step_does_not_count_among_those_to_keep(tmp_path: Path):
    save_steps(tmp_path, (1, 2, 5)).close()
    (tmp_path / "checkpoints" / "5" / manifest.NAME).unlink()
    checkpoints = opened(tmp_path, 2)
    checkpoints.restore(abstract())
    checkpoints.save(3, state_at(3), POSITION)
    checkpoints.close()
    assert steps_in(tmp_path) == [2, 3]


def test_the_last_ones_and_the_best_are_kept(tmp_path: Path):
    checkpoints = opened(tmp_path, 2)
    for step, score in ((1, 0.2), (2, 0.7), (3, 0.7), (4, 0.1), (5, None), (6, 0.3)):
        checkpoints.save(step, state_at(step), POSITION)
        if score is not None:
            checkpoints.record_validation(step, {"score": score})
    checkpoints.close()
    assert steps_in(tmp_path) == [3, 5, 6]
    again = opened(tmp_path, 2)
    again.restore(abstract())
    assert again.validations == {3: {"score": 0.7}, 6: {"score": 0.3}}
    for which, step in (("newest", 6), ("best", 3)):
        average, found = restore_weights(tmp_path, abstract().average, which)
        assert found == step
        jax.tree.map(np.testing.assert_array_equal, average, state_at(step).average)


def test_what_a_killed_save_left_is_removed(tmp_path: Path):
    save_steps(tmp_path, (1,)).close()
    (tmp_path / "checkpoints" / "2.unfinished.orbax-checkpoint-tmp").mkdir()
    checkpoints = opened(tmp_path, 2)
    checkpoints.remove_unfinished()
    assert int(checkpoints.restore(abstract())[0].step) == 1
    assert steps_in(tmp_path) == [1]


def test_a_full_disk_leaves_the_last_good_step(tmp_path: Path):
    checkpoints = save_steps(tmp_path, (1,))
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limit[1]))  # bytes that fit into a file
    try:
        message = "checkpoints/2: cannot be saved: .*; the last good checkpoint is .*checkpoints/1"
        with pytest.raises(RunError, match=message):
            checkpoints.save(2, state_at(2), POSITION)
            checkpoints.wait()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    state, _ = opened(tmp_path, 2).restore(abstract())
    jax.tree.map(np.testing.assert_array_equal, state, state_at(1))


def test_writes_that_end_after_a_failed_save_print_no_stacks():
    """Orbax closes its loop when the first one fails, and the others then have nobody to tell."""
    code = """
import bonescan_jax.runs.checkpoint
class Late:
    def __init__(self, text): self.text = text
    def __del__(self): raise RuntimeError(self.text)
Late("Event loop is closed")
Late("something else")
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert "Event loop" not in done.stderr
    assert "something else" in done.stderr


def test_restoring_runs_no_code_from_the_files(tmp_path: Path):
    """No pickle is read: whoever hands over a checkpoint does not get to run anything."""
    save_steps(tmp_path, (1,)).close()
    code = f"""
import sys
from pathlib import Path
from tests.runs.test_checkpoint import abstract, opened
from bonescan_jax.runs.checkpoint import restore_weights
events = []
sys.addaudithook(lambda event, arguments: events.append(event))
opened(Path({str(tmp_path)!r}), 1).restore(abstract())
restore_weights(Path({str(tmp_path)!r}), abstract().average, "newest")
assert "open" in events
assert not {{"pickle.find_class", "os.system", "subprocess.Popen", "os.exec"}} & set(events)
"""
    subprocess.run([sys.executable, "-c", code], check=True)
