"""Reads whole-body nuclear medicine (NM) DICOM: counts and view of each frame, nothing personal."""

import contextlib
import hashlib
import io
import math
import re
import secrets
import warnings
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pydicom
from pydicom.tag import Tag
from pydicom.uid import (
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    NuclearMedicineImageStorage,
)

from bonescan_jax.errors import InputError
from bonescan_jax.scans import VIEWS
from bonescan_jax.scans.dicom_pixels import (
    DicomError,
    check_pixels,
    check_transfer_syntax,
    decode_pixels,
)
from bonescan_jax.scans.findings import printable

MAX_BYTES = 1 << 28  # of a file; the largest image that is decoded takes 2**25
# CID 26 Nuclear Medicine Projections: SNOMED CT, and SNOMED RT in files from before 2019.
_VIEW_CODES = {
    "399321004": "anterior",
    "G-5215": "anterior",
    "399001007": "posterior",
    "G-5216": "posterior",
}
# "POST" is also Latin for "after" ("POST INJ", "3H POST", "POST MASTECTOMY"), so an abbreviation
# counts only in Image ID, and only beside words that cannot give it that sense: a whole-body scan's
# name, E for emission, the number of one of two detectors.
_WHOLE_BODY = "(?:WB|WHOLE|BODY|WHOLEBODY|BONE|SCAN|VIEW|EMISSION|E)"
_ABBREVIATED = re.compile(f"(?:{_WHOLE_BODY} )*(ANT|POST)(?: {_WHOLE_BODY})*(?: ?[12])?")
_ABBREVIATIONS = {"ANT": "anterior", "POST": "posterior"}
_NEITHER = re.compile(r"\b(OBL|OBLIQUE|LAT|LATERAL|LAO|RAO|LPO|RPO|AP|PA|(ANTERO|POSTERO)\w*)\b")
# Values 3 and 4 of Image Type (PS3.3, C.8.4.9) of what is no whole-body emission image.
_OTHER_IMAGES = {
    *("STATIC", "DYNAMIC", "GATED", "TOMO", "GATED TOMO", "RECON TOMO", "RECON GATED TOMO"),
    "TRANSMISSION",
}
# Pixels of BS-80K, about; the network knows patients of that size, give or take its augmentation.
_SPACING = 2.26  # mm
_SPACING_NOTED = 1.1  # augment.scale of the default configuration
_SPACING_REFUSED = 1.5  # a patient of two thirds of the size is one that no training showed
# Nothing else of a header is even parsed.
_KEYWORDS = (
    *("SOPClassUID", "ImageType", "Modality", "ImageID", "SeriesDescription"),
    *("PatientID", "SOPInstanceUID", "StudyInstanceUID", "FrameOfReferenceUID"),  # hashed only
    *("NumberOfFrames", "Rows", "Columns", "PixelSpacing", "CountsAccumulated"),
    *("SamplesPerPixel", "PhotometricInterpretation", "PixelRepresentation"),
    *("BitsAllocated", "BitsStored", "HighBit", "RescaleSlope", "RescaleIntercept"),
    *("DetectorInformationSequence", "DetectorVector"),
    *("EnergyWindowInformationSequence", "EnergyWindowVector"),
    *("PixelData", "ExtendedOffsetTable", "ExtendedOffsetTableLengths"),
)
_UNCOMPRESSED = {  # by: implicit VR, little endian
    (True, True): ImplicitVRLittleEndian,
    (False, True): ExplicitVRLittleEndian,
    (False, False): ExplicitVRBigEndian,
}
_PREFIX = slice(128, 132)  # b"DICM"
# The first element of a file without preamble: of group 2 (File Meta Information) or group 8, its
# tag in either byte order and after it a VR or an implicit length of less than 64 KiB.
_BARE = re.compile(
    rb"[\x02\x08]\x00[\x00-\x18]\x00(?:[A-Z]{2}|..\x00\x00)"
    rb"|\x00\x08\x00[\x00-\x18][A-Z]{2}",
    re.DOTALL,
)
_MAX_COUNT = 1 << 24  # float32 holds every whole number up to here
_HASH_KEY = secrets.token_bytes(32)  # lives and dies with this process

# pydicom's warnings quote the file.
pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
warnings.filterwarnings("ignore", module=r"pydicom\.")


