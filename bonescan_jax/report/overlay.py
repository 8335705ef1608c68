"""Pictures of a scan with its predictions, displayed the way physicians read bone scans.

Inverted grey, hot is black on white paper. Side by side: the plain scan, the truth if it is known,
the prediction. Every pixel of the scan becomes a square of equal pixels, without interpolation.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from bonescan_jax.scans import ABNORMAL, CLASSES, NORMAL, Box
from bonescan_jax.scans.listing import mark_result
from bonescan_jax.scans.masks import ScoredBox

# Between proportional, where legs and ribs fade, and the square root, where soft tissue is as grey
# as bone.
TRANSFER_EXPONENT = 0.75
# Vermilion and blue, RGB: distinct for every kind of colour vision, visible on white and black.
COLOURS = {ABNORMAL: (222, 52, 10), NORMAL: (0, 114, 212)}
INK, PALE_INK, PAPER = (25, 25, 25), (105, 105, 105), (255, 255, 255)
FILL_OPACITY = 0.22
# Pixels of the picture.
MARGIN, TITLE_HEIGHT, CAPTION_HEIGHT, LEGEND_HEIGHT, LEGEND_WIDTH = 16, 44, 28, 40, 540
FONT = cv2.FONT_HERSHEY_SIMPLEX
TITLE_SIZE, TEXT_SIZE, SCORE_SIZE = 0.7, 0.55, 0.45


class _Box(NamedTuple):
    """A box to draw: bounds in scan pixels, class, score or None."""

    xmin: int
    ymin: int
    xmax: int
    ymax: int
    label: int
    score: float | None


def display_window(pixels: np.ndarray) -> float:
    """Return the level in units of `pixels` that is shown black; 0 is shown white.

    Bone sets it, not the maximum, which is a full bladder or an injection site: 1.6 times the 95th
    percentile of the body. The body is what is brighter than the mean of the view, whose hottest
    5 % are clipped first. Hot organs are far less than 5 % of either.

    Args:
        pixels: (H, W) counts or grey values.
    """
    mean = np.minimum(pixels, np.percentile(pixels, 95)).mean()
    body = pixels[pixels > mean]
    return 1.6 * float(np.percentile(body, 95)) if body.size else 1.0


def draw_overlay(
    pixels: np.ndarray,
    mask: np.ndarray,
    boxes: Sequence[Mapping[str, Any] | Box | ScoredBox],
    title: str,
    *,
    view: str | None = None,
    true_mask: np.ndarray | None = None,
    scale: int = 2,
) -> np.ndarray:
    """Draw a scan beside its prediction.

    Args:
        pixels: (H, W) float32, counts or grey values from 0, hot is bright.
        mask: (H, W) uint8, predicted classes.
        boxes: predicted boxes with xmin, ymin, xmax, ymax in pixels, label (a class number or
            name) and, if there is one, score; mappings or named tuples.
        title: one line above the picture, ASCII.
        view: anterior or posterior sets the R and L marks of the patient's sides; None sets none.
        true_mask: (H, W) uint8, true classes; adds a panel.
        scale: picture pixels along a side of a scan pixel.

    Returns:
        (h, w, 3) uint8 RGB.
    """
    drawn = [_as_box(box) for box in boxes]
    black = display_window(pixels)
    paper = _magnify(_inverted_grey(pixels, black), scale)
    panels = [("Scan", paper)]
    if true_mask is not None:
        panels.append(("Truth", _draw_regions(paper, true_mask, scale)))
    predicted = _draw_regions(paper, mask, scale)
    _draw_boxes(predicted, drawn, scale)
    panels.append(("Prediction", predicted))

    height, width = paper.shape[:2]
    top = TITLE_HEIGHT + CAPTION_HEIGHT
    across = max(LEGEND_WIDTH, MARGIN + len(panels) * (width + MARGIN))
    canvas = np.full((top + height + LEGEND_HEIGHT, across, 3), PAPER, np.uint8)
    _text(canvas, title, (MARGIN, 30), TITLE_SIZE, INK)
    for i, (caption, panel) in enumerate(panels):
        left = MARGIN + i * (width + MARGIN)
        _mark_sides(panel, view)
        canvas[top : top + height, left : left + width] = panel
        cv2.rectangle(canvas, (left - 1, top - 1), (left + width, top + height), (190,) * 3)
        _text(canvas, caption, (left, top - 9), TEXT_SIZE, PALE_INK)
    _draw_legend(canvas, drawn, top + height + 26, black)
    return canvas


def save_overlay(path: Path, picture: np.ndarray) -> None:
    """Write an (h, w, 3) uint8 RGB picture as PNG."""
    save_result(path, cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))


def save_result(path: Path, pixels: np.ndarray) -> None:
    """Write pixels as a PNG that is never taken for a scan; its name may be no UTF-8.

    Args:
        path: of the file.
        pixels: (h, w) grey or (h, w, 3) BGR uint8.
    """
    _, encoded = cv2.imencode(".png", pixels)
    path.write_bytes(mark_result(encoded.tobytes()))


def _as_box(box: Mapping[str, Any] | Box | ScoredBox) -> _Box:
    fields = dict(box) if isinstance(box, Mapping) else box._asdict()
    label = fields["label"]
    fields["label"] = CLASSES.index(label) if isinstance(label, str) else int(label)
    return _Box(**{"score": None} | {name: fields[name] for name in _Box._fields if name in fields})


def _inverted_grey(pixels: np.ndarray, black: float) -> np.ndarray:
    """Return (H, W, 3) uint8; see `TRANSFER_EXPONENT`."""
    level = np.clip(pixels / black, 0, 1) ** TRANSFER_EXPONENT
    return np.repeat(np.round(255 * (1 - level)).astype(np.uint8)[..., None], 3, axis=-1)


def _magnify(image: np.ndarray, scale: int) -> np.ndarray:
    return np.ascontiguousarray(image.repeat(scale, axis=0).repeat(scale, axis=1))


def _draw_regions(paper: np.ndarray, mask: np.ndarray, scale: int) -> np.ndarray:
    """Return the panel with every class tinted and outlined along the edges of its pixels."""
    panel = paper.copy()
    for label, colour in COLOURS.items():
        region = _magnify((mask == label).astype(np.uint8), scale)
        tint = (1 - FILL_OPACITY) * panel + FILL_OPACITY * np.array(colour)
        panel = np.where(region[..., None] > 0, np.round(tint), panel).astype(np.uint8)
        outlines, _ = cv2.findContours(region, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(panel, outlines, -1, colour, 1)
    return panel


def _draw_boxes(panel: np.ndarray, boxes: Sequence[_Box], scale: int) -> None:
    """Draw boxes one scan pixel wide of their regions, and scores beside them where room is."""
    frames = []
    for box in boxes:
        low, high = (box.xmin - 1, box.ymin - 1), (box.xmax + 1, box.ymax + 1)
        (left, top), (right, bottom) = low, high
        frames.append((scale * left, scale * top, scale * right, scale * bottom))
    taken = list(frames)
    for box, (left, top, right, bottom) in zip(boxes, frames, strict=True):
        cv2.rectangle(panel, (left, top), (right - 1, bottom - 1), COLOURS[box.label], 1)
    for box, frame in zip(boxes, frames, strict=True):
        if box.score is not None:
            taken.append(_draw_score(panel, box, frame, taken))


def _draw_score(
    panel: np.ndarray, box: _Box, frame: tuple[int, int, int, int], taken: list
) -> tuple[int, int, int, int]:
    """Write a score right, left, above or below its frame, in the first place that is free.

    Returns:
        The rectangle that the text takes up. If no place is free it is the one on the right.
    """
    text = f"{box.score:.2f}"
    (width, height), _ = cv2.getTextSize(text, FONT, SCORE_SIZE, 1)
    left, top, right, bottom = frame
    middle = (top + bottom - height) // 2
    places = [
        (x, y, x + width, y + height)
        for x, y in (
            (right + 6, middle),
            (left - width - 6, middle),
            (left, top - height - 4),
            (left, bottom + 4),
        )
    ]
    free = [place for place in places if _inside(place, panel) and not _overlaps(place, taken)]
    place = (free or places)[0]
    corner = (place[0], place[3])
    x, y = place[0] - 2, place[1] - 2
    cv2.rectangle(panel, (x, y), (place[2] + 2, place[3] + 2), PAPER, cv2.FILLED)
    _text(panel, text, corner, SCORE_SIZE, COLOURS[box.label])
    return place


def _inside(place: tuple[int, int, int, int], panel: np.ndarray) -> bool:
    height, width = panel.shape[:2]
    return place[0] >= 0 and place[1] >= 0 and place[2] <= width and place[3] <= height


def _overlaps(place: tuple[int, int, int, int], taken: list) -> bool:
    left, top, right, bottom = place
    return any(left < r and x < right and top < b and y < bottom for x, y, r, b in taken)


def _mark_sides(panel: np.ndarray, view: str | None) -> None:
    """Write R and L where the patient's right and left are: the anterior view faces the reader."""
    sides = {"anterior": "RL", "posterior": "LR"}.get(view or "", "")
    for side, x in zip(sides, (10, panel.shape[1] - 24), strict=False):
        _text(panel, side, (x, 28), TITLE_SIZE, INK)


