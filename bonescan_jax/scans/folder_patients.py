"""Whose scans they are in a folder of somebody's own: patients.csv, DICOM headers, file names."""

import csv
import hashlib
import io
import re
from pathlib import PurePosixPath
from typing import NamedTuple

from bonescan_jax.errors import InputError
from bonescan_jax.scans import VIEWS
from bonescan_jax.scans.dicom import DicomFrame
from bonescan_jax.scans.findings import SKIPPED, Report, printable
from bonescan_jax.scans.listing import ImageFile, image_stem
from bonescan_jax.scans.source import SourceFiles

TABLE = "patients.csv"
_MAX_TABLE = 1 << 24  # bytes
_NAMED = re.compile(r"(.+)[-_](anterior|posterior)", re.IGNORECASE)

PatientKey = tuple[str, ...]  # of a patient's exam, as long as this process runs
Patients = dict[PatientKey, str]  # the first file of each, which sentences about him name


class Line(NamedTuple):
    """What patients.csv says of a file."""

    patient: str
    view: str | None  # one of VIEWS; None: the file says it
    label: bool | None  # whether it is abnormal; None: its annotation says it


Table = dict[str, Line]  # by the file's name in the source


def read_table(root: str, files: SourceFiles, report: Report) -> Table | None:
    """The lines of patients.csv; None where there is no such file.

    Args:
        root: the folder that all files lie in, with a slash after it, or "".
        files: the source.
        report: is told of files that are not there.

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
        lines: dict[str, list[Line]] = {}
        for number, row in enumerate(reader, 2):
            cells = {key: (value or "").strip() for key, value in row.items() if key}
            file, patient, view = cells["file"], cells["patient"], cells["view"].lower()
            label = cells.get("label", "")
            if not file or not patient or view not in ("", *VIEWS) or label not in ("", "0", "1"):
                raise ValueError(
                    f"line {number} is no file, patient, view ({' or '.join(VIEWS)}, or nothing "
                    "where the file says it) and label (0, 1 or nothing)"
                )
            line = Line(patient, view or None, {"0": False, "1": True}.get(label))
            lines.setdefault(root + file, []).append(line)
        if twice := [file for file, same in lines.items() if len(same) > 1]:
            raise ValueError(f"has {printable(twice[0])} more than once")
    except (ValueError, csv.Error) as error:
        raise InputError(
            f"{printable(name)}: {error}, expected one line of file,patient,view[,label] for each "
            "file in UTF-8."
        ) from error
    report.count_file(TABLE, hashlib.sha256(data).hexdigest())
    for file in sorted(lines.keys() - set(files.names)):
        report.add(SKIPPED, "line without a file", name, f"{printable(file)} does not exist")
    return {file: line for file, (line,) in lines.items()}


def patient_of(
    file: ImageFile, line: Line | None, frame: DicomFrame | None
) -> tuple[PatientKey | None, str | None, str | None]:
    """Whose scan a file is: by its line in patients.csv, else by its header, else by its name.

    Returns:
        Key of the patient's exam, the person in the header, and the view that the name tells; each
        None where it is not known.
    """
    if line:
        return ("table", line.patient), None, None
    if frame:
        exam = frame.groups[2] or frame.groups[1]
        return (("dicom", exam) if exam else None), frame.person, None
    path = PurePosixPath(file.name)
    if match := _NAMED.fullmatch(image_stem(path.name)):
        return ("named", str(path.parent), match[1]), None, match[2].lower()
    return None, None, None


def number_patients(found: Patients, table: Table | None) -> dict[PatientKey, int]:
    """The number of each patient; by the first of his files where he has none in patients.csv."""
    ids = [key[1] for key in found]
    if table is not None and all(re.fullmatch(r"[1-9]\d{0,8}", name, re.ASCII) for name in ids):
        return {key: int(key[1]) for key in found}
    ordered = sorted(found, key=lambda key: (key[1] if table is not None else "", found[key]))
    return {key: number for number, key in enumerate(ordered, 1)}
