"""BS-80K as a TFDS data set in ArrayRecord, one record per view; `prepare` for all data sets."""

import dataclasses
import io
import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds

from bonescan_jax.datasets.builder import ScanBuilder, SourceT
from bonescan_jax.datasets.records import (
    OTHER_PLACE,
    SETTINGS_FILE,
    ChosenRecords,
    Prepared,
    describe_shards,
    open_prepared,
    read_settings,
)
from bonescan_jax.errors import InputError
from bonescan_jax.scans import HEIGHT, VIEWS, WIDTH, Scan
from bonescan_jax.scans.bs80k import (
    KNOWN_FOREIGN,
    KNOWN_UNUSUAL,
    BS80KSource,
    is_bs80k,
    open_bs80k,
)
from bonescan_jax.scans.findings import EXCLUDED, NOTED, Finding, count_findings, printable
from bonescan_jax.scans.overflow import find_overflows, start_workers
from bonescan_jax.scans.splits import SPLITS, fold_splits, folds, split_patients
from bonescan_jax.scans.writing import complete_folder


class BS80K(ScanBuilder[BS80KSource]):
    """Writes a checked source of `bonescan_jax.scans.bs80k`, one record a view."""

    VERSION = tfds.core.Version("3.0.0")
    RELEASE_NOTES: ClassVar = {
        "3.0.0": "Overflow holds values instead of turns: clipped pixels have no whole number of "
        "turns. Bone reference of another definition.",
    }
    DESCRIPTION = "Whole-body bone scans of BS-80K with boxed hot spots, one record a view."
    CITATION = """@article{huang2022bs80k,
      title = {BS-80K: The first large open-access dataset of bone scan images},
      author = {Huang, Zongmo and others},
      journal = {Computers in Biology and Medicine},
      year = {2022},
      doi = {10.1016/j.compbiomed.2022.106221}
    }"""
    name = "bs80k"

    open_source = staticmethod(open_bs80k)

    @staticmethod
    def num_images(source: BS80KSource) -> int:
        """How many records the source makes."""
        return len(VIEWS) * len(source.patients)

    @classmethod
    def numbers(cls, checked: BS80KSource, used: BS80KSource) -> dict[str, int]:
        """What was found and what of it is used, for the result of `prepare`."""
        return {
            "patients_found": checked.num_found,
            "patients_skipped": checked.num_found - len(checked.patients),
            "patients": len(used.patients),
            "views": cls.num_images(used),
        }

    @staticmethod
    def leave_out(source: BS80KSource, keep: bool) -> tuple[BS80KSource, list[Finding]]:
        """Leaves out patients who are not part of the study, unless all are to be kept.

        Their numbers mean nothing in other scans than BS-80K's own.
        """
        if not is_bs80k(source.duplicates):
            return source, []
        present = set(source.patients)
        findings = []
        for outcome, group in (
            (NOTED if keep else EXCLUDED, KNOWN_FOREIGN),
            (NOTED, KNOWN_UNUSUAL),
        ):
            for known in group:
                for patient in sorted(present.intersection(known.patients)):
                    sentence = f"patient {patient}: {known.reason}."
                    findings.append(Finding(outcome, known.reason, sentence))
                    present -= {patient} if outcome == EXCLUDED else set()
        return dataclasses.replace(source, patients=tuple(sorted(present))), findings

    @staticmethod
    def features() -> dict[str, Any]:
        """The image as it came, and its boxes."""
        return {
            "image": tfds.features.Image(shape=(HEIGHT, WIDTH, 1), encoding_format="jpeg"),
            # xmin, ymin, xmax, ymax, label; see bonescan_jax.scans.Box
            "boxes": tfds.features.Tensor(shape=(None, 5), dtype=np.int32),
        }

    @staticmethod
    def fields(scan: Scan) -> dict[str, Any]:
        """What else its record holds."""
        del scan
        return {}

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
                    **self.fields(scan),
                },
            )
            self._written(f"patient {scan.patient}, {scan.view}", overflow)


