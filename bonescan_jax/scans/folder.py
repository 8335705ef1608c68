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

import csv
import hashlib
import io
import re
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import cv2
import numpy as np

from bonescan_jax.cluster.cores import usable_cores
from bonescan_jax.errors import InputError
from bonescan_jax.scans import ABNORMAL, CLASSES, HEIGHT, NORMAL, VIEWS, WIDTH, Box
from bonescan_jax.scans.annotations import CocoImage, parse_boxes, parse_coco
from bonescan_jax.scans.counts import bone_reference
from bonescan_jax.scans.duplicates import image_digest, same_person
from bonescan_jax.scans.files import decode_png
from bonescan_jax.scans.findings import (
    DEFECTS,
    IGNORED,
    NOTED,
    SKIPPED,
    Defect,
    Finding,
    count_findings,
    printable,
)
from bonescan_jax.scans.listing import ImageFile, image_stem, list_image_files
from bonescan_jax.scans.masks import mask_to_boxes
from bonescan_jax.scans.own import LARGEST, cut_window, decode_own, fit_window
from bonescan_jax.scans.source import SourceFiles

TABLE = "patients.csv"
UNANNOTATED = ("skip", "empty")  # what a scan without annotation is: unknown, or without hot spots
_MAX_XML, _MAX_JSON, _MAX_TABLE = 1 << 20, 1 << 28, 1 << 24  # bytes
_NAMED = re.compile(r"(.+)[-_](anterior|posterior)", re.IGNORECASE)
# BS-80K's views have 280,000 counts and more; EANM's guideline asks for 1.5 million in both.
_FEW_COUNTS = 100_000


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
class _View:
    """What is known of a view before it is read again."""

    file: ImageFile
    number: int  # of the frame in its file
    name: str  # that its annotation has
    view: str | None
    patient: tuple[str, ...] | None  # whose scan it is, as long as this process runs
    person: str | None  # whose exams belong to one person
    size: tuple[int, int]
    corner: tuple[int, int]  # see `fit_window`
    digest: str
    counts: float
    notes: tuple[str, ...]
    boxes: tuple[Box, ...] = ()
    mask: str | None = None  # the file of it


class _Report:
    """What the checks of a source collect."""

    def __init__(self, findings: Iterable[Finding]) -> None:
        self.findings = list(findings)
        self.digests: list[str] = []  # "<path> <sha256>" of each file that counts

    def add(self, outcome: str, reason: str, path: str, phrase: str) -> None:
        self.findings.append(Finding(outcome, reason, f"{printable(path)}: {phrase}."))


@dataclass(frozen=True)
class FolderSource:
    """A checked source."""

    patients: tuple[int, ...]  # usable ones, sorted
    num_found: int
    findings: tuple[Finding, ...]
    duplicates: tuple[tuple[int, ...], ...]  # groups of patients who are one person
    fingerprint: str  # sha256 over every file that counts; a folder and its zip have the same
    _views: dict[tuple[int, str], _View]
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
                whole = decode_png(found.file.source.read(found.mask, _MAX_JSON), LARGEST)
                mask = _png(cut_window(whole, found.corner))
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
    images = [file for file in listing.files if not _is_mask(file.name)]
    if not images:
        raise InputError(f"{printable(str(source))}: holds masks only, expected scans.")
    files, report = images[0].source, _Report(listing.findings)
    root = _root(files.names)
    table = _read_table(root, files, report)
    views, found = _check_scans(images, root, table, unwrap, report, on_file)
    annotated = _annotate(views, _Annotations(files, root, labels, report), table, unannotated)
    patients, people = _by_patient(annotated, found, table, report)
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
        fingerprint=hashlib.sha256("\n".join(sorted(report.digests)).encode()).hexdigest(),
        _views=patients,
        _unwrap=unwrap,
    )


