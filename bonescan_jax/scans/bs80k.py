"""Reads the whole-body part of BS-80K, from its folder or its zip file, and checks all of it.

Layout (Huang et al. 2022, doi 10.1016/j.compbiomed.2022.106221), at the root or one folder deeper:

    wholeBodyANT/<id>.jpg    wholeBodyANT/wholeBodyANT.txt      wholeBodyANT/ant/<id>.xml
    wholeBodyPOST/<id>.jpg   wholeBodyPOST/wholeBodyPOST.txt    wholeBodyPOST/post/<id>.xml

A view without an XML file has no hot spots. The folders of body regions are not read.

What is wrong is repaired where the files themselves say how, else the patient is left out with
both views: an annotation that cannot be read does not mean that there are no hot spots.
"""

import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from bonescan_jax.cluster.cores import usable_cores
from bonescan_jax.errors import InputError
from bonescan_jax.scans import ABNORMAL, HEIGHT, VIEWS, WIDTH, Box, Scan
from bonescan_jax.scans.annotations import parse_boxes, parse_labels
from bonescan_jax.scans.bones import decode_bones
from bonescan_jax.scans.duplicates import image_digest, same_person
from bonescan_jax.scans.exif import check_as_stored
from bonescan_jax.scans.findings import (
    DEFECTS,
    IGNORED,
    REPAIRED,
    SKIPPED,
    Defect,
    Finding,
    Report,
    count_findings,
    printable,
)
from bonescan_jax.scans.jpeg import decode_jpeg, read_jpeg_header
from bonescan_jax.scans.source import SourceFiles, open_source

FOLDERS = {"anterior": "wholeBodyANT", "posterior": "wholeBodyPOST"}
XML_FOLDERS = {"anterior": "ant", "posterior": "post"}
BONES_FOLDER = "bones"  # beside the XML files, of simulated scans only
# The largest files that are read, in bytes: ten times what BS-80K has and more.
_MAX_IMAGE, _MAX_XML, _MAX_LABELS = 4 << 20, 1 << 20, 4 << 20


class KnownDefect(NamedTuple):
    """Patients of BS-80K of whom more is known than their files say."""

    patients: tuple[int, ...]
    reason: str


# Ids of BS-80K with identical images: who has all of these pairs is BS-80K.
KNOWN_DUPLICATES = ((312, 570), (828, 2244), (831, 3216), (832, 3245))
KNOWN_FOREIGN = (KnownDefect((722, 779, 1654), "looks like another kind of study"),)
KNOWN_UNUSUAL = (KnownDefect((1240,), "a child with active growth plates, legitimate"),)


def is_bs80k(duplicates: Sequence[Sequence[int]]) -> bool:
    """Whether scans are those of BS-80K, of whose numbers more is known.

    Args:
        duplicates: groups of ids found to share an image.
    """
    return all(any(set(pair).issubset(group) for group in duplicates) for pair in KNOWN_DUPLICATES)


# What is made of a file (None: nothing), and what is wrong with it.
_Parser = Callable[[bytes], tuple[Any, list[Defect]]]


class _View(NamedTuple):
    """What is known about one usable view; its image stays in the source until it is asked for."""

    image_path: str
    image_digest: str
    boxes: tuple[Box, ...]
    abnormal: bool
    bones_path: str | None


class _ViewFiles(NamedTuple):
    """Where the files of one view are."""

    folder: str
    images: dict[int, str]  # by patient, sorted
    annotations: dict[int, str]
    bones: dict[int, str]
    labels: str | None
    ambiguous: frozenset[int]  # patients with two images or two annotations

    def parsers(self) -> dict[str, tuple[_Parser, int]]:
        """How each file is parsed, and the most bytes it may have."""
        parsers: dict[str, tuple[_Parser, int]] = dict.fromkeys(
            self.images.values(), (_check_image, _MAX_IMAGE)
        )
        parsers |= dict.fromkeys(self.annotations.values(), (parse_boxes, _MAX_XML))
        parsers |= dict.fromkeys(self.bones.values(), (_check_bones, _MAX_IMAGE))
        return parsers | ({self.labels: (parse_labels, _MAX_LABELS)} if self.labels else {})


