"""Decodes and encodes DICOM pixel data; nothing in the header is trusted."""

from collections.abc import Callable
from typing import Any, NamedTuple

import imagecodecs
import numpy as np
import pydicom
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import (
    UID,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from bonescan_jax.scans.jpeg import MAX_PIXELS, read_jpeg_header

_MAX_TILES = 64  # of a JPEG 2000 image: each costs kilobytes, whatever it holds
_NATIVE = (ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian)


class DicomError(ValueError):
    """Why a dataset cannot be used: a phrase to follow the file's name.

    It repeats no text of the file, which may be personal.
    """


class _Codec(NamedTuple):
    """A compression that imagecodecs does."""

    check: Callable[[bytes, int, int], None]  # raises DicomError if the code is not of this size
    decode: Callable[[bytes], np.ndarray]
    encode: Callable[[np.ndarray], bytes]


def check_transfer_syntax(uid: str) -> None:
    """Refuses what cannot be read, or changes counts (lossy compression).

    Deflate is refused too: nothing bounds what it grows to.

    Raises:
        DicomError: what was found and expected, to be written after the file's name.
    """
    if uid not in (*_NATIVE, RLELossless, *_CODECS):
        # A name from the standard; the value itself could hold anything.
        name = UID(uid).name if UID(uid) in pydicom.uid.UID_dictionary else "unknown"
        raise DicomError(
            f"Transfer Syntax is {name}, expected an uncompressed one, RLE, JPEG Lossless, "
            "JPEG-LS (Lossless) or JPEG 2000 (Lossless Only)"
        )


def decode_pixels(dataset: pydicom.Dataset) -> np.ndarray:
    """Decodes the grey pixels of a dataset, none of which is believed before it is checked.

    Bits above Bits Stored are no part of the value (PS3.5, 8.1.1): old files keep overlays there.

    Args:
        dataset: with Transfer Syntax UID in its file_meta.

    Returns:
        (frames, H, W) int32.

    Raises:
        DicomError: what is wrong, to be written after the file's name.
    """
    shape = check_pixels(dataset)
    syntax, data = dataset.file_meta.TransferSyntaxUID, dataset["PixelData"].value or b""
    stored, signed = int(dataset.BitsStored), int(dataset.PixelRepresentation)
    if syntax in _CODECS:
        pixels = _decompress(data, _CODECS[syntax], syntax, shape)
    else:
        pixels = _guard(syntax, lambda: dataset.pixel_array.reshape(shape))
    values = pixels.astype(np.int32) & ((1 << stored) - 1)
    return values - ((values >> (stored - 1)) << stored) if signed else values


def check_pixels(dataset: pydicom.Dataset) -> tuple[int, int, int]:
    """Checks the pixels of a dataset as far as can be done without decoding them.

    Returns:
        Frames, height and width.

    Raises:
        DicomError: what is wrong, to be written after the file's name.
    """
    syntax = dataset.file_meta.TransferSyntaxUID
    check_transfer_syntax(syntax)
    shape = _declared_shape(dataset)
    bits = _integer(dataset, "BitsAllocated", (8, 16))
    stored = _integer(dataset, "BitsStored", range(1, bits + 1))
    _integer(dataset, "HighBit", (stored - 1,))
    _integer(dataset, "PixelRepresentation", (0, 1))
    _integer(dataset, "SamplesPerPixel", (1,))
    if syntax in _NATIVE:
        _check_length(len(dataset["PixelData"].value or b""), shape, bits)
    return shape


def _decompress(data: bytes, codec: _Codec, syntax: UID, shape: tuple[int, int, int]) -> np.ndarray:
    frames, height, width = shape
    codes = _guard(syntax, lambda: list(generate_frames(data, number_of_frames=frames)))
    if len(codes) != frames:
        raise DicomError(f"Pixel Data holds {len(codes)} frames, expected {frames}")
    for code in codes:
        codec.check(code, height, width)
    return _guard(syntax, lambda: np.stack([codec.decode(code) for code in codes]).reshape(shape))


def _guard(syntax: UID, decode: Callable[[], Any]) -> Any:  # noqa: ANN401
    """Runs a codec, which raises what the damaged part makes it raise."""
    try:
        return decode()
    except Exception as error:
        raise DicomError(
            f"Pixel Data is truncated or damaged, expected whole frames in {syntax.name}"
        ) from error


def _declared_shape(dataset: pydicom.Dataset) -> tuple[int, int, int]:
    """Frames, rows and columns, if an image of that size may be decoded."""
    frames = 1
    if dataset.get("NumberOfFrames") is not None:
        frames = _integer(dataset, "NumberOfFrames", range(1, MAX_PIXELS + 1))
    height = _integer(dataset, "Rows", range(1, 1 << 16))
    width = _integer(dataset, "Columns", range(1, 1 << 16))
    if frames * height * width > MAX_PIXELS:
        raise DicomError(
            f"Number of Frames x Rows x Columns is {frames}x{height}x{width}, expected at most "
            f"{MAX_PIXELS} pixels"
        )
    return frames, height, width


def _integer(dataset: pydicom.Dataset, keyword: str, allowed: range | tuple[int, ...]) -> int:
    """The value of an element that must be one number out of a few."""
    name = pydicom.datadict.dictionary_description(keyword)
    expected = f"{allowed[0]} to {allowed[-1]}" if isinstance(allowed, range) else _either(allowed)
    try:
        value = int(dataset[keyword].value)
    except KeyError:
        raise DicomError(f"{name} is missing, expected {expected}") from None
    except (TypeError, ValueError, OverflowError) as error:
        raise DicomError(f"{name} is no whole number, expected {expected}") from error
    if value not in allowed:
        raise DicomError(f"{name} is {value}, expected {expected}")
    return value


def _either(values: tuple[int, ...]) -> str:
    return " or ".join(map(str, values))


def _check_length(length: int, shape: tuple[int, int, int], bits: int) -> None:
    """Uncompressed pixels fill Pixel Data, but for one byte that makes its length even."""
    needed = int(np.prod(shape)) * bits // 8
    if length not in (needed, needed + needed % 2):
        frames, height, width = shape
        raise DicomError(
            f"Pixel Data holds {length} bytes, expected {needed} for {frames}x{height}x{width} "
            f"pixels (frames x rows x columns) of {bits} bits"
        )


def _check_jpeg(code: bytes, height: int, width: int) -> None:
    try:
        header = read_jpeg_header(code)
    except ValueError as error:
        raise DicomError(f"Pixel Data {error}") from error
    _check_size(header.height, header.width, header.components, height, width)
    # Decoders fill what is missing with zeros. After the end marker there may be padding.
    if not code.rstrip(b"\0\xff").endswith(b"\xff\xd9"):
        raise DicomError("Pixel Data is truncated, expected a JPEG that ends with its end marker")


def _check_jpeg2000(code: bytes, height: int, width: int) -> None:
    """Reads the SIZ segment; ISO/IEC 15444-1, A.5.1."""
    if code[:4] != b"\xff\x4f\xff\x51" or len(code) < 42:
        raise DicomError("Pixel Data is no JPEG 2000 codestream, expected one")
    right, bottom, left, top, tile_width, tile_height = (
        int.from_bytes(code[at : at + 4], "big") for at in range(8, 32, 4)
    )
    components = int.from_bytes(code[40:42], "big")
    _check_size(bottom - top, right - left, components, height, width)
    tiles = -(-bottom // max(1, tile_height)) * -(-right // max(1, tile_width))
    if tiles > _MAX_TILES:
        raise DicomError(f"Pixel Data is in {tiles} tiles, expected at most {_MAX_TILES}")


def _check_size(
    found_height: int, found_width: int, components: int, height: int, width: int
) -> None:
    if (found_height, found_width, components) != (height, width, 1):
        raise DicomError(
            f"Pixel Data is {found_height}x{found_width} (rows x columns) with {components} "
            f"components when decompressed, expected {height}x{width} with 1"
        )


_JPEG_LOSSLESS = _Codec(
    _check_jpeg,
    imagecodecs.jpeg8_decode,
    # A JPEG knows no sign: its header in DICOM says it.
    lambda pixels: bytes(
        imagecodecs.jpeg8_encode(pixels.view(np.uint16), lossless=True, predictor=1)
    ),
)
_JPEG_LS = _Codec(
    _check_jpeg,
    imagecodecs.jpegls_decode,
    lambda pixels: bytes(imagecodecs.jpegls_encode(pixels.view(np.uint16))),
)
_JPEG_2000 = _Codec(
    _check_jpeg2000,
    imagecodecs.jpeg2k_decode,
    lambda pixels: bytes(
        imagecodecs.jpeg2k_encode(pixels, level=0, reversible=True, codecformat="j2k")
    ),
)
_CODECS: dict[Any, _Codec] = {
    JPEGLossless: _JPEG_LOSSLESS,
    JPEGLosslessSV1: _JPEG_LOSSLESS,
    JPEG2000Lossless: _JPEG_2000,
    JPEGLSLossless: _JPEG_LS,
}


def encode_pixels(dataset: pydicom.Dataset, syntax: UID) -> None:
    """Compresses the 16-bit pixels of an Explicit VR Little Endian dataset in place.

    Args:
        dataset: uncompressed.
        syntax: RLE, JPEG Lossless (SV1) or JPEG 2000 (Lossless Only).
    """
    if syntax == RLELossless:
        dataset.compress(RLELossless, encoding_plugin="pydicom", generate_instance_uid=False)
        return
    shape = (int(dataset.get("NumberOfFrames", 1)), dataset.Rows, dataset.Columns)
    dtype = np.int16 if dataset.PixelRepresentation else np.uint16
    frames = np.frombuffer(dataset.PixelData, dtype)[: np.prod(shape)].reshape(shape)
    dataset.PixelData = encapsulate([_CODECS[syntax].encode(frame) for frame in frames])
    dataset["PixelData"].VR = "OB"
    dataset["PixelData"].is_undefined_length = True
    dataset.file_meta.TransferSyntaxUID = syntax
