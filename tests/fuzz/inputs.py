"""Hypothesis strategies of broken files: valid ones changed in their structure, then in bytes."""

import io
import struct
import zipfile
import zlib

import cv2
import numpy as np
import pydicom
from hypothesis import strategies as st
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    NuclearMedicineImageStorage,
    RLELossless,
)

INTERESTING = (0, 1, 2, 0x7F, 0x80, 0xFE, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF)
numbers = st.one_of(st.sampled_from(INTERESTING), st.integers(0, 1100))


@st.composite
def mutated(draw: st.DrawFn, data: bytes, most: int = 6) -> bytes:
    """Bytes changed, cut out, doubled, put in or cut off, up to `most` times."""
    changed = bytearray(data)
    # Every second file stays as it is: what was changed in its structure shall be reached.
    for _ in range(draw(st.integers(0, most)) if draw(st.booleans()) else 0):
        if not changed:
            break
        # Half of the time near the start: headers are there.
        reach = draw(st.sampled_from([min(512, len(changed)), len(changed)]))
        at = draw(st.integers(0, reach - 1))
        length = draw(st.sampled_from([1, 2, 4, 16, 200]))
        kind = draw(st.sampled_from(["flip", "set", "number", "cut", "double", "insert", "end"]))
        if kind == "flip":
            changed[at] ^= 1 << draw(st.integers(0, 7))
        elif kind == "set":
            changed[at] = draw(st.sampled_from([0, 1, 0x7F, 0x80, 0xFF]))
        elif kind == "number":
            number = draw(st.sampled_from(INTERESTING))
            order = draw(st.sampled_from("<>"))
            size = draw(st.sampled_from("HI"))
            packed = struct.pack(order + size, number & (0xFFFF if size == "H" else 0xFFFFFFFF))
            changed[at : at + len(packed)] = packed
        elif kind == "cut":
            del changed[at : at + length]
        elif kind == "double":
            changed[at:at] = changed[at : at + length]
        elif kind == "insert":
            changed[at:at] = draw(st.binary(max_size=16))
        else:
            del changed[at:]
    return bytes(changed)


# ---- annotations ---------------------------------------------------------------------------------

odd_numbers = st.one_of(
    st.integers(-20, 1100).map(str),
    st.integers(0, 2000).map(lambda number: f"{number / 8}"),
    st.floats(width=32).map(str),
    st.sampled_from(["", "nan", "inf", "-inf", "1e3", "0x1f", "9" * 400, "-" + "9" * 5000, "1_0"]),
    st.sampled_from(["٣", "+5", "--5", " 7 ", "7\n8", "<a/>", "<!--7-->7", "&lt;", "&#55;", "&x;"]),
    st.text(max_size=4).map(lambda text: text.replace("<", "").replace("&", "")),
)
sides = st.integers(0, 9).flatmap(
    lambda kind: st.integers(0, 300).map(str) if kind else odd_numbers
)
class_names = st.sampled_from(["Abnormal", "Normal"] * 15 + ["abnormal", "", "良性", "\u202e"])
prologues = st.sampled_from([
    *[""] * 20,
    '<?xml version="1.0"?>',
    '<?xml version="1.0" encoding="utf-16"?>',
    '<?xml version="1.0" encoding="no-such"?>',
    '<?xml version="1.0" encoding="shift_jis"?>',
    '<!DOCTYPE a [<!ENTITY x "y">]>',
    '<!DOCTYPE a SYSTEM "file:///etc/passwd">',
    '<!DOCTYPE a [<!ENTITY % x SYSTEM "file:///etc/passwd">%x;]>',
    "<!--" + "-" * 50,
    "\ufeff",
])  # fmt: skip


@st.composite
def xml_files(draw: st.DrawFn) -> bytes:
    """Pascal VOC with odd numbers, names, nesting, entities and encodings."""
    objects = []
    for _ in range(draw(st.integers(0, 4))):
        written = [
            f"<{tag}>{draw(sides)}</{tag}>"
            for tag in draw(st.permutations(["xmin", "ymin", "xmax", "ymax"]))
            if draw(st.integers(0, 40))
        ]
        name = f"<name>{draw(class_names)}</name>"
        objects.append(f"<object>{name}<bndbox>{''.join(written)}</bndbox></object>")
    size = draw(st.sampled_from(["", "<size><width>256</width><height>1024</height></size>"]))
    depth = draw(st.sampled_from([0] * 9 + [5, 100, 3000]))
    body = "<a>" * depth + "".join(objects) + "</a>" * depth
    root = draw(st.sampled_from(["annotation"] * 9 + ["html"]))
    text = f"{draw(prologues)}<{root}>{size}{body}</{root}>"
    encoding = draw(st.sampled_from(["utf-8"] * 4 + ["utf-16", "utf-32"]))
    return draw(mutated(text.encode(encoding, "replace"), most=3))