@dataclass(frozen=True)
class BS80KSource:
    """A checked source. Iterating gives every scan, by patient, anterior before posterior."""

    patients: tuple[int, ...]  # usable ones, sorted
    num_found: int  # patients with an image, usable or not
    findings: tuple[Finding, ...]
    duplicates: tuple[tuple[int, ...], ...]  # groups of usable patients who share an image
    fingerprint: str  # sha256 over every file that counts; a folder and its zip have the same
    _views: dict[tuple[int, str], _View]
    _read: Callable[[str, int], bytes]

    def read_patient(self, patient: int) -> tuple[Scan, Scan]:
        """Reads the anterior and the posterior scan of a patient of this source.

        Raises:
            InputError: a file that was checked cannot be read any more.
        """
        anterior, posterior = (self._read_scan(patient, view) for view in VIEWS)
        return anterior, posterior

    def __iter__(self) -> Iterator[Scan]:
        for patient in self.patients:
            yield from self.read_patient(patient)

    def _read_scan(self, patient: int, view: str) -> Scan:
        path, _, boxes, abnormal, bones_path = self._views[patient, view]
        try:
            bones = self._read(bones_path, _MAX_IMAGE) if bones_path else b""
            return Scan(patient, view, self._read(path, _MAX_IMAGE), boxes, abnormal, bones)
        except ValueError as error:
            raise InputError(f"{printable(path)}: {error}, though it could be before.") from error


def open_bs80k(
    source: Path, *, strict: bool = False, on_file: Callable[[int, int], None] | None = None
) -> BS80KSource:
    """Opens a folder or a zip file laid out as BS-80K and checks every file of it.

    Nothing is extracted to disk. Every image is decoded once.

    Args:
        source: the folder or zip file.
        strict: refuse what would be repaired or skipped.
        on_file: called after each checked file with the number of files checked and of all.

    Raises:
        InputError: the source cannot be read, or more than half of its patients would be skipped;
            if strict, any file is wrong: then one line a defect (file relative to the source,
            field, found, expected) and a last line counting them.
    """
    files = open_source(source, tuple(FOLDERS.values()))
    root = _find_root(source, files.names)
    report = Report(files.findings, root)
    listed = {view: _list_view(view, root, files.names, report) for view in VIEWS}
    parsers = listed["anterior"].parsers() | listed["posterior"].parsers()
    parsed = _parse(parsers, files, report, on_file)
    views = {view: _check_view(view, listed[view], parsed, report) for view in VIEWS}
    found = sorted(views["anterior"].keys() | views["posterior"].keys())
    for patient in found:
        for view, other in (VIEWS, VIEWS[::-1]):
            if patient not in views[other]:
                phrase = f"has no {other} view, expected {listed[other].folder}/{patient}.jpg"
                path = f"{listed[view].folder}/{patient}.jpg"
                report.add(SKIPPED, "view without the other one", path, phrase)
    usable: dict[tuple[int, str], _View] = {}
    for patient in found:
        both = {view: each for view in VIEWS if (each := views[view].get(patient))}
        if len(both) == len(VIEWS):
            usable |= {(patient, view): each for view, each in both.items()}
    patients = tuple(sorted({patient for patient, _ in usable}))
    _refuse(source, strict, len(patients), len(found), report.findings)
    return BS80KSource(
        patients=patients,
        num_found=len(found),
        findings=tuple(report.findings),
        duplicates=same_person(
            (patient, view.image_digest) for (patient, _), view in usable.items()
        ),
        fingerprint=report.fingerprint,
        _views=usable,
        _read=files.read,
    )


def _refuse(
    source: Path, strict: bool, num_usable: int, num_found: int, findings: list[Finding]
) -> None:
    """Refuses a source with too little in it, or with any defect if strict."""
    shown = printable(str(source))
    defects = [finding.sentence for finding in findings if finding.outcome in DEFECTS]
    if strict and defects:
        total = f"{shown}: {len(defects)} defect{'s' * (len(defects) > 1)}, expected none."
        raise InputError("\n".join([*defects, total]))
    if not num_found:
        raise InputError(f"{shown}: holds no image, expected <id>.jpg files of both views.")
    num_skipped = num_found - num_usable
    if 2 * num_skipped > num_found:
        skipped = count_findings(findings)[SKIPPED]
        reasons = ", ".join(f"{number} x {reason}" for reason, number in skipped.items())
        raise InputError(
            f"{shown}: {num_skipped} of {num_found} patients would be skipped ({reasons}), "
            "expected at most half; --strict names every defect."
        )