def class_labels(classes: Mapping[str, str]) -> dict[str, int]:
    """The class number of each name in annotations.

    Raises:
        InputError: a class that is none.
    """
    labels = {spelled: CLASSES.index(name) for name in CLASSES[1:]
              for spelled in (name, name.capitalize(), name.upper())}  # fmt: skip
    for name, of_class in classes.items():
        if of_class not in CLASSES[1:]:
            raise InputError(f"classes: {name!r} is {of_class!r}, expected abnormal or normal.")
        labels[name] = CLASSES.index(of_class)
    return labels


def _is_mask(name: str) -> bool:
    path = PurePosixPath(name.lower())
    return path.suffix == ".png" and (path.stem.endswith("_mask") or path.parent.name == "masks")


def _root(names: list[str]) -> str:
    """The folder that all files lie in, with a slash after it: a zip file often has one."""
    tops = {name.split("/")[0] for name in names if not name.startswith("__MACOSX/")}
    inside = all("/" in name for name in names)
    return f"{tops.pop()}/" if inside and len(tops) == 1 else ""


class _Line(NamedTuple):
    """What patients.csv says of a file."""

    patient: str
    view: str | None
    label: bool | None


def _read_table(root: str, files: SourceFiles, report: _Report) -> dict[str, list[_Line]] | None:
    """The lines of patients.csv by file; None where there is none.

    Raises:
        InputError: it cannot be trusted.
    """
    name = f"{root}{TABLE}"
    if name not in files.names:
        return None
    try:
        data = files.read(name, _MAX_TABLE)
        reader = csv.DictReader(io.StringIO(data.decode("utf-8-sig")), strict=True)
        missing = {"file", "patient", "view"} - set(reader.fieldnames or ())
        if missing:
            raise ValueError(f"has no column {', '.join(sorted(missing))}")
        lines: dict[str, list[_Line]] = {}
        for number, row in enumerate(reader, 2):
            cells = {key: (value or "").strip() for key, value in row.items() if key}
            file, patient, view = cells["file"], cells["patient"], cells["view"].lower()
            label = cells.get("label", "")
            if not file or not patient or view not in ("", *VIEWS) or label not in ("", "0", "1"):
                raise ValueError(
                    f"line {number} is no file, patient, view ({' or '.join(VIEWS)}, or nothing "
                    "where the file says it) and label (0, 1 or nothing)"
                )
            line = _Line(patient, view or None, {"0": False, "1": True}.get(label))
            lines.setdefault(root + file, []).append(line)
        if twice := [file for file, same in lines.items() if len(same) > 1]:
            raise ValueError(f"has {printable(twice[0])} more than once")
    except (ValueError, csv.Error) as error:
        raise InputError(
            f"{printable(name)}: {error}, expected one line of file,patient,view[,label] for each "
            "file in UTF-8."
        ) from error
    report.digests.append(f"{TABLE} {hashlib.sha256(data).hexdigest()}")
    for file in sorted(lines.keys() - set(files.names)):
        report.add(SKIPPED, "line without a file", name, f"{printable(file)} does not exist")
    return lines


# What is said of the scans of a patient before they are numbered.
_Patients = dict[tuple[str, ...], str]  # the first file of each


def _check_scans(
    images: list[ImageFile],
    root: str,
    table: dict[str, list[_Line]] | None,
    unwrap: bool,
    report: _Report,
    on_file: Callable[[int, int], None] | None,
) -> tuple[list[tuple[tuple[str, ...], _View | None]], _Patients]:
    """Decodes every scan: whose it is and what it holds, None where it cannot be used."""
    if table is not None:
        for file in images:
            if file.name not in table:
                report.add(IGNORED, f"file not in {TABLE}", file.name, f"has no line in {TABLE}")
        images = [file for file in images if file.name in table]

    def check(file: ImageFile) -> tuple[list[_View], str, str]:
        try:
            data = file.read()
            line = table[file.name][0] if table is not None else None
            return _views_of(file, data, line, unwrap), hashlib.sha256(data).hexdigest(), ""
        except (ValueError, InputError) as error:
            phrase = str(error).removeprefix(f"{printable(str(file.path))}: ")
            return [], "", phrase.removesuffix(".")

    views: list[tuple[tuple[str, ...], _View | None]] = []
    found: _Patients = {}
    with ThreadPoolExecutor(usable_cores()) as pool:
        for number, (file, checked) in enumerate(
            zip(images, pool.map(check, images), strict=True), 1
        ):
            scans, digest, wrong = checked
            report.digests.append(f"{file.name.removeprefix(root)} {digest}")
            if wrong:
                report.add(SKIPPED, "scan that cannot be used", file.name, wrong)
                line = table[file.name][0] if table is not None else None
                key = _patient_of(file, line, None)[0] or ("file", file.name)
                found.setdefault(key, file.name)
                views.append((key, None))
            for scan in scans:
                key = scan.patient or ("file", file.name)
                found.setdefault(key, file.name)
                views.append((key, _usable(scan, report)))
            if on_file:
                on_file(number, len(images))
    return views, found