@st.composite
def label_files(draw: st.DrawFn) -> bytes:
    """Lines of labels with odd ids, values, separators and encodings."""
    ids = st.one_of(numbers.map(str), st.sampled_from(["007", "-1", "٣", "1.jpg", "9" * 5000]))
    labels = st.sampled_from(["0", "1"] * 4 + ["2", "", "1 1", "\ud83d"])
    gaps = st.sampled_from(["\t", " ", "     "] * 3 + ["\x0b", "\u2003", ",", "\0"])
    ends = st.sampled_from(["\n", "\r\n", "\r", "\n\n", "\x85", "\u2028"])
    lines = [
        f"{draw(ids)}.jpg{draw(gaps)}{draw(labels)}{draw(ends)}"
        for _ in range(draw(st.integers(0, 6)))
    ]
    encoding = draw(st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "latin-1"]))
    return draw(mutated("".join(lines).encode(encoding, "replace"), most=3))


# ---- images --------------------------------------------------------------------------------------


def _noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).poisson(20, (height, width)).astype(np.uint8)


def grey_jpeg(height: int, width: int, *, progressive: bool = False) -> bytes:
    """A valid file."""
    options = [cv2.IMWRITE_JPEG_QUALITY, 100, cv2.IMWRITE_JPEG_PROGRESSIVE, int(progressive)]
    return cv2.imencode(".jpg", _noise(height, width), options)[1].tobytes()


# Large bright areas, which no scan has: what undoes overflow must not work on them for minutes.
_BLOCKS = np.kron(np.arange(16).reshape(8, 2) % 3 == 1, np.full((128, 128), 255)).astype(np.uint8)

_JPEGS = (
    cv2.imencode(".jpg", _BLOCKS)[1].tobytes(),
    grey_jpeg(64, 32),
    grey_jpeg(64, 32, progressive=True),
    grey_jpeg(1024, 256),
    cv2.imencode(".jpg", np.zeros((64, 32, 3), np.uint8))[1].tobytes(),
)


def _jpeg_segments(data: bytes) -> list[bytes]:
    """SOI, the segments before the first scan, and all the rest."""
    segments, at = [data[:2]], 2
    while data[at + 1] != 0xDA:
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        segments.append(data[at:end])
        at = end
    return [*segments, data[at:]]


@st.composite
def jpeg_files(draw: st.DrawFn) -> bytes:
    """JPEG with segments left out, doubled, exchanged, and other sizes, components and tables."""
    segments = _jpeg_segments(draw(st.sampled_from(_JPEGS)))
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(1, len(segments) - 1))
        kind = draw(st.sampled_from(["frame", "drop", "double", "swap", "marker", "scans", "new"]))
        if kind == "frame":
            frame = next((n for n, part in enumerate(segments) if part[1:2] in b"\xc0\xc2"), at)
            part = bytearray(segments[frame])
            field, value = draw(st.sampled_from([(4, "B"), (5, "H"), (7, "H"), (9, "B")])), 0
            value = draw(numbers) & (0xFF if field[1] == "B" else 0xFFFF)
            packed = struct.pack(">" + field[1], value)
            part[field[0] : field[0] + len(packed)] = packed
            segments[frame] = bytes(part)
        elif kind == "drop":
            segments.pop(at)
        elif kind == "double":
            segments.insert(at, segments[at])
        elif kind == "swap":
            other = draw(st.integers(1, len(segments) - 1))
            segments[at], segments[other] = segments[other], segments[at]
        elif kind == "marker":
            part = segments[at]
            segments[at] = part[:1] + bytes([draw(st.integers(0xC0, 0xFF))]) + part[2:]
        elif kind == "scans":
            segments.append(b"\xff\xda\0\x08\x01\x01\0\0\x3f\0" * draw(st.integers(1, 500)))
        else:
            marker = draw(st.sampled_from([0x01, 0xD0, 0xDC, 0xDD, 0xE1, 0xEE, 0xFE, 0xFF]))
            body = draw(st.binary(max_size=12))
            segments.insert(at, bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body)
        if len(segments) < 2:
            break
    return draw(mutated(b"".join(segments)))


def _png(image: np.ndarray) -> bytes:
    return cv2.imencode(".png", image)[1].tobytes()


_PNGS = (
    _png(_noise(64, 32)),
    _png(_noise(64, 32).astype(np.uint16) * 100),
    _png(_noise(1024, 256)),
    _png(np.zeros((8, 8, 4), np.uint8)),
)