def _find_root(source: Path, paths: list[str]) -> str:
    """The folder that holds BS-80K's folders: "", or a name with a slash after it."""
    roots: dict[str, set[str]] = {}
    for path in paths:
        parts = path.split("/")
        for depth in range(min(2, len(parts) - 1)):
            if parts[depth] in FOLDERS.values() and parts[0] != "__MACOSX":
                root = "".join(f"{part}/" for part in parts[:depth])
                roots.setdefault(root, set()).add(parts[depth])
    shown, expected = printable(str(source)), " and ".join(FOLDERS.values())
    if len(roots) != 1:
        found = "none of them" if not roots else f"them in {len(roots)} places"
        raise InputError(
            f"{shown}: holds {found}, expected the folders {expected} with files in them, "
            "once, at the root or one folder deeper."
        )
    ((root, folders),) = roots.items()
    if missing := [folder for folder in FOLDERS.values() if folder not in folders]:
        empty = printable(f"{root}{missing[0]}")
        raise InputError(f"{shown}: {empty} holds no file, expected {expected}.")
    return root


def _list_view(view: str, root: str, paths: list[str], report: Report) -> _ViewFiles:
    """Sorts the files of one view by kind; reports unknown files."""
    folder = f"{root}{FOLDERS[view]}"
    xml_folder = f"{folder}/{XML_FOLDERS[view]}"
    labels = f"{folder}/{FOLDERS[view]}.txt"
    inside = [path for path in paths if path.startswith(f"{folder}/")]
    images, twice_image, other = _number(inside, folder, ".jpg", report)
    annotations, twice_annotated, other = _number(other, xml_folder, ".xml", report)
    bones, twice_drawn, other = _number(other, f"{folder}/{BONES_FOLDER}", ".png", report)
    for path in other:
        if path != labels:
            phrase = "is not part of BS-80K's layout, expected images, XML files and labels only"
            report.add(IGNORED, "unknown file", path, phrase)
    return _ViewFiles(
        folder=folder,
        images=images,
        annotations=annotations,
        bones=bones,
        labels=labels if labels in other else None,
        ambiguous=twice_image | twice_annotated | twice_drawn,
    )


def _number(
    paths: list[str], folder: str, suffix: str, report: Report
) -> tuple[dict[int, str], frozenset[int], list[str]]:
    """Files <folder>/<id><suffix> by id, sorted; ids that several files have; all other files."""
    numbered: dict[int, list[str]] = {}
    other = []
    for path in paths:
        parent, _, name = path.rpartition("/")
        if parent != folder or not name.endswith(suffix) or name.startswith("."):
            other.append(path)
        elif match := re.fullmatch(r"(0*)([1-9]\d{0,8})", name.removesuffix(suffix), re.ASCII):
            numbered.setdefault(int(match[2]), []).append(path)
            if match[1]:
                phrase = f"id has zeros before it, expected {match[2]}{suffix}"
                report.add(REPAIRED, "id with leading zeros", path, phrase)
        else:
            phrase = f"name is no patient number, expected <id>{suffix}"
            report.add(SKIPPED, "name that is no patient number", path, phrase)
    twice = frozenset(patient for patient, same in numbered.items() if len(same) > 1)
    for patient in sorted(twice):
        first, second, *_ = sorted(numbered[patient])
        phrase = f"is one of several files of patient {patient} beside {second}, expected one"
        report.add(SKIPPED, "two files of one id", first, phrase)
    return {patient: numbered[patient][0] for patient in sorted(numbered)}, twice, other


def _parse(
    parsers: dict[str, tuple[_Parser, int]],
    files: SourceFiles,
    report: Report,
    on_file: Callable[[int, int], None] | None,
) -> dict[str, Any]:
    """Reads each file and parses it: what each holds, by path."""

    def parse(path: str) -> tuple[Any, list[Defect], str]:
        parser, limit = parsers[path]
        try:
            data = files.read(path, limit)
        except ValueError as error:
            return None, [Defect(SKIPPED, "file that cannot be read", str(error))], ""
        return *parser(data), hashlib.sha256(data).hexdigest()

    parsed = {}
    with ThreadPoolExecutor(usable_cores()) as pool:  # decoding leaves the interpreter free
        for path, (value, defects, digest) in zip(parsers, pool.map(parse, parsers), strict=True):
            parsed[path] = value
            for defect in defects:
                report.add(defect.outcome, defect.reason, path, defect.phrase)
            report.count_file(path, digest)
            if on_file:
                on_file(len(parsed), len(parsers))
    return parsed


