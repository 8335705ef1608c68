"""The benchmark of reading scans: every figure is there, and refusals are sentences."""

import ml_collections
import pytest

from bonescan_jax.benchmark import benchmark
from bonescan_jax.errors import InputError


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


def test_data_that_are_not_there(small_config: ml_collections.ConfigDict):
    small_config.data.dir = "nowhere"
    with pytest.raises(InputError, match="nowhere.*bonescan prepare"):
        benchmark(small_config, "input", None, 1, 0.1)
