"""Reads images that have a label and no boxes, from a folder or a zip file, and checks all of them.

Two layouts, at the root or one folder deeper, any part of them and also both at once:

    chestRANT/<id>.jpg  chestRANT/chestRANT.txt  BS-80K's crops of 13 body regions, two views each
    wholeANT/Normal/<id>.jpg  wholeANT/Abnormal/<id>.jpg     LIBS-160K's whole-body images

BS-80K: Huang et al. 2022, doi 10.1016/j.compbiomed.2022.106221. Folders are named by region, side
and view (kneeLANT is knee, L, ANT); the spellings vertbra and sho are its own.

LIBS-160K (doi 10.6084/m9.figshare.28715375), as public code that uses it reads it: the folders
wholeANT and wholePOST with the class folders Abnormal and Normal. BS-80K's 3,247 ids are among its
own, with byte for byte the same images, so one number is one patient in both layouts; what links
its other numbers to patients is not documented, they are taken for one patient each. Its region
crops come as base64 in tables with image numbers that name no patient, a third of them more than
once under several numbers: they cannot be split by patient and are not read.
"""

import hashlib
import re
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from bonescan_jax.cluster.cores import usable_cores
from bonescan_jax.errors import InputError
from bonescan_jax.scans import HEIGHT, VIEWS, WIDTH
from bonescan_jax.scans.annotations import parse_labels
from bonescan_jax.scans.duplicates import image_digest, same_person
from bonescan_jax.scans.exif import check_as_stored
from bonescan_jax.scans.findings import (
    DEFECTS,
    IGNORED,
    REPAIRED,
    SKIPPED,
    Finding,
    Report,
    printable,
)
from bonescan_jax.scans.jpeg import decode_jpeg
from bonescan_jax.scans.source import SourceFiles, open_source

REGIONS = (
    *("ankleL", "ankleR", "chestL", "chestR", "elbowL", "elbowR", "head"),
    *("kneeL", "kneeR", "pelvis", "shoL", "shoR", "vertbra"),
    "whole",
)
_VIEW_SUFFIXES = dict(zip(("ANT", "POST"), VIEWS, strict=True))
# What every folder holds: region and view.
FOLDERS = {
    f"{region}{suffix}": (region, view)
    for region in REGIONS
    for suffix, view in _VIEW_SUFFIXES.items()
}
CLASS_FOLDERS = {"normal": False, "abnormal": True}  # compared in lower case
# The largest files that are read, in bytes: ten times what the data sets have and more.
_MAX_IMAGE, _MAX_LABELS = 4 << 20, 4 << 20


class Crop(NamedTuple):
    """A checked image with its label; the image stays in the source until it is asked for."""

    patient: int
    region: str  # one of REGIONS
    view: str  # one of VIEWS
    abnormal: bool
    path: str
    digest: str  # of its pixels; see bonescan_jax.scans.duplicates.image_digest


@dataclass(frozen=True)
class RegionSource:
    """A checked source."""

    crops: tuple[Crop, ...]  # usable ones, by patient, region and view
    num_found: int  # images, usable or not
    findings: tuple[Finding, ...]
    fingerprint: str  # sha256 over every file that counts; a folder and its zip have the same
    _read: Callable[[str, int], bytes]

    @property
    def duplicates(self) -> tuple[tuple[int, ...], ...]:
        """Groups of patients who share an image."""
        return same_person((crop.patient, crop.digest) for crop in self.crops)

    @property
    def patients(self) -> tuple[int, ...]:
        """Who has a usable image, sorted."""
        return tuple(sorted({crop.patient for crop in self.crops}))

    def read_image(self, crop: Crop) -> bytes:
        """The encoded image of a crop of this source.

        Raises:
            InputError: a file that was checked cannot be read any more.
        """
        try:
            return self._read(crop.path, _MAX_IMAGE)
        except ValueError as error:
            raise InputError(
                f"{printable(crop.path)}: {error}, though it could be before."
            ) from error


class _Image(NamedTuple):
    """An image that a folder lists."""

    path: str
    folder: str
    patient: int
    abnormal: bool | None  # of its class folder; None: a label file has to say it
    digest: str = ""  # of its pixels, once it was decoded


def open_regions(
    source: Path, *, strict: bool = False, on_file: Callable[[int, int], None] | None = None
) -> RegionSource:
    """Opens a folder or a zip file of labelled images and checks every file of it.

    Nothing is extracted to disk. Every image is decoded once. An image whose label is not known, or
    that cannot be decoded, is left out.

    Args:
        source: the folder or zip file.
        strict: refuse what would be repaired or skipped.
        on_file: called after each checked image with the number checked and of all.

    Raises:
        InputError: the source cannot be read, or more than half of its images would be skipped; if
            strict, any file is wrong: then one line a defect and a last line counting them.
    """
    files = open_source(source, tuple(FOLDERS))
    root = _find_root(source, files.names)
    report = Report(files.findings, root)
    images, label_files = _list(root, files.names, report)
    labels = {folder: _read_labels(path, files, report) for folder, path in label_files.items()}
    labelled = _with_labels(images, labels, label_files, report)
    usable = _decodable(labelled, files, report, on_file)
    _refuse(source, strict, len(usable), len(images), report)
    crops = [
        Crop(image.patient, *FOLDERS[image.folder], bool(image.abnormal), image.path, image.digest)
        for image in usable
    ]
    crops.sort(key=lambda crop: (crop[0], REGIONS.index(crop.region), VIEWS.index(crop.view)))
    findings, fingerprint = tuple(report.findings), report.fingerprint
    return RegionSource(tuple(crops), len(images), findings, fingerprint, files.read)


