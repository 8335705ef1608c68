"""Line charts as inline SVG: axes with round ticks, labels and a legend."""

import math
from collections.abc import Sequence
from html import escape
from typing import NamedTuple

from bonescan_jax.report.style import DASHES

WIDTH, HEIGHT = 560, 300  # of the drawing, scaled by the page
LEFT, RIGHT, TOP, BOTTOM = 64, 548, 56, 256  # of the plot within it
MAX_POINTS = 1000  # per line: more cannot be distinguished at this width
ROW, MAX_NAME = 18, 60  # height of a row of the legend, characters of a name in it
BAR_STEP = 4  # between the intervals of lines


class Line(NamedTuple):
    """One line of a chart; non-finite points leave a gap."""

    name: str
    points: Sequence[tuple[float, float]]
    colour: str
    width: float = 2.0
    dashes: str | None = None  # lengths of strokes and gaps, as SVG has them; None: by its place
    bars: Sequence[tuple[float, float, float]] = ()  # x and the ends of an interval of y


def line_chart(
    title: str,
    lines: Sequence[Line],
    *,
    x_label: str,
    y_label: str,
    y_limits: tuple[float, float] | None = None,
) -> str:
    """Draw lines over a common axis.

    Args:
        title: written above the plot.
        lines: what to draw, at least one finite point among them.
        x_label: the quantity on the x axis and its unit.
        y_label: the quantity on the y axis and its unit.
        y_limits: bounds of the y axis, rounded outwards; None: those of the points and 0.

    Returns:
        An `<svg>` element; names and labels are escaped.

    Raises:
        ValueError: there is no finite point.
    """
    lines = [
        line._replace(dashes=DASHES[place % len(DASHES)]) if line.dashes is None else line
        for place, line in enumerate(lines)
    ]
    finite = [p for line in lines for p in line.points if all(map(math.isfinite, p))]
    if not finite:
        raise ValueError(f"chart {title!r} has no finite point")
    finite += [(x, end) for line in lines for x, *ends in line.bars for end in ends]
    above = ROW * (len(_legend_rows(lines)) - 1)  # what the legend needs beside its first row
    x_values, y_values = zip(*finite, strict=True)
    x_low, x_high = min(0, *x_values), max(0, *x_values) or 1
    y_ticks = _ticks(*(y_limits or (min(0, *y_values), max(y_values))))

    def place(x: float, y: float) -> tuple[float, float]:
        across = (x - x_low) / (x_high - x_low)
        up = (y - y_ticks[0]) / (y_ticks[-1] - y_ticks[0])
        return LEFT + across * (RIGHT - LEFT), BOTTOM - up * (BOTTOM - TOP)

    parts = [
        f'<svg class="chart" viewBox="0 {-above} {WIDTH} {HEIGHT + above}" role="img" '
        f'aria-label="{escape(title)}"><title>{escape(title)}</title>',
        f'<text class="chart-title" x="{LEFT}" y="{18 - above}">{escape(title)}</text>',
        f'<text x="{(LEFT + RIGHT) / 2}" y="{HEIGHT - 6}" text-anchor="middle">'
        f"{escape(x_label)}</text>",
        f'<text transform="translate(14 {(TOP + BOTTOM) / 2}) rotate(-90)" '
        f'text-anchor="middle">{escape(y_label)}</text>',
    ]
    for tick in y_ticks:
        _, y = place(x_low, tick)
        parts.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{RIGHT}"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{tick:g}</text>')
    for tick in _ticks(x_low, x_high):
        if tick > x_high:
            break  # the lines reach to the right edge, round or not
        x, _ = place(tick, y_ticks[0])
        parts.append(f'<path class="axis" d="M{x:.1f} {BOTTOM}v5"/>')
        parts.append(
            f'<text x="{x:.1f}" y="{BOTTOM + 18}" text-anchor="middle">{_short(tick)}</text>'
        )
    parts.append(f'<path class="axis" d="M{LEFT} {BOTTOM}H{RIGHT}"/>')
    for number, line in enumerate(lines):
        aside = BAR_STEP * (number - (len(lines) - 1) / 2)  # bars do not hide each other
        placed = [place(*p) if all(map(math.isfinite, p)) else None for p in _thinned(line.points)]
        parts.append(_path(placed, line))
        parts += (
            _bar(place(x, low)[0] + aside, place(x, low)[1], place(x, high)[1], line.colour)
            for x, low, high in line.bars
        )
    parts.append(_legend(lines, -above))
    return "".join((*parts, "</svg>"))


def _ticks(low: float, high: float) -> list[float]:
    """Return three to seven round values that enclose the range."""
    if low == high:
        high = low + 1
    rough = (high - low) / 5
    unit = 10 ** math.floor(math.log10(rough))
    step = next(unit * factor for factor in (1, 2, 5, 10) if unit * factor >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [float(f"{i * step:.12g}") for i in range(first, last + 1)]


def _short(value: float) -> str:
    return f"{value / 1000:g}k" if abs(value) >= 10_000 else f"{value:g}"


def _thinned(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    stride = math.ceil(len(points) / MAX_POINTS) or 1
    return [*points[:-1:stride], *points[-1:]]


def _path(placed: Sequence[tuple[float, float] | None], line: Line) -> str:
    """Join the points; a point with a gap on both sides is a dot."""
    commands, previous = [], None
    for point in placed:
        if point:
            commands.append(f"{'L' if previous else 'M'}{point[0]:.1f} {point[1]:.1f}")
        previous = point
    style = _stroke(line, line.width)
    path = f'<path class="line" {style} d="{"".join(commands)}"/>'
    gaps = [None, *placed, None]
    dots = [
        f'<circle cx="{point[0]:.1f}" cy="{point[1]:.1f}" r="3" fill="{line.colour}"/>'
        for before, point, after in zip(gaps, placed, gaps[2:], strict=False)
        if point and not before and not after
    ]
    return path + "".join(dots)


def _stroke(line: Line, width: float) -> str:
    dashes = f' stroke-dasharray="{line.dashes}"' if line.dashes else ""
    return f'stroke="{line.colour}" stroke-width="{width}"{dashes}'


def _bar(x: float, low: float, high: float, colour: str) -> str:
    """An interval, its ends marked."""
    path = f"M{x:.1f} {low:.1f}V{high:.1f}M{x - 4:.1f} {low:.1f}h8M{x - 4:.1f} {high:.1f}h8"
    return f'<path class="bar" stroke="{colour}" stroke-width="1.2" d="{path}"/>'


def _legend_rows(lines: Sequence[Line]) -> list[list[tuple[float, Line]]]:
    """The place across of each line's name, row by row."""
    rows: list[list[tuple[float, Line]]] = [[]]
    if len(lines) == 1:
        return rows
    x = float(LEFT)
    for line in lines:
        width = 23 + 7 * len(_shown(line.name)) + 18
        if rows[-1] and x + width > WIDTH:
            rows.append([])
            x = float(LEFT)
        rows[-1].append((x, line))
        x += width
    return rows


def _shown(name: str) -> str:
    return name if len(name) <= MAX_NAME else f"{name[: MAX_NAME - 1]}…"


def _legend(lines: Sequence[Line], top: float) -> str:
    return "".join(
        f'<path class="line" {_stroke(line, max(line.width, 1.5))} d="M{x:g} {36 + y:g}h18"/>'
        f'<text x="{x + 23:g}" y="{40 + y:g}">{escape(_shown(line.name))}</text>'
        for row, placed in enumerate(_legend_rows(lines))
        for y in [top + ROW * row]
        for x, line in placed
    )