class DicomFrame(NamedTuple):
    """One view at one energy window. Free text and identifiers of the file are left behind."""

    view: str | None  # one of VIEWS; None: the file does not say
    energy_window: int  # from 1
    energy_range: tuple[float, float] | None  # keV; of the window, if it is one range
    pixels: np.ndarray  # (H, W) float32, counts
    pixel_spacing: tuple[float, float] | None  # mm between rows, mm between columns
    counts_accumulated: int | None  # of the whole file, as it declares them
    notes: tuple[str, ...]  # phrases about what the file leaves in doubt
    # Equal for the frames of one file, acquisition, study: hashes with a key of this process, so
    # that nobody can find the identifier that gives them.
    groups: tuple[str | None, str | None, str | None]
    person: str | None = None  # such a hash of PatientID


class ViewPair(NamedTuple):
    """The two views of one acquisition."""

    anterior: DicomFrame
    posterior: DicomFrame


def is_dicom(data: bytes) -> bool:
    """Whether a file begins as DICOM does: with the prefix, or without and with an element."""
    return data[_PREFIX] == b"DICM" or _BARE.match(data) is not None


def read_dicom(path: Path) -> list[DicomFrame]:
    """Reads the frames of an NM whole-body file, compressed or not, signed or not.

    Secondary Capture is read too if its Modality is NM: converted scans come that way. The view
    comes from the View Code Sequence of the frame's detector, else, if there is one frame, from
    Image ID or Series Description; never from the frame's place in the file. A file without
    preamble is read if its Pixel Data has exactly the size that its header declares.

    Raises:
        InputError: no DICOM, or no whole-body NM image of grey counts of zero or more.
    """
    return decode_dicom(read_bytes(path), path)


def decode_dicom(data: bytes, path: Path) -> list[DicomFrame]:
    """`read_dicom` of a file's bytes; its path is for errors."""
    with named_errors(path):
        dataset = read_header(data, _KEYWORDS)
        check_whole_body(dataset)
        return _frames(dataset, _rescale(dataset, decode_pixels(dataset)))


def read_headers(data: bytes, path: Path) -> list[DicomFrame]:
    """The frames of a file's bytes without decoding their pixels: zeros that take no memory.

    Raises:
        InputError: as `read_dicom`, as far as can be told without the pixels.
    """
    with named_errors(path):
        dataset = read_header(data, _KEYWORDS)
        check_whole_body(dataset)
        return _frames(dataset, np.broadcast_to(np.float32(0), check_pixels(dataset)))


@contextlib.contextmanager
def named_errors(path: Path) -> Iterator[None]:
    """Makes one sentence that begins with the file's name of whatever goes wrong."""
    try:
        yield
    except DicomError as error:
        raise InputError(f"{printable(str(path))}: {error}.") from error
    except Exception as error:  # whatever pydicom raises may quote the file
        raise InputError(
            f"{printable(str(path))}: has a damaged header, expected readable DICOM."
        ) from error


def read_bytes(path: Path) -> bytes:
    """Reads a file of an image's size.

    Raises:
        InputError: it cannot be read or is far larger than an image.
    """
    try:
        if (size := path.stat().st_size) > MAX_BYTES:
            raise InputError(
                f"{printable(str(path))}: holds {size} bytes, expected at most {MAX_BYTES}."
            )
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{printable(str(path))}: cannot be read ({error.strerror}).") from error


def pair_views(frames: Iterable[DicomFrame]) -> tuple[list[ViewPair], list[DicomFrame]]:
    """Finds the anterior and the posterior frame of each acquisition, in one file or in two.

    Two views of equal size and energy window belong together if they are the only ones in their
    file; of those left over, in their frame of reference; then, in their study of a patient. Where
    there are several of a view, nothing is guessed.

    Args:
        frames: of any number of files, all read in this process.

    Returns:
        The pairs, and the frames without a partner.
    """
    pairs, left = [], list(frames)
    for level in range(3):
        together = defaultdict(list)
        for frame in left:
            together[frame.groups[level], frame.energy_window, frame.pixels.shape].append(frame)
        left = []
        for (group, *_), members in together.items():
            by_view = {frame.view: frame for frame in members}
            if group and len(members) == 2 and by_view.keys() == set(VIEWS):
                pairs.append(ViewPair(by_view["anterior"], by_view["posterior"]))
            else:
                left += members
    return pairs, left


def read_header(data: bytes, keywords: Sequence[str]) -> pydicom.Dataset:
    """Parses these elements of a file with or without preamble, and how its pixels are stored.

    Raises:
        DicomError: no DICOM, or a compression that is not read; and whatever pydicom raises.
    """
    if not is_dicom(data):
        raise DicomError("is not a DICOM file, expected the DICM prefix")
    if data[:2] == b"\x02\x00":
        data = bytes(_PREFIX.start) + b"DICM" + data  # only the preamble is missing
    syntax = _transfer_syntax(data)
    if syntax is not None:
        check_transfer_syntax(syntax)  # before anything is inflated
    tags = [Tag(keyword) for keyword in keywords]
    dataset = pydicom.dcmread(io.BytesIO(data), force=True, specific_tags=tags)
    if syntax is None:
        if "PixelData" in dataset and dataset["PixelData"].is_undefined_length:
            raise DicomError("Transfer Syntax UID is missing, expected that of the compression")
        implicit, little_endian = dataset.original_encoding
        dataset.file_meta.TransferSyntaxUID = _UNCOMPRESSED[bool(implicit), bool(little_endian)]
    return dataset


