"""Writes small sources of labelled images, for tests."""

import zipfile
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

PATIENTS = tuple(range(1, 41))


def crop_jpeg(rng: np.random.Generator, abnormal: bool) -> bytes:
    """A crop of any size up to 56×40 with Poisson noise; an abnormal one has a hot spot."""
    height, width = rng.integers(40, 57), rng.integers(30, 41)
    counts = np.full((height, width), 10.0)
    if abnormal:
        y, x = rng.integers(5, height - 10), rng.integers(5, width - 10)
        counts[y : y + 5, x : x + 5] = 60
    image = rng.poisson(counts).astype(np.uint8)
    return cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 100])[1].tobytes()


def write_regions(
    root: Path, folders: Sequence[str] = ("chestRANT",), patients: Sequence[int] = PATIENTS
) -> Path:
    """Writes BS-80K's layout; every third patient is abnormal."""
    rng = np.random.default_rng(0)
    for folder in folders:
        (root / folder).mkdir(parents=True)
        lines = []
        for patient in patients:
            abnormal = patient % 3 == 0
            (root / folder / f"{patient}.jpg").write_bytes(crop_jpeg(rng, abnormal))
            lines.append(f"{patient}.jpg\t{int(abnormal)}\n")
        (root / folder / f"{folder}.txt").write_text("".join(lines))
    return root


def write_class_folders(root: Path, folder: str, patients: Sequence[int]) -> Path:
    """Writes LIBS-160K's layout; every third patient is abnormal."""
    rng = np.random.default_rng(1)
    for patient in patients:
        place = root / folder / ("Abnormal" if patient % 3 == 0 else "Normal")
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{patient}.jpg").write_bytes(crop_jpeg(rng, patient % 3 == 0))
    return root


def zip_regions(root: Path, path: Path, prefix: str) -> Path:
    """Zips a layout; `prefix` is the folder in the zip file, as "temp/" in the real one."""
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(root.rglob("*")):
            archive.write(file, f"{prefix}{file.relative_to(root)}")
    return path
