"""What the page says of one run beside its scores: settings, training curves, predictions."""

import base64
import json
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any

import cv2

from bonescan_jax.report.chart import Line
from bonescan_jax.report.parts import chart
from bonescan_jax.report.runs import Run, median_rate, read_json
from bonescan_jax.report.style import CLASS_COLOURS, PALETTE
from bonescan_jax.runs.workdir import flatten
from bonescan_jax.scans import CLASSES

FOREGROUND = CLASSES[1:]
MAX_PICTURES = 6
# The settings a reader asks for first; the rest is in the full list.
MAIN_SETTINGS = (
    *("seed", "data.dir", "data.views", "data.mask", "data.crop_height", "data.crop_width"),
    *("model.name", "model.patch", "model.filters", "model.levels", "model.norm"),
    *("model.deep_supervision",),
    *("model.dtype", "train.num_steps", "train.num_epochs", "train.num_examples"),
    *("train.batch_size", "train.optimizer", "train.learning_rate", "mesh.data", "mesh.spatial"),
)


def run_section(run: Run) -> str:
    """The settings that a reader asks for first, and how long it took."""
    settings = flatten(run.settings)
    rows = [(key, str(settings[key]).strip("[]")) for key in MAIN_SETTINGS if key in settings]
    train = run.records["train"]
    if train:
        rows += [("steps taken", f"{train[-1]['step']:,}"), ("time", duration(train))]
        if rate := median_rate(train):
            rows.append(("images per second, median", f"{rate:.1f}"))
    if not rows:
        return ""
    items = "".join(f"<div><dt>{escape(k)}</dt><dd>{escape(v)}</dd></div>" for k, v in rows)
    return f'<h2>How it was run</h2>{_members(run)}<dl class="settings">{items}</dl>'


def _members(run: Run) -> str:
    """Where the settings of an evaluation come from; nothing of a run with its own."""
    if run.config_folder == run.folder:
        return ""
    members = [
        f"{each['workdir']} (step {each['step']}, {each['predictor']})"
        for each in run.evaluation.get("members") or ()
    ]
    words = "Settings are those of the run that was evaluated"
    if len(members) > 1:
        words = "Several runs predict as one; settings are those of the first"
    return f'<p class="note">{words}: {escape(", ".join(members))}.</p>'


def duration(train: Sequence[dict[str, Any]]) -> str:
    """Of a training, from its records; a dash where there are none."""
    seconds = max((record.get("seconds") or 0 for record in train), default=0)
    if not seconds:
        return "–"
    return f"{seconds / 3600:.1f} h" if seconds >= 3600 else f"{seconds / 60:.1f} min"


def curves_section(run: Run) -> str:
    """Losses, validation, learning rate and speed over the steps."""
    train, validation = run.records["train"], run.records["validation"]
    heads = sorted({key for r in train for key in r if key.startswith("loss_head_")})
    losses = [
        series(train, key, key.removeprefix("loss_").replace("_", " "), PALETTE[1 + i % 4], 1.2)
        for i, key in enumerate(heads)
    ]
    dices = [series(validation, f"dice_{c}", c, CLASS_COLOURS[c]) for c in FOREGROUND]
    charts = "".join(
        (
            chart("Training loss", [*losses, series(train, "loss", "all")], y_label="loss"),
            chart("Validation Dice", dices, y_label="Dice, pooled", y_limits=(0, 1)),
            chart("Learning rate", [series(train, "learning_rate", "")], y_label="rate"),
            chart("Throughput", [series(train, "images_per_second", "")], y_label="images / s"),
        )
    )
    sentences = []
    if not train:
        sentences.append("No training step has been logged yet.")
    if train and not validation:
        sentences.append("No validation has been logged yet.")
    if run.num_torn:
        sentences.append(f"Incomplete lines of metrics.jsonl that were skipped: {run.num_torn}.")
    missing = f'<p class="missing">{" ".join(sentences)}</p>' if sentences else ""
    return f'<h2>Training</h2><div class="charts">{charts}</div>{missing}'


def series(
    records: Iterable[dict[str, Any]],
    key: str,
    name: str,
    colour: str = PALETTE[0],
    width: float = 2.0,
) -> Line:
    """One value of the records over the steps."""
    points = [(r["step"], r[key]) for r in records if isinstance(r.get(key), int | float)]
    return Line(name, points, colour, width)


def pictures_section(workdir: Path) -> str:
    """Pictures of what `bonescan predict` wrote into a workdir."""
    paths = sorted((workdir / "predictions").rglob("*.json"))
    if not paths:
        return (
            "<h2>Predictions</h2><p class='missing'>No scan has been predicted yet; "
            "run <code>bonescan predict</code>.</p>"
        )
    figures = "".join(map(_picture, paths[:MAX_PICTURES]))
    shown = f"{min(len(paths), MAX_PICTURES)} of {len(paths)} predicted scans; all are in "
    return f'<h2>Predictions</h2><p>{shown}predictions/.</p><div class="pictures">{figures}</div>'


def _picture(path: Path) -> str:
    prediction = read_json(path)
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


def settings_section(run: Run) -> str:
    """All of config.json, on request."""
    text = escape(json.dumps(run.settings, indent=2))
    return (
        f"<h2>All settings</h2><details><summary>config.json</summary><pre>{text}</pre></details>"
    )
