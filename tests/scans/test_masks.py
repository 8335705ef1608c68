"""Masks from boxes and boxes from masks."""

from collections import Counter

import numpy as np
import pytest
import skimage
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from bonescan_jax.scans import ABNORMAL, BACKGROUND, HEIGHT, NORMAL, WIDTH
from bonescan_jax.scans.masks import (
    RECIPES,
    boxes_to_mask,
    mask_to_boxes,
    most_probable_mask,
    segment_box,
)

SHAPE = (HEIGHT, WIDTH)
NOISE = np.random.default_rng(0).poisson(20, SHAPE).astype(np.uint8)
NO_SCORES = np.zeros((*SHAPE, 3), np.float32)


def boxes_array(*boxes):
    return np.array(boxes, np.int32).reshape(-1, 5)


@pytest.mark.parametrize("recipe", RECIPES)
def test_no_boxes_give_background(recipe):
    mask = boxes_to_mask(boxes_array(), SHAPE, recipe, NOISE)
    assert mask.shape == SHAPE
    assert mask.dtype == np.uint8
    assert not mask.any()


@pytest.mark.parametrize("recipe", RECIPES)
@given(
    xmin=st.integers(0, WIDTH - 1),
    ymin=st.integers(0, HEIGHT - 1),
    width=st.integers(1, 40),
    height=st.integers(1, 40),
)
def test_a_box_is_never_left_and_never_empty(recipe, xmin, ymin, width, height):
    xmax, ymax = min(WIDTH, xmin + width), min(HEIGHT, ymin + height)
    mask = boxes_to_mask(boxes_array((xmin, ymin, xmax, ymax, NORMAL)), SHAPE, recipe, NOISE)
    assert (mask[ymin:ymax, xmin:xmax] == NORMAL).any()
    mask[ymin:ymax, xmin:xmax] = BACKGROUND
    assert not mask.any()


@pytest.mark.parametrize(("width", "height"), [(30, 30), (21, 50), (101, 64)])
def test_an_ellipse_fills_a_quarter_pi_of_its_box(width, height):
    box = boxes_array((5, 7, 5 + width, 7 + height, ABNORMAL))
    mask = boxes_to_mask(box, SHAPE, "ellipse")
    area = width * height
    assert mask.astype(bool).sum() == pytest.approx(np.pi / 4 * area, rel=0.02)
    window = mask[7 : 7 + height, 5 : 5 + width]
    assert (window == window[::-1, ::-1]).all()
    assert window.any(axis=0).all()
    assert window.any(axis=1).all()


@pytest.mark.parametrize("recipe", ["box", "ellipse"])
def test_abnormal_is_painted_over_normal_in_any_order(recipe):
    abnormal, normal = (10, 10, 30, 30, ABNORMAL), (10, 10, 40, 40, NORMAL)
    mask = boxes_to_mask(boxes_array(abnormal, normal), SHAPE, recipe)
    assert mask[20, 20] == ABNORMAL
    assert (mask == boxes_to_mask(boxes_array(normal, abnormal), SHAPE, recipe)).all()


def test_an_unknown_recipe_is_refused():
    with pytest.raises(ValueError, match="recipe is 'circle', expected one of box, ellipse, otsu"):
        boxes_to_mask(boxes_array(), SHAPE, "circle")
    with pytest.raises(ValueError, match="'otsu' needs the image"):
        boxes_to_mask(boxes_array(), SHAPE, "otsu")


def published_recipe(pixels: np.ndarray) -> np.ndarray | None:
    """The recipe with scikit-image; None: the ellipse is called for."""

    def morph(mask, size, *steps):
        footprint = np.ones((size, size), bool)
        for step in steps:
            mask = step(mask, footprint, mode="ignore")
        return mask

    dilation, erosion = skimage.morphology.dilation, skimage.morphology.erosion
    mask = pixels > skimage.filters.threshold_otsu(pixels)
    mask = morph(mask, 7, dilation, dilation, erosion, erosion, erosion, dilation)
    border = np.pad(np.zeros(np.subtract(pixels.shape, 2), bool), 1, constant_values=True)
    if mask.any() and mask.mean() <= 0.85 and mask[border].mean() <= 0.65:
        return mask
    smooth = skimage.filters.gaussian(pixels.astype(np.float64), 1.5, mode="mirror")
    labels = skimage.measure.label(smooth >= np.percentile(smooth, 75), connectivity=2)
    largest = max(skimage.measure.regionprops(labels), key=lambda region: region.area)
    mask = ndimage.binary_fill_holes(labels == largest.label)
    mask = morph(mask, 3, dilation, erosion)
    return None if mask.all() else mask


