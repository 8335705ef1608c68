"""De-identifies NM DICOM: no header leaves this program otherwise.

Source: Basic Application Level Confidentiality Profile, DICOM PS3.15, Annex E. That profile lists
what to remove; here everything is left out but a short list of what the image needs, so private
and unheard-of elements are gone too. What is kept is rebuilt: numbers as numbers, codes only if
they are terms of the standard, UIDs as keyed hashes, pixels decoded, so that no text of the source
is ever copied.
"""

import hashlib
import hmac
import io
import math
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.datadict import dictionary_VR
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.multival import MultiValue
from pydicom.uid import (
    ExplicitVRLittleEndian,
    MultiFrameGrayscaleByteSecondaryCaptureImageStorage,
    MultiFrameGrayscaleWordSecondaryCaptureImageStorage,
    NuclearMedicineImageStorage,
    SecondaryCaptureImageStorage,
)
from pydicom.valuerep import DSfloat

from bonescan_jax.errors import InputError
from bonescan_jax.scans.dicom import (
    check_whole_body,
    frame_vectors,
    frame_views,
    named_errors,
    read_header,
)
from bonescan_jax.scans.dicom_pixels import DicomError, decode_pixels
from bonescan_jax.scans.findings import printable
from bonescan_jax.scans.listing import ImageFile, list_image_files

METHOD = "PS3.15 Annex E Basic Profile, as an allow-list"
_SOP_CLASSES = (
    NuclearMedicineImageStorage,
    SecondaryCaptureImageStorage,
    MultiFrameGrayscaleByteSecondaryCaptureImageStorage,
    MultiFrameGrayscaleWordSecondaryCaptureImageStorage,
)
_NUMBERS = "numbers"
# Numbers, terms that the standard defines (PS3.3, C.8.4), or what is kept of a sequence's items.
_KEPT: Mapping[str, Any] = {
    "ImageType": {"ORIGINAL", "DERIVED", "PRIMARY", "SECONDARY", "WHOLE BODY", "EMISSION"},
    "Modality": {"NM"},
    "BodyPartExamined": {"WHOLEBODY"},
    "ConversionType": {"DV", "DI", "DF", "WSD", "SD", "SI", "DRW", "SYN"},
    "CountsAccumulated": _NUMBERS,
    "AcquisitionTerminationCondition": {"CNTS", "DENS", "MANU", "OVFL", "TIME", "TRIG"},
    "ActualFrameDuration": _NUMBERS,
    "CountRate": _NUMBERS,
    "ScanVelocity": _NUMBERS,
    "ScanLength": _NUMBERS,
    "WholeBodyTechnique": {"1PS", "2PS", "PCN", "MSP"},
    "SamplesPerPixel": _NUMBERS,
    "PhotometricInterpretation": {"MONOCHROME2"},
    "NumberOfFrames": _NUMBERS,
    "Rows": _NUMBERS,
    "Columns": _NUMBERS,
    "PixelSpacing": _NUMBERS,
    "CorrectedImage": {"UNIF", "COR", "NCO", "DECY", "ATTN", "SCAT", "DTIM", "NRGY", "LIN"},
    "BitsAllocated": _NUMBERS,
    "BitsStored": _NUMBERS,
    "HighBit": _NUMBERS,
    "PixelRepresentation": _NUMBERS,
    "RescaleIntercept": _NUMBERS,
    "RescaleSlope": _NUMBERS,
    "LossyImageCompression": {"00", "01"},
    "EnergyWindowVector": _NUMBERS,
    "NumberOfEnergyWindows": _NUMBERS,
    "EnergyWindowInformationSequence": {
        "EnergyWindowRangeSequence": {
            "EnergyWindowLowerLimit": _NUMBERS,
            "EnergyWindowUpperLimit": _NUMBERS,
        }
    },
    "DetectorVector": _NUMBERS,
    "NumberOfDetectors": _NUMBERS,
    "DetectorInformationSequence": {
        "CollimatorType": {"PARA", "PINH", "FANB", "CONE", "SLNT", "ASTG", "DIVG", "NONE", "UNKN"},
        "FieldOfViewShape": {"RECTANGLE", "ROUND", "HEXAGONAL"},
        "FieldOfViewDimensions": _NUMBERS,
        "ZoomFactor": _NUMBERS,
        "StartAngle": _NUMBERS,
        "ImagePositionPatient": _NUMBERS,
        "ImageOrientationPatient": _NUMBERS,
    },
}
_UIDS = ("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID")
# What an NM file must have, though it may be empty (type 2).
_EMPTY = (
    *("StudyDate", "StudyTime", "AccessionNumber", "Manufacturer", "ReferringPhysicianName"),
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex"),
    *("StudyID", "SeriesNumber", "InstanceNumber", "PositionReferenceIndicator"),
)
_EMPTY_SEQUENCES = (
    "RadiopharmaceuticalInformationSequence",
    "PatientOrientationCodeSequence",
    "PatientGantryRelationshipCodeSequence",
)
_VIEW_CODES = {"anterior": "399321004", "posterior": "399001007"}  # CID 26, SNOMED CT
_RUN_KEY = secrets.token_bytes(32)
# What `deidentify` looks at beside what it keeps.
_READ = (
    *("SOPClassUID", "BurnedInAnnotation", "ImageID", "SeriesDescription"),
    *("PixelData", "ExtendedOffsetTable", "ExtendedOffsetTableLengths"),
)


