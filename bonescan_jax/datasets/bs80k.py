"""BS-80K as a TFDS data set in ArrayRecord, one record a view: building it and reading it.

No TensorFlow: images stay the encoded bytes they came as, and records are read with array_record.
"""

import io
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from array_record.python.array_record_data_source import ArrayRecordDataSource
from tensorflow_datasets.proto import tf_example_pb2

from bonescan_jax.errors import InputError
from bonescan_jax.scans import HEIGHT, VIEWS, WIDTH
from bonescan_jax.scans.bs80k import KNOWN_DUPLICATES, BS80KSource, open_bs80k
from bonescan_jax.scans.splits import split_patients

_SETTINGS_FILE = "splits.json"  # beside the version's folder


class BS80K(tfds.core.GeneratorBasedBuilder):
    """Writes a checked source; `prepare` is the way to call it."""

    VERSION = tfds.core.Version("1.0.0")
    DESCRIPTION = "Whole-body bone scans of BS-80K with boxed hot spots, one record a view."
    CITATION = """@article{huang2022bs80k,
      title = {BS-80K: The first large open-access dataset of bone scan images},
      author = {Huang, Zongmo and others},
      journal = {Computers in Biology and Medicine},
      year = {2022},
      doi = {10.1016/j.compbiomed.2022.106221}
    }"""
    DUPLICATES: tuple[tuple[int, ...], ...] = tuple(group.patients for group in KNOWN_DUPLICATES)

    name = "bs80k"

    def __init__(
        self,
        *,
        data_dir: Path,
        name: str,
        source: BS80KSource,
        splits: dict[str, tuple[int, ...]],
        on_scan: Callable[[int, int], None] | None = None,
    ):
        self.name = name  # of the folder; TFDS takes it from the class otherwise
        self._source = source
        self._splits = splits
        self._on_scan = on_scan or (lambda done, total: None)
        self._num_written = 0
        super().__init__(data_dir=data_dir, file_format="array_record")

    def _info(self) -> tfds.core.DatasetInfo:
        features = {
            "patient": np.int64,
            "view": tfds.features.ClassLabel(names=VIEWS),
            "image": tfds.features.Image(shape=(HEIGHT, WIDTH, 1), encoding_format="jpeg"),
            # xmin, ymin, xmax, ymax, label; see bonescan_jax.scans.Box
            "boxes": tfds.features.Tensor(shape=(None, 5), dtype=np.int32),
            "abnormal": tfds.features.ClassLabel(names=("normal", "abnormal")),
        }
        return tfds.core.DatasetInfo(
            builder=self,
            description=self.DESCRIPTION,
            features=tfds.features.FeaturesDict(features),
            citation=self.CITATION,
            disable_shuffling=True,  # records keep the order of patient and view
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator]:
        del dl_manager  # nothing is downloaded
        return {
            split: self._generate_examples(patients) for split, patients in self._splits.items()
        }

    def _generate_examples(
        self, patients: tuple[int, ...]
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        for patient in patients:
            for scan in self._source.read_patient(patient):
                yield f"{patient}-{scan.view}", {
                    "patient": patient,
                    "view": scan.view,
                    "image": io.BytesIO(scan.image),  # stored byte for byte
                    "boxes": np.array(scan.boxes, np.int32).reshape(-1, 5),
                    "abnormal": int(scan.abnormal),
                }
                self._num_written += 1
                self._on_scan(self._num_written, len(VIEWS) * len(self._source.patients))


def prepare(
    source: Path,
    data_dir: Path,
    *,
    name: str,
    split_seed: int,
    split_fractions: tuple[float, float, float],
    on_scan: Callable[[int, int], None] | None = None,
    builder: type[BS80K] = BS80K,
) -> dict[str, Any]:
    """Turns a folder or zip file laid out as BS-80K into <data_dir>/<name>.

    The source is checked whole before anything is written, and the data set appears in its place
    only when it is complete. A data set that was prepared from the same files with the same
    settings is left as it is.

    Args:
      source: see `bonescan_jax.scans.bs80k.open_bs80k`.
      data_dir: holds the data sets; made if need be.
      name: of the data set.
      split_seed: see `bonescan_jax.scans.splits.split_patients`.
      split_fractions: of train, validation and test.
      on_scan: called after each scan with the number written and the number of all scans.
      builder: whose description, citation and known duplicates to take.

    Returns:
      name, path, already_prepared, patients, views, and the patients of each split, as numbers.

    Raises:
      InputError: a source that cannot be used, or a data set of that name made otherwise.
    """
    opened = open_bs80k(Path(source))
    splits = split_patients(
        opened.patients, split_seed, split_fractions, duplicates=builder.DUPLICATES
    )
    settings = {
        "version": str(builder.VERSION),
        "seed": split_seed,
        "fractions": list(split_fractions),
        "source_sha256": opened.fingerprint,
    }
    path = Path(data_dir) / name
    already_prepared = path.exists()
    if already_prepared:
        _refuse_other_settings(path, settings)
    else:
        _write(path, settings, lambda folder: builder(
            data_dir=folder, name=name, source=opened, splits=splits, on_scan=on_scan
        ), splits)
    return {
        "name": name,
        "path": str(path),
        "already_prepared": already_prepared,
        "patients": len(opened.patients),
        "views": len(VIEWS) * len(opened.patients),
        "splits": {split: len(patients) for split, patients in splits.items()},
    }
