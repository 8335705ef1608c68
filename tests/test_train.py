"""Whole runs: interrupted and continued bit for bit, refused where they cannot continue, scored."""

import copy
import importlib.util
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from typing import Any

import jax
import ml_collections
import numpy as np
import pytest

import bonescan_jax.train as loop
from bonescan_jax.cluster.consensus import GO_ON, Consensus
from bonescan_jax.cluster.mesh import make_mesh
from bonescan_jax.cluster.preemption import PREEMPTION, PreemptedError
from bonescan_jax.errors import InputError, RunError
from bonescan_jax.evaluate import evaluate, rows_file
from bonescan_jax.metrics.rows import pixel_counts, read_rows
from bonescan_jax.runs.checkpoint import Checkpoints, look_for_saved
from bonescan_jax.runs.workdir import read_config
from bonescan_jax.tasks import segment
from bonescan_jax.train import train
from bonescan_jax.train_step import TrainState, make_initial_state
from bonescan_jax.trained import Choice

# Without benchmark.py: its net is that of bs80k.py, and compiling it twice would take minutes.
CONFIGS = sorted(
    path
    for path in (Path(__file__).parent.parent / "configs").glob("*.py")
    if path.stem != "benchmark"
)


def saved_state(config: ml_collections.ConfigDict, workdir: Path) -> TrainState:
    _, abstract = make_initial_state(config, make_mesh(config))
    checkpoints = Checkpoints(workdir, 1, look_for_saved(workdir))
    return jax.device_get(checkpoints.restore(abstract)[0])


class Crash(Exception):
    """Stands for a machine that goes away."""


