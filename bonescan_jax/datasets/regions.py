"""Images with a label and no boxes as a TFDS data set in ArrayRecord: building and reading it."""

import dataclasses
import io
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import tensorflow_datasets as tfds

from bonescan_jax.datasets.bs80k import BS80K
from bonescan_jax.datasets.builder import ScanBuilder
from bonescan_jax.datasets.records import ChosenRecords, open_prepared
from bonescan_jax.errors import InputError
from bonescan_jax.scans import VIEWS
from bonescan_jax.scans.bs80k import KNOWN_FOREIGN, is_bs80k
from bonescan_jax.scans.findings import EXCLUDED, NOTED, Finding, printable
from bonescan_jax.scans.overflow import find_overflows
from bonescan_jax.scans.regions import REGIONS, RegionSource, open_regions
from bonescan_jax.scans.splits import SPLITS

# The left and the right elbows of BS-80K from behind, for 2,917 patients.
_COPIED = "the same image in two folders, so one of the labels is of another one"


class Regions(ScanBuilder[RegionSource]):
    """Writes a checked source of `bonescan_jax.scans.regions`, one record an image."""

    DESCRIPTION = "Bone scan images of body regions (BS-80K) or whole bodies (LIBS-160K), labelled."
    # Most of these images are of BS-80K, and the format has changed with that of its views.
    VERSION = BS80K.VERSION
    RELEASE_NOTES: ClassVar = BS80K.RELEASE_NOTES
    CITATION = BS80K.CITATION
    name = "regions"

    open_source = staticmethod(open_regions)

    @staticmethod
    def num_images(source: RegionSource) -> int:
        """How many records the source makes."""
        return len(source.crops)

    @classmethod
    def numbers(cls, checked: RegionSource, used: RegionSource) -> dict[str, int]:
        """What was found and what of it is used, for the result of `prepare`."""
        return {
            "images_found": checked.num_found,
            "images_skipped": checked.num_found - len(checked.crops),
            "patients": len(used.patients),
            "images": len(used.crops),
            "abnormal": sum(crop.abnormal for crop in used.crops),
        }

    @staticmethod
    def leave_out(source: RegionSource, keep: bool) -> tuple[RegionSource, list[Finding]]:
        """Without the images that cannot be right, unless all are to be kept."""
        outcome, crops = NOTED if keep else EXCLUDED, []
        findings = []
        known = KNOWN_FOREIGN if is_bs80k(source.duplicates) else ()
        foreign = {patient: defect.reason for defect in known for patient in defect.patients}
        times = Counter((crop.patient, crop.digest) for crop in source.crops if crop.digest)
        for crop in source.crops:
            reason = foreign.get(crop.patient)
            if times[crop.patient, crop.digest] > 1:
                reason = reason or _COPIED
            if reason:
                findings.append(Finding(outcome, reason, f"{crop.path}: {reason}."))
            if keep or not reason:
                crops.append(crop)
        return dataclasses.replace(source, crops=tuple(crops)), findings

    @staticmethod
    def index(source: RegionSource, splits: dict[str, tuple[int, ...]]) -> dict[str, Any]:
        """Patient, region and view of every record, in order."""
        split_of = {patient: split for split, ids in splits.items() for patient in ids}
        crops: dict[str, list] = {split: [] for split in SPLITS}
        for patient, region, view, *_ in source.crops:
            crops[split_of[patient]].append((patient, region, view))
        return {"crops": crops}

    @staticmethod
    def features() -> dict[str, Any]:
        """The image as it came, and what it shows."""
        return {
            "region": tfds.features.ClassLabel(names=REGIONS),
            "image": tfds.features.Image(shape=(None, None, 1), encoding_format="jpeg"),
        }

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
            self._written(printable(crop.path), overflow)


def open_region_split(
    data_dir: Path,
    name: str,
    split: str,
    fold: int = -1,
    regions: Sequence[str] = REGIONS,
    views: Sequence[str] = VIEWS,
) -> ChosenRecords:
    """Opens the images of some regions and views of one split for random access.

    Records are in the order of patient, region and view. An element is a dict of patient (int),
    region and view (int, index into REGIONS and VIEWS), image (bytes, the encoded JPEG as it came),
    abnormal (int, 0 or 1), gain and reference (float32) and overflow ((N, 2) int32).

    Args:
        data_dir: holds the data sets.
        name: of the data set.
        split: one of `bonescan_jax.scans.splits.SPLITS`, or `records.ALL` of them.
        fold: of cross-validation: this fold is the test split, and train and validation come from
            the others; -1: the fixed splits.
        regions: of `bonescan_jax.scans.regions.REGIONS`.
        views: of `bonescan_jax.scans.VIEWS`.

    Raises:
        InputError: there is no such data set, split or fold, or it is one of whole scans.
    """
    prepared = open_prepared(data_dir, name, str(Regions.VERSION), split, fold)
    if "crops" not in prepared.settings:
        raise InputError(
            f"{data_dir}/{name}: holds whole scans with boxes, expected labelled images of "
            "regions; prepare them under another name."
        )
    patients = set(prepared.patients)
    places = sorted(
        (crop, (number, record))
        for number, fixed in enumerate(SPLITS)
        for record, crop in enumerate(map(tuple, prepared.settings["crops"][fixed]))
        if crop[0] in patients and crop[1] in regions and crop[2] in views
    )
    return ChosenRecords(prepared.records, [place for _, place in places])
