"""The benchmarks: every figure is there and means what it says, and refusals are sentences."""

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import ml_collections
import pytest
from flax import nnx

from bonescan_jax.benchmark import benchmark, child, inference, input, loop, step
from bonescan_jax.benchmark.measure import Team, Work, take_turns
from bonescan_jax.errors import InputError, RunError
from bonescan_jax.models.unetpp import UNetPlusPlus


def test_figures_of_reading(
    small_config: ml_collections.ConfigDict, capfd: pytest.CaptureFixture[str]
):
    figures = benchmark(small_config, "input", None, 1, 0.1)
    rates = [value for name, value in figures.items() if name.startswith("images_per_second")]
    assert len(rates) == 3
    assert all(rate > 0 for rate in rates)
    out, table = capfd.readouterr()
    assert out == ""
    assert "| ours, 1 core |" in table
    assert "| ours, augmented |" in table


def test_figures_of_the_step(
    small_config: ml_collections.ConfigDict, capfd: pytest.CaptureFixture[str]
):
    figures = benchmark(small_config, "step", None, 1, 0.1)
    for dtype in (figures, figures["bfloat16"]):
        assert dtype["forward_seconds"] > 0
        assert dtype["step_seconds"] > 0
        assert 0 < dtype["share_of_matmul"] < 1
        assert dtype["compile_seconds"] > 0
        assert dtype["peak_memory_mib"] > dtype["temporary_mib"] > 0
    assert figures["augmentation_share"] < 1
    table = capfd.readouterr().err
    assert "| ours, float32 |" in table
    assert "| ours, float32, augmented |" in table


def test_levels_of_inference(two_level_config: ml_collections.ConfigDict):
    two_level_config.evaluate.batch_size = 1
    figures = benchmark(two_level_config, "inference", None, 1, 0.1)
    assert list(figures["relative_time"]) == ["L1", "L2", "all"]
    assert figures["relative_time"]["L2"] == figures["relative_flops"]["L2"] == 1
    assert figures["relative_flops"]["L1"] < 0.5


def test_the_whole_loop(small_config: ml_collections.ConfigDict, monkeypatch: pytest.MonkeyPatch):
    for name, value in {"STEPS": 4, "LOG_EVERY": 1, "SAVE_EVERY": 2, "BARE_STEPS": 1}.items():
        monkeypatch.setattr(loop, name, value)
    figures = benchmark(small_config, "loop", None, 1, 0.01)
    ratio = figures["images_per_second"] / figures["bare_images_per_second"]
    assert figures["loop_over_step"] == pytest.approx(ratio, rel=1e-2)
    assert figures["steps"] == 3


@pytest.mark.parametrize("what", ["input", "loop"])
def test_data_that_are_not_there(small_config: ml_collections.ConfigDict, what: str):
    small_config.data.dir = "nowhere"
    with pytest.raises(InputError, match="nowhere.*bonescan prepare"):
        benchmark(small_config, what, None, 1, 0.1)


def test_a_peer_that_does_nothing_alike(small_config: ml_collections.ConfigDict):
    with pytest.raises(InputError, match="--peer=torch.*--what=loop"):
        benchmark(small_config, "loop", "torch", 1, 0.1)


