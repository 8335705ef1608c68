"""What the export of BS-80K makes the same in every whole-body view: a check on unwrapped values.

The gain of each view was chosen so that its grey values add up to a constant: 1,006,000 ± 25,000
over 24 views measured. So one count of a view with few counts is many grey levels, and a view whose
sum is another after unwrapping was not set right everywhere.
"""

from collections.abc import Sequence

import numpy as np

GREY_SUM = 1.02e6
# Pixels whose grey value would be less become 0: one hundredth of 255. Of real views those with a
# gain up to 2.3 have no pixels of one count, and those from 2.8 on do. (Number 586, whose bladder
# has 980 grey values, has none below ten: more was taken away there.)
DIMMEST = 2.55
_TOLERANCE = 0.07
# A count of an ordinary scan is at most 3.7 grey levels (280,000 counts): half of its body or more
# lies below 30. Where one count is more than that, there are fewer than 34,000.
_DARK, _ONE_COUNT, _MOST_BELOW = 2, 30, 0.1


def as_exported(counts: np.ndarray, gain: float | None = None) -> np.ndarray:
    """Counts of a view (H, W) as the export of BS-80K keeps them: the dimmest pixels are 0.

    A network that learned from the export has not seen the haze of a scan of millions of counts. So
    a file of counts gives the findings that its export would.

    Args:
        counts: or grey values.
        gain: grey values a count of the export; by default what makes their sum `GREY_SUM`.
    """
    if gain is None:
        gain = GREY_SUM / max(1.0, float(counts.sum(dtype=np.float64)))
    return np.where(gain * counts >= DIMMEST, counts, 0)


def has_export_sum(sums: Sequence[float]) -> bool:
    """Whether the sums of grey of whole-body views, in the median, are those of BS-80K's export."""
    return bool(sums) and abs(float(np.median(sums)) / GREY_SUM - 1) <= _TOLERANCE


def sum_doubt(grey_sum: float) -> str | None:
    """A phrase where the sum of grey of a view of that export is not the constant."""
    if abs(grey_sum / GREY_SUM - 1) <= _TOLERANCE:
        return None
    return (
        f"grey values add up to {grey_sum:,.0f} after unwrapping, expected {GREY_SUM:,.0f} ± 7 %: "
        "hot spots were not set right"
    )


def scan_doubt(values: np.ndarray) -> str | None:
    """A phrase where a view is no bone scan: its grey levels are a comb of very few counts.

    Args:
        values: (H, W) grey values of 8 bits, unwrapped or not.
    """
    bright = np.count_nonzero(values > _DARK)
    below = np.count_nonzero((values > _DARK) & (values < _ONE_COUNT))
    if bright == 0 or below >= _MOST_BELOW * bright:
        return None
    level = float(np.median(values[values > _DARK]))
    return (
        f"one count is about {level:.0f} grey levels, so there are about "
        f"{values.sum(dtype=np.float64) / level:,.0f} counts: no bone scan"
    )
