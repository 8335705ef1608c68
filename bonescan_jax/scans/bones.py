"""Regions of the skeleton, which simulated scans know of every pixel: maps of them as PNG."""

import cv2
import numpy as np

from bonescan_jax.scans import HEIGHT, WIDTH

# 0 is where there is no bone, or less than tissue around it.
BONES = (
    *("none", "skull", "face", "spine", "sacrum", "pelvis", "ribs", "sternum", "shoulder"),
    *("arm", "leg", "knee", "foot"),
)
COARSE = 2  # pixels on a side that a map takes as one: bones need no finer


def encode_bones(bones: np.ndarray) -> bytes:
    """A coarse map (512, 128) of numbers of `BONES`, uint8, as PNG."""
    return cv2.imencode(".png", bones)[1].tobytes()


def decode_bones(data: bytes) -> np.ndarray:
    """A coarse map (512, 128) of numbers of `BONES`, uint8.

    Raises:
        ValueError: it is none.
    """
    bones: np.ndarray | None = None
    if data:
        bones = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    shape = (HEIGHT // COARSE, WIDTH // COARSE)
    if bones is None or bones.shape != shape or bones.dtype != np.uint8:
        found = "no picture" if bones is None else f"{bones.dtype} {bones.shape}"
        raise ValueError(f"map of bones is {found}, expected 8-bit grey {shape}")
    if bones.max() >= len(BONES):
        raise ValueError(f"map of bones holds {bones.max()}, expected less than {len(BONES)}")
    return bones


def window_of_bones(bones: np.ndarray, window: tuple[slice, slice]) -> np.ndarray:
    """Rows and columns of a scan of a coarse map, each of its pixels repeated."""
    rows, columns = (np.arange(each.start, each.stop) // COARSE for each in window)
    return bones[rows[:, None], columns]