def _check_bones(data: bytes) -> tuple[bool | None, list[Defect]]:
    try:
        decode_bones(data)
    except ValueError as error:
        return None, [Defect(IGNORED, "map of bones that cannot be used", str(error))]
    return True, []


def _check_image(data: bytes) -> tuple[str | None, list[Defect]]:
    """Keeps the digest and no pixels: the image is read again when it is asked for."""
    reason = "image that cannot be decoded"
    try:
        header = read_jpeg_header(data)
        if header.components != 1:
            reason = "image with colours"
        elif (header.width, header.height) != (WIDTH, HEIGHT):
            reason = "image of another size"
            raise ValueError(
                f"size is {header.width}x{header.height}, expected {WIDTH}x{HEIGHT} "
                "(width x height)"
            )
        digest = image_digest(decode_jpeg(data))
        reason = "image that a viewer turns"
        check_as_stored(data)
        return digest, []
    except ValueError as error:
        return None, [Defect(SKIPPED, reason, str(error))]


def _check_view(
    view: str, files: _ViewFiles, parsed: dict[str, Any], report: Report
) -> dict[int, _View | None]:
    """Puts together what the files of one view say of each patient; None: not usable."""
    labels_path = f"{files.folder}/{FOLDERS[view]}.txt"
    labels: dict[int, bool] = parsed.get(files.labels or "") or {}
    if files.labels is None:
        phrase = "is missing, expected '<id>.jpg 0|1' lines"
        report.add(REPAIRED, "label file missing", labels_path, phrase)
    if any(labels.values()) and not files.annotations:
        raise InputError(
            f"{printable(files.folder)}/{XML_FOLDERS[view]}: holds no XML file though "
            f"{printable(labels_path)} calls images abnormal, expected <id>.xml files."
        )
    for patient in sorted(labels.keys() - files.images.keys()):
        phrase = f"{patient}.jpg has no image, expected {files.folder}/{patient}.jpg"
        report.add(SKIPPED, "label without an image", labels_path, phrase)
    for patient in sorted(files.annotations.keys() - files.images.keys()):
        phrase = f"has no image, expected {files.folder}/{patient}.jpg"
        report.add(SKIPPED, "XML without an image", files.annotations[patient], phrase)
    views: dict[int, _View | None] = {}
    for patient, path in files.images.items():
        label = labels.get(patient)
        if patient in files.annotations:
            boxes = parsed[files.annotations[patient]]
            if boxes == () and label:
                phrase = (
                    f"holds no usable hot spot though {labels_path} calls {patient}.jpg abnormal, "
                    "expected boxes"
                )
                report.add(SKIPPED, "abnormal without a box", files.annotations[patient], phrase)
                boxes = None
            elif boxes is not None:
                _compare(patient, label, boxes, labels_path, bool(labels), report)
        else:
            boxes = _without_annotation(patient, path, label, report)
        usable = None not in (parsed[path], boxes) and patient not in files.ambiguous
        abnormal = any(box.label == ABNORMAL for box in boxes or ())
        bones = files.bones.get(patient)
        bones = bones if bones and parsed[bones] else None
        views[patient] = _View(path, parsed[path], boxes, abnormal, bones) if usable else None
    return views


def _compare(
    patient: int,
    label: bool | None,
    boxes: tuple[Box, ...],
    labels_path: str,
    labels_exist: bool,
    report: Report,
) -> None:
    """Reports labels that contradict the boxes; the boxes are used, as they say more."""
    abnormal = any(box.label == ABNORMAL for box in boxes)
    if label is None and labels_exist:
        phrase = f"{patient}.jpg has no line, expected '{patient}.jpg {int(abnormal)}' by its boxes"
        report.add(REPAIRED, "label missing, taken from the boxes", labels_path, phrase)
    elif label is not None and label != abnormal:
        phrase = f"{patient}.jpg is {int(label)}, expected {int(abnormal)} by its boxes"
        report.add(REPAIRED, "label against the boxes, taken from the boxes", labels_path, phrase)


def _without_annotation(
    patient: int, path: str, label: bool | None, report: Report
) -> tuple[Box, ...] | None:
    """A view without an XML file has no hot spots, if its label agrees."""
    if label is None:
        phrase = f"has neither an XML file nor a label, expected {patient}.xml or a line of labels"
        report.add(SKIPPED, "neither XML nor label", path, phrase)
    elif label:
        phrase = f"is labelled abnormal without an XML file, expected {patient}.xml with boxes"
        report.add(SKIPPED, "abnormal without XML", path, phrase)
    return () if label is False else None
