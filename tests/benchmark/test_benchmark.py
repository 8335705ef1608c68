"""The benchmarks: every figure is there and means what it says, and refusals are sentences."""

import jax
import ml_collections
import pytest
from flax import nnx

from bonescan_jax.benchmark import benchmark, loop
from bonescan_jax.errors import InputError
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


def test_levels_of_inference(small_config: ml_collections.ConfigDict):
    small_config.evaluate.batch_size = 1
    figures = benchmark(small_config, "inference", None, 1, 0.1)
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


def test_the_plain_torch_net_has_our_weights():
    training = pytest.importorskip("bonescan_jax.benchmark.peers.step", exc_type=ImportError)
    theirs = training.PlainUNetPlusPlus(1, 3, (4, 8, 8))
    ours = nnx.state(UNetPlusPlus(1, 3, (4, 8, 8), 2, rngs=nnx.Rngs(0)), nnx.Param)
    shapes = sorted(leaf.size for leaf in jax.tree.leaves(ours))
    assert sorted(weight.numel() for weight in theirs.parameters()) == shapes