def deidentify_files(
    source: Path, out: Path, on_file: Callable[[int, int], None] | None = None
) -> tuple[dict[str, Any], list[str]]:
    """De-identifies a file, or the DICOM files below a folder; UIDs that were equal stay equal.

    Args:
        source: a DICOM file, or a folder.
        out: the file to write, or the folder where `source` is one; there must be none yet. The
            files in it are numbered in the order of the source, as names often hold a person's.
        on_file: called after each file with the number done and of all.

    Returns:
        `out`, how many `files` there are, how many were `written` and `refused`; and a sentence for
        each refused file.

    Raises:
        InputError: there is nothing to read, or `out` exists.
        OSError: `out` cannot be written.
    """
    files = list_image_files(source).files
    if out.exists() or out.is_symlink():
        raise InputError(f"{printable(str(out))}: exists, expected a path where nothing is yet")
    out.parent.mkdir(parents=True, exist_ok=True)
    problems = []
    for done, file in enumerate(files, 1):
        try:
            encoded = _deidentify_file(file)
        except InputError as error:
            problems.append(str(error))
        else:
            if source.is_dir():
                out.mkdir(exist_ok=True)
            place = out / f"{done}.dcm" if source.is_dir() else out
            with place.open("xb") as written:
                written.write(encoded)
        if on_file:
            on_file(done, len(files))
    result = {
        "out": str(out),
        "files": len(files),
        "written": len(files) - len(problems),
        "refused": len(problems),
    }
    return result, problems


def _deidentify_file(file: ImageFile) -> bytes:
    data = file.read()
    with named_errors(file.path):
        encoded = io.BytesIO()
        dataset = read_header(data, (*_KEPT, *_UIDS, *_READ))
        deidentify(dataset).save_as(encoded, enforce_file_format=True)
        return encoded.getvalue()


def deidentify(dataset: Dataset, key: bytes = _RUN_KEY) -> Dataset:
    """Builds a dataset that holds the image, how to read it, and nothing of a person or place.

    Views that only free text told (Image ID, Series Description) are written as View Code Sequence.

    Args:
        dataset: whole-body NM image with its file_meta, compressed or not; stays as it is.
        key: UIDs that were equal are equal again if de-identified with the same key. Whoever has it
            can recognise a UID that he knows; left out, it is random and ends with this process.

    Returns:
        Uncompressed, Explicit VR Little Endian, with file_meta, ready to be saved.

    Raises:
        DicomError: no whole-body NM image, a damaged one, or one that may have a name burned into
            its pixels.
    """
    check_whole_body(dataset)
    if dataset.get("SOPClassUID") not in _SOP_CLASSES:
        raise DicomError("SOP Class is another one, expected an NM or Secondary Capture image")
    burned_in = dataset.get("BurnedInAnnotation")
    if burned_in == "YES" or (
        dataset.SOPClassUID != NuclearMedicineImageStorage and burned_in != "NO"
    ):
        found = "YES" if burned_in == "YES" else "not NO"
        raise DicomError(
            f"Burned In Annotation is {found}, expected pixels that are said to hold no name"
        )
    pixels = decode_pixels(dataset)
    kept = _keep(dataset, _KEPT)
    kept.SOPClassUID = dataset.SOPClassUID
    for keyword in _UIDS:
        setattr(kept, keyword, _new_uid(dataset.get(keyword) or secrets.token_hex(), key))
    for keyword in _EMPTY:
        setattr(kept, keyword, None)
    for keyword in _EMPTY_SEQUENCES:
        setattr(kept, keyword, [])
    _write_views(kept, *_views(dataset, len(pixels)))
    _write_pixels(kept, pixels)
    kept.PatientIdentityRemoved = "YES"
    kept.DeidentificationMethod = METHOD
    kept.DeidentificationMethodCodeSequence = [
        _code("113100", "DCM", "Basic Application Confidentiality Profile")
    ]
    kept.LongitudinalTemporalInformationModified = "REMOVED"
    kept.file_meta = FileMetaDataset()
    kept.file_meta.MediaStorageSOPClassUID = kept.SOPClassUID
    kept.file_meta.MediaStorageSOPInstanceUID = kept.SOPInstanceUID
    kept.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return kept


