"""One self-contained HTML page on runs: scores, curves, scans, settings. Opens offline."""

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bonescan_jax.errors import InputError
from bonescan_jax.report.asset import asset
from bonescan_jax.report.details import (
    curves_section,
    pictures_section,
    run_section,
    settings_section,
)
from bonescan_jax.report.figures import comparison_part, figures_part
from bonescan_jax.report.offline import offline_page
from bonescan_jax.report.overlaid import overlaid_charts
from bonescan_jax.report.overview import (
    differing_settings,
    environment,
    external,
    headline,
    limits,
    measured,
)
from bonescan_jax.report.parts import number
from bonescan_jax.report.runs import Run, load_runs, median_rate, with_folds
from bonescan_jax.scans import CLASSES

if TYPE_CHECKING:
    from bonescan_jax.report.browser import Browser

FOREGROUND = CLASSES[1:]
MAX_MEGABYTES = 64.0  # 600 patients of BS-80K need 32
NOT_FOR_DIAGNOSIS = '<p class="note">Not for diagnosis.</p>'
NAME_LIMIT = 200  # of a page that is named after several runs


def write_report(
    workdirs: Sequence[Path],
    max_megabytes: float = MAX_MEGABYTES,
    changes: Mapping[str, Any] | None = None,
    out: Path | None = None,
) -> dict[str, object]:
    """Write a page on one run or on several; a sentence names what is missing.

    Args:
        workdirs: each holds config.json and, as far as the run got, metrics.jsonl,
            evaluation/*.json with rows of scans, and predictions/*.json with their pictures; or
            the folds of a cross-validation; or only evaluation/, as of an ensemble.
        max_megabytes: of the page: where it would be more, pictures of scans are left out.
        changes: settings by name that differ from the runs', such as {"data.dir": "elsewhere"}.
        out: the page; by default `report.html` in the workdir, of several A+B+C.html beside the
            first.

    Returns:
        Of a single run the headline scores on the test scans, if there are any, images_per_second,
        the median over the training, and the workdir; the path of the page.

    Raises:
        InputError: a workdir holds no run, or a JSON file cannot be read.
    """
    runs = load_runs(workdirs)
    path = out or _default_page(workdirs)
    main = _one_run(runs[0]) if len(runs) == 1 and not runs[0].folds else _several_runs(runs)
    title = f"Bone scan run {runs[0].name}" if len(runs) == 1 else f"{len(runs)} bone scan runs"
    browser = _browser(runs, title, main, int(max_megabytes * 1e6), changes)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.tmp")
    with unfinished.open("w", encoding="utf-8") as file:
        file.writelines(_page(title, main, browser))
    unfinished.replace(path)  # atomically: nobody opens half a page
    if len(runs) > 1:
        return {"runs": [run.name for run in runs], "report": str(path)}
    return {
        **(_headline(runs[0].evaluations["test"]) if "test" in runs[0].evaluations else {}),
        "images_per_second": median_rate(runs[0].records["train"]),
        "workdir": str(workdirs[0]),
        "report": str(path),
    }


def _default_page(workdirs: Sequence[Path]) -> Path:
    if len(workdirs) == 1:
        return workdirs[0] / "report.html"
    name = "+".join(workdir.resolve().name for workdir in workdirs) + ".html"
    if len(name.encode()) > NAME_LIMIT:
        raise InputError(
            f"--out is missing: the names of {len(workdirs)} workdirs are too long for a file"
        )
    return workdirs[0].resolve().parent / name


def _one_run(run: Run) -> tuple[str, str]:
    """What stands before the scans, and after them."""
    before = (
        f"<h1>Bone scan run <em>{escape(run.name)}</em></h1>",
        f'<p class="note">{escape(str(run.folder.resolve()))}</p>',
        measured([run]),
        NOT_FOR_DIAGNOSIS,
        headline([run]),
        external([run]),
        run_section(run),
        _scores_section(run),
    )
    after = (
        "" if run.rows_file else pictures_section(run.folder),
        curves_section(run),
        environment([run]),
        settings_section(run),
        limits(),
    )
    return "".join(before), "".join(after)


def _several_runs(runs: Sequence[Run]) -> tuple[str, str]:
    """The same of runs beside each other; of a cross-validation its folds."""
    single = [fold for run in runs for fold in run.folds] if len(runs) == 1 else list(runs)
    title = f"{len(runs)} bone scan runs"
    if len(runs) == 1:
        title = f"Cross-validation <em>{escape(runs[0].name)}</em>, {len(single)} folds"
    paths = "<br>".join(escape(str(run.folder.resolve())) for run in runs)
    before = (
        f'<h1>{title}</h1><p class="note">{paths}</p>',
        measured(runs),
        NOT_FOR_DIAGNOSIS,
        headline(runs),
        external(runs),
        overlaid_charts(single),
        differing_settings(single),
    )
    details = (
        f'<details class="run"><summary>{escape(run.name)}</summary>'
        f"{run_section(run)}{_scores_section(run)}"
        f"{curves_section(run)}{settings_section(run)}</details>"
        for run in with_folds(runs)
    )
    after = (environment(runs), "<h2>Details of each run</h2>", *details, limits())
    return "".join(before), "".join(after)


def _browser(
    runs: Sequence[Run],
    title: str,
    main: tuple[str, str],
    max_bytes: int,
    changes: Mapping[str, Any] | None,
) -> "Browser | None":
    if not any(run.rows_file for run in runs):
        return None
    # Reading the scans takes JAX along, and seconds: a run without rows does not wait for it.
    from bonescan_jax.report.browser import Browser, scan_browser  # noqa: PLC0415

    around = sum(len(piece.encode()) for piece in _page(title, main, Browser("", "", {})))
    return scan_browser(runs, max_bytes - around, changes)


def _page(title: str, main: tuple[str, str], browser: "Browser | None") -> Iterator[str]:
    """The page in pieces: what is read first stands first, the many pictures last."""
    body = f"{main[0]}{browser.section if browser else ''}{main[1]}"
    data, pictures = (browser.data, browser.pictures) if browser else (None, {})
    return offline_page(title, body, asset("page.js"), data, pictures)


def _headline(evaluation: dict) -> dict[str, float | None]:
    """Return the Dice of both classes, and beside it that of the brightness threshold."""
    names = [f"{kind}_{label}" for kind in ("dice", "dice_threshold") for label in FOREGROUND]
    return {name: evaluation.get(name) for name in names}


def _scores_section(run: Run) -> str:
    if not run.evaluations:
        return (
            "<h2>Scores</h2><p class='missing'>This run has not been evaluated yet; "
            "run <code>bonescan evaluate</code>.</p>"
        )
    parts = []
    for split, evaluation in run.evaluations.items():
        parts.append(_split_section(evaluation))
        if split in run.comparisons:
            parts.append(comparison_part(run.comparisons[split]))
    return "".join(parts)


def _split_section(evaluation: dict) -> str:
    split = str(evaluation.get("split", ""))
    facts = f"{number(evaluation.get('num_images'), 0)} images"
    if evaluation.get("step") is not None:
        facts += f", weights of step {number(evaluation['step'], 0)}"
    title = f"<h2>Scores on the {escape(split)} scans</h2><p>{facts}.</p>"
    return title + figures_part(evaluation)
