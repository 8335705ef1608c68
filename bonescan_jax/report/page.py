"""One self-contained HTML page on a run: scores, curves, pictures, settings. Opens offline."""

import base64
import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2

from bonescan_jax.errors import InputError
from bonescan_jax.report.asset import asset
from bonescan_jax.report.chart import Line
from bonescan_jax.report.figures import comparison_part, figures_part
from bonescan_jax.report.parts import chart, number
from bonescan_jax.report.style import CLASS_COLOURS, PALETTE
from bonescan_jax.runs.workdir import flatten
from bonescan_jax.scans import CLASSES

if TYPE_CHECKING:
    from bonescan_jax.report.browser import Browser

FOREGROUND = CLASSES[1:]
MAX_MEGABYTES = 64.0  # 600 patients of BS-80K need 32
MAX_PICTURES = 6
# The settings a reader asks for first; the rest is in the full list.
MAIN_SETTINGS = (
    *("seed", "data.dir", "data.views", "data.mask", "data.crop_height", "data.crop_width"),
    *("model.name", "model.filters", "model.levels", "model.norm", "model.deep_supervision"),
    *("model.dtype", "train.num_steps", "train.num_epochs", "train.num_examples"),
    *("train.batch_size", "train.learning_rate", "mesh.data", "mesh.spatial"),
)


def write_report(
    workdir: Path, max_megabytes: float = MAX_MEGABYTES, changes: dict[str, Any] | None = None
) -> dict[str, object]:
    """Write `report.html` from the contents of a workdir; a sentence names what is missing.

    Args:
        workdir: holds config.json and, as far as the run got, metrics.jsonl, evaluation/*.json with
            the rows of the test scans, and predictions/*.json with their pictures.
        max_megabytes: of the page: where it would be more, pictures of scans are left out.
        changes: settings by name that differ from the run's, such as {"data.dir": "elsewhere"}.

    Returns:
        The headline scores on the test scans, if there are any; images_per_second, the median over
        the training; the paths of workdir and page.

    Raises:
        InputError: config.json is missing, or a JSON file cannot be read.
    """
    config_path = workdir / "config.json"
    if not config_path.is_file():
        raise InputError(f"{config_path}: not found; expected the work directory of a training run")
    config = _read_json(config_path)
    records, num_torn = _read_metrics(workdir / "metrics.jsonl")
    name = escape(workdir.resolve().name)
    browser = _browser(workdir, max_megabytes, changes)
    main = "".join(
        (
            f"<h1>Bone scan run <em>{name}</em></h1>",
            f'<p class="note">{escape(str(workdir.resolve()))}</p>',
            _run_section(config, records),
            _scores_section([path for path in _evaluations(workdir) if path.is_file()]),
            browser.section
            if browser
            else _pictures_section(sorted((workdir / "predictions").rglob("*.json"))),
            _curves_section(records, num_torn),
            f"<h2>All settings</h2><details><summary>config.json</summary>"
            f"<pre>{escape(json.dumps(config, indent=2))}</pre></details>",
        )
    )
    path = workdir / "report.html"
    unfinished = path.with_suffix(".html.tmp")
    with unfinished.open("w", encoding="utf-8") as file:
        file.writelines(_page(f"Bone scan run {name}", main, browser))
    unfinished.replace(path)  # atomically: nobody opens half a page
    test = workdir / "evaluation" / "test.json"
    return {
        **(_headline(_read_json(test)) if test.is_file() else {}),
        "images_per_second": _median_rate(records["train"]),
        "workdir": str(workdir),
        "report": str(path),
    }


def _browser(
    workdir: Path, max_megabytes: float, changes: dict[str, Any] | None
) -> "Browser | None":
    rows = workdir / "evaluation" / "test.rows.jsonl"
    if not rows.is_file():
        return None
    # Reading the scans takes JAX along, and seconds: a run without rows does not wait for it.
    from bonescan_jax.report.browser import scan_browser  # noqa: PLC0415

    test = workdir / "evaluation" / "test.json"
    chosen = _read_json(test).get("thresholds") if test.is_file() else None
    return scan_browser(workdir, rows, chosen or {}, max_megabytes, changes)


