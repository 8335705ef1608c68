"""The figures of an evaluation with their intervals, as tables and charts."""

from collections.abc import Iterable, Iterator
from html import escape
from typing import Any

from bonescan_jax.report.chart import Line
from bonescan_jax.report.masks import masks_part
from bonescan_jax.report.parts import chart, interval, number, table
from bonescan_jax.report.style import CLASS_COLOURS, PALETTE
from bonescan_jax.scans import CLASSES

FOREGROUND = CLASSES[1:]
RULES = {
    "centre": "the centre of a predicted box lies in the true box",
    "overlap": "the IoU of predicted and true pixels is 0.1 or more",
}
INTERVALS = (
    "Small numbers are 95 % intervals over patients; where one is missing, the pointer held over "
    "the value says why. Thresholds were chosen on the validation scans."
)
RATES_NOTE = (
    "FP: false positives. A star: the curve ends before so many are reached, and this is what it "
    "had reached. AP: average precision."
)
IMAGES = {
    "auc": "AUC",
    "sensitivity": "sensitivity",
    "specificity": "specificity",
    "accuracy": "accuracy",
}
OPERATING = {"precision": "precision", "recall": "recall", "f1": "F1"}
COUNTS = {"found": "found", "missed": "missed", "false_positives": "false positives"}
OLDER = (
    '<p class="missing">An older program has evaluated this run; '
    "<code>bonescan evaluate</code> scores it again.</p>"
)


def figures_part(evaluation: dict[str, Any]) -> str:
    """All that an evaluation says; a sentence where an older program has written it."""
    if "calibration" not in evaluation.get("images", {}):
        return OLDER
    parts = [_images(evaluation), _calibration(evaluation)]
    if evaluation.get("lesions"):
        found = [_lesions(evaluation), _operating_point(evaluation)]
        parts = [*found, parts[0], masks_part(evaluation), parts[1], _groups(evaluation)]
    return "".join((f'<p class="note">{INTERVALS}</p>', *parts))


def comparison_part(comparison: dict[str, Any]) -> str:
    """How this run differs from the one that it was compared with."""
    rows = [
        (
            name.replace("_", " "),
            [
                number(each["first"]),
                number(each["second"]),
                interval(each),
                number(each.get("p_holm")),
            ],
        )
        for name, each in comparison["differences"].items()
    ]
    other = escape(str(comparison["against"]))
    title = "Compared with another run"
    columns = ["Score", "this run", "the other", "difference", "p, after Holm"]
    lesions = "; ".join(
        f"{name}: {each['only_first']} lesions found by this run only, {each['only_second']} by "
        f"the other only (McNemar's p {number(each['p_value'])})"
        for name, each in comparison["lesions"].items()
        if each
    )
    note = f"On the same {comparison['num_images']} images of {comparison['num_patients']} patients"
    return (
        f"<h3>{title}</h3><p>{other}</p>{table(title, columns, rows)}"
        f'<p class="note">{note}. {escape(lesions)}</p>'
    )


def _lesions(evaluation: dict[str, Any]) -> str:
    found = {name: scores for name, scores in evaluation["lesions"].items() if scores}
    if not found:
        return ""
    rates = [rate for rate in next(iter(found.values()))["centre"]["per_view"] if rate != "mean"]
    columns = ["Sensitivity", *(f"{rate} FP a view" for rate in rates), "mean"]
    columns += [*(f"{rate} FP a patient" for rate in rates), "mean", "AP"]
    parts = []
    for rule, words in RULES.items():
        rows = [
            (f"{name}, {scores['num_lesions']} lesions", _lesion_cells(scores[rule], rates))
            for name, scores in found.items()
        ]
        title = f"Lesions found, if {words}"
        parts.append(f"<h3>{title}</h3>{table(title, columns, rows)}")
    lines = [
        Line(
            name,
            _points(scores["centre"]["curve"]),
            CLASS_COLOURS[name],
            bars=sensitivity_bars(scores["centre"]["per_view"]),
        )
        for name, scores in found.items()
    ]
    froc = chart("FROC curve, by centres", lines, "false positives a view", "sensitivity", (0, 1))
    return f'{"".join(parts)}<p class="note">{RATES_NOTE}</p><div class="charts">{froc}</div>'


def _lesion_cells(scores: dict[str, Any], rates: list[str]) -> Iterator[str]:
    for per in ("per_view", "per_patient"):
        for rate in rates:
            star = "" if scores[per][rate]["reached"] else "*"
            yield interval(scores[per][rate]) + star
        yield interval(scores[per]["mean"])
    yield interval(scores["average_precision"])


