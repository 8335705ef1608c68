"""Two real processes of one job: one dies, or they disagree; none waits for the other for ever."""

import json
import shutil
from pathlib import Path

import jax
import numpy as np

from bonescan_jax.export import export
from bonescan_jax.runs import manifest
from bonescan_jax.runs.workdir import read_config
from bonescan_jax.trained import Choice
from tests.faults.processes import LIMIT_SECONDS, finish, kill_one, start
from tests.test_train import saved_state


def test_a_killed_process_takes_the_job_down_and_one_alone_continues_it(
    data_dir: Path, tmp_path: Path
):
    found = kill_one(tmp_path, data_dir, victim=0)
    assert found["exit_code"] not in (0, 2, 75)
    assert found["seconds"] < LIMIT_SECONDS
    assert found["message"]
    finish(tmp_path, start(tmp_path, data_dir))
    assert '"step": 40,' in (tmp_path / "metrics.jsonl").read_text()


def test_processes_that_disagree_refuse_to_start(data_dir: Path, tmp_path: Path):
    running = start(tmp_path, data_dir, processes=2, of_last={"seed": 1})
    assert [process.wait(300) for process in running] == [2, 2]
    for number in range(2):
        said = (tmp_path / f"said_{number}.txt").read_text()
        assert "seed is 1 in process 1 of 2, expected 0 as in process 0" in said
    assert not (tmp_path / "config.json").exists()


def test_processes_whose_workdirs_are_not_one_folder_refuse_to_start(
    data_dir: Path, tmp_path: Path
):
    """As where --workdir lies on a disk of each host: checkpoints could never be whole."""
    one, other = tmp_path / "one", tmp_path / "other"
    running = start(one, data_dir, processes=2, workdir_of_last=other)
    assert [process.wait(300) for process in running] == [2, 2]
    for number in range(2):
        said = (one / f"said_{number}.txt").read_text()
        assert f"process 1 of 2: {other} is not the folder that process 0 writes to, {one}" in said
        assert "Traceback" not in said
    assert not other.exists()
    assert {path.name for path in one.iterdir()} == {"said_0.txt", "said_1.txt"}


def test_a_process_that_remembers_an_older_manifest_does_not_validate_alone(
    data_dir: Path, tmp_path: Path
):
    """Process 1 sees the disk as it was before step 40 was validated: the job must not hang."""
    finish(tmp_path, start(tmp_path, data_dir))
    view = tmp_path.parent / "older"
    shutil.copytree(tmp_path, view)
    place = view / "checkpoints" / "40" / "manifest.json"
    content = json.loads(place.read_text())["content"]
    del content["validation"]
    manifest._write(place.parent, content)
    # A link to the one true lock is all that makes it the same folder.
    (view / "run.lock").unlink()
    (view / "run.lock").symlink_to(tmp_path / "run.lock")
    finish(tmp_path, start(tmp_path, data_dir, processes=2, workdir_of_last=view))


def test_two_processes_start_from_another_run_as_one_does(data_dir: Path, tmp_path: Path):
    """Each device with a part of the weights; processes that name other sources refuse."""
    short = {"train.num_steps": 2, "train.save_every_steps": 2}
    source, file = tmp_path / "source", tmp_path / "weights.npz"
    finish(source, start(source, data_dir, **short))
    export(source, file, Choice("mean"))
    changes = {"train.init_from": str(file), "mesh.shard_parameters": True, **short}
    one = tmp_path / "one"
    finish(one, start(one, data_dir, devices=2, **changes))
    config = read_config(one)
    expected = jax.tree.leaves(saved_state(config, one))
    for place in (file, source):
        two = tmp_path / f"two_{place.stem}"
        finish(two, start(two, data_dir, processes=2, **changes | {"train.init_from": str(place)}))
        for a, b in zip(expected, jax.tree.leaves(saved_state(config, two)), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-6)
        assert (two / "said_0.txt").read_text().count("averaged weights of step 2 of") == 1
        assert "averaged weights" not in (two / "said_1.txt").read_text()

    of_last = {"train.init_from": str(tmp_path / "nowhere.npz")}
    third = tmp_path / "third"
    running = start(third, data_dir, processes=2, of_last=of_last, **changes)
    assert [process.wait(300) for process in running] == [2, 2]
    assert "train.init_from is" in (third / "said_0.txt").read_text()