def _chunk(name: bytes, content: bytes) -> bytes:
    crc = zlib.crc32(name + content)
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", crc)


def _png_chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    chunks, at = [], 8
    while at < len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        chunks.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + length]))
        at += 12 + length
    return chunks


@st.composite
def png_files(draw: st.DrawFn) -> bytes:
    """PNG with another header, chunks in disorder, bombs in IDAT; checksums are right at first."""
    chunks = _png_chunks(draw(st.sampled_from(_PNGS)))
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(chunks) - 1))
        name, content = chunks[at]
        kind = draw(st.sampled_from(["header", "content", "drop", "double", "bomb", "new"]))
        if kind == "header":
            header = bytearray(chunks[0][1].ljust(13, b"\0"))
            field = draw(st.sampled_from([0, 4, 8, 9, 10, 11, 12]))
            packed = struct.pack(">I", draw(numbers)) if field < 8 else bytes([draw(numbers) & 255])
            header[field : field + len(packed)] = packed
            chunks[0] = (chunks[0][0], bytes(header))
        elif kind == "content":
            chunks[at] = (name, draw(mutated(content, most=2)))
        elif kind == "drop" and len(chunks) > 1:
            chunks.pop(at)
        elif kind == "double":
            chunks.insert(at, chunks[at])
        elif kind == "bomb":
            size = draw(st.sampled_from([0, 100, 1 << 22]))
            chunks.insert(at, (b"IDAT", zlib.compress(bytes(size))))
        else:
            names = [
                b"PLTE",
                b"tRNS",
                b"iCCP",
                b"gAMA",
                b"acTL",
                b"fdAT",
                b"tEXt",
                b"zTXt",
                b"eXIf",
            ]
            chunks.insert(at, (draw(st.sampled_from(names)), draw(st.binary(max_size=40))))
    data = b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(*chunk) for chunk in chunks)
    return draw(mutated(data, most=2))


# ---- DICOM ---------------------------------------------------------------------------------------