def _keep(source: Dataset, rules: Mapping[str, Any]) -> Dataset:
    """Rebuilds what the rules name."""
    kept = Dataset()
    for keyword, rule in rules.items():
        value = source.get(keyword)
        if value is None:
            continue
        if isinstance(rule, Mapping):
            items = [_keep(item, rule) for item in value if isinstance(item, Dataset)]
            setattr(kept, keyword, items)
            continue
        values = value if isinstance(value, MultiValue | list | tuple) else [value]
        rebuilt = (
            _numbers(values, dictionary_VR(keyword)) if rule is _NUMBERS else _terms(values, rule)
        )
        if rebuilt:
            setattr(kept, keyword, rebuilt if len(rebuilt) > 1 else rebuilt[0])
    return kept


def _numbers(values: Any, vr: str) -> list[Any]:  # noqa: ANN401
    """The values as fresh numbers; none if one of them is no number."""
    try:
        numbers = [float(value) for value in values]
    except (TypeError, ValueError, OverflowError):
        return []
    if not all(map(math.isfinite, numbers)):
        return []
    return [DSfloat(number, auto_format=True) if vr == "DS" else int(number) for number in numbers]


def _terms(values: Any, allowed: set[str]) -> list[str]:  # noqa: ANN401
    """The values up to the first that is no term of the standard."""
    known = [value in allowed for value in map(str, values)]
    return [str(value) for value in values[: [*known, False].index(False)]]


def _new_uid(uid: str, key: bytes) -> str:
    """A UID under 2.25 (PS3.5, B.2) that tells nothing of the old one without the key."""
    digest = hmac.new(key, str(uid).encode(), hashlib.sha256).digest()
    return f"2.25.{int.from_bytes(digest[:16], 'big')}"


def _views(dataset: Dataset, frames: int) -> tuple[list[str | None], list[int]]:
    _, detectors = frame_vectors(dataset, frames)
    return frame_views(dataset, detectors), detectors


def _write_views(kept: Dataset, views: list[str | None], detectors: list[int]) -> None:
    """Says each frame's view in the standard code of its detector."""
    if len(views) == 1 and views[0] and not kept.get("DetectorInformationSequence"):
        kept.DetectorInformationSequence = [Dataset()]
        kept.DetectorVector, kept.NumberOfDetectors, detectors = 1, 1, [1]
    items = kept.get("DetectorInformationSequence") or []
    for view, number in zip(views, detectors, strict=True):
        if view and 1 <= number <= len(items):
            items[number - 1].ViewCodeSequence = [view_code(view)]
    # Frames are indexed by energy window, then detector.
    kept.FrameIncrementPointer = [0x00540010, 0x00540020]


def _write_pixels(kept: Dataset, pixels: np.ndarray) -> None:
    """Writes (F, H, W) values: neither a codestream's comments nor unused bits come along."""
    bits, kind = kept.BitsAllocated, "i" if kept.PixelRepresentation else "u"
    data = pixels.astype(f"<{kind}{bits // 8}").tobytes()
    kept.add_new("PixelData", "OB" if bits == 8 else "OW", data + b"\0" * (len(data) % 2))


def view_code(view: str) -> Dataset:
    """The code of a view, an item of View Code Sequence (CID 26)."""
    return _code(_VIEW_CODES[view], "SCT", f"{view.title()} projection")


def _code(value: str, scheme: str, meaning: str) -> Dataset:
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = value, scheme, meaning
    return code
