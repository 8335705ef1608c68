"""Writes small folders of somebody's own scans, for tests."""

import json
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from bonescan_jax.phantom.dicom import make_datasets
from bonescan_jax.phantom.patient import PhantomView
from bonescan_jax.scans import ABNORMAL, HEIGHT, NORMAL, VIEWS, WIDTH, Box
from bonescan_jax.scans.findings import count_findings
from bonescan_jax.scans.folder import FolderSource

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
                    bones=np.zeros((HEIGHT // 2, WIDTH // 2), np.uint8),
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


def write_views(
    root: Path, patients: int = 3, height: int = HEIGHT, width: int = WIDTH
) -> dict[tuple[int, str], np.ndarray]:
    """PNGs of counts named by patient and view; returns what they hold."""
    rng, written = np.random.default_rng(0), {}
    for patient in range(1, patients + 1):
        for view in VIEWS:
            written[patient, view] = counts(rng, height, width)
            write_png(root / f"{patient}-{view}.png", written[patient, view])
    return written


def coco(names: Sequence[str], category: str = "Abnormal", **image: int) -> str:
    """COCO JSON with one box, 8 pixels wide and 4 high, on each image."""
    return json.dumps(
        {
            "categories": [{"id": 7, "name": category}],
            "images": [{"id": n, "file_name": name, **image} for n, name in enumerate(names)],
            "annotations": [
                {"id": n, "image_id": n, "category_id": 7, "bbox": [100, 300.5, 8, 4]}
                for n in range(len(names))
            ],
        }
    )


def decoded(data: bytes) -> np.ndarray:
    """The pixels of an encoded image."""
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)


def count_reasons(source: FolderSource) -> dict[str, dict[str, int]]:
    """The findings about a source by outcome and reason."""
    return count_findings(source.findings)