def _page(title: str, main: str, browser: "Browser | None") -> Iterator[str]:
    """The page in pieces: what is read first stands first, the many pictures last.

    The policy lets nothing run but our own script, by its checksum, and nothing load at all.
    """
    style, script = asset("page.css"), asset("page.js")
    policy = "default-src 'none'; base-uri 'none'; form-action 'none'; img-src data:; "
    policy += f"style-src {_checksum(style)}; script-src {_checksum(script)}"
    yield (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<title>{title}</title><link rel="icon" href="data:,"><style>{style}</style></head>'
        f"<body><main>{main}</main>"
    )
    if browser:
        # In JSON "<" is only ever part of text; without it, no text can end the element.
        data = browser.data.replace("<", "\\u003c")
        yield f'<script type="application/json" id="data">{data}</script>'
        yield f"<script>{script}</script>"
        for name, text in browser.pictures.items():
            yield f'<script type="text/plain" id="{escape(name)}">{text}</script>\n'
    yield "</body></html>\n"


def _checksum(text: str) -> str:
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return f"'sha256-{digest}'"


def _evaluations(workdir: Path) -> list[Path]:
    return [workdir / "evaluation" / f"{split}.json" for split in ("test", "validation", "train")]


def _headline(evaluation: dict) -> dict[str, float | None]:
    """Return the Dice of both classes, and beside it that of the brightness threshold."""
    names = [f"{kind}_{label}" for kind in ("dice", "dice_threshold") for label in FOREGROUND]
    return {name: evaluation.get(name) for name in names}


def _median_rate(train: list[dict]) -> float | None:
    rates = sorted(r["images_per_second"] for r in train if r.get("images_per_second"))
    return rates[len(rates) // 2] if rates else None


def _read_json(path: Path) -> dict:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path}: expected JSON, but {error}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected a JSON object, found {type(content).__name__}")
    return content


def _read_metrics(path: Path) -> tuple[dict[str, list[dict]], int]:
    """Return the records by kind in order of step, and the number of lines that a crash cut short.

    A run that was resumed repeats steps; the last record of a step and kind is the one that counts.
    """
    latest, num_torn = {}, 0
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
    for line in filter(str.strip, lines):
        try:
            record = json.loads(line)
            latest[record["kind"], record["step"]] = record
        except (ValueError, KeyError, TypeError):
            num_torn += 1
    records: dict[str, list[dict[str, Any]]] = {"train": [], "validation": []}
    for (kind, _), record in sorted(latest.items()):
        records.setdefault(kind, []).append(record)
    return records, num_torn


def _run_section(config: dict, records: dict[str, list[dict]]) -> str:
    settings = flatten(config)
    rows = [(key, str(settings[key]).strip("[]")) for key in MAIN_SETTINGS if key in settings]
    train = records["train"]
    if train:
        seconds = max(record.get("seconds", 0) for record in train)
        rows += [
            ("steps taken", f"{train[-1]['step']:,}"),
            ("time", f"{seconds / 3600:.1f} h" if seconds >= 3600 else f"{seconds / 60:.1f} min"),
        ]
        if rate := _median_rate(train):
            rows.append(("images per second, median", f"{rate:.1f}"))
    items = "".join(f"<div><dt>{escape(k)}</dt><dd>{escape(v)}</dd></div>" for k, v in rows)
    return f'<h2>How it was run</h2><dl class="settings">{items}</dl>'


def _scores_section(paths: Sequence[Path]) -> str:
    if not paths:
        return (
            "<h2>Scores</h2><p class='missing'>This run has not been evaluated yet; "
            "run <code>bonescan evaluate</code>.</p>"
        )
    parts = []
    for path in paths:
        parts.append(_split_section(_read_json(path)))
        against = path.with_name(f"{path.stem}_against.json")
        if against.is_file():
            parts.append(comparison_part(_read_json(against)))
    return "".join(parts)


