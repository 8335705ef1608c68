"""Brightness of a scan in units that do not depend on dose, time or gain."""

import numpy as np

# Of all pixels brighter than the air around the patient, bone takes the upper third or so: its
# middle lies near this percentile, which hot spots (under 2 % of the body) cannot move far.
BONE_PERCENTILE = 85.0
# The 90th percentile of all that is not zero lies on bone too, whatever the share of air; soft
# tissue is a third as bright or more, air in the field far less.
AIR_SHARE = 0.2


def bone_reference(pixels: np.ndarray) -> float:
    """Brightness of bone in a whole-body view, in the unit of its pixels.

    Args:
        pixels: (H, W) grey values or counts, zero or more; integers or floats that hold integers.

    Returns:
        The 85th percentile of the pixels above the air, at least 1.
    """
    histogram = np.bincount(pixels.ravel().astype(np.int64))
    histogram[0] = 0
    if not histogram.any():
        return 1.0
    air = AIR_SHARE * _percentile(histogram, 90.0)
    histogram[: int(np.ceil(air))] = 0
    return max(1.0, _percentile(histogram, BONE_PERCENTILE))


def _percentile(histogram: np.ndarray, percent: float) -> float:
    """The percentile of the values that a histogram counts, linear within a bin of width one."""
    cumulative = np.cumsum(histogram)
    wanted = percent / 100 * cumulative[-1]
    value = int(np.searchsorted(cumulative, wanted))
    below = cumulative[value - 1] if value else 0
    # Integers stand for [value - ½, value + ½): dark scans have only a few distinct grey levels.
    return value - 0.5 + (wanted - below) / histogram[value]
