"""Simulated patients as a data set: they go through the files and the checks of BS-80K."""

import io
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import tensorflow_datasets as tfds

from bonescan_jax.datasets.bs80k import BS80K, prepare
from bonescan_jax.phantom.files import write_bs80k
from bonescan_jax.scans import Scan
from bonescan_jax.scans.writing import hidden_folder

_NO_BONES = cv2.imencode(".png", np.zeros((1, 1), np.uint8))[1].tobytes()


class Phantom(BS80K):
    """The same records from simulated scans, which know their bones and have no known defects."""

    DESCRIPTION = "Simulated whole-body bone scans with boxed hot spots, one record a view."
    CITATION = ""

    name = "phantom"

    @staticmethod
    def features() -> dict[str, Any]:
        """What BS-80K has, and of which bone each pixel is."""
        # of one pixel where the scans came without
        return BS80K.features() | {
            "bones": tfds.features.Image(shape=(None, None, 1), encoding_format="png")
        }

    @staticmethod
    def fields(scan: Scan) -> dict[str, Any]:
        """The map of bones."""
        return {"bones": io.BytesIO(scan.bones or _NO_BONES)}


def prepare_phantom(
    data_dir: Path,
    *,
    name: str,
    num_patients: int,
    seed: int,
    num_processes: int | None = None,
    on_patient: Callable[[int], None] | None = None,
    rule: str = "bs80k",
    **settings: Any,  # noqa: ANN401 - handed on as they are
) -> dict[str, Any]:
    """Simulates patients into a temporary folder and prepares them as <data_dir>/<name>.

    Args:
        data_dir: holds the data sets.
        name: of the data set.
        num_patients: how many to simulate, two views each.
        seed: of the simulation.
        num_processes: that simulate and unwrap; None: one for each usable core.
        on_patient: see `bonescan_jax.phantom.files.write_bs80k`.
        rule: which hot spots are Abnormal, one of `bonescan_jax.phantom.uptake.CLASS_RULES`.
        **settings: what else `bonescan_jax.datasets.bs80k.prepare` takes.

    Returns:
        What `bonescan_jax.datasets.bs80k.prepare` returns.

    Raises:
        InputError: as `bonescan_jax.datasets.bs80k.prepare`.
    """
    with hidden_folder(Path(tempfile.gettempdir()) / name) as folder:
        source = folder / name
        write_bs80k(source, num_patients, seed, num_processes, on_patient, rule)
        return prepare(
            source, data_dir, name=name, num_processes=num_processes, builder=Phantom, **settings
        )
