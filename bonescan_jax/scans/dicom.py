"""Reads whole-body nuclear medicine (NM) DICOM: counts and view of each frame, nothing personal."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pydicom
from pydicom.errors import InvalidDicomError
from pydicom.uid import NuclearMedicineImageStorage

from bonescan_jax.errors import InputError

# CID 26 Nuclear Medicine Projections: SNOMED CT, and SNOMED RT in files from before 2019.
_VIEW_CODES = {
    "399321004": "anterior",
    "G-5215": "anterior",
    "399001007": "posterior",
    "G-5216": "posterior",
}
_ANTERIOR = re.compile(r"\bANT(ERIOR)?\b")
# "POST" is also Latin for "after": "POST INJ", "POST 3H".
_POSTERIOR = re.compile(r"\bPOSTERIOR\b|\bPOST\b(?! *(\d|INJ|OP|SURG|THER|TREAT|CHEMO|VOID|MICT))")
_NEITHER = re.compile(r"\b(OBL|OBLIQUE|LAT|LATERAL|LAO|RAO|LPO|RPO)\b")


class DicomFrame(NamedTuple):
    """One view at one energy window. Free text and identifiers of the file are left behind."""

    view: str | None  # one of VIEWS; None: the file does not say
    energy_window: int  # from 1
    pixels: np.ndarray  # (H, W) float32, counts
    pixel_spacing: tuple[float, float] | None  # mm between rows, mm between columns
    counts_accumulated: int | None  # of the whole file, as it declares them


def read_dicom(path: Path) -> list[DicomFrame]:
    """Reads the frames of an NM whole-body file, compressed or not, signed or not.

    Secondary Capture is read too if its Modality is NM: converted scans come that way. The view
    comes from the View Code Sequence of the frame's detector, else, if there is one frame, from
    Image ID or Series Description; never from the frame's place in the file.

    Raises:
        InputError: no DICOM, or no whole-body NM image of grey counts of zero or more.
    """
    try:
        dataset = pydicom.dcmread(path)
        _check(path, dataset)
        pixels = dataset.pixel_array
        return _frames(path, dataset, pixels if pixels.ndim == 3 else pixels[None])
    except InputError:
        raise
    except InvalidDicomError as error:
        raise InputError(f"{path}: is no DICOM file, expected one with the DICM prefix.") from error
    except Exception as error:  # pydicom and gdcm raise what the damaged part makes them raise
        raise InputError(f"{path}: cannot be read as DICOM ({error}).") from error


def _check(path: Path, dataset: pydicom.Dataset) -> None:
    """Refuses what is no grey whole-body NM image."""
    image_type = list(dataset.get("ImageType") or [])
    is_nm_image = dataset.get("SOPClassUID") == NuclearMedicineImageStorage
    if is_nm_image and len(image_type) > 2:
        _expect(path, "Image Type, value 3,", image_type[2], ("WHOLE BODY",))
    _expect(path, "Modality", dataset.get("Modality"), ("NM",))
    _expect(path, "Pixel Data", "present" if "PixelData" in dataset else None, ("present",))
    _expect(path, "Samples per Pixel", dataset.get("SamplesPerPixel"), (1,))
    interpretation = dataset.get("PhotometricInterpretation")
    _expect(path, "Photometric Interpretation", interpretation, ("MONOCHROME2",))
    _expect(path, "Bits Allocated", dataset.get("BitsAllocated"), (16, 8))


def _expect(path: Path, field: str, found: object, expected: tuple[Any, ...]) -> None:
    if found not in expected:
        found = "missing" if found is None else found
        raise InputError(f"{path}: {field} is {found}, expected {' or '.join(map(str, expected))}.")


def _frames(path: Path, dataset: pydicom.Dataset, pixels: np.ndarray) -> list[DicomFrame]:
    """Pairs (F, H, W) pixels with what the file says of each frame."""
    if "RescaleSlope" in dataset:
        pixels = pixels * float(dataset.RescaleSlope) + float(dataset.get("RescaleIntercept", 0))
    if pixels.min() < 0:
        raise InputError(f"{path}: Pixel Data goes down to {pixels.min()}, expected counts from 0.")
    detectors = dataset.get("DetectorInformationSequence") or []
    # A file without the vectors is in the order of NM whole body: all detectors of the first
    # energy window, then those of the next.
    order = [divmod(frame, max(1, len(detectors))) for frame in range(len(pixels))]
    windows = _vector(path, dataset, "EnergyWindowVector", [window + 1 for window, _ in order])
    numbers = _vector(path, dataset, "DetectorVector", [detector + 1 for _, detector in order])
    views = [_detector_view(detectors, number) for number in numbers]
    if views == [None]:
        views = [_view_in(dataset.get("ImageID")) or _view_in(dataset.get("SeriesDescription"))]
    spacing = dataset.get("PixelSpacing")
    counts = dataset.get("CountsAccumulated")
    return [
        DicomFrame(
            view=view,
            energy_window=window,
            pixels=frame.astype(np.float32),
            pixel_spacing=(float(spacing[0]), float(spacing[1])) if spacing else None,
            counts_accumulated=None if counts is None else int(counts),
        )
        for view, window, frame in zip(views, windows, pixels, strict=True)
    ]


def _vector(path: Path, dataset: pydicom.Dataset, keyword: str, default: list[int]) -> list[int]:
    """A number for each frame, from 1."""
    if dataset.get(keyword) is None:
        return default
    vector = np.atleast_1d(dataset[keyword].value).astype(int).tolist()
    if len(vector) != len(default):
        raise InputError(
            f"{path}: {keyword} has {len(vector)} values, expected one for each of the "
            f"{len(default)} frames."
        )
    return vector


def _detector_view(detectors: Sequence[pydicom.Dataset], number: int) -> str | None:
    """The view of a detector by its View Code Sequence: the code, else its meaning in words."""
    if not 1 <= number <= len(detectors):
        return None
    for code in detectors[number - 1].get("ViewCodeSequence") or []:
        view = _VIEW_CODES.get(code.get("CodeValue")) or _view_in(code.get("CodeMeaning"))
        if view:
            return view
    return None


def _view_in(text: str | None) -> str | None:
    """The view that free text names, if it names exactly one and no oblique or lateral one."""
    words = re.sub(r"[^A-Z0-9]+", " ", (text or "").upper())
    if _NEITHER.search(words):
        return None
    anterior, posterior = bool(_ANTERIOR.search(words)), bool(_POSTERIOR.search(words))
    return {(True, False): "anterior", (False, True): "posterior"}.get((anterior, posterior))
