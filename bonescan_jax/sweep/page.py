"""One offline page on a study: its trials, what mattered, the best one ready to run; and a CSV."""

import csv
import json
import math
import shlex
import statistics
import time
from collections.abc import Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

import optuna
from optuna.study import StudyDirection
from scipy import stats

from bonescan_jax.report.offline import offline_page
from bonescan_jax.report.parts import number, table
from bonescan_jax.sweep.status import load
from bonescan_jax.sweep.study import Settings, Study
from bonescan_jax.sweep.trials import (
    DONE,
    FAILED,
    PRUNED,
    RUNNING,
    SETTINGS,
    WAITING,
    WHY,
    Trial,
)
from bonescan_jax.sweep.worker import (
    MEASURED,
    best_trials,
    in_words,
    summary,
    trial_workdir,
)

FEWEST = 40  # finished trials, before what mattered can be told: a tenth of them count as good
SEED = "seed"
LEVEL = 0.95  # of intervals over seeds


def write_study_report(
    study_file: Path, folder: Path, url: str | None, out: Path | None = None
) -> dict[str, Any]:
    """Writes a page on a study, and a CSV of its trials beside it.

    Args:
        study_file: of the study.
        folder: of the sweep.
        url: of its storage.
        out: the page; by default report.html in the folder.

    Returns:
        How many trials are in each state, the best ones, and the paths.

    Raises:
        InputError: the file or the storage cannot be used, or no worker has begun.
    """
    study, trials = load(study_file, folder, url)
    path = out or folder / "report.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    script = (files(__package__) / "study.js").read_text(encoding="utf-8")
    data = json.dumps(_data(study, trials), separators=(",", ":"))
    unfinished = path.with_name(f"{path.name}.tmp")
    with unfinished.open("w", encoding="utf-8") as file:
        pieces = offline_page(f"Study {study.name}", _body(study, trials, folder), script, data)
        file.writelines(pieces)
    unfinished.replace(path)  # atomically: nobody opens half a page
    rows = path.with_suffix(".csv")
    _write_csv(rows, study, trials, folder)
    return {**summary(study, trials, folder), "report": str(path), "csv": str(rows)}


# ---- What stands on the page ---------------------------------------------------------------------


def _body(study: Study, trials: Sequence[Trial], folder: Path) -> str:
    counts = summary(study, list(trials), folder)
    states = ", ".join(f"{counts[s]} {s}" for s in (DONE, PRUNED, FAILED, RUNNING, WAITING))
    objectives = ", ".join(f"{direction} {name}" for name, direction in study.objectives.items())
    now = time.strftime("%Y-%m-%d %H:%M %Z")
    parts = [
        f"<h1>Study <em>{escape(study.name)}</em></h1>",
        f'<p class="note">{escape(str(folder.resolve()))}, {now}</p>',
        f"<p>{study.trials} trials: {states}. {escape(objectives.capitalize())}. "
        f"{number(device_hours(trials), 2)} device-hours.</p>",
        _best(study, trials),
        _importance(study, trials),
        '<h2 id="trials-title">Trials</h2><div id="study"></div>',
        _seeds(study, trials),
        _failures(trials),
        "<h2>The study's file</h2><pre tabindex='0' role='group' aria-label='The file'>"
        f"{escape(study.text)}</pre>",
        _shared(study),
    ]
    return "".join(parts)


def device_hours(trials: Sequence[Trial]) -> float:
    """Hours of work times devices, of the trials that have ended."""
    seconds = 0.0
    for trial in trials:
        measured = trial.last.user_attrs.get(MEASURED, {})
        seconds += (measured.get("seconds") or 0.0) * trial.last.user_attrs.get("devices", 1)
    return seconds / 3600


def command(study: Study, settings: Settings) -> str:
    """The command that trains these settings, as `bonescan train` takes them."""
    config, *shared = study.given.items()
    flags = [f"--config.{name}={_as_flag(value)}" for name, value in [*shared, *settings.items()]]
    begin = f"bonescan train --config={shlex.quote(config[1])} --workdir=DIR"
    return " \\\n  ".join([begin, *map(shlex.quote, flags)])


def _as_flag(value: Any) -> str:  # noqa: ANN401 - whatever a setting can be
    return str(tuple(value)) if isinstance(value, list) else str(value)