def _find_root(source: Path, paths: list[str]) -> str:
    """The folder that holds the folders of regions: "", or a name with a slash after it."""
    roots = set()
    for path in paths:
        parts = path.split("/")
        for depth in range(min(2, len(parts) - 1)):
            if parts[depth] in FOLDERS and parts[0] != "__MACOSX":
                roots.add("".join(f"{part}/" for part in parts[:depth]))
    if len(roots) != 1:
        found = "none of them" if not roots else f"them in {len(roots)} places"
        raise InputError(
            f"{printable(str(source))}: holds {found}, expected folders as chestRANT or wholeANT "
            "with files in them, once, at the root or one folder deeper."
        )
    return roots.pop()


def _list(root: str, paths: list[str], report: Report) -> tuple[list[_Image], dict[str, str]]:
    """The images of all folders, one of each patient, and where label files are, by folder."""
    images: dict[tuple[str, int], list[_Image]] = {}
    label_files = {}
    for path in paths:
        folder, *inner = path.removeprefix(root).split("/")
        if folder not in FOLDERS or not path.startswith(root) or not inner:
            continue
        *classes, name = inner
        abnormal = CLASS_FOLDERS.get(classes[0].lower()) if len(classes) == 1 else None
        if inner == [f"{folder}.txt"]:
            label_files[folder] = path
        elif not name.endswith(".jpg") or name.startswith(".") or (classes and abnormal is None):
            phrase = (
                f"is no part of the layout, expected <id>.jpg in {folder}, in a folder Normal or "
                f"Abnormal in it, or {folder}.txt"
            )
            report.add(IGNORED, "unknown file", path, phrase)
        elif match := re.fullmatch(r"(0*)([1-9]\d{0,8})\.jpg", name, re.ASCII):
            image = _Image(path, folder, int(match[2]), abnormal)
            images.setdefault((folder, image.patient), []).append(image)
            if match[1]:
                phrase = f"id has zeros before it, expected {match[2]}.jpg"
                report.add(REPAIRED, "id with leading zeros", path, phrase)
        else:
            phrase = "name is no patient number, expected <id>.jpg"
            report.add(SKIPPED, "name that is no patient number", path, phrase)
    for same in images.values():
        if len(same) > 1:
            phrase = f"is one of several files of one patient beside {same[1].path}, expected one"
            report.add(SKIPPED, "two files of one id", same[0].path, phrase)
    return [same[0] for same in images.values() if len(same) == 1], label_files


def _read_labels(path: str, files: SourceFiles, report: Report) -> dict[int, bool]:
    try:
        data = files.read(path, _MAX_LABELS)
    except ValueError as error:
        report.add(SKIPPED, "file that cannot be read", path, str(error))
        return {}
    report.count_file(path, hashlib.sha256(data).hexdigest())
    labels, defects = parse_labels(data)
    for defect in defects:
        report.add(defect.outcome, defect.reason, path, defect.phrase)
    return labels


def _with_labels(
    images: Iterable[_Image],
    labels: dict[str, dict[int, bool]],
    label_files: dict[str, str],
    report: Report,
) -> list[_Image]:
    """The images whose class folder or label file says what they are."""
    labelled = []
    for image in images:
        abnormal = image.abnormal
        if abnormal is None:
            abnormal = labels.get(image.folder, {}).get(image.patient)
        if abnormal is None:
            where = label_files.get(image.folder, f"{image.folder}/{image.folder}.txt")
            phrase = f"has no label, expected a line '{image.patient}.jpg 0|1' in {where}"
            report.add(SKIPPED, "image without a label", image.path, phrase)
        else:
            labelled.append(image._replace(abnormal=abnormal))
    return labelled


def _decodable(
    images: list[_Image],
    files: SourceFiles,
    report: Report,
    on_file: Callable[[int, int], None] | None,
) -> list[_Image]:
    """The images that are whole, grey and no larger than a whole-body view."""

    def check(image: _Image) -> tuple[str, str, str | None]:
        """Digests of the file and of the pixels, and what is wrong."""
        try:
            data = files.read(image.path, _MAX_IMAGE)
        except ValueError as error:
            return "", "", str(error)
        digest = hashlib.sha256(data).hexdigest()
        try:
            check_as_stored(data)
            grey = decode_jpeg(data)
        except ValueError as error:
            return digest, "", str(error)
        height, width = grey.shape
        if height > HEIGHT or width > WIDTH:
            return digest, "", f"size is {width}x{height}, expected at most {WIDTH}x{HEIGHT}"
        return digest, image_digest(grey), None

    usable = []
    with ThreadPoolExecutor(usable_cores()) as pool:  # decoding leaves the interpreter free
        for done, (image, (digest, pixels, wrong)) in enumerate(
            zip(images, pool.map(check, images), strict=True), 1
        ):
            # The path holds the class where a folder says it.
            report.count_file(image.path, digest)
            if wrong:
                report.add(SKIPPED, "image that cannot be used", image.path, wrong)
            else:
                usable.append(image._replace(digest=pixels))
            if on_file:
                on_file(done, len(images))
    return usable


def _refuse(source: Path, strict: bool, num_usable: int, num_found: int, report: Report) -> None:
    """Refuses a source with too little in it, or with any defect if strict."""
    shown = printable(str(source))
    defects = [finding.sentence for finding in report.findings if finding.outcome in DEFECTS]
    if strict and defects:
        total = f"{shown}: {len(defects)} defect{'s' * (len(defects) > 1)}, expected none."
        raise InputError("\n".join([*defects, total]))
    if not num_found:
        raise InputError(f"{shown}: holds no image, expected <id>.jpg files.")
    if 2 * num_usable < num_found:
        raise InputError(
            f"{shown}: {num_found - num_usable} of {num_found} images would be skipped, expected "
            f"at most half; the first because {defects[0]}"
        )
