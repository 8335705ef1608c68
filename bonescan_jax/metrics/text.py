"""The headline of an evaluation as plain text, for a terminal."""

from collections.abc import Iterator, Sequence
from typing import Any

COLUMNS = ("views", "lesions", "Dice", "sensitivity at 1 FP", "AP")
INTERVALS = "In brackets 95 % intervals over patients."
LESIONS = "FP: false positives a view. AP: average precision."
STAR = "*"
ENDED = "* The curve ends before 1 FP a view, and this is what it had reached."
# Groups by size and number of lesions are left to the report.
KINDS = ("counts", "overflow")


def text_table(details: dict[str, Any]) -> str:
    """Figures of each class, of all views and by counts and overflow, and AUC.

    Args:
        details: what `summary.summarize` returned, or SPLIT.json holds.

    Returns:
        Aligned lines of at most 100 characters.
    """
    lines = []
    for name, figures in (details.get("lesions") or {}).items():
        if figures:
            rows = [[name, *COLUMNS], *_of_class(details, name, figures)]
            lines += [*_aligned(rows), ""]
    ended = any(STAR in line for line in lines)
    for what in ("images", "patients"):
        found = details[what]
        share = f"{found['abnormal']} of {found['number']} {what} abnormal"
        lines.append(f"{share}: AUC {_interval(found['auc'])}")
    notes = [INTERVALS, *([LESIONS] if details.get("lesions") else []), *([ENDED] if ended else [])]
    return "\n".join([*lines, *notes])


def _of_class(details: dict[str, Any], name: str, figures: dict[str, Any]) -> Iterator[list[str]]:
    """Rows of all views and of groups."""
    found, at_1 = figures["centre"], figures["centre"]["per_view"]["1.0"]
    whole = {
        "group": "all views",
        "num_views": details["images"]["number"],
        "num_lesions": figures["num_lesions"],
        "dice": details["masks"][details["selected"]][name]["pooled"]["dice"],
        "sensitivity_at_1": at_1,
        "reached": at_1["reached"],
    }
    groups = [each for each in details["groups"][name] if each["kind"] in KINDS]
    for each in (whole, *groups):
        numbers = (str(each["num_views"]), str(each["num_lesions"]))
        star = "" if each["reached"] else STAR
        sensitivity = _interval(each["sensitivity_at_1"]) + star
        precision = _interval(found["average_precision"]) if each is whole else ""
        yield [each["group"], *numbers, _interval(each["dice"]), sensitivity, precision]


def _interval(found: dict[str, Any] | None) -> str:
    if found is None or found["value"] is None:
        return "-"
    value = f"{found['value']:.3f}"
    return value if found["low"] is None else f"{value} ({found['low']:.3f}-{found['high']:.3f})"


def _aligned(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Columns two spaces apart: numbers to the right, all else to the left."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (
            cell.rjust(width) if cell.isdigit() or cell in COLUMNS[:2] else cell.ljust(width)
            for cell, width in zip(row, widths, strict=True)
        )
        yield "  ".join(cells).rstrip()