def sensitivity_bars(per_view: dict[str, Any]) -> list[tuple[float, float, float]]:
    """The intervals at those rates of false positives that the curve reaches, for its chart."""
    return [
        (float(rate), each["low"], each["high"])
        for rate, each in per_view.items()
        if rate != "mean" and each["reached"] and each.get("low") is not None
    ]


def _points(curve: dict[str, list[float]]) -> list[tuple[float, float]]:
    return list(zip(curve["false_positives"], curve["sensitivity"], strict=True))


def _operating_point(evaluation: dict[str, Any]) -> str:
    rows = []
    for name, scores in evaluation["lesions"].items():
        for rule, words in RULES.items():
            at = ((scores or {}).get(rule) or {}).get("at_threshold")
            if at:
                cells = [number(at["threshold"]), *(interval(at[score]) for score in OPERATING)]
                counts = (number(at[count], 0) for count in COUNTS)
                rows.append((f"{name}, if {words}", [*cells, *counts]))
    if not rows:
        return ""
    title = "Lesions at the threshold with the best F1 on the validation scans"
    columns = ["Class", "threshold", *OPERATING.values(), *COUNTS.values()]
    return f"<h3>{title}</h3>{table(title, columns, rows)}"


def _images(evaluation: dict[str, Any]) -> str:
    rows = [
        (
            f"{each['number']} {name}, {each['abnormal']} abnormal",
            [interval(each.get(score)) for score in IMAGES],
        )
        for name in ("images", "patients")
        for each in [evaluation[name]]
    ]
    title = "Images and patients: is there anything abnormal?"
    kinds = (
        ("ROC curve", "roc", "false_positive_rate", "1 - specificity", "sensitivity"),
        ("Precision-recall curve", "precision_recall", "recall", "recall", "precision"),
    )
    curves = []
    for name, kind, x, x_label, y in kinds:
        lines = [
            Line(scored, list(zip(curve[x], curve[y], strict=True)), colour)
            for scored, colour in zip(("images", "patients"), PALETTE, strict=False)
            if (curve := evaluation[scored].get(kind))
        ]
        curves.append(chart(name, lines, x_label, y, (0, 1)))
    scores = table(title, ["Scored", *IMAGES.values()], rows)
    return f'<h3>{title}</h3>{scores}<div class="charts">{"".join(curves)}</div>'


def _calibration(evaluation: dict[str, Any]) -> str:
    """Of candidates by class, images and patients, as predicted and with the temperature."""
    candidates = evaluation.get("calibration") or {}
    found = {f"{name} candidates": candidates.get(name) or {} for name in FOREGROUND}
    found |= {name: evaluation[name].get("calibration") or {} for name in ("images", "patients")}
    ways = {"as_predicted": "as predicted", "with_temperature": "with temperature"}
    rows, lines = [], [Line("ideal", [(0.0, 0.0), (1.0, 1.0)], PALETTE[1], 1.0)]
    colours = (*CLASS_COLOURS.values(), PALETTE[0], PALETTE[2])
    for (name, each), colour in zip(found.items(), colours, strict=True):
        for way, words in ways.items():
            if way in each:
                cells = [interval(each[way]["brier"]), interval(each[way]["calibration_error"])]
                temperature = number(each["temperature"]) if way != "as_predicted" else ""
                rows.append((f"{name}, {words}", [*cells, temperature]))
        if "as_predicted" in each:
            points = [(p["score"], p["share"]) for p in each["as_predicted"]["reliability"]]
            lines.append(Line(name, points, colour))
    if not rows:
        return ""
    title = "Calibration: of those with score p a share p should be hits, or abnormal"
    columns = ["Scores of", "Brier score", "expected calibration error", "temperature"]
    shape = chart("Reliability", lines, "score", "share of hits or abnormal", (0, 1))
    return f'<h3>{title}</h3>{table(title, columns, rows)}<div class="charts">{shape}</div>'


def _groups(evaluation: dict[str, Any]) -> str:
    columns = ["views", "lesions", "Dice", "sensitivity at 1 FP a view"]
    columns += ["precision at the threshold", "recall at the threshold"]
    parts = []
    for name in FOREGROUND:
        rows = ((group["group"], _group_cells(group)) for group in evaluation["groups"][name])
        title = f"{name.capitalize()} lesions by group"
        parts.append(table(title, [title, *columns], rows))
    return f"<h3>By group of views, patients and lesions</h3>{''.join(parts)}"


def _group_cells(group: dict[str, Any]) -> Iterable[str]:
    star = "" if group["reached"] else "*"
    return (
        number(group.get("num_views"), 0),
        number(group["num_lesions"], 0),
        interval(group.get("dice")),
        interval(group["sensitivity_at_1"]) + star,
        interval(group.get("precision")),
        interval(group.get("recall")),
    )