def _dicom(num_frames: int, syntax: str = ExplicitVRLittleEndian) -> Dataset:
    """A whole-body file of one or two views."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = NuclearMedicineImageStorage
    dataset.SOPInstanceUID = "1.2.826.0.1.3680043.8.498.1"
    dataset.Modality = "NM"
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "WHOLE BODY", "EMISSION"]
    dataset.PatientName = "Doe^Jane"
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.NumberOfFrames, dataset.Rows, dataset.Columns = num_frames, 64, 32
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.HighBit = 15
    dataset.PixelRepresentation = 0
    dataset.PixelSpacing = [2.26, 2.4]
    dataset.CountsAccumulated = 1000
    dataset.RescaleSlope, dataset.RescaleIntercept = 1, 0
    dataset.DetectorInformationSequence = []
    for code, meaning in (("399321004", "anterior"), ("399001007", "posterior"))[:num_frames]:
        view, detector = Dataset(), Dataset()
        view.CodeValue, view.CodingSchemeDesignator, view.CodeMeaning = code, "SCT", meaning
        detector.ViewCodeSequence = [view]
        dataset.DetectorInformationSequence.append(detector)
    dataset.DetectorVector = list(range(1, num_frames + 1))
    dataset.EnergyWindowVector = [1] * num_frames
    pixels = np.stack([_noise(64, 32)] * num_frames).astype("<u2")
    dataset.PixelData = pixels.tobytes()
    if syntax == RLELossless:
        dataset.compress(RLELossless, generate_instance_uid=False)
    return dataset


_NUMERIC = (
    "Rows", "Columns", "NumberOfFrames", "BitsAllocated", "BitsStored", "HighBit",
    "SamplesPerPixel", "PixelRepresentation", "PlanarConfiguration", "CountsAccumulated",
    "DetectorVector", "EnergyWindowVector", "PixelSpacing", "RescaleSlope", "RescaleIntercept",
)  # fmt: skip
_SYNTAXES = (
    ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian, RLELossless,
    DeflatedExplicitVRLittleEndian, JPEGLosslessSV1, JPEG2000Lossless, "1.2.3", "",
)  # fmt: skip


@st.composite
def dicom_files(draw: st.DrawFn) -> bytes:
    """NM DICOM with odd or missing elements, another transfer syntax, too few or many pixels."""
    compressed = draw(st.booleans())
    dataset = _dicom(draw(st.sampled_from([1, 2])), RLELossless if compressed else "")
    for _ in range(draw(st.integers(0, 3))):
        kind = draw(st.sampled_from(["number", "delete", "text", "syntax", "pixels", "sequence"]))
        if kind == "number":
            values = draw(st.lists(numbers, max_size=3))
            _set(
                dataset, draw(st.sampled_from(_NUMERIC)), values[0] if len(values) == 1 else values
            )
        elif kind == "delete":
            dataset.pop(draw(st.sampled_from([element.tag for element in dataset])), None)
        elif kind == "text":
            names = ["Modality", "ImageType", "PhotometricInterpretation", "SOPClassUID", "ImageID"]
            text = draw(st.sampled_from(["", "NM", "MONOCHROME1", "RGB", "\\", "é", "A" * 100]))
            _set(dataset, draw(st.sampled_from(names)), text)
        elif kind == "syntax":
            dataset.file_meta.TransferSyntaxUID = draw(st.sampled_from(_SYNTAXES))
        elif kind == "pixels":
            keep = draw(st.sampled_from([0, 1, 7, 100, 5000]))
            dataset.PixelData = bytes(dataset.get("PixelData") or b"")[:keep] + bytes(keep % 3)
        else:
            dataset.DetectorInformationSequence = [Dataset()] * draw(st.integers(0, 3))
    file = io.BytesIO()
    try:
        pydicom.dcmwrite(file, dataset, enforce_file_format=True)
        data = file.getvalue()
    except Exception:  # pydicom does not write everything that it reads
        data = _VALID_DICOM
    return draw(mutated(data, most=4))


def _set(dataset: Dataset, keyword: str, value: object) -> None:
    with pydicom.config.disable_value_validation():
        setattr(dataset, keyword, value)


def _write(dataset: Dataset) -> bytes:
    file = io.BytesIO()
    pydicom.dcmwrite(file, dataset, enforce_file_format=True)
    return file.getvalue()


_VALID_DICOM = _write(_dicom(2))

# ---- zip files -----------------------------------------------------------------------------------

_FOLDERS = (("wholeBodyANT", "ant"), ("wholeBodyPOST", "post"))
_VOC = (
    "<annotation><object><name>Abnormal</name><bndbox><xmin>3</xmin><ymin>4</ymin><xmax>19</xmax>"
    "<ymax>31</ymax></bndbox></object></annotation>"
)
_PATIENTS = range(1, 9)


def _layout() -> dict[str, bytes]:
    """BS-80K's layout for eight patients, of whom half have hot spots."""
    image = cv2.imencode(".jpg", np.full((1024, 256), 9, np.uint8))[1].tobytes()
    files = {}
    for folder, xml_folder in _FOLDERS:
        labels = "".join(f"{patient}.jpg\t{patient % 2}\n" for patient in _PATIENTS)
        files[f"temp/{folder}/{folder}.txt"] = labels.encode()
        for patient in _PATIENTS:
            files[f"temp/{folder}/{patient}.jpg"] = image
            if patient % 2:
                files[f"temp/{folder}/{xml_folder}/{patient}.xml"] = _VOC.encode()
    return files


_LAYOUT = _layout()
_odd_paths = st.one_of(
    st.sampled_from([
        "../../outside.jpg", "/tmp/outside.jpg", "C:\\outside.jpg", "temp/wholeBodyANT/..",
        "temp/wholeBodyANT/\udcff.jpg", "temp/wholeBodyANT/0001.jpg", "__MACOSX/wholeBodyANT/1.jpg",
        "wholeBodyANT/1.jpg", "temp/wholeBodyANT/ant/1.xml/2.xml", "temp/wholeBodyANT", "",
        "temp/wholeBodyANT/" + "9" * 300 + ".jpg", "temp/wholeBodyANT/1.jpg",
    ]),
    st.text(max_size=12),
)  # fmt: skip


@st.composite
def zip_files(draw: st.DrawFn) -> bytes:
    """A source with broken or odd members, then broken headers."""
    files = dict(_LAYOUT)
    contents = st.one_of(xml_files(), label_files(), jpeg_files(), st.just(b""))
    for _ in range(draw(st.integers(0, 2))):
        files[draw(st.sampled_from(sorted(files)))] = draw(contents)
    extra = draw(st.lists(st.tuples(_odd_paths, contents), max_size=2))
    mode = draw(st.sampled_from([0o100644, 0o120777, 0o040755]))
    method = draw(st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED]))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for path, content in files.items():
            archive.writestr(path, content)
        for path, content in extra:
            member = zipfile.ZipInfo(path.encode("utf-8", "replace").decode())
            member.external_attr = mode << 16
            archive.writestr(member, content)
    data = buffer.getvalue()
    # Half of the changes fall into the central directory, which is read first.
    directory = data.index(b"PK\1\2")
    if draw(st.booleans()):
        return data[:directory] + draw(mutated(data[directory:], most=4))
    return draw(mutated(data, most=4))
