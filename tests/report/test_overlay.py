"""Overlays: pixels stay honest, the window ignores the bladder, marks are where they belong."""

import cv2
import numpy as np
import pytest

from bonescan_jax.report.overlay import (
    CAPTION_HEIGHT,
    COLOURS,
    MARGIN,
    TITLE_HEIGHT,
    display_window,
    draw_overlay,
    save_overlay,
)
from bonescan_jax.scans import ABNORMAL, NORMAL, Box

HEIGHT, WIDTH, SCALE = 300, 120, 2


@pytest.fixture
def pixels():
    """A body of soft tissue and a spine, in Poisson counts; nothing in the topmost rows."""
    counts = np.zeros((HEIGHT, WIDTH))
    counts[40:280, 20:100] = 20
    counts[60:260, 50:70] = 80
    return np.random.default_rng(0).poisson(counts).astype(np.float32)


def panels(picture, number=2):
    """Cut the panels out of a picture."""
    top, width = TITLE_HEIGHT + CAPTION_HEIGHT, WIDTH * SCALE
    lefts = [MARGIN + i * (width + MARGIN) for i in range(number)]
    return [picture[top : top + HEIGHT * SCALE, left : left + width] for left in lefts]


def no_mask():
    return np.zeros((HEIGHT, WIDTH), np.uint8)


def test_every_scan_pixel_is_one_square_and_hot_is_dark(pixels):
    scan, prediction = panels(draw_overlay(pixels, no_mask(), [], "title"))
    np.testing.assert_array_equal(scan, prediction)
    squares = scan.reshape(HEIGHT, SCALE, WIDTH, SCALE, 3)
    grey = squares[:, 0, :, 0, 0]
    np.testing.assert_array_equal(
        squares, np.broadcast_to(grey[:, None, :, None, None], squares.shape)
    )
    order = np.argsort(pixels, axis=None)
    assert (np.diff(grey.ravel()[order].astype(int)) <= 0).all()
    assert grey.max() == 255 and grey.min() < 60


def test_full_bladder_does_not_dim_the_bones(pixels):
    hot = pixels.copy()
    hot[230:250, 50:70] = 5000  # 1.7 % of the body
    assert display_window(hot) == pytest.approx(display_window(pixels), rel=0.15)


def test_all_black_and_empty_mask():
    scan, prediction = panels(draw_overlay(no_mask().astype(np.float32), no_mask(), [], "empty"))
    assert (scan == 255).all() and (prediction == 255).all()


def test_regions_are_tinted_on_the_prediction_only(pixels):
    mask, truth = no_mask(), no_mask()
    mask[100:110, 30:40], truth[200:210, 80:90] = ABNORMAL, NORMAL
    plain = panels(draw_overlay(pixels, no_mask(), [], ""))[0]
    scan, true, predicted = panels(draw_overlay(pixels, mask, [], "", true_mask=truth), 3)
    np.testing.assert_array_equal(scan, plain)
    for panel, region, label in ((true, truth, NORMAL), (predicted, mask, ABNORMAL)):
        changed = (panel != plain).any(axis=-1)
        inside = region.repeat(SCALE, 0).repeat(SCALE, 1) > 0
        assert not changed[~inside].any()
        assert changed[inside].mean() > 0.95
        redder = panel[inside, 0].mean() > panel[inside, 2].mean()
        assert redder == (label == ABNORMAL)


def test_boxes_come_as_mappings_or_tuples_with_names_or_numbers(pixels):
    box = Box(30, 100, 40, 110, ABNORMAL)
    pictures = [
        draw_overlay(pixels, no_mask(), [b], "")
        for b in (box, box._asdict(), box._asdict() | {"label": "abnormal", "score": None})
    ]
    np.testing.assert_array_equal(pictures[0], pictures[1])
    np.testing.assert_array_equal(pictures[0], pictures[2])
    panel = panels(pictures[0])[1]
    assert tuple(panel[105 * SCALE, (30 - 1) * SCALE]) == COLOURS[ABNORMAL]


def test_score_gives_way_to_the_next_box(pixels):
    boxes = [
        Box(30, 100, 40, 110, ABNORMAL)._asdict() | {"score": 0.5},
        Box(44, 100, 54, 110, NORMAL)._asdict() | {"score": 0.9},
    ]
    panel = panels(draw_overlay(pixels, no_mask(), boxes, ""))[1]
    edge = panel[99 * SCALE : 111 * SCALE, (44 - 1) * SCALE]
    assert (edge == COLOURS[NORMAL]).all()


def test_sides_swap_between_the_views(pixels):
    front, back = (
        panels(draw_overlay(pixels, no_mask(), [], "", view=view))[0][:60]
        for view in ("anterior", "posterior")
    )
    left, right = slice(10, 26), slice(WIDTH * SCALE - 24, WIDTH * SCALE - 8)
    assert (front[:, left] < 200).any()
    np.testing.assert_array_equal(front[:, left], back[:, right])
    np.testing.assert_array_equal(front[:, right], back[:, left])
    assert (front[:, left] != front[:, right]).any()
    assert (panels(draw_overlay(pixels, no_mask(), [], ""))[0][:60] == 255).all()


def test_long_title_stays_in_the_picture_and_file_holds_the_picture(pixels, tmp_path):
    picture = draw_overlay(pixels, no_mask(), [], "a long title " * 30)
    assert (picture[:TITLE_HEIGHT, :] < 128).any()
    save_overlay(tmp_path / "overlay.png", picture)
    stored = cv2.imread(str(tmp_path / "overlay.png"))[..., ::-1]
    np.testing.assert_array_equal(stored, picture)


def test_narrow_scan_leaves_room_for_the_legend(pixels):
    crop = pixels[:, :30]
    mask = np.zeros(crop.shape, np.uint8)
    box = Box(1, 100, 20, 110, ABNORMAL)._asdict() | {"score": 1.0}
    picture = draw_overlay(crop * 100, mask, [box] * 100, "")
    ink = np.flatnonzero((picture[-30:] < 200).any(axis=(0, 2)))
    assert ink.max() < picture.shape[1] - 10
