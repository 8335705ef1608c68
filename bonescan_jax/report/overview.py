"""What stands first on the page: what was measured on whom, and runs beside each other."""

import json
from collections.abc import Callable, Iterator, Sequence
from html import escape
from typing import Any

from bonescan_jax.report.details import duration
from bonescan_jax.report.parts import interval, number, table
from bonescan_jax.report.runs import CROSSVALIDATION, Run, median_rate, with_folds
from bonescan_jax.runs.workdir import flatten
from bonescan_jax.scans import ABNORMAL, CLASSES

Estimate = dict[str, Any]
FOREGROUND = CLASSES[1:]
WORST, HEADLINE_RATE = CLASSES[ABNORMAL], "1.0"
STAR = "*"
LONG = 40  # characters that deserve a wide column
HEADLINE_NOTE = "Small numbers are 95 % intervals over patients. AUC: is there anything abnormal?"
LESIONS_NOTE = (
    " Sensitivity at 1 FP: share of abnormal lesions found at one false positive a view; a star: "
    "the curve ends before, and this is what it had reached. AP: average precision of abnormal "
    "lesions. Dice: over the pixels of all images."
)
BEST_NOTE = (
    " The highest value of a column is bold; whether it is higher by more than chance, only a "
    "comparison on the same patients tells (bonescan evaluate --against)."
)
LIMITS = (
    "For research, not for diagnosis: nothing on this page was made for, or tested in, the care "
    "of patients.",
    "Figures hold for patients, cameras and annotators like those of the data set. Boxes of "
    "annotators are no biopsies: what counts as a false alarm may be a lesion that was not drawn, "
    "and the other way round.",
    "Intervals tell how much figures would vary with other patients of the same kind. They tell "
    "nothing of another training with another seed, nor of another hospital.",
)
SIMULATED = (
    "These scans are simulated by the phantom: the figures show that the program works, and "
    "nothing about patients."
)


# ---- What was measured on whom -------------------------------------------------------------------


def measured(runs: Sequence[Run]) -> str:
    """A sentence for each set of scans that runs were scored on."""
    sets: dict[str, list[str]] = {}
    for run in runs:
        if run.evaluation:
            sets.setdefault(_scored_on(run), []).append(run.name)
    if not sets:
        return ""
    parts = []
    for text, names in sets.items():
        who = f"{escape(', '.join(names))}: " if len(sets) > 1 else ""
        parts.append(f"<p>{who}{escape(text)}</p>")
    return f'{"".join(parts)}<p class="note">Not for diagnosis.</p>'


def _scored_on(run: Run) -> str:
    found = run.evaluation
    data = run.settings.get("data") or {}
    name = str(found.get("data") or data.get("name") or "the data set")
    place = found.get("data_dir") or data.get("dir")
    what = "view" if found.get("lesions") or run.folds else "image"
    scans = _some(found.get("num_images", found.get("images")), what)
    if found.get("num_patients"):
        scans += f" of {_some(found['num_patients'], 'patient')}"
    lesions = [
        f"{number(each['num_lesions'], 0)} {label}"
        for label, each in (found.get("lesions") or {}).items()
        if each
    ]
    if lesions:
        scans += f", with {' and '.join(lesions)} lesions"
    split = str(found.get("split") or (CROSSVALIDATION if run.folds else "test"))
    which = {
        CROSSVALIDATION: f"All patients of the {len(run.folds)} folds",
        "all": "All scans",
    }.get(split, f"The {split} scans")
    text = f"{which} of {name}{f' in {place}' if place else ''}: {scans}. {_chosen(run)}"
    if name == "phantom":
        text += f" {SIMULATED}"
    if found.get("same_data") is False:
        text += " This is not the data set of the training: it may hold patients of the training."
    return text


def _chosen(run: Run) -> str:
    if run.folds:
        return "Every patient was scored by the run that was trained and validated on others."
    if run.evaluation.get("data_fingerprint") not in (None, run.trained_on) and run.trained_on:
        return "Thresholds were chosen on the validation scans of the training's own data."
    return "Thresholds were chosen on the validation scans."


def _some(count: float | None, one: str) -> str:
    return f"{number(count, 0)} {one}{'' if count == 1 else 's'}"


# ---- Headline ------------------------------------------------------------------------------------


def _at(*path: str, flat: str) -> Callable[[dict[str, Any]], Estimate | None]:
    """Reads an estimate of an evaluation; where it is not there, the bare value of that name."""

    def read(evaluation: dict[str, Any]) -> Estimate | None:
        found: Any = evaluation
        for name in path:
            found = found.get(name) if isinstance(found, dict) else None
        if isinstance(found, dict) and found.get("value") is not None:
            return found
        value = evaluation.get(flat)
        return {"value": value} if isinstance(value, int | float) else None

    return read


def _dice(name: str) -> Callable[[dict[str, Any]], Estimate | None]:
    def read(evaluation: dict[str, Any]) -> Estimate | None:
        path = ("masks", str(evaluation.get("selected")), name, "pooled", "dice")
        return _at(*path, flat=f"dice_{name}")(evaluation)

    return read


COLUMNS = {
    "Sensitivity at 1 FP a view": _at(
        *("lesions", WORST, "centre", "per_view", HEADLINE_RATE), flat=f"sensitivity_at_1_{WORST}"
    ),
    "AP": _at(
        *("lesions", WORST, "centre", "average_precision"), flat=f"average_precision_{WORST}"
    ),
    **{f"Dice, {name}": _dice(name) for name in FOREGROUND},
    "AUC of images": _at("images", "auc", flat="image_auc"),
    "AUC of patients": _at("patients", "auc", flat="patient_auc"),
}


