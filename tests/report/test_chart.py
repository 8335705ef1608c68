"""Charts: points land where the axes say, ticks are round and enclose the data."""

import math
import re
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bonescan_jax.report.chart import BOTTOM, LEFT, RIGHT, TOP, Line, _ticks, line_chart


def draw(*points, **options):
    line = Line("<a & b>", points, "#123456")
    options = {"x_label": "step", "y_label": "Dice"} | options
    return ElementTree.fromstring(line_chart("<title>", [line], **options))


def drawn_path(svg):
    return next(e for e in svg.iter("path") if e.get("class") == "line").get("d")


def test_points_are_placed_linearly():
    svg = draw((0, 0), (50, 0.25), (100, 1), y_limits=(0, 1))
    numbers = [float(n) for n in re.findall(r"[\d.]+", drawn_path(svg))]
    width, height = RIGHT - LEFT, BOTTOM - TOP
    assert numbers == [LEFT, BOTTOM, LEFT + width / 2, BOTTOM - height / 4, RIGHT, TOP]


def test_tick_labels_stand_at_their_values():
    svg = draw((0, 0), (100, 1), y_limits=(0, 1))
    heights = {e.text: float(e.get("y")) - 4 for e in svg.iter("text") if e.get("x") == "56"}
    assert heights["0"] == BOTTOM and heights["1"] == TOP
    assert heights["0.4"] == pytest.approx(BOTTOM - 0.4 * (BOTTOM - TOP))


def test_not_a_number_leaves_a_gap_and_a_lone_point_is_a_dot():
    svg = draw((0, 1), (1, 1), (2, math.nan), (3, 1), (4, math.inf), (5, 2), (6, 2))
    assert drawn_path(svg).count("M") == 3
    assert len(list(svg.iter("circle"))) == 1


def test_nothing_to_draw_is_an_error():
    with pytest.raises(ValueError, match="finite"):
        draw((0, math.nan))


def test_long_lines_are_thinned_and_keep_their_ends():
    svg = draw(*((step, 1.0) for step in range(100_000)))
    path = drawn_path(svg)
    assert path.count("L") < 1100
    assert path.endswith(f"L{RIGHT:.1f} {TOP:.1f}")


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6))
def test_ticks_are_few_round_and_enclose(low, span):
    high = low + span
    if high == low or span < 1e-9 * abs(low):
        return
    ticks = _ticks(low, high)
    step = ticks[1] - ticks[0]
    assert 3 <= len(ticks) <= 8
    assert ticks[0] <= low + 1e-6 * step and ticks[-1] >= high - 1e-6 * step
    mantissa = step / 10 ** math.floor(math.log10(step * 1.0001))
    assert min(abs(mantissa - m) for m in (1, 2, 5)) < 1e-3