def _transfer_syntax(data: bytes) -> str | None:
    meta = pydicom.filereader.read_dataset(
        io.BytesIO(data[_PREFIX.stop :] if data[_PREFIX] == b"DICM" else b""),
        is_implicit_VR=False,
        is_little_endian=True,
        stop_when=lambda tag, vr, length: tag.group != 2,
    )
    return meta.get("TransferSyntaxUID")


def check_whole_body(dataset: pydicom.Dataset) -> None:
    """Refuses everything but grey whole-body NM images.

    Raises:
        DicomError: which element says so.
    """
    image_type = np.atleast_1d(dataset.get("ImageType") or [])
    is_nm_image = dataset.get("SOPClassUID") == NuclearMedicineImageStorage
    if is_nm_image and len(image_type) > 2:
        _expect("Image Type, value 3,", image_type[2], "WHOLE BODY")
    for number, value in enumerate(image_type[2:4], 3):
        if value in _OTHER_IMAGES:
            raise DicomError(
                f"Image Type, value {number}, is {value}, expected that of a whole-body emission "
                "image"
            )
    _expect("Modality", dataset.get("Modality"), "NM")
    _expect("Pixel Data", "present" if "PixelData" in dataset else None, "present")
    _expect("Photometric Interpretation", dataset.get("PhotometricInterpretation"), "MONOCHROME2")


def _expect(field: str, found: object, expected: str) -> None:
    if found != expected:
        raise DicomError(f"{field} is {_code_string(found)}, expected {expected}")


def _code_string(value: object) -> str:
    """The value of a code string (CS), where it is one."""
    if value is None:
        return "missing"
    return str(value) if re.fullmatch(r"[A-Z0-9_ ]{1,16}", str(value)) else "no code string"


def _frames(dataset: pydicom.Dataset, pixels: np.ndarray) -> list[DicomFrame]:
    """Pairs (F, H, W) pixels with what the file says of each frame."""
    windows, detectors = frame_vectors(dataset, len(pixels))
    counts = dataset.get("CountsAccumulated")
    spacing, notes = _pixel_spacing(dataset)
    groups = (
        _hash(dataset.get("SOPInstanceUID")),
        _hash(dataset.get("FrameOfReferenceUID"), dataset.get("StudyInstanceUID")),
        _hash(dataset.get("StudyInstanceUID"), dataset.get("PatientID")),
    )
    return [
        DicomFrame(
            view=view,
            energy_window=window,
            energy_range=_energy_range(dataset, window),
            pixels=frame.astype(np.float32, copy=False),
            pixel_spacing=spacing,
            counts_accumulated=None if counts is None else int(counts),
            notes=notes if view else (_UNKNOWN_VIEW, *notes),
            groups=groups,
            person=_hash(dataset.get("PatientID")),
        )
        for view, window, frame in zip(
            frame_views(dataset, detectors), windows, pixels, strict=True
        )
    ]


_UNKNOWN_VIEW = "the file does not say which view this is; it is read as anterior"


def _rescale(dataset: pydicom.Dataset, pixels: np.ndarray) -> np.ndarray:
    slope, intercept = (
        _number(f"Rescale {name}", default if value in (None, "") else value)
        for name, default in (("Slope", 1), ("Intercept", 0))
        for value in [dataset.get(f"Rescale{name}")]
    )
    if slope == 0:
        raise DicomError("Rescale Slope is 0, expected a factor that leaves counts")
    if (slope, intercept) != (1, 0):
        pixels = pixels * slope + intercept
    if pixels.min() < 0:
        raise DicomError(f"Pixel Data goes down to {pixels.min()}, expected counts from 0")
    if pixels.max() > _MAX_COUNT:
        raise DicomError(f"Pixel Data goes up to {pixels.max()}, expected at most {_MAX_COUNT}")
    return pixels


def _number(name: str, value: Any) -> float:  # noqa: ANN401 - whatever a file holds
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise DicomError(f"{name} is not a finite number")
    return number


