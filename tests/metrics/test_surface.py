"""Surface Dice and distance against the code that was published with their definition."""

import numpy as np
import pytest
import surface_distance
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from bonescan_jax.metrics.surface import surface_scores


def square(top: int, left: int, size: int) -> np.ndarray:
    mask = np.zeros((20, 20), bool)
    mask[top : top + size, left : left + size] = True
    return mask


def test_equal_masks_have_equal_surfaces_and_empty_ones_none():
    mask = square(5, 5, 8)
    assert surface_scores(mask, mask, 0.0, (2.0, 2.0)) == (1, 0)
    with pytest.raises(ValueError, match="empty"):
        surface_scores(np.zeros_like(mask), mask, 1.0, (2.0, 2.0))


def test_a_mask_at_the_border_has_a_surface_there():
    inner, outer = square(5, 5, 4), square(0, 0, 4)
    moved = np.roll(inner, (3, 0), (0, 1))
    at_border = np.roll(outer, (3, 0), (0, 1))
    assert surface_scores(inner, moved, 1.0, (1.0, 1.0)) == pytest.approx(
        surface_scores(outer, at_border, 1.0, (1.0, 1.0))
    )


def test_a_shift_of_one_pixel_is_within_one_pixel_of_any_size():
    for spacing in (1.0, 2.26, 0.1, 3.3):
        dice, _ = surface_scores(square(5, 5, 6), square(5, 6, 6), spacing, (spacing, spacing))
        assert dice == 1
        dice, _ = surface_scores(
            square(5, 5, 6), square(5, 6, 6), 0.99 * spacing, (spacing, spacing)
        )
        assert dice < 1


def masks(size: int = 8) -> st.SearchStrategy[np.ndarray]:
    pixels = st.lists(st.booleans(), min_size=size**2, max_size=size**2)
    # The published code leaves the border of the image open: a margin of background closes it.
    return pixels.map(lambda flat: np.pad(np.array(flat).reshape(size, size), 1))


SIZES = st.floats(0.5, 4.0)


@given(masks(), masks(), SIZES, SIZES, st.floats(0.1, 8.0))
@settings(max_examples=100, deadline=None)
def test_surfaces_are_those_of_the_published_code(
    predicted: np.ndarray, true: np.ndarray, height: float, width: float, tolerance: float
):
    assume(predicted.any() and true.any())
    both = surface_distance.compute_surface_distances(true, predicted, (height, width))
    distances = np.concatenate([both["distances_gt_to_pred"], both["distances_pred_to_gt"]])
    assume(np.abs(distances - tolerance).min() > 1e-6)  # there rounding decides
    lengths = [both["surfel_areas_gt"].sum(), both["surfel_areas_pred"].sum()]
    means = surface_distance.compute_average_surface_distance(both)
    assert surface_scores(predicted, true, tolerance, (height, width)) == pytest.approx(
        (
            surface_distance.compute_surface_dice_at_tolerance(both, tolerance),
            np.average(means, weights=lengths),
        )
    )
