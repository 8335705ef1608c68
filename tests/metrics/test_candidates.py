"""Candidates at a low threshold, split where they have fused, beside the mask of one half."""

import numpy as np
import pytest

from bonescan_jax.metrics.candidates import MOST, find_regions, view_findings
from bonescan_jax.scans import ABNORMAL, CLASSES, NORMAL
from bonescan_jax.scans.masks import boxes_to_mask, mask_to_boxes, most_probable_mask

ROWS, COLUMNS = np.mgrid[:200, :120]


def spots(*places: tuple[int, int, float], width: float = 3.0, normal: float = 0.1) -> np.ndarray:
    """(H, W, 3) probabilities with round spots at (x, y) of this peak; the rest is background."""
    hot = np.full(ROWS.shape, 0.001)
    for x, y, peak in places:
        squared = (ROWS - y) ** 2 + (COLUMNS - x) ** 2
        hot = np.maximum(hot, peak * np.exp(-squared / 2 / width**2))
    return np.stack([1 - hot, (1 - normal) * hot, normal * hot], -1)


def test_doubtful_spots_are_candidates_that_the_mask_does_not_hold():
    probabilities = spots((30, 40, 0.9), (80, 150, 0.2))
    regions = find_regions(probabilities)
    assert [region.score for region in regions] == pytest.approx([0.81, 0.18], rel=0.01)
    assert len(mask_to_boxes(most_probable_mask(probabilities), probabilities)) == 1
    (strong, _), _ = view_findings(probabilities, np.zeros((0, 5), int), "box")
    assert strong.score == mask_to_boxes(most_probable_mask(probabilities), probabilities)[0].score
    assert (strong.box[0] + strong.box[2] - 1) / 2 == 30
    assert (strong.box[1] + strong.box[3] - 1) / 2 == 40


def test_fused_spots_are_split_where_the_saddle_is_low():
    apart, fused = (
        find_regions(spots((30, 40, 0.9), (44, 40, 0.6))),
        find_regions(spots((30, 40, 0.9), (35, 40, 0.9))),
    )
    assert sorted(region.score for region in apart) == pytest.approx([0.54, 0.81], rel=0.01)
    shared = np.zeros(ROWS.shape, int)
    for region in apart:
        shared[region.window] += region.inside
    assert shared.max() == 1  # no pixel belongs to two
    assert len(fused) == 1


def test_a_spot_on_a_doubtful_ground_is_no_larger_than_it_is():
    probabilities = spots((30, 40, 0.9))
    ground = np.maximum(1 - probabilities[..., 0], 0.2)
    probabilities = np.stack([1 - ground, ground, 0 * ground], -1)
    (region,) = find_regions(probabilities)
    rows, columns = region.window
    assert region.inside.sum() == (ground >= 0.9 / 2.5).sum()
    assert rows.start <= 40 < rows.stop <= 46
    assert columns.start <= 30 < columns.stop <= 36


def test_the_class_is_that_of_all_its_pixels():
    probabilities = spots((30, 40, 0.9), normal=0.8)
    probabilities[40, 30] = (0.1, 0.85, 0.05)
    (region,) = find_regions(probabilities)
    assert region.label == NORMAL


def test_a_view_has_fifty_candidates_at_most_and_none_too_small():
    many = spots(
        *((x, y, 0.1 + y / 400) for x in range(6, 120, 12) for y in range(6, 190, 24)), width=1.5
    )
    regions = find_regions(many)
    assert len(regions) == MOST
    assert min(region.score for region in regions) >= 0.9 * (0.1 + 70 / 400)
    assert find_regions(spots((30, 40, 0.9)), min_area=10_000) == []


@pytest.mark.parametrize("recipe", ["box", "ellipse"])
def test_a_lesion_knows_how_well_it_was_drawn(recipe: str):
    boxes = np.array([[20, 30, 33, 45, ABNORMAL], [60, 100, 70, 110, ABNORMAL]])
    truth = boxes_to_mask(boxes[:1], ROWS.shape, recipe)
    probabilities = np.eye(3)[truth]
    (candidate,), (drawn, missed) = view_findings(probabilities, boxes, recipe)
    assert candidate.overlaps == ((0, 1.0),)
    assert candidate.label == ABNORMAL
    assert candidate.area == drawn.area == (truth > 0).sum()
    assert (drawn.dice, drawn.surface_dice, drawn.surface_distance) == (1, 1, 0)
    assert (missed.dice, missed.surface_dice, missed.surface_distance) == (0, 0, None)


def test_overlap_is_with_each_lesion_alone():
    boxes = np.array([[20, 30, 30, 40, ABNORMAL], [30, 30, 40, 40, NORMAL]])
    mask = boxes_to_mask(np.array([[20, 30, 35, 40, ABNORMAL]]), ROWS.shape, "box")
    (candidate,), lesions = view_findings(np.eye(len(CLASSES))[mask], boxes, "box")
    assert candidate.overlaps == ((0, pytest.approx(100 / 150)), (1, pytest.approx(50 / 200)))
    assert lesions[0].dice == pytest.approx(2 * 100 / 250)
    assert lesions[1].dice == 0  # of the other class