def test_peers_that_are_not_installed(
    small_config: ml_collections.ConfigDict, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.setattr(child, "PEERS_PYTHON", tmp_path / "python")
    with pytest.raises(InputError, match=r"bash launch/setup\.sh peers"):
        benchmark(small_config, "step", "torch", 1, 0.1)


def work(log: str, name: str, device: str) -> Work:
    """Writes down when it starts and is measured."""

    def measure() -> None:
        with Path(log).open("a") as file:
            file.write(f"{name} ")

    measure()
    facts = {"python": sys.executable, "preallocate": os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"]}
    return Work({"piece": measure}, facts, device)


@pytest.mark.parametrize(("device", "order"), [("cpu", "abaabbaabb"), ("gpu", "aaaaabbbbb")])
def test_teams_take_turns_but_never_share_an_accelerator(tmp_path: Path, device: str, order: str):
    """Two rounds of two calls: one that warms up, one that is timed."""
    teams = [Team(name, work, (str(tmp_path / "log"), name, device)) for name in "ab"]
    timings, facts = take_turns(teams, 2, 0, "nothing")
    assert (tmp_path / "log").read_text().replace(" ", "") == order
    assert timings["b", "piece"].seconds.shape == (2,)
    assert facts["a"]["preallocate"] == "false"


def test_a_team_names_its_interpreter(tmp_path: Path):
    other = tmp_path / "python"
    other.write_text(f'#!/bin/bash\nOTHER=yes exec {sys.executable} "$@"\n')
    other.chmod(0o755)
    team = Team("a", other_work, (), str(other))
    assert take_turns([team], 1, 0, "nothing")[1]["a"] == {"other": "yes"}


def other_work() -> Work:
    return Work({"piece": int}, {"other": os.environ.get("OTHER")})


def test_teams_on_other_devices_are_not_compared(tmp_path: Path):
    teams = [Team(name, work, (str(tmp_path / "log"), name, name)) for name in ("cpu", "gpu")]
    with pytest.raises(InputError, match="'gpu' runs on a gpu and 'cpu' on a cpu"):
        take_turns(teams, 1, 0, "nothing")


def test_a_process_that_dies_is_named():
    with pytest.raises(RunError, match="'a' ended with exit code 7"):
        take_turns([Team("a", os._exit, (7,))], 1, 0, "nothing")


@pytest.mark.parametrize(("device", "count"), [("cpu", 1), ("gpu", step.QUEUED)])
def test_flops_of_the_matrix_products(
    small_config: ml_collections.ConfigDict,
    monkeypatch: pytest.MonkeyPatch,
    device: str,
    count: int,
):
    """What is timed is what is counted: of each size, as many products as are queued."""
    queued: list[tuple[int, int]] = []
    monkeypatch.setattr(step.jax, "default_backend", lambda: device)
    # The step itself takes seconds to compile.
    prepared = SimpleNamespace(run=None, state=None, facts={})
    monkeypatch.setattr(step, "PreparedStep", lambda config: prepared)
    monkeypatch.setattr(step, "_forward", lambda config, state: None)
    monkeypatch.setitem(step.MATMUL_SIZES, device, (16,))
    monkeypatch.setattr(step, "_matmul", lambda size, dtype, count: queued.append((size, count)))
    work = step.our_work(small_config.to_json(), "bfloat16")
    assert queued == [(16, count)]
    assert work.facts["flops"]["matmul 16"] == 2 * 16**3 * count
    assert work.device == device


def test_inference_copies_one_predictor_to_the_host():
    probabilities = jax.numpy.arange(24.0).reshape(4, 1, 1, 2, 1, 3)
    copied = inference.to_host(probabilities)
    assert copied.tolist() == probabilities[-1].tolist()
    assert copied.nbytes == probabilities.nbytes / 4


def test_what_peers_are_given_can_be_read_by_any_python(
    small_config: ml_collections.ConfigDict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Python 3.13 pickles a `Path` under a name that 3.11 does not know."""
    monkeypatch.setattr(child, "PEERS_PYTHON", Path(sys.executable))
    small_config.data.views = "each"
    for each in input._peer_contestants(small_config, tmp_path, 1):
        assert b"pathlib" not in pickle.dumps(each)


@pytest.mark.skipif(not child.PEERS_PYTHON.exists(), reason="needs `launch/setup.sh peers`")
def test_the_plain_torch_net_has_our_weights():
    code = """
from bonescan_jax.benchmark.peers.step import PlainUNetPlusPlus
print(sorted(weight.numel() for weight in PlainUNetPlusPlus(1, 3, (4, 8, 8)).parameters()))
"""
    command = [child.peers_python(), "-c", code]
    theirs = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    ours = nnx.state(UNetPlusPlus(1, 3, (4, 8, 8), 2, rngs=nnx.Rngs(0)), nnx.Param)
    assert json.loads(theirs) == sorted(leaf.size for leaf in jax.tree.leaves(ours))
