"""Pieces of the page: tables that scroll on a phone, numbers, charts."""

import math
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

from bonescan_jax.report.chart import Line, line_chart


def wide(name: str) -> str:
    """Opens a table that scrolls sideways, by keys too, where the window is narrow."""
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
    """Return the chart of the lines that have finite points, an empty string if none has."""
    lines = [line for line in lines if any(math.isfinite(y) for _, y in line.points)]
    if not lines:
        return ""
    svg = line_chart(title, lines, x_label=x_label, y_label=y_label, y_limits=y_limits)
    return f"<figure>{svg}</figure>"
