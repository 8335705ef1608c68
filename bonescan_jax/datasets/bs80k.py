"""BS-80K as a TFDS data set in ArrayRecord, one record a view: building it and reading it.

No TensorFlow: TFDS does without it if images are the encoded bytes they came as.
"""

import io
import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

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
    ) -> None:
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

    def _generate_examples(self, patients: tuple[int, ...]) -> Iterator[tuple[str, dict[str, Any]]]:
        for patient in patients:
            for scan in self._source.read_patient(patient):
                yield (
                    f"{patient}-{scan.view}",
                    {
                        "patient": patient,
                        "view": scan.view,
                        "image": io.BytesIO(scan.image),  # stored byte for byte
                        "boxes": np.array(scan.boxes, np.int32).reshape(-1, 5),
                        "abnormal": int(scan.abnormal),
                    },
                )
                self._num_written += 1
                self._on_scan(self._num_written, len(VIEWS) * len(self._source.patients))

    # TFDS prints these to standard output, which belongs to the result of the command.
    def _log_download_bytes(self) -> None: ...

    def _log_download_done(self) -> None: ...


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
        try:
            Path(data_dir).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(
                f"{data_dir}: cannot be made ({error.strerror}), expected a folder."
            ) from error
        with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=data_dir) as folder:
            tfds.disable_progress_bar()  # on_scan tells the progress
            builder(
                data_dir=folder, name=name, source=opened, splits=splits, on_scan=on_scan
            ).download_and_prepare(
                download_config=tfds.download.DownloadConfig(try_download_gcs=False)
            )
            complete = Path(folder) / name
            (complete / _SETTINGS_FILE).write_text(json.dumps(settings | {"splits": splits}))
            complete.rename(path)
    return {
        "name": name,
        "path": str(path),
        "already_prepared": already_prepared,
        "patients": len(opened.patients),
        "views": len(VIEWS) * len(opened.patients),
        "splits": {split: len(patients) for split, patients in splits.items()},
    }


def _refuse_other_settings(path: Path, settings: dict[str, Any]) -> None:
    settings_path = path / _SETTINGS_FILE
    try:
        prepared = json.loads(settings_path.read_text())
    except (OSError, ValueError) as error:
        raise InputError(
            f"{settings_path}: cannot be read ({error}), expected the settings {path} was "
            "prepared with; choose another name or remove that folder."
        ) from error
    for field, wanted in settings.items():
        if prepared.get(field) != wanted:
            raise InputError(
                f"{path}: was prepared with {field} {prepared.get(field)}, expected {wanted}; "
                "choose another name or remove that folder."
            )


def open_split(data_dir: Path, name: str, split: str) -> Sequence[dict[str, Any]]:
    """Opens one split of a prepared data set for random access.

    What comes back is TFDS's data source for ArrayRecord: threads may share it, and it can be
    pickled. An element is a dict of patient (int), view (int, index into VIEWS), image (bytes, the
    encoded JPEG as it came), boxes ((N, 5) int32, rows [xmin, ymin, xmax, ymax, label]) and
    abnormal (int, 0 or 1).

    Raises:
        InputError: there is no such data set or split.
    """
    folder = Path(data_dir) / name / str(BS80K.VERSION)
    if not (folder / "dataset_info.json").exists():
        raise InputError(
            f"{folder}: holds no prepared data set; expected what `bonescan prepare` writes, "
            "so run that first."
        )
    builder = tfds.builder_from_directory(str(folder))
    if split not in builder.info.splits:
        expected = ", ".join(builder.info.splits)
        raise InputError(f"{folder}: holds no split {split!r}, expected one of {expected}.")
    return builder.as_data_source(split, decoders={"image": tfds.decode.SkipDecoding()})