def _views_of(file: ImageFile, data: bytes, line: _Line | None, unwrap: bool) -> list[_View]:
    """The views of one file."""
    frames = decode_own(data, file.path, unwrap=unwrap)
    if line and line.view and len(frames) > 1:
        raise ValueError(f"holds {len(frames)} frames, expected no view in {TABLE}")
    views = []
    for number, frame in enumerate(frames):
        patient, person, view = _patient_of(file, line, frame.dicom)
        view = (line.view if line else None) or frame.view or view
        stem = image_stem(PurePosixPath(file.name).name)
        views.append(
            _View(
                file=file,
                number=number,
                name=f"{stem}-{view}" if len(frames) > 1 else stem,
                view=view,
                patient=patient,
                person=person,
                size=(frame.pixels.shape[0], frame.pixels.shape[1]),
                corner=fit_window(frame.pixels),
                digest=image_digest(frame.pixels),
                counts=float(frame.pixels.sum(dtype=np.float64)) / frame.gain,
                notes=frame.notes,
            )
        )
    return views


def _patient_of(
    file: ImageFile, line: _Line | None, frame: Any  # noqa: ANN401 - DicomFrame or None
) -> tuple[tuple[str, ...] | None, str | None, str | None]:  # fmt: skip
    """Key of a patient's exam, of the person, and the view that a name tells."""
    if line:
        return ("table", line.patient), None, None
    if frame:
        exam = frame.groups[2] or frame.groups[1]
        return (("dicom", exam) if exam else None), frame.person, None
    path = PurePosixPath(file.name)
    if match := _NAMED.fullmatch(image_stem(path.name)):
        return ("named", str(path.parent), match[1]), None, match[2].lower()
    return None, None, None


def _usable(view: _View, report: _Report) -> _View | None:
    """The view, if it is known whose and which it is; says what is in doubt."""
    name = view.file.name
    if view.patient is None or view.view is None:
        what = "patient" if view.patient is None else "view"
        phrase = f"does not say which {what} it is of, expected a line in {TABLE}"
        report.add(SKIPPED, f"unknown {what}", name, phrase)
        return None
    for note in view.notes:
        report.add(NOTED, "file in doubt", name, note)
    if view.counts < _FEW_COUNTS:
        phrase = f"the {view.view} view has about {view.counts:,.0f} counts, expected far more"
        report.add(NOTED, "hardly any counts", name, phrase)
    if min(view.corner) < 0 or max(view.corner) > 0:
        phrase = f"size is {view.size[0]}x{view.size[1]}, padded or cropped to {HEIGHT}x{WIDTH}"
        report.add(NOTED, "another size", name, phrase)
    return view


