"""Charts with a line for each run."""

from collections.abc import Callable, Sequence
from typing import Any

from bonescan_jax.report.chart import Line
from bonescan_jax.report.details import series
from bonescan_jax.report.figures import sensitivity_bars
from bonescan_jax.report.parts import chart
from bonescan_jax.report.runs import Run
from bonescan_jax.report.style import DASHES, RUN_COLOURS
from bonescan_jax.scans import CLASSES

FOREGROUND = CLASSES[1:]
MAX_LINES = len(RUN_COLOURS) * len(DASHES)  # that can be told apart
MAX_BARS = 3  # lines with intervals: more would hide each other
IDEAL = Line("ideal", [(0.0, 0.0), (1.0, 1.0)], "#7b8794", 1.0, "4 4")

Points = list[tuple[float, float]]


def overlaid_charts(runs: Sequence[Run]) -> str:
    """FROC, ROC, precision and recall, reliability and training of runs, beside each other."""
    shown = runs[:MAX_LINES]
    charts = [
        *(_froc(shown, name) for name in FOREGROUND),
        _of_images(shown, "ROC curve of patients", "roc", "false_positive_rate", "1 - specificity"),
        _of_images(
            shown, "Precision-recall curve of patients", "precision_recall", "recall", "recall"
        ),
        *(_reliability(shown, name) for name in FOREGROUND),
        _training(shown, "Training loss", "train", "loss", "loss", None),
        *(
            _training(
                shown, f"Validation Dice, {name}", "validation", f"dice_{name}", "Dice, pooled"
            )
            for name in FOREGROUND
        ),
    ]
    if not any(charts):
        return ""
    left_out = (
        f'<p class="note">Lines of the first {MAX_LINES} of {len(runs)} runs.</p>'
        if len(runs) > MAX_LINES
        else ""
    )
    return f'<h2>Curves</h2>{left_out}<div class="charts">{"".join(charts)}</div>'


def _lines(runs: Sequence[Run], points: Callable[[dict[str, Any]], Points]) -> list[Line]:
    """A line for each run, by its place: a run looks the same in all charts."""
    return [_line(place, run.name, points(run.evaluation)) for place, run in enumerate(runs)]


def _line(place: int, name: str, points: Points) -> Line:
    colour = RUN_COLOURS[place % len(RUN_COLOURS)]
    return Line(name, points, colour, dashes=DASHES[place % len(DASHES)])


def _froc(runs: Sequence[Run], name: str) -> str:
    def scores(evaluation: dict[str, Any]) -> dict[str, Any]:
        return ((evaluation.get("lesions") or {}).get(name) or {}).get("centre") or {}

    def points(evaluation: dict[str, Any]) -> Points:
        curve = scores(evaluation).get("curve")
        return _pairs(curve, "false_positives", "sensitivity")

    lines = _lines(runs, points)
    if len(lines) <= MAX_BARS:
        lines = [
            line._replace(bars=sensitivity_bars(scores(run.evaluation).get("per_view") or {}))
            for line, run in zip(lines, runs, strict=True)
        ]
    title = f"FROC curve of {name} lesions, by centres"
    return _chart(title, lines, "false positives a view", "sensitivity")


def _of_images(runs: Sequence[Run], title: str, kind: str, x: str, x_label: str) -> str:
    y = "sensitivity" if kind == "roc" else "precision"
    lines = _lines(runs, lambda found: _pairs((found.get("patients") or {}).get(kind), x, y))
    return _chart(title, lines, x_label, y)


def _reliability(runs: Sequence[Run], name: str) -> str:
    def points(evaluation: dict[str, Any]) -> Points:
        found = ((evaluation.get("calibration") or {}).get(name) or {}).get("as_predicted") or {}
        return [(each["score"], each["share"]) for each in found.get("reliability", ())]

    lines = _lines(runs, points)
    if not any(line.points for line in lines):
        return ""
    title = f"Reliability of {name} candidates"
    return _chart(title, [IDEAL, *lines], "score", "share of hits")


def _training(
    runs: Sequence[Run],
    title: str,
    kind: str,
    key: str,
    y_label: str,
    y_limits: tuple[float, float] | None = (0, 1),
) -> str:
    lines = [
        _line(place, run.name, list(series(run.records[kind], key, run.name).points))
        for place, run in enumerate(runs)
    ]
    return _chart(title, lines, "step", y_label, y_limits)


def _chart(
    title: str,
    lines: Sequence[Line],
    x_label: str,
    y_label: str,
    y_limits: tuple[float, float] | None = (0, 1),
) -> str:
    """A chart whose title names the run if it has the line of one only."""
    drawn = [line for line in lines if line.points]
    if len(drawn) == 1:
        title = f"{title}, {drawn[0].name}"
    return chart(title, drawn, x_label, y_label, y_limits)


def _pairs(curve: dict[str, list[float]] | None, x: str, y: str) -> Points:
    return list(zip(curve[x], curve[y], strict=True)) if curve else []
