"""Images with a label and no boxes as a TFDS data set in ArrayRecord: building and reading it."""

import dataclasses
import io
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from bonescan_jax.datasets.bs80k import (
    BS80K,
    FoldRecords,
    LocalInfo,
    read_settings,
    refuse_other_settings,
    stored_folds,
    write_data_set,
)
from bonescan_jax.errors import InputError
from bonescan_jax.scans import VIEWS
from bonescan_jax.scans.findings import EXCLUDED, NOTED, Finding, count_findings
from bonescan_jax.scans.overflow import find_overflows
from bonescan_jax.scans.regions import FOLDERS, KNOWN_COPIES, REGIONS, RegionSource, open_regions
from bonescan_jax.scans.splits import SPLITS, split_patients


class Regions(BS80K):
    """Writes a checked source, one record an image; `prepare_regions` is the way to call it."""

    DESCRIPTION = "Bone scan images of body regions (BS-80K) or whole bodies (LIBS-160K), labelled."

    name = "regions"

    def _info(self) -> tfds.core.DatasetInfo:
        features = {
            "patient": np.int64,
            "region": tfds.features.ClassLabel(names=REGIONS),
            "view": tfds.features.ClassLabel(names=VIEWS),
            "image": tfds.features.Image(shape=(None, None, 1), encoding_format="jpeg"),
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
            disable_shuffling=True,  # records keep the order of patient, region and view
        )

    def _generate_examples(self, patients: tuple[int, ...]) -> Iterator[tuple[str, dict[str, Any]]]:
        wanted = set(patients)
        crops = (crop for crop in self._source.crops if crop.patient in wanted)
        read = ((crop, self._source.read_image(crop)) for crop in crops)
        images = (((crop, image), image) for crop, image in read)
        for (crop, image), overflow in find_overflows(images, self._workers):
            yield (
                f"{crop.patient}-{crop.region}-{crop.view}",
                {
                    "patient": crop.patient,
                    "region": crop.region,
                    "view": crop.view,
                    "image": io.BytesIO(image),  # stored byte for byte
                    "abnormal": int(crop.abnormal),
                    **overflow.fields(),
                },
            )
            self._num_written += 1
            self._on_scan(self._num_written, len(self._source.crops))


def prepare_regions(
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
) -> dict[str, Any]:
    """Turns a folder or zip file of labelled images into <data_dir>/<name>.

    Arguments, errors and guarantees are those of `bonescan_jax.datasets.bs80k.prepare`; the layouts
    are in `bonescan_jax.scans.regions`.

    Returns:
        name, path, already_prepared, images_found, images_skipped, patients, images, abnormal, the
        patients of each split, and for each outcome of `bonescan_jax.scans.findings` the findings
        by reason, as numbers.
    """
    checked = open_regions(Path(source), strict=strict, on_file=on_file)
    opened = _apply_known_defects(checked, keep_known_defects)
    read = {
        "images_found": checked.num_found,
        "images_skipped": checked.num_found - len(checked.crops),
        "patients": len(opened.patients),
        "images": len(opened.crops),
        "abnormal": sum(crop.abnormal for crop in opened.crops),
    }
    if on_checked:
        on_checked(read, opened.findings)
    duplicates = [known.patients for known in Regions.DUPLICATES]
    splits = split_patients(opened.patients, split_seed, split_fractions, duplicates=duplicates)
    settings = {
        "version": str(Regions.VERSION),
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
        split_of = {patient: split for split, ids in splits.items() for patient in ids}
        crops: dict[str, list] = {split: [] for split in SPLITS}
        for patient, region, view, *_ in opened.crops:
            crops[split_of[patient]].append((patient, region, view))
        details = {
            "splits": splits,
            "folds": stored_folds(opened.patients, settings, duplicates),
            "findings": opened.findings,
            "crops": crops,  # of every record, in order: found without reading it
        }
        write_data_set(Regions, path, opened, splits, settings | details, on_scan)
    return {
        "name": name,
        "path": str(path),
        "already_prepared": already_prepared,
        **read,
        "splits": {split: len(patients) for split, patients in splits.items()},
        **count_findings(opened.findings),
    }


def _apply_known_defects(opened: RegionSource, keep: bool) -> RegionSource:
    """Leaves out what is known to be wrong in BS-80K, and says so."""
    outcome, crops = NOTED if keep else EXCLUDED, []
    findings = list(opened.findings)
    present = set(opened.patients)
    for known in Regions.DUPLICATES:
        if present.issuperset(known.patients):
            sentence = f"patients {known.patients}: {known.reason}, kept in one split."
            findings.append(Finding(NOTED, "one person under two ids", sentence))
    foreign = {patient: known.reason for known in Regions.FOREIGN for patient in known.patients}
    copies = {FOLDERS[folder]: known.reason for known in KNOWN_COPIES for folder in known.folders}
    for crop in opened.crops:
        reason = foreign.get(crop.patient) or copies.get((crop.region, crop.view))
        if reason:
            findings.append(Finding(outcome, reason, f"{crop.path}: {reason}."))
        if keep or not reason:
            crops.append(crop)
    return dataclasses.replace(opened, crops=tuple(crops), findings=tuple(findings))


def open_region_split(
    data_dir: Path,
    name: str,
    split: str,
    fold: int = -1,
    regions: Sequence[str] = REGIONS,
    views: Sequence[str] = VIEWS,
) -> FoldRecords:
    """Opens the images of some regions and views of one split for random access.

    Records are in the order of patient, region and view. An element is a dict of patient (int),
    region and view (int, index into REGIONS and VIEWS), image (bytes, the encoded JPEG as it came),
    abnormal (int, 0 or 1), gain and reference (float32) and overflow ((N, 2) int32).

    Args:
        data_dir: holds the data sets.
        name: of the data set.
        split: one of `bonescan_jax.scans.splits.SPLITS`.
        fold: of cross-validation: this fold is the test split, and train and validation come from
            the others; -1: the fixed splits.
        regions: of `bonescan_jax.scans.regions.REGIONS`.
        views: of `bonescan_jax.scans.VIEWS`.

    Raises:
        InputError: there is no such data set or fold.
    """
    path = Path(data_dir) / name
    folder = path / str(Regions.VERSION)
    if not os.path.exists(folder / "dataset_info.json"):
        raise InputError(
            f"{folder}: holds no prepared data set; expected what `bonescan prepare` writes, "
            "so run that first."
        )
    settings = read_settings(path)
    splits = settings["splits"]
    if fold != -1:
        folds = settings.get("folds", [])
        if not 0 <= fold < len(folds):
            raise InputError(
                f"{path}: has no fold {fold}, expected -1 (the fixed splits) or one of its "
                f"{len(folds)} folds, from 0; they are made by `bonescan prepare`."
            )
        splits = folds[fold]
    if "crops" not in settings:
        raise InputError(
            f"{path}: holds whole scans with boxes, expected labelled images of regions; prepare "
            "them under another name."
        )
    patients = set(splits[split])
    places = sorted(
        (crop, (number, record))
        for number, fixed in enumerate(SPLITS)
        for record, crop in enumerate(map(tuple, settings["crops"][fixed]))
        if crop[0] in patients and crop[1] in regions and crop[2] in views
    )
    builder = tfds.builder_from_directory(str(folder))
    sources = [
        builder.as_data_source(fixed, decoders={"image": tfds.decode.SkipDecoding()})
        for fixed in SPLITS
    ]
    return FoldRecords(sources, np.array([place for _, place in places]).reshape(-1, 2))
