"""Reads the whole-body part of BS-80K, from its folder or its zip file, and checks all of it.

Layout (Huang et al. 2022, doi 10.1016/j.compbiomed.2022.106221), at the root or one folder deeper:

    wholeBodyANT/<id>.jpg    wholeBodyANT/wholeBodyANT.txt      wholeBodyANT/ant/<id>.xml
    wholeBodyPOST/<id>.jpg   wholeBodyPOST/wholeBodyPOST.txt    wholeBodyPOST/post/<id>.xml

A view without an XML file has no hot spots. The folders of body regions are not read.
"""

import hashlib
import os
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from bonescan_jax.errors import InputError
from bonescan_jax.scans import HEIGHT, VIEWS, WIDTH, Box, Scan
from bonescan_jax.scans.annotations import parse_boxes, parse_labels
from bonescan_jax.scans.jpeg import decode_jpeg, read_jpeg_header

FOLDERS = {"anterior": "wholeBodyANT", "posterior": "wholeBodyPOST"}
XML_FOLDERS = {"anterior": "ant", "posterior": "post"}


class Duplicates(NamedTuple):
    """Ids of BS-80K that are one and the same patient."""

    patients: tuple[int, ...]
    reason: str


_SAME_IMAGES = "identical images under two ids, so one person"
KNOWN_DUPLICATES = (
    Duplicates((828, 2244), _SAME_IMAGES),
    Duplicates((312, 570), _SAME_IMAGES),
    Duplicates((831, 3216), _SAME_IMAGES),
    Duplicates((832, 3245), _SAME_IMAGES),
)


class _View(NamedTuple):
    """What is known about one checked view; its image stays in the source until it is asked for."""

    image_path: str
    boxes: tuple[Box, ...]
    abnormal: bool


@dataclass
class _Findings:
    """What the checks of a source collect."""

    defects: list[str]  # sentences
    digests: list[str]  # "<path> <sha256>" of each file that counts


@dataclass(frozen=True)
class BS80KSource:
    """A checked source. Iterating gives every scan, by patient, anterior before posterior."""

    patients: tuple[int, ...]  # sorted
    fingerprint: str  # sha256 over every file that counts; a folder and its zip have the same
    _views: dict[tuple[int, str], _View]
    _read: Callable[[str], bytes]

    def read_patient(self, patient: int) -> tuple[Scan, Scan]:
        """Reads the anterior and the posterior scan of a patient of this source."""
        anterior, posterior = (self._read_scan(patient, view) for view in VIEWS)
        return anterior, posterior

    def __iter__(self) -> Iterator[Scan]:
        for patient in self.patients:
            yield from self.read_patient(patient)

    def _read_scan(self, patient: int, view: str) -> Scan:
        path, boxes, abnormal = self._views[patient, view]
        return Scan(patient, view, self._read(path), boxes, abnormal)


def open_bs80k(source: Path) -> BS80KSource:
    """Opens a folder or a zip file laid out as BS-80K and checks every file of it.

    Nothing is extracted to disk. Every image is decoded once.

    Raises:
        InputError: the source cannot be read, or files in it are wrong: then one line a defect
            (file relative to the source, field, found, expected) and a last line counting them.
    """
    paths, read = _list_zip(source) if source.is_file() else _list_folder(source)
    root = _find_root(source, paths)
    findings = _Findings([], [])
    views: dict[tuple[int, str], _View] = {}
    for view in VIEWS:
        views |= _check_view(view, root, paths, read, findings)
    for patient, view in sorted(views):
        other = VIEWS[1 - VIEWS.index(view)]
        if (patient, other) not in views:
            findings.defects.append(
                f"{views[patient, view].image_path}: has no {other} view beside it, "
                f"expected {root}{FOLDERS[other]}/{patient}.jpg."
            )
    if not views:
        findings.defects.append(f"{root}{FOLDERS['anterior']}: no image, expected <id>.jpg files.")
    if count := len(findings.defects):
        total = f"{source}: {count} defect{'s' * (count > 1)}, expected none."
        raise InputError("\n".join([*findings.defects, total]))
    patients = tuple(sorted({patient for patient, _ in views}))
    fingerprint = hashlib.sha256("\n".join(sorted(findings.digests)).encode()).hexdigest()
    return BS80KSource(patients, fingerprint, views, read)


def _list_folder(source: Path) -> tuple[list[str], Callable[[str], bytes]]:
    if not source.is_dir():
        raise InputError(f"{source}: does not exist, expected BS-80K's folder or zip file.")
    names = []
    for folder in FOLDERS.values():
        for pattern in (f"{folder}/**/*", f"*/{folder}/**/*"):
            files = (path for path in source.glob(pattern) if path.is_file())
            names += [path.relative_to(source).as_posix() for path in files]
    return sorted(names), lambda name: (source / name).read_bytes()


def _list_zip(source: Path) -> tuple[list[str], Callable[[str], bytes]]:
    try:
        archive = zipfile.ZipFile(source)
    except (zipfile.BadZipFile, OSError) as error:
        raise InputError(f"{source}: is no readable zip file ({error}).") from error
    files = [info for info in archive.infolist() if not info.is_dir()]
    if any(info.flag_bits & 1 for info in files):
        raise InputError(f"{source}: is encrypted, expected a zip file without a password.")
    return sorted(info.filename for info in files), archive.read


