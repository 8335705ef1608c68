"""Somebody's own scans as a TFDS data set in ArrayRecord, one record a view: writing and reading.

Both views of a patient have a record. Where there is only one view, the other one is black and
marked as missing: it is no example alone, and it is never scored.
"""

import io
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds

from bonescan_jax.datasets.bs80k import places_of_views
from bonescan_jax.datasets.builder import ScanBuilder
from bonescan_jax.datasets.records import ChosenRecords, open_prepared
from bonescan_jax.scans import HEIGHT, VIEWS, WIDTH
from bonescan_jax.scans.folder import FolderSource, open_folder


class Folder(ScanBuilder[FolderSource]):
    """Writes a checked source of `bonescan_jax.scans.folder`, two records a patient.

    Nothing is left out of it: nothing is known of it but what its files say.
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar = {"1.0.0": "Counts of 16 bits, masks, views that are missing."}
    DESCRIPTION = "Whole-body bone scans with hot spots as masks or boxes, one record a view."
    CITATION = ""
    name = "folder"

    open_source = staticmethod(open_folder)

    @staticmethod
    def num_images(source: FolderSource) -> int:
        """How many records the source makes."""
        return len(VIEWS) * len(source.patients)

    @classmethod
    def numbers(cls, checked: FolderSource, used: FolderSource) -> dict[str, int]:
        """What was found and what of it is used, for the result of `prepare`."""
        return {
            "patients_found": checked.num_found,
            "patients_skipped": checked.num_found - len(checked.patients),
            "patients": len(used.patients),
            "views": cls.num_images(used) - len(used.missing),
            "views_missing": len(used.missing),
        }

    @staticmethod
    def index(source: FolderSource, splits: dict[str, tuple[int, ...]]) -> dict[str, Any]:
        """Patient and view of every missing view."""
        del splits
        return {"missing": source.missing}

    @staticmethod
    def features() -> dict[str, Any]:
        """Counts, what was drawn, and whether there is such a view at all."""
        return {
            # 8 bits, or 16 bits of counts
            "image": tfds.features.Image(
                shape=(HEIGHT, WIDTH, 1), dtype=np.uint16, encoding_format="png"
            ),
            # of class numbers; of one pixel where boxes were annotated
            "mask": tfds.features.Image(shape=(None, None, 1), encoding_format="png"),
            # xmin, ymin, xmax, ymax, label; of a mask, the bounds of its hot spots
            "boxes": tfds.features.Tensor(shape=(None, 5), dtype=np.int32),
            "missing": tfds.features.ClassLabel(names=("taken", "missing")),
        }

    def _generate_examples(self, patients: tuple[int, ...]) -> Iterator[tuple[str, dict[str, Any]]]:
        for patient, view in itertools.product(patients, VIEWS):
            scan = self._source.read(patient, view)
            yield (
                f"{patient}-{view}",
                {
                    "patient": patient,
                    "view": view,
                    "image": io.BytesIO(scan.image),
                    "mask": io.BytesIO(scan.mask),
                    "boxes": np.array(scan.boxes, np.int32).reshape(-1, 5),
                    "abnormal": int(scan.abnormal),
                    "missing": int(scan.missing),
                    "gain": np.float32(scan.gain),
                    "reference": np.float32(scan.reference),
                    "overflow": scan.overflow,
                },
            )
            self._count()


def open_folder_split(
    data_dir: Path, name: str, split: str, fold: int = -1
) -> tuple[ChosenRecords, frozenset[int]]:
    """Opens one split of a prepared data set for random access.

    Records are in the order of patient, anterior before posterior. An element is a dict of what
    `bonescan_jax.datasets.bs80k.open_split` says, the image being a PNG, and of mask (bytes, a PNG
    of class numbers, or of one pixel where boxes were annotated) and missing (int, 0 or 1).

    Arguments and errors are those of `bonescan_jax.datasets.records.open_prepared`.

    Returns:
        The records, and which of them stand for a missing view.
    """
    prepared = open_prepared(data_dir, name, str(Folder.VERSION), split, fold)
    missing = {(patient, view) for patient, view in prepared.settings["missing"]}
    order = [(patient, view) for patient in prepared.patients for view in VIEWS]
    records = ChosenRecords(prepared.records, places_of_views(prepared))
    return records, frozenset(place for place, key in enumerate(order) if key in missing)