def _split_section(evaluation: dict) -> str:
    split = str(evaluation.get("split", ""))
    facts = f"{number(evaluation.get('num_images'), 0)} images, weights of step "
    facts += f"{number(evaluation.get('step'), 0)}"
    if auc := evaluation.get("image_auc"):
        facts += f"; AUC of abnormal against normal images {number(auc.get('auc'))} "
        facts += f"(95 % interval {number(auc.get('low'))} to {number(auc.get('high'))})"
    title = f"<h2>Scores on the {escape(split)} scans</h2><p>{facts}.</p>"
    return title + figures_part(evaluation)


def _curves_section(records: dict[str, list[dict]], num_torn: int) -> str:
    train, validation = records["train"], records["validation"]
    heads = sorted({key for r in train for key in r if key.startswith("loss_head_")})
    losses = [
        _series(train, key, key.removeprefix("loss_").replace("_", " "), PALETTE[1 + i % 4], 1.2)
        for i, key in enumerate(heads)
    ]
    dices = [_series(validation, f"dice_{c}", c, CLASS_COLOURS[c]) for c in FOREGROUND]
    charts = "".join(
        (
            chart("Training loss", [*losses, _series(train, "loss", "all")], y_label="loss"),
            chart("Validation Dice", dices, y_label="Dice, pooled", y_limits=(0, 1)),
            chart("Learning rate", [_series(train, "learning_rate", "")], y_label="rate"),
            chart("Throughput", [_series(train, "images_per_second", "")], y_label="images / s"),
        )
    )
    sentences = []
    if not train:
        sentences.append("No training step has been logged yet.")
    if train and not validation:
        sentences.append("No validation has been logged yet.")
    if num_torn:
        sentences.append(f"Incomplete lines of metrics.jsonl that were skipped: {num_torn}.")
    missing = f'<p class="missing">{" ".join(sentences)}</p>' if sentences else ""
    return f'<h2>Training</h2><div class="charts">{charts}</div>{missing}'


def _series(
    records: Iterable[dict], key: str, name: str, colour: str = PALETTE[0], width: float = 2.0
) -> Line:
    points = [(r["step"], r[key]) for r in records if isinstance(r.get(key), int | float)]
    return Line(name, points, colour, width)


def _pictures_section(paths: Sequence[Path]) -> str:
    if not paths:
        return (
            "<h2>Predictions</h2><p class='missing'>No scan has been predicted yet; "
            "run <code>bonescan predict</code>.</p>"
        )
    figures = "".join(map(_picture, paths[:MAX_PICTURES]))
    shown = f"{min(len(paths), MAX_PICTURES)} of {len(paths)} predicted scans; all are in "
    return f'<h2>Predictions</h2><p>{shown}predictions/.</p><div class="pictures">{figures}</div>'


def _picture(path: Path) -> str:
    prediction = _read_json(path)
    boxes = prediction.get("boxes") or []
    labels = [CLASSES[b["label"]] if isinstance(b["label"], int) else b["label"] for b in boxes]
    found = ", ".join(f"{labels.count(label)} {label}" for label in FOREGROUND)
    caption = f"{prediction.get('file', path.stem)}, {prediction.get('view') or 'view unknown'}: "
    caption = escape(f"{caption}{found}")
    # The name alone: a picture is never taken from outside the folder.
    picture = path.parent / Path(str(prediction.get("overlay"))).name
    pixels = cv2.imread(str(picture)) if picture.is_file() else None
    if pixels is not None:
        # JPEG, a fifth of the PNG: counts are noise, and the page may hold several.
        _, jpeg = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, 88])
        data = base64.b64encode(jpeg.tobytes()).decode()
        image = f'<img src="data:image/jpeg;base64,{data}" alt="{caption}">'
    else:
        image = '<p class="missing">Picture not found.</p>'
    return f"<figure>{image}<figcaption>{caption}</figcaption></figure>"
