"""Reads somebody's own scans with what was annotated on them, from a folder or a zip file.

Scans are NM DICOM, grey PNG (8 or 16 bit) or JPEG files, anywhere below. Beside a scan NAME.* lie

    NAME.xml or annotations/NAME.xml          Pascal VOC
    NAME_mask.png or masks/NAME.png           0 background, 1 abnormal, 2 normal
    any .json file                            COCO, whose file_name is that of the scan

NAME is the file's name without suffix; of a DICOM file with both views, with -anterior or
-posterior after it. patients.csv, with the columns file, patient, view and maybe label (0 normal,
1 abnormal), says whose scan it is. Without it the DICOM header does, or a name such as
12-anterior.png.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from bonescan_jax.errors import InputError
from bonescan_jax.scans import ABNORMAL, HEIGHT, VIEWS, WIDTH, Box
from bonescan_jax.scans.counts import bone_reference
from bonescan_jax.scans.duplicates import same_person
from bonescan_jax.scans.findings import (
    DEFECTS,
    SKIPPED,
    Finding,
    Report,
    count_findings,
    printable,
)
from bonescan_jax.scans.folder_annotations import (
    Annotations,
    annotate_views,
    class_labels,
    is_mask,
    read_mask,
)
from bonescan_jax.scans.folder_patients import read_table
from bonescan_jax.scans.folder_views import View, by_patient, check_scans
from bonescan_jax.scans.listing import list_image_files
from bonescan_jax.scans.own import cut_window, decode_own


class OwnScan(NamedTuple):
    """One view as its record holds it; see `bonescan_jax.datasets.folder`."""

    image: bytes  # PNG, 1024×256, 8 or 16 bit
    mask: bytes  # PNG of class numbers, or of one pixel where boxes were annotated
    boxes: tuple[Box, ...]
    gain: float  # grey per count
    reference: float  # brightness of bone in the unit of the pixels
    overflow: np.ndarray  # (N, 2) int32: flat index of a pixel past 255, its value unwrapped
    missing: bool  # the patient has no such view: it is black, and never scored

    @property
    def abnormal(self) -> bool:
        """Whether anything abnormal is annotated."""
        return any(box.label == ABNORMAL for box in self.boxes)


@dataclass(frozen=True)
class FolderSource:
    """A checked source."""

    patients: tuple[int, ...]  # usable ones, sorted
    num_found: int
    findings: tuple[Finding, ...]
    duplicates: tuple[tuple[int, ...], ...]  # groups of patients who are one person
    fingerprint: str  # sha256 over every file that counts; a folder and its zip have the same
    _views: dict[tuple[int, str], View]
    _unwrap: bool

    @property
    def missing(self) -> list[tuple[int, str]]:
        """Patient and view of the views that there are not."""
        return [
            (patient, view)
            for patient in self.patients
            for view in VIEWS
            if (patient, view) not in self._views
        ]

    def read(self, patient: int, view: str) -> OwnScan:
        """Reads a view of a patient of this source; a black one where there is none.

        Raises:
            InputError: a file that was checked cannot be read any more.
        """
        nothing = _png(np.zeros((1, 1), np.uint8))
        if (found := self._views.get((patient, view))) is None:
            black = _png(np.zeros((HEIGHT, WIDTH), np.uint16))
            return OwnScan(black, nothing, (), 1.0, 1.0, np.zeros((0, 2), np.int32), True)
        try:
            path = found.file.path
            frame = decode_own(found.file.read(), path, unwrap=self._unwrap)[found.number]
            mask = nothing
            if found.mask:
                mask = _png(read_mask(found, found.mask))
        except (ValueError, IndexError) as error:
            raise InputError(
                f"{printable(found.file.name)}: {error}, though it could be read before."
            ) from error
        pixels = cut_window(frame.pixels, found.corner)
        reference = bone_reference(pixels)
        overflow = np.zeros((0, 2), np.int32)
        if frame.overflowed:  # as the records of BS-80K have it
            places = np.flatnonzero(pixels > 255)
            overflow = np.stack([places, pixels.ravel()[places]], axis=1).astype(np.int32)
            pixels = np.minimum(pixels, 255).astype(np.uint8)
        return OwnScan(_png(pixels), mask, found.boxes, frame.gain, reference, overflow, False)


def _png(pixels: np.ndarray) -> bytes:
    return cv2.imencode(".png", pixels)[1].tobytes()


def open_folder(
    source: Path,
    *,
    strict: bool = False,
    on_file: Callable[[int, int], None] | None = None,
    classes: Mapping[str, str] | None = None,
    unannotated: str = "skip",
    unwrap: bool = False,
) -> FolderSource:
    """Opens a folder or a zip file of scans and checks every file of it.

    Every scan is decoded once; nothing is extracted to disk.

    Args:
        source: the folder or zip file.
        strict: refuse what would be repaired or skipped.
        on_file: called after each checked scan with the number checked and of all.
        classes: abnormal or normal for each name in the annotations; those two need not be given.
        unannotated: one of `UNANNOTATED`. A label 0 in patients.csv says of a scan alone that it
            has no hot spots.
        unwrap: 8-bit grey values wrapped past 255.

    Raises:
        InputError: the source cannot be read, or more than half of its patients would be skipped;
            if strict, any file is wrong: then one line a defect and a last line counting them.
    """
    labels = class_labels(classes or {})
    listing = list_image_files(Path(source))
    images = [file for file in listing.files if not is_mask(file.name)]
    if not images:
        raise InputError(f"{printable(str(source))}: holds masks only, expected scans.")
    files = images[0].source
    root = _root(files.names)
    report = Report(listing.findings, root)
    table = read_table(root, files, report)
    views, found = check_scans(images, table, unwrap, report, on_file)
    annotated = annotate_views(views, Annotations(files, labels, report), table, unannotated)
    patients, people = by_patient(annotated, found, table, report)
    if strict and (defects := [each for each in report.findings if each.outcome in DEFECTS]):
        sentences = [each.sentence for each in defects]
        raise InputError(
            "\n".join([*sentences, f"{source}: {len(defects)} defects, expected none."])
        )
    usable = {number for number, _ in patients}
    if 2 * len(usable) < len(found) or not usable:
        skipped = count_findings(report.findings)[SKIPPED]
        reasons = ", ".join(f"{reason}: {count}" for reason, count in skipped.items())
        raise InputError(
            f"{printable(str(source))}: {len(found) - len(usable)} of {len(found)} patients would "
            f"be skipped ({reasons}), expected at most half; --strict names every defect."
        )
    return FolderSource(
        patients=tuple(sorted(usable)),
        num_found=len(found),
        findings=tuple(report.findings),
        duplicates=same_person(
            [(number, view.digest) for (number, _), view in patients.items()] + people
        ),
        fingerprint=report.fingerprint,
        _views=patients,
        _unwrap=unwrap,
    )


def _root(names: list[str]) -> str:
    """The folder that all files lie in, with a slash after it: a zip file often has one."""
    tops = {name.split("/")[0] for name in names if not name.startswith("__MACOSX/")}
    inside = all("/" in name for name in names)
    return f"{tops.pop()}/" if inside and len(tops) == 1 else ""
