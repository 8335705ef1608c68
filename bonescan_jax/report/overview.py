"""What stands first on the page: what was measured on whom, and runs beside each other."""

import json
from collections.abc import Callable, Iterator, Sequence
from html import escape
from typing import Any, NamedTuple

from bonescan_jax.report.details import duration
from bonescan_jax.report.parts import interval, number, table
from bonescan_jax.report.runs import CROSSVALIDATION, Run, median_rate, with_folds
from bonescan_jax.runs.workdir import flatten
from bonescan_jax.scans import ABNORMAL, CLASSES

Estimate = dict[str, Any]
FOREGROUND = CLASSES[1:]
WORST, HEADLINE_RATE = CLASSES[ABNORMAL], "1.0"
STAR = "*"
IMAGES = "AUC of images"  # stands where there are no lesions to be found
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
    return "".join(parts)


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


def _at(*path: str, flat: Sequence[str]) -> Callable[[dict[str, Any]], Estimate | None]:
    """Reads an estimate of an evaluation; where it is not there, the bare value of such a name."""

    def read(evaluation: dict[str, Any]) -> Estimate | None:
        found: Any = evaluation
        for name in path:
            found = found.get(name) if isinstance(found, dict) else None
        if isinstance(found, dict) and found.get("value") is not None:
            return found
        values = (evaluation.get(name) for name in flat)
        return next(({"value": each} for each in values if isinstance(each, int | float)), None)

    return read


def _dice(name: str) -> Callable[[dict[str, Any]], Estimate | None]:
    def read(evaluation: dict[str, Any]) -> Estimate | None:
        path = ("masks", str(evaluation.get("selected")), name, "pooled", "dice")
        return _at(*path, flat=[f"dice_{name}"])(evaluation)

    return read


COLUMNS = {
    "Sensitivity at 1 FP a view": _at(
        *("lesions", WORST, "centre", "per_view", HEADLINE_RATE),
        flat=[f"sensitivity_at_1_{WORST}"],
    ),
    "AP": _at(
        *("lesions", WORST, "centre", "average_precision"), flat=[f"average_precision_{WORST}"]
    ),
    **{f"Dice, {name}": _dice(name) for name in FOREGROUND},
    IMAGES: _at("images", "auc", flat=["image_auc", "auc"]),
    "AUC of patients": _at("patients", "auc", flat=["patient_auc"]),
}


class _Scored(NamedTuple):
    """A row of a table of figures."""

    name: str
    evaluation: dict[str, Any]
    weights: str


def headline(runs: Sequence[Run]) -> str:
    """A row for each run that was scored, with those of the folds of a cross-validation."""
    scored = [each for run in runs for each in _rows_of(run) if each.evaluation]
    if not scored:
        return ""
    comparable = len({_views(each.evaluation) for each in scored}) == 1 < len(scored)
    columns = _columns(scored)
    title = "Headline figures"
    note = HEADLINE_NOTE + (BEST_NOTE if comparable else "")
    if IMAGES not in columns:
        note += LESIONS_NOTE
    shown = _headline_table(title, scored, columns, comparable)
    return f'<h2>{title}</h2>{shown}<p class="note">{note}</p>'


def _rows_of(run: Run) -> Iterator[_Scored]:
    yield _Scored(run.name, run.evaluation, _weights(run))
    if run.folds:
        found = {name: each for name, each in run.evaluation.items() if name.startswith("pooled_")}
        pooled = {name.removeprefix("pooled_"): each for name, each in found.items()}
        yield _Scored(f"{run.name}, pooled", pooled, "all folds together")
        for fold in with_folds([run]):
            yield _Scored(fold.name, fold.evaluation, _weights(fold))


def external(runs: Sequence[Run]) -> str:
    """The same figures of these networks on other data; nothing where there are none."""
    found = [each for run in runs for each in run.external]
    if not found:
        return ""
    scored = [_Scored(each.name, each.evaluation, _weights(each)) for each in found]
    title = "The same networks on other data"
    shown = _headline_table(title, scored, _columns(scored), False)
    return f"<h2>{title}</h2>{measured(found)}{shown}"


def _columns(scored: Sequence[_Scored]) -> list[str]:
    """Those with a value in a row."""
    known = [
        name for name, read in COLUMNS.items() if any(read(each.evaluation) for each in scored)
    ]
    is_of_lesions = any(name.startswith(("AP", "Dice")) for name in known)
    return [name for name in known if not (is_of_lesions and name == IMAGES)]


def _headline_table(
    title: str, scored: Sequence[_Scored], columns: Sequence[str], comparable: bool
) -> str:
    best = {
        name: max(
            found["value"]
            for each in scored
            if (found := COLUMNS[name](each.evaluation)) is not None
        )
        for name in columns
    }
    rows = []
    for each in scored:
        cells = []
        for name in columns:
            estimate = COLUMNS[name](each.evaluation)
            cell = interval(estimate)
            if estimate and not estimate.get("reached", True):
                cell += STAR
            is_best = comparable and estimate and estimate["value"] == best[name]
            cells.append(f"<strong>{cell}</strong>" if is_best else cell)
        rows.append((each.name, [*cells, f'<span class="words">{escape(each.weights)}</span>']))
    return table(title, ["Run", *columns, "Weights"], rows)


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
    if found.get("alone"):
        words += ", each view without the other"
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