class _Annotations:
    """The annotation files of a source, looked up by scan."""

    def __init__(
        self, files: SourceFiles, root: str, labels: Mapping[str, int], report: _Report
    ) -> None:
        self.files, self.root, self.labels, self.report = files, root, labels, report
        self.names = set(files.names)
        self.coco: dict[str, list[tuple[str, CocoImage]]] = {}  # by path without suffix
        for name in files.names:
            if name.lower().endswith(".json") and not PurePosixPath(name).name.startswith("."):
                self._read_coco(name)

    def _read_coco(self, name: str) -> None:
        try:
            images = parse_coco(self._read(name, _MAX_JSON), self.labels)
        except ValueError as error:
            raise InputError(f"{printable(name)}: {error}.") from error
        for file_name, image in images.items():
            parent = PurePosixPath(name).parent / PurePosixPath(file_name).parent
            path = str(parent / image_stem(PurePosixPath(file_name).name))
            self.coco.setdefault(path, []).append((name, image))

    def _read(self, name: str, limit: int) -> bytes:
        data = self.files.read(name, limit)
        digest = hashlib.sha256(data).hexdigest()
        self.report.digests.append(f"{name.removeprefix(self.root)} {digest}")
        return data

    def of(self, view: _View) -> tuple[_View | None, bool]:
        """The view with its annotation, None where that cannot be read; whether it has any."""
        folder = PurePosixPath(view.file.name).parent
        xml = [folder / f"{view.name}.xml", folder / "annotations" / f"{view.name}.xml"]
        masks = [folder / f"{view.name}_mask.png", folder / "masks" / f"{view.name}.png"]
        found = [str(path) for path in (*xml, *masks) if str(path) in self.names]
        coco = self.coco.get(str(folder / view.name), [])
        if len(found) + len(coco) > 1:
            others = " and ".join([*found, *(name for name, _ in coco)])
            phrase = f"has several annotations ({printable(others)}), expected one"
            self.report.add(SKIPPED, "several annotations", view.file.name, phrase)
            return None, True
        if not found and not coco:
            return view, False
        name = found[0] if found else coco[0][0]
        try:
            annotated, defects = self._apply(view, name, coco[0][1] if coco else None)
        except ValueError as error:
            reason = "annotation cannot be read"
            annotated, defects = None, [Defect(SKIPPED, reason, str(error))]
        for defect in defects:
            self.report.add(defect.outcome, defect.reason, name, defect.phrase)
        return annotated, True

    def _apply(
        self, view: _View, name: str, coco: CocoImage | None
    ) -> tuple[_View | None, list[Defect]]:
        top, left = view.corner
        if name.endswith(".png"):
            mask = decode_mask(self._read(name, _MAX_JSON), view.size)
            kept = cut_window(mask, view.corner)
            if np.count_nonzero(kept) != np.count_nonzero(mask):
                raise ValueError("marks pixels that the crop about the body leaves out")
            return _replace(view, boxes=mask_boxes(kept), mask=name), []
        if coco:
            boxes, defects = coco.boxes(view.size)
        else:
            boxes, defects = parse_boxes(self._read(name, _MAX_XML), view.size, self.labels)
        if boxes is None:
            return None, defects
        moved = tuple(
            Box(box.xmin - left, box.ymin - top, box.xmax - left, box.ymax - top, box.label)
            for box in boxes
        )
        for box in moved:
            if box.xmin < 0 or box.ymin < 0 or box.xmax > WIDTH or box.ymax > HEIGHT:
                raise ValueError("has a box that the crop about the body cuts")
        return _replace(view, boxes=moved), defects


def _replace(view: _View, **fields: Any) -> _View:  # noqa: ANN401
    return _View(**(view.__dict__ | fields))


def decode_mask(data: bytes, size: tuple[int, int]) -> np.ndarray:
    """Decodes a PNG of class numbers, (H, W) uint8.

    Raises:
        ValueError: another size or other values, to be written after the file's name.
    """
    mask = decode_png(data, LARGEST)
    if mask.shape != size:
        found, expected = ("x".join(map(str, shape)) for shape in (mask.shape, size))
        raise ValueError(f"size is {found}, expected {expected} (height x width) as of the scan")
    if mask.max() > NORMAL:
        raise ValueError(
            f"holds the value {mask.max()}, expected 0 (background), 1 (abnormal) and 2 (normal)"
        )
    return mask.astype(np.uint8)