def _best(study: Study, trials: Sequence[Trial]) -> str:
    best = best_trials(study, list(trials))
    if not best:
        return '<p class="missing">No trial is done yet that keeps to the constraints.</p>'
    title = "The best trial" if len(best) == 1 else "The trials that none beats in all objectives"
    parts = [f"<h2>{title}</h2>"]
    for trial in best:
        values = zip(study.objectives, trial.last.values, strict=True)
        reached = ", ".join(
            f"{escape(name)} <strong>{value:.4g}</strong>" for name, value in values
        )
        settings = trial.last.user_attrs[SETTINGS]
        parts.append(
            f"<p>Trial {trial.number}: {reached}.</p>"
            f'<pre class="command">{escape(command(study, settings))}</pre>'
        )
    if len(best) == 1 and len(trials) > 1:
        parts.append(
            '<p class="note">It is the best of many on the same validation patients, so its score '
            "is flattered: bonescan evaluate tells what it reaches on the test patients.</p>"
        )
    return "".join(parts)


def importances(study: Study, trials: Sequence[Trial]) -> dict[str, float] | None:
    """The share of the differences in the first objective that each parameter explains.

    PED-ANOVA, Watanabe et al. 2023, arXiv 2304.10255; None of fewer than FEWEST trials.
    """
    done = [trial for trial in trials if trial.state == DONE]
    if len(done) < FEWEST:
        return None
    direction = next(iter(study.objectives.values()))
    copy = optuna.create_study(directions=[StudyDirection[direction.upper()]])
    copy.add_trials(
        optuna.create_trial(
            params=trial.last.params,
            distributions=trial.last.distributions,
            value=trial.last.values[0],
        )
        for trial in done
    )
    try:
        return optuna.importance.get_param_importances(
            copy, evaluator=optuna.importance.PedAnovaImportanceEvaluator()
        )
    except (ValueError, RuntimeError):  # all alike, or nothing varies
        return None


def _importance(study: Study, trials: Sequence[Trial]) -> str:
    found = importances(study, trials)
    title = "<h2>What mattered</h2>"
    if not found:
        return (
            f'{title}<p class="missing">Told from {FEWEST} trials on that are done and differ.</p>'
        )
    rows = [
        (name, [f'<meter value="{share:.3f}" title="{share:.1%}"></meter> {share:.0%}'])
        for name, share in found.items()
    ]
    name = next(iter(study.objectives))
    return (
        f"{title}<p>Shares of the differences in {escape(name)} among good trials (PED-ANOVA).</p>"
        + table("Importance of the parameters", ["Parameter", "Share"], rows)
    )


def seed_groups(trials: Sequence[Trial]) -> list[tuple[Settings, list[float]]]:
    """Settings that were run with several seeds, with the first objective of each; best mean last.

    Only trials that are done: those pruned were not seen to the end.
    """
    groups: dict[str, tuple[Settings, list[float]]] = {}
    for trial in trials:
        settings = dict(trial.last.user_attrs.get(SETTINGS, {}))
        if trial.state != DONE or SEED not in settings:
            continue
        del settings[SEED]
        _, values = groups.setdefault(json.dumps(settings, sort_keys=True), (settings, []))
        values.append(trial.last.values[0])
    several = [group for group in groups.values() if len(group[1]) > 1]
    return sorted(several, key=lambda group: statistics.mean(group[1]))


def t_interval(values: Sequence[float]) -> tuple[float, float]:
    """The interval of the mean over seeds, by Student's t."""
    spread = statistics.stdev(values) / math.sqrt(len(values))
    reach = spread * float(stats.t.ppf((1 + LEVEL) / 2, len(values) - 1))
    return statistics.mean(values) - reach, statistics.mean(values) + reach


def _seeds(study: Study, trials: Sequence[Trial]) -> str:
    groups = seed_groups(trials)
    if not groups:
        return ""
    if next(iter(study.objectives.values())) == "maximize":
        groups.reverse()
    usual = study.base
    rows = []
    for settings, values in groups:
        low, high = t_interval(values)
        differs = {name: value for name, value in settings.items() if usual.get(name) != value}
        mean = f"{statistics.mean(values):.4f} <small>{low:.4f} to {high:.4f}</small>"
        each = ", ".join(f"{value:.4f}" for value in values)
        words = f'<span class="words">{escape(in_words(differs)) or "as the config"}</span>'
        rows.append((f"{len(values)} seeds", [mean, each, words]))
    name = next(iter(study.objectives))
    return (
        f"<h2>Over seeds</h2><p>Means of {escape(name)} with 95 % intervals over seeds (Student's "
        "t); of two or three seeds they are wide. Settings are those that differ from the "
        "config.</p>"
        + table("Means over seeds", ["", "Mean and interval", "Each seed", "Settings"], rows)
    )


