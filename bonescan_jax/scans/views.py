"""Geometry of the two views of a patient: the posterior one is mirrored onto the anterior."""

import numpy as np


def mirror(pixels: np.ndarray) -> np.ndarray:
    """Swaps left and right of (…, H, W, K) or (H, W) pixels of a view that stands beside another.

    The patient's right is on the left of an anterior view and on the right of a posterior one:
    mirrored, the posterior view lies on the anterior one. Mirrored again, it is as it was.
    """
    return pixels[:, ::-1]


def views_of(pixels: np.ndarray) -> list[np.ndarray]:
    """(B, V, H, W, …) of examples to (H, W, …) of each view as its camera saw it."""
    return [
        view if place == 0 else mirror(view)
        for example in pixels
        for place, view in enumerate(example)
    ]
