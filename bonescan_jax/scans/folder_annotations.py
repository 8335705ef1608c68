"""The annotations in a folder of somebody's own scans: VOC, COCO and masks, looked up by scan."""

import dataclasses
import hashlib
from collections.abc import Mapping
from pathlib import PurePosixPath

import numpy as np

from bonescan_jax.errors import InputError
from bonescan_jax.scans import ABNORMAL, CLASSES, HEIGHT, NORMAL, WIDTH, Box
from bonescan_jax.scans.annotations import CocoImage, parse_boxes, parse_coco
from bonescan_jax.scans.files import decode_png
from bonescan_jax.scans.findings import NOTED, SKIPPED, Defect, Report, printable
from bonescan_jax.scans.folder_patients import TABLE, PatientKey, Table
from bonescan_jax.scans.folder_views import View
from bonescan_jax.scans.listing import image_stem
from bonescan_jax.scans.masks import mask_to_boxes
from bonescan_jax.scans.own import LARGEST, cut_window
from bonescan_jax.scans.source import SourceFiles

UNANNOTATED = ("skip", "empty")  # what a scan without annotation is: unknown, or without hot spots
_MAX_XML, _MAX_JSON, _MAX_MASK = 1 << 20, 1 << 28, 1 << 28  # bytes


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


def is_mask(name: str) -> bool:
    """Whether a file is a mask by its name, not a scan."""
    path = PurePosixPath(name.lower())
    return path.suffix == ".png" and (path.stem.endswith("_mask") or path.parent.name == "masks")


class Annotations:
    """The annotation files of a source, looked up by scan."""

    def __init__(self, files: SourceFiles, labels: Mapping[str, int], report: Report) -> None:
        self.files, self.labels, self.report = files, labels, report
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
        self.report.count_file(name, digest)
        return data

    def of(self, view: View) -> tuple[View | None, bool]:
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
        self, view: View, name: str, coco: CocoImage | None
    ) -> tuple[View | None, list[Defect]]:
        top, left = view.corner
        if name.endswith(".png"):
            mask = _decode_mask(self._read(name, _MAX_MASK), view.size)
            kept = cut_window(mask, view.corner)
            if np.count_nonzero(kept) != np.count_nonzero(mask):
                raise ValueError("marks pixels that the crop about the body leaves out")
            return dataclasses.replace(view, boxes=_mask_boxes(kept), mask=name), []
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
        return dataclasses.replace(view, boxes=moved), defects


def read_mask(view: View, name: str) -> np.ndarray:
    """Reads the mask of a view again, cut as the record holds it: (1024, 256) uint8.

    Raises:
        ValueError: it cannot be read any more, to be written after the file's name.
    """
    whole = decode_png(view.file.source.read(name, _MAX_MASK), LARGEST).astype(np.uint8)
    return cut_window(whole, view.corner)


def _decode_mask(data: bytes, size: tuple[int, int]) -> np.ndarray:
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


def _mask_boxes(mask: np.ndarray) -> tuple[Box, ...]:
    """The bounds of the 8-connected hot spots of each class in an (H, W) mask."""
    found = mask_to_boxes(mask, np.eye(len(CLASSES), dtype=np.float32)[mask])
    return tuple(Box(*box[:4], box.label) for box in found)


def annotate_views(
    views: list[tuple[PatientKey, View | None]],
    annotations: Annotations,
    table: Table | None,
    unannotated: str,
) -> list[tuple[PatientKey, View | None]]:
    """The views with what is annotated on them; None where that is not known."""
    done = []
    for key, view in views:
        annotated, known = annotations.of(view) if view else (None, True)
        if view and annotated:
            line = table[view.file.name] if table else None
            label = line.label if line else None
            annotated = _with_label(annotated, known, label, unannotated, annotations.report)
        done.append((key, annotated))
    return done


def _with_label(
    view: View, known: bool, label: bool | None, unannotated: str, report: Report
) -> View | None:
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