def _failures(trials: Sequence[Trial]) -> str:
    failed = [trial for trial in trials if trial.state == FAILED]
    if not failed:
        return ""
    rows = [
        (str(trial.number), [f'<span class="words">{escape(trial.last.user_attrs[WHY])}</span>'])
        for trial in failed
    ]
    return "<h2>Failed</h2>" + table("Trials that failed, and why", ["Trial", "Why"], rows)


def _shared(study: Study) -> str:
    items = "".join(
        f"<dt>{escape(name)}</dt><dd>{escape(str(value))}</dd>"
        for name, value in study.base.items()
    )
    return (
        "<details><summary>Settings that all trials share unless they set them</summary>"
        f'<dl class="settings">{items}</dl></details>'
    )


# ---- What the script draws, and the CSV ----------------------------------------------------------


def _data(study: Study, trials: Sequence[Trial]) -> dict[str, Any]:
    """The trials as study.js reads them."""
    names = list(dict.fromkeys(name for trial in trials for name in trial.last.params))
    return {
        "objectives": list(study.objectives),
        "directions": list(study.objectives.values()),
        "parameters": [_axis(name, trials) for name in names],
        "trials": [_row(trial, names) for trial in trials],
    }


def _axis(name: str, trials: Sequence[Trial]) -> dict[str, Any]:
    """A parameter: its name, whether its axis is logarithmic, and the choices if it has some."""
    distributions = (trial.last.distributions.get(name) for trial in trials)
    distribution = next(each for each in distributions if each is not None)
    choices = getattr(distribution, "choices", None)
    return {
        "name": name,
        "log": bool(getattr(distribution, "log", False)),
        "choices": [str(choice) for choice in choices] if choices else None,
    }


def _row(trial: Trial, names: Sequence[str]) -> dict[str, Any]:
    last = trial.last
    measured = last.user_attrs.get(MEASURED, {})
    values = [last.params.get(name) for name in names]
    return {
        "number": trial.number,
        "state": trial.state,
        "values": [_finite(value) for value in last.values] if last.values else None,
        "parameters": [str(v) if isinstance(v, str | bool) else v for v in values],
        "seconds": measured.get("seconds"),
        "curve": [
            [step, _finite(value)] for step, value in sorted(last.intermediate_values.items())
        ],
        "settings": in_words(last.user_attrs.get(SETTINGS, {})),
    }


def _finite(value: float) -> float | None:
    return float(f"{value:.6g}") if math.isfinite(value) else None


def _write_csv(path: Path, study: Study, trials: Sequence[Trial], folder: Path) -> None:
    """A line for each trial that was begun: state, objectives, settings, measures, workdir."""
    settings = sorted({n for trial in trials for n in trial.last.user_attrs.get(SETTINGS, {})})
    measures = sorted({n for trial in trials for n in trial.last.user_attrs.get(MEASURED, {})})
    unfinished = path.with_name(f"{path.name}.tmp")
    with unfinished.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        others = [name for name in measures if name not in study.objectives]
        known = ["attempts", "host", "device_kind", "devices", "why", "workdir"]
        writer.writerow(["trial", "state", *study.objectives, *settings, *others, *known])
        for trial in trials:
            attributes = trial.last.user_attrs
            measured = attributes.get(MEASURED, {})
            given = attributes.get(SETTINGS, {})
            writer.writerow(
                [
                    trial.number,
                    trial.state,
                    *(measured.get(name) for name in study.objectives),
                    *(given.get(name) for name in settings),
                    *(measured.get(name) for name in others),
                    len(trial.attempts),
                    *(attributes.get(name) for name in ("host", "device_kind", "devices")),
                    attributes.get(WHY) if trial.state in (FAILED, WAITING) else None,
                    trial_workdir(folder.absolute(), trial.number),
                ]
            )
    unfinished.replace(path)