def prepare(
    source: Path,
    data_dir: Path,
    *,
    name: str,
    split_seed: int,
    split_fractions: tuple[float, float, float],
    num_folds: int = 5,
    num_processes: int | None = None,
    strict: bool = False,
    keep_known_defects: bool = False,
    on_file: Callable[[int, int], None] | None = None,
    on_scan: Callable[[int, int], None] | None = None,
    on_checked: Callable[[dict[str, int], Sequence[Finding]], None] | None = None,
    builder: type[ScanBuilder[Any]] = BS80K,
    options: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Turns a folder or zip file into <data_dir>/<name>.

    The source is checked whole before anything is written, and the data set appears in its place
    only when it is complete. A data set that was prepared from the same files with the same
    settings is left as it is.

    Args:
        source: as the builder's `open_source` takes it: see `bonescan_jax.scans.bs80k.open_bs80k`.
        data_dir: holds the data sets; made if need be.
        name: of the data set.
        split_seed: see `bonescan_jax.scans.splits.split_patients`.
        split_fractions: of train, validation and test.
        num_folds: for cross-validation; see `bonescan_jax.scans.splits.folds`. A data set of too
            few patients has none.
        num_processes: that unwrap grey values; None: one for each usable core.
        strict: see there.
        keep_known_defects: use the images too that the builder knows to be wrong or of another
            kind.
        on_file: called after each checked file with the number checked and of all files.
        on_scan: called after each scan with the number written and the number of all scans.
        on_checked: called before writing with what was read, as numbers, and all findings.
        builder: of the kind of data set.
        options: what else its `open_source` takes, as JSON.

    Returns:
        name, path, already_prepared, the builder's `numbers`, the patients of each split, and for
        each outcome of `bonescan_jax.scans.findings` the findings by reason, as numbers.

    Raises:
        InputError: a source that cannot be used, a data set of that name made otherwise, or a
            place that cannot be written to.
    """
    checked = builder.open_source(Path(source), strict=strict, on_file=on_file, **(options or {}))
    duplicates = checked.duplicates
    used, about_left_out = builder.leave_out(checked, keep_known_defects)
    findings = [*checked.findings, *_note_duplicates(duplicates), *about_left_out]
    numbers = builder.numbers(checked, used)
    if on_checked:
        on_checked(numbers, findings)
    splits = split_patients(used.patients, split_seed, split_fractions, duplicates=duplicates)
    settings = {
        "version": str(builder.VERSION),
        "seed": split_seed,
        "fractions": list(split_fractions),
        "num_folds": num_folds,
        "keep_known_defects": keep_known_defects,
        "source_sha256": used.fingerprint,
        **(options or {}),
    }
    path = Path(data_dir) / name
    already_prepared = os.path.exists(path)  # unlike Path.exists, says no where it may not look
    if already_prepared:
        prepared = _read_prepared(path, settings, used.patients, duplicates)
        splits, findings = prepared["splits"], [Finding(*each) for each in prepared["findings"]]
    else:
        details = {
            "splits": splits,
            "folds": _stored_folds(used.patients, settings, duplicates),
            **builder.index(used, splits),
        }
        findings += _write_data_set(
            builder, path, used, settings | details, findings, num_processes, on_scan
        )
    return {
        "name": name,
        "path": str(path),
        "already_prepared": already_prepared,
        **numbers,
        "splits": {split: len(patients) for split, patients in splits.items()},
        **count_findings(findings),
    }


def _note_duplicates(duplicates: Sequence[Sequence[int]]) -> list[Finding]:
    """Says which patients are one person."""
    return [
        Finding(
            NOTED,
            "one person under several ids",
            f"patients {', '.join(map(str, group))}: have an image or an identifier in common, so "
            "one person, kept in one split.",
        )
        for group in duplicates
    ]


def _stored_folds(
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


def _write_data_set(
    builder: type[ScanBuilder[SourceT]],
    path: Path,
    source: SourceT,
    settings: dict[str, Any],
    findings: Sequence[Finding],
    num_processes: int | None,
    on_scan: Callable[[int, int], None] | None,
) -> list[Finding]:
    """Writes records and settings to their place, complete or not at all.

    Returns:
        What is in doubt about images that were written.
    """
    total = builder.num_images(source)
    try:
        with complete_folder(path) as folder, start_workers(total, num_processes) as workers:
            tfds.disable_progress_bar()  # on_scan tells the progress
            writer = builder(
                data_dir=folder,
                name=path.name,
                source=source,
                splits=settings["splits"],
                workers=workers,
                on_scan=lambda done: on_scan and on_scan(done, total),
            )
            writer.download_and_prepare(
                download_config=tfds.download.DownloadConfig(try_download_gcs=False)
            )
            doubts = writer.doubts()
            written = folder / path.name
            shards = describe_shards(written / str(builder.VERSION))
            (written / SETTINGS_FILE).write_text(
                json.dumps(settings | shards | {"findings": [*findings, *doubts]})
            )
    except (OSError, RuntimeError) as error:  # the latter: ArrayRecord's, such as for a full disk
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(
            f"{printable(str(path))}: the data set cannot be written ({printable(reason)}), "
            f"expected a folder that may be made and room for {len(source.patients)} patients."
        ) from error
    return doubts


def _read_prepared(
    path: Path,
    settings: dict[str, Any],
    patients: Sequence[int],
    duplicates: Sequence[Sequence[int]],
) -> dict[str, Any]:
    """What is stored about a data set that is there already.

    Raises:
        InputError: it was prepared with other settings or patients, or parts one person's ids.
    """
    prepared = read_settings(path)
    for field, wanted in settings.items():
        if prepared.get(field) != wanted:
            raise InputError(
                f"{path}: was prepared with {field} {prepared.get(field)}, expected {wanted}; "
                f"{OTHER_PLACE}."
            )
    held = sorted(patient for ids in prepared["splits"].values() for patient in ids)
    if held != list(patients):
        raise InputError(
            f"{path}: was prepared with {len(held)} patients, expected the {len(patients)} that "
            f"are used now; {OTHER_PLACE}."
        )
    for splits in (prepared["splits"], *prepared["folds"]):
        split_of = {patient: split for split, patients in splits.items() for patient in patients}
        for group in duplicates:
            if len({split_of[patient] for patient in group if patient in split_of}) > 1:
                raise InputError(
                    f"{path}: was prepared with patients {', '.join(map(str, group))} in different "
                    "splits, expected one split because they have an image in common; "
                    f"{OTHER_PLACE}."
                )
    return prepared


def open_split(data_dir: Path, name: str, split: str, fold: int = -1) -> ChosenRecords:
    """Opens one split of a prepared data set for random access.

    Records are in the order of patient, anterior before posterior. An element is a dict of
    patient (int), view (int, index into VIEWS), image (bytes, the encoded JPEG as it came), boxes
    ((N, 5) int32, rows [xmin, ymin, xmax, ymax, label]), abnormal (int, 0 or 1), gain (grey per
    count) and reference (brightness of bone in grey values) and overflow ((N, 2) int32, rows [flat
    index of a pixel that ran over 255, its grey value unwrapped]).

    Arguments and errors are those of `bonescan_jax.datasets.records.open_prepared`.
    """
    prepared = open_prepared(data_dir, name, str(BS80K.VERSION), split, fold)
    return ChosenRecords(prepared.records, places_of_views(prepared))


def places_of_views(prepared: Prepared) -> list[tuple[int, int]]:
    """Fixed split and record in it of the views of each patient, anterior before posterior."""
    place_of = {
        patient: (number, len(VIEWS) * position)
        for number, fixed in enumerate(SPLITS)
        for position, patient in enumerate(prepared.settings["splits"][fixed])
    }
    return [
        (number, first + view)
        for number, first in (place_of[patient] for patient in prepared.patients)
        for view in range(len(VIEWS))
    ]