def _find_root(source: Path, paths: list[str]) -> str:
    """The folder that holds BS-80K's folders: "", or a name with a slash after it."""
    roots: dict[str, set[str]] = {}
    for path in paths:
        parts = PurePosixPath(path).parts
        for depth in range(min(2, len(parts) - 1)):
            if parts[depth] in FOLDERS.values() and parts[0] != "__MACOSX":
                root = "".join(f"{part}/" for part in parts[:depth])
                roots.setdefault(root, set()).add(parts[depth])
    expected = " and ".join(FOLDERS.values())
    if len(roots) != 1:
        found = "none of them" if not roots else f"them in {len(roots)} places"
        raise InputError(
            f"{source}: holds {found}, expected the folders {expected} with files in them, "
            "once, at the root or one folder deeper."
        )
    ((root, folders),) = roots.items()
    if missing := [folder for folder in FOLDERS.values() if folder not in folders]:
        raise InputError(f"{source}: {root}{missing[0]} holds no file, expected {expected}.")
    return root


def _check_view(
    view: str, root: str, paths: list[str], read: Callable[[str], bytes], findings: _Findings
) -> dict[tuple[int, str], _View]:
    """Reads and checks all files of one view."""
    folder = f"{root}{FOLDERS[view]}"
    xml_folder = f"{folder}/{XML_FOLDERS[view]}"
    labels_path = f"{folder}/{FOLDERS[view]}.txt"
    images = _numbered(paths, folder, ".jpg", findings)
    annotations = _numbered(paths, xml_folder, ".xml", findings)

    parsers = dict.fromkeys(images.values(), _check_image)
    parsers |= dict.fromkeys(annotations.values(), parse_boxes)
    if labels_path in paths:
        parsers[labels_path] = parse_labels
    else:
        findings.defects.append(f"{labels_path}: is missing, expected '<id>.jpg 0|1' lines.")
    parsed = _parse(parsers, root, read, findings)

    labels = parsed.get(labels_path)
    if labels is not None:
        for patient in sorted(images.keys() ^ labels.keys()):
            lacking = "image" if patient in labels else "line"
            findings.defects.append(
                f"{labels_path}: {patient}.jpg has no {lacking}, "
                f"expected {folder}/{patient}.jpg and a line '{patient}.jpg 0|1'."
            )
        if any(labels.values()) and not annotations:
            findings.defects.append(
                f"{xml_folder}: holds no XML file though {labels_path} calls images abnormal, "
                "expected <id>.xml files."
            )
    for patient in sorted(annotations.keys() - images.keys()):
        findings.defects.append(
            f"{annotations[patient]}: has no image, expected {folder}/{patient}.jpg."
        )
    return {
        (patient, view): _View(
            image_path=path,
            boxes=parsed.get(annotations.get(patient)) or (),  # no XML file: no hot spots
            abnormal=bool(labels and labels.get(patient)),
        )
        for patient, path in images.items()
    }


def _parse(
    parsers: dict[str, Callable[[bytes], tuple[Any, list[str]]]],
    root: str,
    read: Callable[[str], bytes],
    findings: _Findings,
) -> dict[str, Any]:
    """Reads each file and parses it: what each holds, by path."""

    def parse(path: str) -> tuple[Any, list[str], str]:
        try:
            data = read(path)
        except (OSError, EOFError, NotImplementedError, zipfile.BadZipFile, zlib.error) as error:
            return None, [f"cannot be read ({error})"], ""
        return *parsers[path](data), hashlib.sha256(data).hexdigest()

    parsed = {}
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # decoding leaves the interpreter free
        for path, (value, defects, digest) in zip(parsers, pool.map(parse, parsers), strict=True):
            parsed[path] = value
            findings.defects += [f"{path}: {defect}." for defect in defects]
            findings.digests.append(f"{path.removeprefix(root)} {digest}")
    return parsed


def _numbered(paths: list[str], folder: str, suffix: str, findings: _Findings) -> dict[int, str]:
    """The files <folder>/<id><suffix> by id, sorted."""
    numbered = {}
    for path in paths:
        parent, _, name = path.rpartition("/")
        if parent == folder and name.endswith(suffix) and not name.startswith("."):
            if re.fullmatch(r"[1-9]\d*", name.removesuffix(suffix), re.ASCII):
                numbered[int(name.removesuffix(suffix))] = path
            else:
                findings.defects.append(
                    f"{path}: name is no patient number, expected <id>{suffix}."
                )
    return dict(sorted(numbered.items()))


def _check_image(data: bytes) -> tuple[None, list[str]]:
    """Keeps no pixels: the image is read again when it is asked for."""
    defects = []
    try:
        header = read_jpeg_header(data)
        if (header.width, header.height) != (WIDTH, HEIGHT):
            defects.append(
                f"size is {header.width}x{header.height}, expected {WIDTH}x{HEIGHT} "
                "(width x height)"
            )
        decode_jpeg(data)
    except ValueError as error:
        defects.append(str(error))
    return None, defects