def mask_boxes(mask: np.ndarray) -> tuple[Box, ...]:
    """The bounds of the 8-connected hot spots of each class in an (H, W) mask."""
    found = mask_to_boxes(mask, np.eye(len(CLASSES), dtype=np.float32)[mask])
    return tuple(Box(*box[:4], box.label) for box in found)


def _annotate(
    views: list[tuple[tuple[str, ...], _View | None]],
    annotations: _Annotations,
    table: dict[str, list[_Line]] | None,
    unannotated: str,
) -> list[tuple[tuple[str, ...], _View | None]]:
    """The views with what is annotated on them; None where that is not known."""
    done = []
    for key, view in views:
        annotated, known = annotations.of(view) if view else (None, True)
        if view and annotated:
            line = table[view.file.name][0] if table else None
            label = line.label if line else None
            annotated = _with_label(annotated, known, label, unannotated, annotations.report)
        done.append((key, annotated))
    return done


def _with_label(
    view: _View, known: bool, label: bool | None, unannotated: str, report: _Report
) -> _View | None:
    """The view, unless its label contradicts its annotation or there is neither."""
    abnormal, name = any(box.label == ABNORMAL for box in view.boxes), view.file.name
    if known and label is not None and label != abnormal:
        phrase = f"{TABLE} says {int(label)}, expected {int(abnormal)} by its annotation"
        report.add(SKIPPED, "label against the annotation", name, phrase)
        return None
    if known or label is False:
        return view
    if label:
        phrase = f"{TABLE} calls it abnormal, expected an annotation of it"
        report.add(SKIPPED, "abnormal without annotation", name, phrase)
        return None
    if unannotated == "empty":
        phrase = "has no annotation, taken to be without hot spots"
        report.add(NOTED, "without annotation", name, phrase)
        return view
    phrase = (
        f"has no annotation for {view.name}, expected one, a label 0 in {TABLE}, or "
        "--unannotated=empty"
    )
    report.add(SKIPPED, "without annotation", name, phrase)
    return None


def _by_patient(
    views: list[tuple[tuple[str, ...], _View | None]],
    found: _Patients,
    table: dict[str, list[_Line]] | None,
    report: _Report,
) -> tuple[dict[tuple[int, str], _View], list[tuple[int, str]]]:
    """The usable views by number of the patient and view, and patient and person of each.

    A patient of whom a view cannot be used is left out. Numbers in patients.csv stay as they are;
    other names are numbered, so that no record holds them.
    """
    numbers = _numbers(found, table)
    grouped: dict[tuple[str, ...], list[_View | None]] = {key: [] for key in found}
    for key, view in views:
        grouped[key].append(view)
    usable: dict[tuple[int, str], _View] = {}
    people: list[tuple[int, str]] = []
    for key, group in grouped.items():
        whole = [view for view in group if view]
        if len(whole) < len(group):
            continue
        by_view = {view.view or "": view for view in whole}
        if len(by_view) < len(whole):
            phrase = f"its patient has several scans of a view, expected one; choose by {TABLE}"
            report.add(SKIPPED, "several scans of one view", found[key], phrase)
            continue
        for missing in sorted(set(VIEWS) - by_view.keys()):
            phrase = f"its patient has no {missing} view: it is black there and never scored"
            report.add(NOTED, "view missing", found[key], phrase)
        number = numbers[key]
        usable |= {(number, view): each for view, each in by_view.items()}
        people += [(number, each.person) for each in whole if each.person]
    return usable, people


def _numbers(found: _Patients, table: dict[str, list[_Line]] | None) -> dict[tuple[str, ...], int]:
    """The number of each patient; by the first of his files where he has none in patients.csv."""
    ids = [key[1] for key in found]
    if table is not None and all(re.fullmatch(r"[1-9]\d{0,8}", name, re.ASCII) for name in ids):
        return {key: int(key[1]) for key in found}
    ordered = sorted(found, key=lambda key: (key[1] if table is not None else "", found[key]))
    return {key: number for number, key in enumerate(ordered, 1)}