@pytest.fixture
def no_validation(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scoring whole scans would take longer than all that is tested."""
    monkeypatch.setattr(loop, "make_validation", lambda *_: lambda *_: ("mean", {}))


def at_step(monkeypatch: pytest.MonkeyPatch, step: int, happens: Callable[[dict], None]) -> None:
    """Lets something happen to the batch of a step, just before the step is done."""
    make = loop.training_batches

    def batches(*arguments: Any) -> Iterator[dict]:
        first = arguments[2]
        for number, batch in enumerate(make(*arguments), start=first + 1):
            if number == step:
                happens(batch)
            yield batch

    monkeypatch.setattr(loop, "training_batches", batches)


def crash(batch: dict) -> None:
    raise Crash


def be_told(batch: dict) -> None:
    PREEMPTION.signal = "SIGTERM"


def spoil(batch: dict) -> None:
    batch["reference"] = batch["reference"] * np.nan


def losses(workdir: Path) -> list[tuple[int, float]]:
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").open()]
    return [(line["step"], line["loss"]) for line in lines if "loss" in line]


def assert_same_end(config: ml_collections.ConfigDict, one: Path, other: Path) -> None:
    states = [saved_state(config, workdir) for workdir in (one, other)]
    for (path, a), b in zip(
        jax.tree.leaves_with_path(states[0]), jax.tree.leaves(states[1]), strict=True
    ):
        np.testing.assert_array_equal(a, b, err_msg=jax.tree_util.keystr(path))
    assert losses(one) == losses(other)


def test_an_interrupted_run_ends_like_one_that_was_not(
    small_config: ml_collections.ConfigDict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    train(small_config, tmp_path / "whole")

    with monkeypatch.context() as patch:
        at_step(patch, 4, crash)  # one step after the save at 2
        with pytest.raises(Crash):
            train(small_config, tmp_path / "crashed")
    assert losses(tmp_path / "crashed")[-1][0] >= 2
    train(small_config, tmp_path / "crashed")
    assert_same_end(small_config, tmp_path / "whole", tmp_path / "crashed")

    with monkeypatch.context() as patch:
        patch.setattr(PREEMPTION, "signal", None)  # and is so again afterwards
        at_step(patch, 3, be_told)
        with pytest.raises(PreemptedError) as left:
            train(small_config, tmp_path / "told")
    assert left.value.code == 75
    assert look_for_saved(tmp_path / "told").step == 3  # not due, and yet saved
    train(small_config, tmp_path / "told")
    assert_same_end(small_config, tmp_path / "whole", tmp_path / "told")


def test_a_run_told_to_stop_in_validation_makes_up_for_it(
    small_config: ml_collections.ConfigDict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    small_config.train.num_steps = 2
    score = segment.overlap_counts

    def told_meanwhile(*arguments: Any) -> Any:
        PREEMPTION.signal = "SIGINT"
        return score(*arguments)

    small_config.evaluate.batch_size = 1  # two batches
    with monkeypatch.context() as patch:
        patch.setattr(PREEMPTION, "signal", None)
        patch.setattr(segment, "overlap_counts", told_meanwhile)
        with pytest.raises(PreemptedError):
            train(small_config, tmp_path)
    assert not (tmp_path / "evaluation").exists()
    result = train(small_config, tmp_path)
    assert result["step"] == 2
    assert result["dice_abnormal"] is not None
    kinds = [json.loads(line)["kind"] for line in (tmp_path / "metrics.jsonl").open()]
    assert kinds == ["train", "train", "validation"]


def test_numbers_that_are_not_finite_stop_the_run_or_are_left_out(
    small_config: ml_collections.ConfigDict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(loop, "make_validation", lambda *_: lambda *_: ("mean", {}))
    at_step(monkeypatch, 3, spoil)
    found = r"step 3: \d+ tensors .* first loss head_1; .*nonfinite.json .*checkpoints/2$"
    with pytest.raises(RunError, match=found):
        train(small_config, tmp_path)
    assert look_for_saved(tmp_path).step == 2
    [event] = json.loads((tmp_path / "nonfinite.json").read_text())["steps"]
    assert event["step"] == 3
    assert event["samples"] == list(range(16, 24))
    assert any(name.startswith("gradient ") for name in event["tensors"])

    small_config.train.on_nonfinite = "skip"
    assert train(small_config, tmp_path)["step"] == 4
    state = saved_state(small_config, tmp_path)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state))
    [event] = json.loads((tmp_path / "nonfinite.json").read_text())["steps"]
    assert event["step"] == 3
    assert [step for step, _ in losses(tmp_path)] == [1, 2, 3, 4]


def test_a_finished_run_stays_as_it_is(small_config: ml_collections.ConfigDict, tmp_path: Path):
    train(small_config, tmp_path)
    before = saved_state(small_config, tmp_path)
    assert train(small_config, tmp_path)["step"] == 4
    after = saved_state(small_config, tmp_path)
    jax.tree.map(np.testing.assert_array_equal, before.params, after.params)


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="shared memory is not listed here")
def test_worker_processes_leave_no_shared_memory_behind(
    small_config: ml_collections.ConfigDict,
    tmp_path: Path,
    no_validation: None,
    monkeypatch: pytest.MonkeyPatch,
):
    """Python would report it as leaked at the end of the program."""
    opened, init = set(), SharedMemory.__init__

    def logged(memory: SharedMemory, *arguments: Any, **named: Any) -> None:
        init(memory, *arguments, **named)
        opened.add(memory.name)

    monkeypatch.setattr(SharedMemory, "__init__", logged)
    small_config.data.num_workers = 1
    train(small_config, tmp_path)
    assert opened
    # A thread of Grain removes them. Rarely one stays, likely closed while it was still in use; a
    # batch that is kept is five.
    patience = time.monotonic() + 10
    while len(left := opened & set(os.listdir("/dev/shm"))) >= 5:
        assert time.monotonic() < patience, left
        time.sleep(0.1)


def everything(workdir: Path) -> dict[str, tuple[int, bytes]]:
    """Time and content of every file and folder."""
    return {
        str(path): (path.stat().st_mtime_ns, path.read_bytes() if path.is_file() else b"")
        for path in (workdir, *workdir.rglob("*"))
    }


def test_what_cannot_continue_is_refused_and_nothing_is_changed(
    small_config: ml_collections.ConfigDict, tmp_path: Path, no_validation: None
):
    small_config.train.num_steps = 1
    run = tmp_path / "run"
    train(small_config, run)
    small_config.train.log_every_steps = 5  # changes nothing that is computed
    small_config.model.remat = "activations"  # nothing but rounding
    train(small_config, run)

    other = tmp_path / "other"
    shutil.copytree(small_config.data.dir, other)
    splits = other / "phantom" / "splits.json"
    content = json.loads(splits.read_text())
    swapped = {"train": content["splits"]["test"] + content["splits"]["train"][2:]}
    splits.write_text(json.dumps(content | {"splits": content["splits"] | swapped}))
    (run / "checkpoints" / "9.unfinished").mkdir()
    before = everything(run)
    for changes, message in (
        ({"train.learning_rate": 0.5}, r"config.json: train.learning_rate is 0.001 in the run"),
        ({"data.dir": str(other)}, "prepared from other scans or with other splits"),
        ({"data.views": "both"}, "data.views is 'each' in the run"),
        ({"data.dir": str(tmp_path / "none")}, "holds no prepared data set"),
        ({"mesh.data": 3}, "mesh"),
    ):
        changed = copy.deepcopy(small_config)
        changed.update_from_flattened_dict(changes)
        with pytest.raises(InputError, match=message):
            train(changed, run)
        assert everything(run) == before
        with pytest.raises(InputError):
            train(changed, tmp_path / "new" / "run", tmp_path / "no_executable")
        assert not (tmp_path / "new").exists()


def test_a_config_that_does_not_fit_its_checkpoint_is_told_in_a_sentence(
    small_config: ml_collections.ConfigDict, tmp_path: Path, no_validation: None
):
    small_config.train.num_steps = 1
    train(small_config, tmp_path)
    path = tmp_path / "config.json"
    path.write_text(path.read_text().replace("4,\n      8\n", "4,\n      16\n"))
    assert read_config(tmp_path).model.filters == (4, 16)
    message = r"checkpoints/1: params/.* is \(.*8\S*\), expected \(.*16\S*\) for the network of"
    with pytest.raises(InputError, match=message):
        evaluate([tmp_path], "test", Choice("mean"))


def test_a_run_goes_on_under_a_program_with_more_settings(
    small_config: ml_collections.ConfigDict, tmp_path: Path, no_validation: None
):
    small_config.train.num_steps = 1
    train(small_config, tmp_path)
    path, position = tmp_path / "config.json", tmp_path / "checkpoints" / "1" / "position"
    old = json.loads(path.read_text())
    del old["loss"]["overlap_weight"]
    path.write_text(json.dumps(old))
    assert "data_fingerprint" in (position / "metadata").read_text()
    assert train(small_config, tmp_path)["step"] == 1
    assert json.loads(path.read_text())["loss"]["overlap_weight"] == 1.0

    path.write_text(json.dumps(old | {"later": 1}))
    with pytest.raises(InputError, match="later is 1 in the run to continue, expected a setting"):
        train(small_config, tmp_path)


def test_every_start_is_recorded_with_what_computes(
    small_config: ml_collections.ConfigDict, tmp_path: Path, no_validation: None
):
    small_config.train.num_steps = 1
    train(small_config, tmp_path)
    train(small_config, tmp_path)
    starts = json.loads((tmp_path / "environment.json").read_text())["starts"]
    assert [start["step"] for start in starts] == [0, 1]
    assert starts[0]["packages"]["jax"] == jax.__version__
    assert starts[0]["devices"] == jax.device_count()
    position = look_for_saved(tmp_path).position
    assert starts[0]["data_fingerprint"] == position["data_fingerprint"]


def test_a_save_by_time_happens_once_though_its_answer_comes_late(
    small_config: ml_collections.ConfigDict,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    no_validation: None,
):
    """As of several processes, the answer is that to the question before."""

    class Late(Consensus):
        asked = GO_ON

        def __call__(self, wish: int) -> int:
            answer, self.asked = self.asked, wish
            return answer

    now, saved = 0.0, []
    small_config.train.update({"num_steps": 12, "eval_every_steps": 0, "save_every_steps": 0})
    small_config.train.save_every_minutes = 3.5 / 60
    save = Checkpoints.save

    def tick(*_: Any) -> None:
        nonlocal now
        now += 1

    def note(self: Checkpoints, step: int, *rest: Any) -> None:
        saved.append(step)
        save(self, step, *rest)

    class Time:
        monotonic = staticmethod(lambda: now)

    monkeypatch.setattr(loop, "time", Time)
    monkeypatch.setattr(loop, "Consensus", Late)
    monkeypatch.setattr(loop.SampleLog, "write", tick)
    monkeypatch.setattr(Checkpoints, "save", note)
    train(small_config, tmp_path)
    assert saved == [5, 10, 12]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_shipped_config_trains_a_step(path: Path, data_dir: Path, tmp_path: Path):
    """With its own network, loss and optimizer; only the batch and the crop are cut down."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config = module.get_config()
    config.data.dir, config.data.name = str(data_dir), "phantom"
    config.data.crop_height = config.data.crop_width = 32
    config.train.batch_size = 8
    config.train.update({"num_steps": 1, "num_epochs": 0.0, "num_examples": 0})
    config.mesh.data = 8
    config.evaluate.batch_size = 8
    config.data.num_workers = 0
    monkey = pytest.MonkeyPatch()
    with monkey.context() as patch:
        # Scoring whole scans with every config would take minutes and is tested elsewhere.
        patch.setattr(loop, "make_validation", lambda *_: lambda *_: ("mean", {}))
        result = train(config, tmp_path)
    assert result["step"] == 1
    assert np.isfinite(result["loss"])


def test_evaluation_scores_every_predictor(
    two_level_config: ml_collections.ConfigDict, tmp_path: Path
):
    two_level_config.train.num_steps = 1
    result = train(two_level_config, tmp_path)
    scores = evaluate([tmp_path], "validation", Choice("best"))
    assert {name: scores[name] for name in ("dice_abnormal", "dice_normal")} == {
        name: result[name] for name in ("dice_abnormal", "dice_normal")
    }
    written = json.loads((tmp_path / "evaluation" / "validation.json").read_text())
    assert list(written["masks"]) == ["head_1", "head_2", "mean", "threshold"]
    of_head = evaluate([tmp_path], "test", Choice("head_1"))
    written = json.loads((tmp_path / "evaluation" / "test.json").read_text())
    pooled = written["masks"]["head_1"]["abnormal"]["pooled"]
    assert of_head["dice_abnormal"] == pooled["dice"]["value"]
    _, rows = read_rows(rows_file(tmp_path, "validation"))
    found, invented, missed = pixel_counts(rows, scores["selected"])[:, 0].sum(0)
    assert scores["dice_abnormal"] == pytest.approx(2 * found / (2 * found + invented + missed))
    with pytest.raises(InputError, match="--predictor is 'head_9', expected one of head_1"):
        evaluate([tmp_path], "test", Choice("head_9"))


def test_nothing_compiles_after_the_first_step_and_evaluation(
    small_config: ml_collections.ConfigDict, tmp_path: Path
):
    """Between the first two steps, nor after the first evaluation."""
    late = []

    def compiled(name: str, *_: Any, **__: Any) -> None:
        if "backend_compile" not in name:
            return
        path = tmp_path / "metrics.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        kinds = [json.loads(line)["kind"] for line in lines]
        if kinds == ["train"] or "validation" in kinds:
            late.append(kinds)

    small_config.train.num_steps, small_config.train.eval_every_steps = 6, 3
    jax.monitoring.register_event_duration_secs_listener(compiled)
    train(small_config, tmp_path)
    assert not late


def test_images_a_second_are_the_same_while_a_checkpoint_is_saved(monkeypatch: pytest.MonkeyPatch):
    now = 0.0
    monkeypatch.setattr(loop.time, "monotonic", lambda: now)
    clock = loop._Clock(images=8)
    clock.step_begun({})  # the one that compiles
    clock.step_done()
    for _ in range(10):
        clock.step_begun({})
        assert clock.images_per_second() in (None, 4)  # a queued step is not a done one
        now += 2
        clock.step_done()
    assert clock.images_per_second() == 4
    with clock.paused({}):
        assert clock.images_per_second() == 4
        now += 100
    assert clock.images_per_second() == 4
