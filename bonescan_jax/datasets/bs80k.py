"""BS-80K as a TFDS data set in ArrayRecord, one record a view: building it and reading it.

No TensorFlow: TFDS does without it if images are the encoded bytes they came as.
"""

import dataclasses
import io
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from bonescan_jax.errors import InputError
from bonescan_jax.scans import HEIGHT, VIEWS, WIDTH
from bonescan_jax.scans.bs80k import (
    KNOWN_DUPLICATES,
    KNOWN_FOREIGN,
    KNOWN_UNUSUAL,
    BS80KSource,
    KnownDefect,
    open_bs80k,
)
from bonescan_jax.scans.findings import EXCLUDED, NOTED, Finding, count_findings, printable
from bonescan_jax.scans.overflow import find_overflows, start_workers
from bonescan_jax.scans.splits import SPLITS, fold_splits, folds, split_patients

_SETTINGS_FILE = "splits.json"  # beside the version's folder


class LocalInfo(tfds.core.DatasetInfo):
    """Does not ask Google's storage for a data set of this name, nor leave a folder in /tmp."""

    def initialize_from_bucket(self) -> None:
        """Does nothing."""


class BS80K(tfds.core.GeneratorBasedBuilder):
    """Writes a checked source; `prepare` is the way to call it."""

    VERSION = tfds.core.Version("2.0.0")
    DESCRIPTION = "Whole-body bone scans of BS-80K with boxed hot spots, one record a view."
    CITATION = """@article{huang2022bs80k,
      title = {BS-80K: The first large open-access dataset of bone scan images},
      author = {Huang, Zongmo and others},
      journal = {Computers in Biology and Medicine},
      year = {2022},
      doi = {10.1016/j.compbiomed.2022.106221}
    }"""
    DUPLICATES: tuple[KnownDefect, ...] = KNOWN_DUPLICATES  # kept together
    FOREIGN: tuple[KnownDefect, ...] = KNOWN_FOREIGN  # left out
    UNUSUAL: tuple[KnownDefect, ...] = KNOWN_UNUSUAL  # kept

    name = "bs80k"

    def __init__(
        self,
        *,
        data_dir: Path,
        name: str,
        source: BS80KSource,
        splits: dict[str, tuple[int, ...]],
        workers: Executor,
        on_scan: Callable[[int, int], None] | None = None,
    ) -> None:
        self.name = name  # of the folder; TFDS takes it from the class otherwise
        self._source = source
        self._splits = splits
        self._workers = workers
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
            "gain": np.float32,  # grey per count
            "reference": np.float32,  # brightness of bone, in grey values
            # flat index of a pixel, how often 256 must be added; see bonescan_jax.scans.overflow
            "overflow": tfds.features.Tensor(shape=(None, 2), dtype=np.int32),
        }
        return LocalInfo(
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
        scans = (scan for patient in patients for scan in self._source.read_patient(patient))
        images = ((scan, scan.image) for scan in scans)
        for scan, overflow in find_overflows(images, self._workers):
            yield (
                f"{scan.patient}-{scan.view}",
                {
                    "patient": scan.patient,
                    "view": scan.view,
                    "image": io.BytesIO(scan.image),  # stored byte for byte
                    "boxes": np.array(scan.boxes, np.int32).reshape(-1, 5),
                    "abnormal": int(scan.abnormal),
                    **overflow.fields(),
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
    num_folds: int = 5,
    strict: bool = False,
    keep_known_defects: bool = False,
    on_file: Callable[[int, int], None] | None = None,
    on_scan: Callable[[int, int], None] | None = None,
    on_checked: Callable[[dict[str, int], Sequence[Finding]], None] | None = None,
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
        num_folds: for cross-validation; see `bonescan_jax.scans.splits.folds`. A data set of too
            few patients has none.
        strict: see `bonescan_jax.scans.bs80k.open_bs80k`.
        keep_known_defects: use the patients too that the builder knows to be of another kind.
        on_file: called after each checked file with the number checked and of all files.
        on_scan: called after each scan with the number written and the number of all scans.
        on_checked: called before writing with what was read, as numbers, and all findings.
        builder: whose description, citation and known defects to take.

    Returns:
        name, path, already_prepared, patients_found, patients_skipped, patients, views, the
        patients of each split, and for each outcome of `bonescan_jax.scans.findings` the findings
        by reason, as numbers.

    Raises:
        InputError: a source that cannot be used, a data set of that name made otherwise, or a
            place that cannot be written to.
    """
    checked = open_bs80k(Path(source), strict=strict, on_file=on_file)
    opened = _apply_known_defects(checked, builder, keep_known_defects)
    read = {
        "patients_found": checked.num_found,
        "patients_skipped": checked.num_found - len(checked.patients),
        "patients": len(opened.patients),
        "views": len(VIEWS) * len(opened.patients),
    }
    if on_checked:
        on_checked(read, opened.findings)
    duplicates = [known.patients for known in builder.DUPLICATES]
    splits = split_patients(opened.patients, split_seed, split_fractions, duplicates=duplicates)
    settings = {
        "version": str(builder.VERSION),
        "seed": split_seed,
        "fractions": list(split_fractions),
        "num_folds": num_folds,
        "keep_known_defects": keep_known_defects,
        "source_sha256": opened.fingerprint,
    }
    path = Path(data_dir) / name
    already_prepared = os.path.exists(path)  # unlike Path.exists, says no where it may not look
    if already_prepared:
        refuse_other_settings(path, settings)
    else:
        details = {
            "splits": splits,
            "folds": stored_folds(opened.patients, settings, duplicates),
            "findings": opened.findings,
        }
        write_data_set(builder, path, opened, splits, settings | details, on_scan)
    return {
        "name": name,
        "path": str(path),
        "already_prepared": already_prepared,
        **read,
        "splits": {split: len(patients) for split, patients in splits.items()},
        **count_findings(opened.findings),
    }


def _apply_known_defects(opened: BS80KSource, builder: type[BS80K], keep: bool) -> BS80KSource:
    """Leaves out the patients that are no part of the study, and says what else is known."""
    present = set(opened.patients)
    findings = list(opened.findings)
    for known in builder.DUPLICATES:
        if present.issuperset(known.patients):
            sentence = f"patients {known.patients}: {known.reason}, kept in one split."
            findings.append(Finding(NOTED, "one person under two ids", sentence))
    for outcome, group in (
        (NOTED if keep else EXCLUDED, builder.FOREIGN),
        (NOTED, builder.UNUSUAL),
    ):
        for reason, patient in ((known.reason, one) for known in group for one in known.patients):
            if patient in present:
                findings.append(Finding(outcome, reason, f"patient {patient}: {reason}."))
                present -= {patient} if outcome == EXCLUDED else set()
    return dataclasses.replace(opened, patients=tuple(sorted(present)), findings=tuple(findings))


def stored_folds(
    patients: Sequence[int], settings: dict[str, Any], duplicates: Sequence[Sequence[int]]
) -> list[dict[str, tuple[int, ...]]]:
    """The splits of every fold; none where the patients are too few."""
    seed, count = settings["seed"], settings["num_folds"]
    try:
        folded = folds(patients, count, seed, duplicates=duplicates)
    except InputError:  # enough for the fixed splits all the same
        return []
    validation = settings["fractions"][SPLITS.index("validation")]
    return [
        fold_splits(folded, fold, seed, validation, duplicates=duplicates) for fold in range(count)
    ]


def write_data_set(
    builder: type[BS80K],
    path: Path,
    source: BS80KSource,
    splits: dict[str, tuple[int, ...]],
    settings: dict[str, Any],
    on_scan: Callable[[int, int], None] | None,
) -> None:
    """Writes the data set into a folder beside its place and moves it there when it is complete."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with (
            tempfile.TemporaryDirectory(prefix=f".{path.name}-", dir=path.parent) as folder,
            start_workers(len(VIEWS) * len(source.patients)) as workers,
        ):
            tfds.disable_progress_bar()  # on_scan tells the progress
            builder(
                data_dir=folder,
                name=path.name,
                source=source,
                splits=splits,
                workers=workers,
                on_scan=on_scan,
            ).download_and_prepare(
                download_config=tfds.download.DownloadConfig(try_download_gcs=False)
            )
            complete = Path(folder) / path.name
            (complete / _SETTINGS_FILE).write_text(json.dumps(settings))
            complete.rename(path)
    except (OSError, RuntimeError) as error:  # the latter: ArrayRecord's, such as for a full disk
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(
            f"{printable(str(path))}: the data set cannot be written ({printable(reason)}), "
            f"expected a folder that may be made and room for {len(source.patients)} patients."
        ) from error


def read_settings(path: Path) -> dict[str, Any]:
    """What the data set at <data_dir>/<name> was prepared with.

    Raises:
        InputError: nothing readable says so.
    """
    settings_path = path / _SETTINGS_FILE
    try:
        settings = json.loads(settings_path.read_text())
        if not isinstance(settings, dict):
            raise ValueError("no settings in it")
    except (OSError, ValueError) as error:
        raise InputError(
            f"{settings_path}: cannot be read ({error}), expected the settings {path} was "
            "prepared with; choose another name or remove that folder."
        ) from error
    return settings


def refuse_other_settings(path: Path, settings: dict[str, Any]) -> None:
    """Raises InputError unless the data set at this path was prepared with these settings."""
    prepared = read_settings(path)
    for field, wanted in settings.items():
        if prepared.get(field) != wanted:
            raise InputError(
                f"{path}: was prepared with {field} {prepared.get(field)}, expected {wanted}; "
                "choose another name or remove that folder."
            )


class FoldRecords(Sequence[dict[str, Any]]):
    """The records of some patients out of all splits, by patient, anterior before posterior."""

    def __init__(self, splits: Sequence[Sequence[dict[str, Any]]], places: np.ndarray) -> None:
        self._splits = splits
        self._places = places  # (N, 2): which split, which record in it

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> dict[str, Any]:
        split, record = self._places[index]
        return self._splits[split][int(record)]


def open_split(data_dir: Path, name: str, split: str, fold: int = -1) -> Sequence[dict[str, Any]]:
    """Opens one split of a prepared data set for random access.

    Records are in the order of patient, anterior before posterior. What comes back reads a record
    when it is asked for it; threads may share it, and it can be pickled. An element is a dict of
    patient (int), view (int, index into VIEWS), image (bytes, the encoded JPEG as it came), boxes
    ((N, 5) int32, rows [xmin, ymin, xmax, ymax, label]), abnormal (int, 0 or 1), gain (grey per
    count) and reference (brightness of bone in grey values, both float32) and overflow ((N, 2)
    int32, rows [flat index of a pixel, how often 256 must be added to it]).

    Args:
        data_dir: holds the data sets.
        name: of the data set.
        split: one of `bonescan_jax.scans.splits.SPLITS`.
        fold: of cross-validation: this fold is the test split, and train and validation come from
            the others; -1: the fixed splits.

    Raises:
        InputError: there is no such data set, split or fold.
    """
    path = Path(data_dir) / name
    folder = path / str(BS80K.VERSION)
    if not os.path.exists(folder / "dataset_info.json"):
        raise InputError(
            f"{folder}: holds no prepared data set; expected what `bonescan prepare` writes, "
            "so run that first."
        )
    if split not in SPLITS:
        raise InputError(
            f"{folder}: holds no split {split!r}, expected one of {', '.join(SPLITS)}."
        )
    tfds_builder = tfds.builder_from_directory(str(folder))

    def open_fixed(fixed: str) -> Sequence[dict[str, Any]]:
        return tfds_builder.as_data_source(fixed, decoders={"image": tfds.decode.SkipDecoding()})

    if fold == -1:
        return open_fixed(split)
    settings = read_settings(path)
    fold_list = settings.get("folds", [])
    if not 0 <= fold < len(fold_list):
        raise InputError(
            f"{path}: has no fold {fold}, expected -1 (the fixed splits) or one of its "
            f"{len(fold_list)} folds, from 0; they are made by `bonescan prepare`."
        )
    place_of = {
        patient: (number, len(VIEWS) * position)
        for number, fixed in enumerate(SPLITS)
        for position, patient in enumerate(settings["splits"][fixed])
    }
    places = [
        (number, first + view)
        for number, first in (place_of[patient] for patient in fold_list[fold][split])
        for view in range(len(VIEWS))
    ]
    return FoldRecords([open_fixed(fixed) for fixed in SPLITS], np.array(places))


def num_folds(data_dir: Path, name: str) -> int:
    """How many folds a prepared data set has: 0 if it has too few patients.

    Raises:
        InputError: there is no such data set.
    """
    path = Path(data_dir) / name
    if not os.path.exists(path):
        raise InputError(f"{path}: does not exist; run `bonescan prepare` first.")
    return len(read_settings(path).get("folds", []))