def _draw_legend(canvas: np.ndarray, boxes: Sequence[_Box], baseline: int, black: float) -> None:
    x = MARGIN
    for label, colour in COLOURS.items():
        patch = canvas[baseline - 13 : baseline + 1, x : x + 20]
        patch[:] = np.round((1 - FILL_OPACITY) * patch + FILL_OPACITY * np.array(colour))
        cv2.rectangle(canvas, (x, baseline - 13), (x + 19, baseline), colour, 1)
        count = sum(box.label == label for box in boxes)
        x = 24 + _text(canvas, f"{CLASSES[label]}: {count}", (x + 28, baseline), TEXT_SIZE, INK)
    x = 8 + _text(canvas, "0", (x, baseline), TEXT_SIZE, PALE_INK)
    ramp = _inverted_grey(np.linspace(0, 1, 100)[None], black=1.0)
    canvas[baseline - 13 : baseline + 1, x : x + 100] = ramp
    cv2.rectangle(canvas, (x, baseline - 13), (x + 99, baseline), PALE_INK, 1)
    _text(canvas, f"{black:.0f} and more", (x + 108, baseline), TEXT_SIZE, PALE_INK)


def _text(
    canvas: np.ndarray,
    text: str,
    corner: tuple[int, int],
    size: float,
    colour: tuple[int, int, int],
) -> int:
    """Write from a lower left corner, cut short at the right edge; return where the text ends."""
    room = canvas.shape[1] - corner[0]
    if cv2.getTextSize(text, FONT, size, 1)[0][0] > room:
        while text and cv2.getTextSize(text + "...", FONT, size, 1)[0][0] > room:
            text = text[:-1]
        text += "..."
    cv2.putText(canvas, text, corner, FONT, size, colour, 1, cv2.LINE_AA)
    return corner[0] + cv2.getTextSize(text, FONT, size, 1)[0][0]