def headline(runs: Sequence[Run]) -> str:
    """A row for each run that was scored, with those of the folds of a cross-validation."""
    scored = [(run.name, run.evaluation, _weights(run)) for run in runs if run.evaluation]
    scored += [
        (f"{run.name}, pooled", pooled, "all folds together")
        for run in runs
        if (pooled := _pooled(run.evaluation))
    ]
    folds = [each for each in with_folds(runs) if each not in runs and each.evaluation]
    scored += [(fold.name, fold.evaluation, _weights(fold)) for fold in folds]
    if not scored:
        return ""
    comparable = len({_views(found) for _, found, _ in scored}) == 1 < len(scored)
    title = "Headline figures"
    note = HEADLINE_NOTE + (BEST_NOTE if comparable else "")
    if any(COLUMNS["AP"](found) or _dice(WORST)(found) for _, found, _ in scored):
        note += LESIONS_NOTE
    shown = _headline_table(title, scored, comparable)
    return f'<h2>{title}</h2>{shown}<p class="note">{note}</p>'


def _pooled(evaluation: dict[str, Any]) -> dict[str, Any]:
    """Of a cross-validation the scores of the predictions of all folds together."""
    found = {name: value for name, value in evaluation.items() if name.startswith("pooled_")}
    return {name.removeprefix("pooled_"): value for name, value in found.items()}


def external(runs: Sequence[Run]) -> str:
    """The same figures of these networks on other data; nothing where there are none."""
    found = [each for run in runs for each in run.external]
    if not found:
        return ""
    scored = [(each.name, each.evaluation, _scored_on(each)) for each in found]
    title = "The same networks on other data"
    return f"<h2>{title}</h2>{_headline_table(title, scored, False, 'Scored on')}"


def _headline_table(
    title: str,
    scored: Sequence[tuple[str, dict[str, Any], str]],
    comparable: bool,
    about: str = "Weights",
) -> str:
    values = {
        column: [read(found) for _, found, _ in scored]
        for column, read in COLUMNS.items()
        if any(read(found) for _, found, _ in scored)
    }
    best = {
        column: max(each["value"] for each in estimates if each)
        for column, estimates in values.items()
    }
    rows = []
    for place, (name, _, words) in enumerate(scored):
        long = " long" if len(words) > LONG else ""
        cells = []
        for column, estimates in values.items():
            estimate = estimates[place]
            cell = interval(estimate)
            if estimate and not estimate.get("reached", True):
                cell += STAR
            is_best = comparable and estimate and estimate["value"] == best[column]
            cells.append(f"<strong>{cell}</strong>" if is_best else cell)
        rows.append((name, [*cells, f'<span class="words{long}">{escape(words)}</span>']))
    return table(title, ["Run", *values, about], rows)


def _views(evaluation: dict[str, Any]) -> tuple[Any, ...]:
    """Equal for evaluations of the same views."""
    names = ("split", "data_fingerprint", "num_images", "num_patients")
    return tuple(evaluation.get(name) for name in names)


def _weights(run: Run) -> str:
    found = run.evaluation
    if run.folds:
        return "mean of the folds" if "masks" not in found else "all folds"
    members = found.get("members") or []
    if len(members) > 1:
        steps = ", ".join(f"{each['step']:,}" for each in members)
        words = f"{len(members)} runs as one, steps {steps}"
    elif found.get("step") is not None:
        words = f"step {number(found['step'], 0)}"
    else:
        return "–"
    if len(members) == 1:
        words += f", {str(members[0]['predictor']).replace('_', ' ')}"
    if found.get("checkpoint") == "best":
        words += ", best in validation"
    if found.get("mirror"):
        words += ", mirrored views averaged in"
    return words


# ---- What runs differ in, and where they ran -----------------------------------------------------


def differing_settings(runs: Sequence[Run]) -> str:
    """Only those settings that are not the same in all runs."""
    settings = [flatten(run.settings) for run in runs]
    names = sorted({name for each in settings for name in each})
    rows = []
    for name in names:
        texts = [json.dumps(each[name]) if name in each else "–" for each in settings]
        if len(set(texts)) > 1:
            rows.append((name, [f'<span class="words">{escape(text)}</span>' for text in texts]))
    title = "Settings that differ"
    if not rows:
        return f"<h2>{title}</h2><p>None.</p>"
    return f"<h2>{title}</h2>{table(title, ['Setting', *(run.name for run in runs)], rows)}"


def environment(runs: Sequence[Run]) -> str:
    """Versions, devices and speed of each run."""
    title = "Environment and timing"
    columns = ["Run", "training", "training, images / s", "evaluation, images / s", "devices"]
    columns += ["processes", "commit", "Python", "JAX", "Flax", "started", "starts"]
    rows = [(run.name, _environment(run)) for run in with_folds(runs)]
    return f"<h2>{title}</h2>{table(title, columns, rows)}"


def _environment(run: Run) -> Iterator[str]:
    train = run.records["train"]
    last = run.starts[-1] if run.starts else {}
    packages = last.get("packages") or {}
    devices = f"{last['devices']} × {last.get('device_kind')}" if last.get("devices") else None
    commit = last.get("commit")
    yield duration(train)
    yield number(median_rate(train), 1)
    yield number(run.evaluation.get("images_per_second"), 1)
    for fact in (
        devices,
        last.get("processes"),
        commit and str(commit)[:12] + ("-dirty" if str(commit).endswith("-dirty") else ""),
        last.get("python"),
        packages.get("jax"),
        packages.get("flax"),
        run.starts[0].get("time", "")[:16].replace("T", " ") if run.starts else None,
        len(run.starts) or None,
    ):
        yield escape(str(fact)) if fact is not None else "–"


def limits() -> str:
    """What figures do not tell."""
    return f"<h2>Limits</h2>{''.join(f'<p>{each}</p>' for each in LIMITS)}"
