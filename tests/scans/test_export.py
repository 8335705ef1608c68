"""The constant sum of BS-80K's export, and views of very few counts."""

import numpy as np

from bonescan_jax.scans.export import GREY_SUM, as_exported, has_export_sum, scan_doubt, sum_doubt


def exported(counts_per_pixel):
    """Grey values of a body of Poisson counts, scaled to the constant sum."""
    rng = np.random.default_rng(0)
    mean = np.zeros((1024, 256))
    mean[50:-50, 70:-70] = counts_per_pixel
    counts = rng.poisson(mean)
    return np.rint(counts * (GREY_SUM / counts.sum()))


def test_a_view_of_ten_thousand_counts_is_no_bone_scan():
    assert "no bone scan" in scan_doubt(exported(0.1))
    assert "about 10,5" in scan_doubt(exported(0.1))  # two counts in a pixel are rare


def test_a_scan_of_ordinary_counts_is_one():
    for counts_per_pixel in (2.5, 4.0, 9.0):  # 280,000 to 1 million
        assert scan_doubt(exported(counts_per_pixel)) is None
    assert scan_doubt(np.zeros((1024, 256))) is None


def test_the_sum_is_doubted_past_seven_percent():
    assert sum_doubt(0.94 * GREY_SUM) is None
    assert "737,000" in sum_doubt(737_000)


def test_other_exports_have_other_sums():
    assert has_export_sum([1.0e6, 1.05e6, 0.7e6])
    assert not has_export_sum([2.0e6, 1.02e6, 2.5e6])
    assert not has_export_sum([])


def test_counts_lose_what_the_export_would_drop():
    counts = np.random.default_rng(0).poisson(13.7, (1024, 256)).astype(np.uint16)
    counts[:512] = np.random.default_rng(1).poisson(1.0, (512, 256))
    gain = GREY_SUM / counts.sum()  # half a grey value a count
    kept = as_exported(counts)
    assert kept.dtype == counts.dtype
    np.testing.assert_array_equal(kept, np.where(counts >= 2.55 / gain, counts, 0))
    assert 0 < (kept != counts).mean() < 0.6
    np.testing.assert_array_equal(as_exported(kept.astype(np.float32), gain), kept)
    few = counts // 16  # a count is many grey values
    np.testing.assert_array_equal(as_exported(few), few)