def test_the_published_recipe_is_what_scikit_image_makes_of_it():
    rng = np.random.default_rng(0)
    steps = Counter()
    for dtype in (np.uint8, np.uint16):
        for _ in range(150):
            height, width = rng.integers(5, 40, 2)
            rows, columns = np.indices((height, width))
            row, column = rng.uniform(0, (height, width))
            spot = np.exp(-((rows - row) ** 2 + (columns - column) ** 2) / rng.uniform(4, 150))
            pixels = rng.poisson(10 + 200 * spot).astype(dtype)
            mask, step = segment_box(pixels)
            steps[step] += 1
            np.testing.assert_array_equal(mask, published_recipe(pixels))
    assert steps["otsu"] > 20
    assert steps["percentile"] > 20


def test_a_box_without_contrast_becomes_an_ellipse():
    mask, step = segment_box(np.full((20, 12), 7, np.uint8))
    assert step == "ellipse"
    assert 0 < mask.mean() < 0.5


def test_otsu_follows_the_image_inside_the_box():
    image = np.full(SHAPE, 5, np.uint8)
    rows, columns = np.indices(SHAPE)
    spot = (rows - 60) ** 2 + (columns - 40) ** 2 < 64
    image[spot] = 90
    mask = boxes_to_mask(boxes_array((20, 40, 60, 80, ABNORMAL)), SHAPE, "otsu", image)
    overlap = (spot & (mask == ABNORMAL)).sum()
    assert 2 * overlap / (spot.sum() + (mask == ABNORMAL).sum()) > 0.9


@given(
    boxes=st.lists(
        st.tuples(st.integers(0, 7), st.integers(0, 30), st.integers(1, 28), st.integers(1, 28)),
        unique_by=lambda cell: cell[:2],
        max_size=12,
    ),
    label=st.sampled_from([ABNORMAL, NORMAL]),
    recipe=st.sampled_from(["box", "ellipse"]),
)
def test_boxes_apart_come_back_from_their_mask(boxes, label, recipe):
    """One box in a cell of 32x32, so that no two touch; an ellipse reaches all four sides."""
    drawn = {
        (32 * column, 32 * row, 32 * column + width, 32 * row + height)
        for column, row, width, height in boxes
        if recipe == "box" or min(width, height) > 2
    }
    mask = boxes_to_mask(boxes_array(*[(*box, label) for box in drawn]), SHAPE, recipe)
    found = mask_to_boxes(mask, NO_SCORES)
    assert {box[:4] for box in found} == drawn
    assert {box.label for box in found} <= {label}


def test_boxes_come_back_from_their_mask():
    boxes = boxes_array(
        (0, 0, 9, 10, NORMAL),
        (9, 12, 20, 30, ABNORMAL),
        (250, 1000, 256, 1024, NORMAL),
        (100, 500, 101, 501, ABNORMAL),
    )
    found = mask_to_boxes(boxes_to_mask(boxes, SHAPE, "box"), NO_SCORES)
    assert sorted(box[:5] for box in found) == sorted(map(tuple, boxes.tolist()))


def test_neighbours_across_a_corner_are_one_hot_spot():
    mask = np.zeros(SHAPE, np.uint8)
    mask[4, 4] = mask[5, 5] = ABNORMAL
    mask[6, 6] = NORMAL
    found = mask_to_boxes(mask, NO_SCORES)
    assert {(box.label, box.area, box[:4]) for box in found} == {
        (ABNORMAL, 2, (4, 4, 6, 6)),
        (NORMAL, 1, (6, 6, 7, 7)),
    }


def test_the_score_is_the_largest_probability_of_the_class_inside():
    mask = boxes_to_mask(
        boxes_array((10, 10, 20, 20, ABNORMAL), (40, 40, 50, 50, NORMAL)), SHAPE, "box"
    )
    scores = NO_SCORES.copy()
    scores[12, 13, ABNORMAL] = 0.75
    scores[12, 14, NORMAL] = 0.875  # the other class: not asked for
    scores[60, 60, ABNORMAL] = 1.0  # outside of every hot spot
    scores[45, 45, NORMAL] = 0.5
    assert [(box.label, box.score) for box in mask_to_boxes(mask, scores)] == [
        (ABNORMAL, 0.75),
        (NORMAL, 0.5),
    ]


def test_small_hot_spots_are_left_out():
    mask = boxes_to_mask(boxes_array((0, 0, 2, 2, NORMAL), (9, 9, 14, 10, NORMAL)), SHAPE, "box")
    assert [box.area for box in mask_to_boxes(mask, NO_SCORES, min_area=5)] == [5]


def test_a_hot_spot_whose_class_is_in_doubt_is_not_lost():
    doubtful, sure, cold = (0.4, 0.35, 0.25), (0.1, 0.2, 0.7), (0.6, 0.3, 0.1)
    assert most_probable_mask(np.array([doubtful, sure, cold])).tolist() == [1, 2, 0]
