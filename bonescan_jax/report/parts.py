"""Pieces of the page: tables that scroll on a phone, numbers, charts."""

import math
from collections.abc import Iterable, Iterator, Sequence
from html import escape
from typing import Any

from bonescan_jax.report.chart import Line, line_chart

MAX_ROWS = 24  # of each line in the table of a chart


def wide(name: str) -> str:
    """Opens a table that scrolls sideways, by keys too, where the window is narrow."""
    name = escape(name)
    return (
        f'<div class="wide" tabindex="0" role="group" aria-label="{name}"><table>'
        f'<caption class="hidden">{name}</caption>'
    )


def number(value: float | None, decimals: int = 3) -> str:
    """A number as it is read, a dash for none."""
    return f"{value:,.{decimals}f}" if isinstance(value, int | float) else "–"


def interval(estimate: dict[str, Any] | None) -> str:
    """A value with its 95 % interval; the reason why there is none is shown on request."""
    if not estimate or estimate.get("value") is None:
        return "–"
    value = number(estimate["value"])
    if estimate.get("low") is None:
        reason = escape(str(estimate.get("reason") or "no interval"))
        return f'<span title="{reason}">{value}</span>'
    return f"{value} <small>{number(estimate['low'])} to {number(estimate['high'])}</small>"


def table(name: str, columns: Sequence[str], rows: Iterable[tuple[str, Iterable[str]]]) -> str:
    """A table with a heading; cells are HTML already, names of rows and columns are not."""
    head = "".join(f'<th scope="col">{escape(column)}</th>' for column in columns)
    body = "".join(
        f'<tr><th scope="row">{escape(label)}</th>{"".join(map("<td>{}</td>".format, cells))}</tr>'
        for label, cells in rows
    )
    return f"{wide(name)}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"


def chart(
    title: str,
    lines: Sequence[Line],
    x_label: str = "step",
    y_label: str = "",
    y_limits: tuple[float, float] | None = None,
) -> str:
    """The chart of the lines that have finite points, above its numbers; nothing if none has."""
    lines = [line for line in lines if any(math.isfinite(y) for _, y in line.points)]
    if not lines:
        return ""
    svg = line_chart(title, lines, x_label=x_label, y_label=y_label, y_limits=y_limits)
    numbers = table(f"{title}, in numbers", ["Line", x_label, y_label], _numbers(lines))
    return f"<figure>{svg}<details><summary>In numbers</summary>{numbers}</details></figure>"


def _numbers(lines: Sequence[Line]) -> Iterator[tuple[str, list[str]]]:
    """Points of lines, no more than people read; with intervals where a line has them."""
    for line in lines:
        stride = math.ceil(len(line.points) / MAX_ROWS)
        for x, y in [*line.points[:-1:stride], *line.points[-1:]]:
            yield line.name, [f"{x:.4g}", f"{y:.4g}" if math.isfinite(y) else "–"]
        for x, low, high in line.bars:
            yield f"{line.name}, 95 % interval", [f"{x:.4g}", f"{low:.3f} to {high:.3f}"]
