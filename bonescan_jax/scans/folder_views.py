"""The views in a folder of somebody's own scans: decodes each once, and says what is in doubt."""

import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np

from bonescan_jax.cluster.cores import usable_cores
from bonescan_jax.errors import InputError
from bonescan_jax.scans import HEIGHT, VIEWS, WIDTH, Box
from bonescan_jax.scans.duplicates import image_digest
from bonescan_jax.scans.findings import IGNORED, NOTED, SKIPPED, Report, printable
from bonescan_jax.scans.folder_patients import (
    TABLE,
    Line,
    PatientKey,
    Patients,
    Table,
    number_patients,
    patient_of,
)
from bonescan_jax.scans.listing import ImageFile, image_stem
from bonescan_jax.scans.own import decode_own, fit_window

# BS-80K's views have 280,000 counts and more; EANM's guideline asks for 1.5 million in both.
_FEW_COUNTS = 100_000


@dataclass(frozen=True)
class View:
    """What is known of a view before it is read again."""

    file: ImageFile
    number: int  # of the frame in its file
    name: str  # that its annotation has
    view: str | None  # one of VIEWS
    patient: PatientKey | None  # whose scan it is
    person: str | None  # whose exams belong to one person
    size: tuple[int, int]  # height and width in the file
    corner: tuple[int, int]  # see `fit_window`
    digest: str  # of its pixels
    counts: float  # in all of it
    notes: tuple[str, ...]  # phrases about what is in doubt
    boxes: tuple[Box, ...] = ()
    mask: str | None = None  # the file of it


def check_scans(
    images: list[ImageFile],
    table: Table | None,
    unwrap: bool,
    report: Report,
    on_file: Callable[[int, int], None] | None,
) -> tuple[list[tuple[PatientKey, View | None]], Patients]:
    """Decodes every scan.

    Args:
        images: the files.
        table: patients.csv.
        unwrap: 8-bit grey values wrapped past 255.
        report: is told of every file, and of what is wrong or in doubt.
        on_file: called after each file with the number checked and of all.

    Returns:
        Each view with the key of its patient, None where it cannot be used; and all patients.
    """
    if table is not None:
        for file in images:
            if file.name not in table:
                report.add(IGNORED, f"file not in {TABLE}", file.name, f"has no line in {TABLE}")
        images = [file for file in images if file.name in table]

    def check(file: ImageFile) -> tuple[list[View], str, str]:
        try:
            data = file.read()
            line = table[file.name] if table is not None else None
            return _views_of(file, data, line, unwrap), hashlib.sha256(data).hexdigest(), ""
        except (ValueError, InputError) as error:
            phrase = str(error).removeprefix(f"{printable(str(file.path))}: ")
            return [], "", phrase.removesuffix(".")

    views: list[tuple[PatientKey, View | None]] = []
    found: Patients = {}
    with ThreadPoolExecutor(usable_cores()) as pool:
        for number, (file, checked) in enumerate(
            zip(images, pool.map(check, images), strict=True), 1
        ):
            scans, digest, wrong = checked
            report.count_file(file.name, digest)
            if wrong:
                report.add(SKIPPED, "scan that cannot be used", file.name, wrong)
                line = table[file.name] if table is not None else None
                key = patient_of(file, line, None)[0] or ("file", file.name)
                found.setdefault(key, file.name)
                views.append((key, None))
            for scan in scans:
                key = scan.patient or ("file", file.name)
                found.setdefault(key, file.name)
                views.append((key, _usable(scan, report)))
            if on_file:
                on_file(number, len(images))
    return views, found


def _views_of(file: ImageFile, data: bytes, line: Line | None, unwrap: bool) -> list[View]:
    """The views of one file."""
    frames = decode_own(data, file.path, unwrap=unwrap)
    if line and line.view and len(frames) > 1:
        raise ValueError(f"holds {len(frames)} frames, expected no view in {TABLE}")
    views = []
    for number, frame in enumerate(frames):
        patient, person, view = patient_of(file, line, frame.dicom)
        view = (line.view if line else None) or frame.view or view
        stem = image_stem(PurePosixPath(file.name).name)
        views.append(
            View(
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


def _usable(view: View, report: Report) -> View | None:
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


def by_patient(
    views: list[tuple[PatientKey, View | None]],
    found: Patients,
    table: Table | None,
    report: Report,
) -> tuple[dict[tuple[int, str], View], list[tuple[int, str]]]:
    """The usable views by number of the patient and view, and patient and person of each.

    A patient of whom a view cannot be used is left out. Numbers in patients.csv stay as they are;
    other names are numbered, so that no record holds them.
    """
    numbers = number_patients(found, table)
    grouped: dict[PatientKey, list[View | None]] = {key: [] for key in found}
    for key, view in views:
        grouped[key].append(view)
    usable: dict[tuple[int, str], View] = {}
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
