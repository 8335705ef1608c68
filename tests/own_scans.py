"""Writes small folders of somebody's own scans, for tests."""

from pathlib import Path

import cv2
import numpy as np

from bonescan_jax.phantom.dicom import make_datasets
from bonescan_jax.phantom.patient import PhantomView
from bonescan_jax.scans import ABNORMAL, HEIGHT, NORMAL, VIEWS, WIDTH, Box

# Rows and columns of the two hot spots of every view, and their classes.
HOT_SPOTS = ((300, 120, ABNORMAL), (500, 100, NORMAL))


def counts(rng: np.random.Generator, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """A body of Poisson counts in air that holds none, with the two hot spots."""
    mean = np.zeros((height, width))
    mean[height // 20 : -height // 20, width // 4 : -width // 4] = 10
    for row, column, _ in HOT_SPOTS:
        mean[row : row + 8, column : column + 6] = 400
    return rng.poisson(mean).astype(np.uint16)


def mask(height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """The two hot spots."""
    drawn = np.zeros((height, width), np.uint8)
    for row, column, label in HOT_SPOTS:
        drawn[row : row + 8, column : column + 6] = label
    return drawn


def write_png(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(".png", pixels)[1].tobytes())


def write_dicom_folder(root: Path, patients: int) -> dict[tuple[int, str], np.ndarray]:
    """NM DICOM of patients, in one file or two, with mask PNGs; returns the counts."""
    rng, truth = np.random.default_rng(0), {}
    boxes = tuple(Box(column, row, column + 6, row + 8, label) for row, column, label in HOT_SPOTS)
    for patient in range(1, patients + 1):
        views = []
        for view in VIEWS:
            truth[patient, view] = counts(rng)
            views.append(
                PhantomView(
                    view=view,
                    counts=truth[patient, view],
                    grey=np.zeros((HEIGHT, WIDTH), np.uint8),
                    mask=mask(),
                    boxes=boxes,
                    gain=1.0,
                    field=(0, HEIGHT, 0, WIDTH),
                )
            )
        folder = root / f"case{patient}"
        folder.mkdir(parents=True)
        datasets = make_datasets(views, 0, patient)
        for number, dataset in enumerate(datasets, 1):
            dataset.save_as(folder / f"{number}.dcm", enforce_file_format=True)
            names = [str(number)] if len(datasets) > 1 else [f"{number}-{view}" for view in VIEWS]
            for name in names:
                write_png(folder / "masks" / f"{name}.png", mask())
    return truth