def _pixel_spacing(
    dataset: pydicom.Dataset,
) -> tuple[tuple[float, float] | None, tuple[str, ...]]:
    """The lengths of a pixel in mm, if the file says them, and notes about them.

    Raises:
        DicomError: a patient would be read at a size that the network does not know.
    """
    spacing = dataset.get("PixelSpacing")
    if not spacing:
        return None, ()
    numbers = [_number("Pixel Spacing", value) for value in np.atleast_1d(spacing)]
    if len(numbers) != 2 or min(numbers) <= 0:
        return None, ("Pixel Spacing is not two lengths above 0: the size of pixels is unknown",)
    height, width = numbers
    furthest = max(max(number / _SPACING, _SPACING / number) for number in numbers)
    found = "Pixel Spacing is {:g} x {:g} mm".format(*numbers)
    if furthest > _SPACING_REFUSED:
        raise DicomError(
            f"{found}, expected {_SPACING / _SPACING_REFUSED:.2f} to "
            f"{_SPACING * _SPACING_REFUSED:.2f} mm, as the patient would be read at another size"
        )
    if furthest > _SPACING_NOTED:
        return (height, width), (f"{found}, the network was trained on about {_SPACING:g} mm",)
    return (height, width), ()


def _energy_range(dataset: pydicom.Dataset, window: int) -> tuple[float, float] | None:
    """Limits of an energy window in keV; None where none or several ranges are given."""
    information = dataset.get("EnergyWindowInformationSequence") or []
    if not 1 <= window <= len(information):
        return None
    ranges = information[window - 1].get("EnergyWindowRangeSequence") or []
    if len(ranges) != 1 or not {"EnergyWindowLowerLimit", "EnergyWindowUpperLimit"} <= set(
        ranges[0].dir()
    ):
        return None
    return (
        _number("Energy Window Lower Limit", ranges[0].EnergyWindowLowerLimit),
        _number("Energy Window Upper Limit", ranges[0].EnergyWindowUpperLimit),
    )


def frame_vectors(dataset: pydicom.Dataset, frames: int) -> tuple[list[int], list[int]]:
    """The energy window and the detector of each frame, from 1.

    A file without the vectors is in the order of NM whole body: all detectors of the first energy
    window, then those of the next (PS3.3, C.8.4.8).

    Raises:
        DicomError: a vector has another length, or holds no whole numbers.
    """
    detectors = max(1, len(dataset.get("DetectorInformationSequence") or []))
    order = [divmod(frame, detectors) for frame in range(frames)]
    return (
        _vector(dataset, "EnergyWindowVector", [window + 1 for window, _ in order]),
        _vector(dataset, "DetectorVector", [detector + 1 for _, detector in order]),
    )


def _vector(dataset: pydicom.Dataset, keyword: str, default: list[int]) -> list[int]:
    if dataset.get(keyword) is None:
        return default
    vector = np.atleast_1d(dataset[keyword].value).astype(int).tolist()
    if len(vector) != len(default):
        raise DicomError(
            f"{keyword} has {len(vector)} values, expected one for each of the "
            f"{len(default)} frames"
        )
    if min(vector) < 1:
        raise DicomError(f"{keyword} holds {min(vector)}, expected numbers from 1")
    return vector


def frame_views(dataset: pydicom.Dataset, detectors: Sequence[int]) -> list[str | None]:
    """The view of each frame, one of VIEWS, by its detector; None where the file does not say."""
    sequence = dataset.get("DetectorInformationSequence") or []
    views = [_detector_view(sequence, number) for number in detectors]
    if views == [None]:
        named = _view_in(dataset.get("ImageID")) or _view_in(dataset.get("SeriesDescription"))
        return [_abbreviated_view(dataset.get("ImageID")) or named]
    return views


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
    words = _words(text)
    if _NEITHER.search(words):
        return None
    anterior, posterior = "ANTERIOR" in words.split(), "POSTERIOR" in words.split()
    return {(True, False): "anterior", (False, True): "posterior"}.get((anterior, posterior))


def _abbreviated_view(image_id: str | None) -> str | None:
    """The view that an Image ID of a known form names by ANT or POST."""
    form = _ABBREVIATED.fullmatch(_words(image_id))
    return _ABBREVIATIONS[form[1]] if form else None


def _words(text: str | None) -> str:
    return re.sub(r"[^A-Z0-9]+", " ", str(text or "").upper()).strip()


def _hash(*identifiers: str | None) -> str | None:
    """A one-way hash, to compare identifiers without revealing them; None without the first."""
    if not identifiers[0]:
        return None
    text = "\0".join(str(identifier or "") for identifier in identifiers)
    return hashlib.blake2b(text.encode(), key=_HASH_KEY, digest_size=16).hexdigest()
