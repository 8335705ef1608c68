"""Damaged and hostile DICOM files: refused in a sentence without a name, and in little memory."""

import tracemalloc

import imagecodecs
import numpy as np
import pytest
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    RLELossless,
)

from bonescan_jax.errors import InputError
from bonescan_jax.scans.dicom import read_dicom
from bonescan_jax.scans.dicom_pixels import encode_pixels
from tests.scans.dicom_files import PIXELS, compressed, jpeg_lossless, nm_dataset, save, two_views


def test_other_and_cut_files_are_refused(tmp_path):
    path = save(two_views(("anterior", "posterior")), tmp_path / "nm.dcm")
    data = path.read_bytes()
    for length in (0, 100, 140, 300, len(data) - 2000):
        path.write_bytes(data[:length])
        with pytest.raises(InputError, match=r"nm\.dcm"):
            read_dicom(path)
    with pytest.raises(InputError, match="cannot be read"):
        read_dicom(tmp_path / "nowhere.dcm")


def test_huge_sizes_are_refused_before_memory_is_taken(tmp_path):
    """A header of 65535 x 65535, and small codestreams that say they are as large."""
    dataset = nm_dataset(PIXELS["anterior"][None])
    dataset.Rows = dataset.Columns = 65535
    save(dataset, tmp_path / "header.dcm")

    def swell(code, at, length):
        return code[:at] + b"\xff" * length + code[at + length :]

    frame = PIXELS["anterior"].astype(np.uint16)
    jpeg = jpeg_lossless(frame)
    jpeg = swell(jpeg, jpeg.index(b"\xff\xc3") + 5, 4)
    jpeg_2000 = imagecodecs.jpeg2k_encode(frame, level=0, reversible=True, codecformat="j2k")
    tiles = swell(jpeg_2000, 8, 8)
    for name, syntax, code in (
        ("jpeg", JPEGLosslessSV1, jpeg),
        ("size", JPEG2000Lossless, tiles),
        ("tiles", JPEG2000Lossless, jpeg_2000[:24] + b"\0\0\0\1" * 2 + jpeg_2000[32:]),
    ):
        dataset = nm_dataset(PIXELS["anterior"][None])
        save(compressed(dataset, syntax, lambda _, code=code: code), tmp_path / f"{name}.dcm")
    tracemalloc.start()
    for name, message in (
        ("header", "Number of Frames x Rows x Columns is 1x65535x65535"),
        ("jpeg", "Pixel Data is 65535x65535 .* expected 64x32"),
        ("size", "Pixel Data is 4294967295x4294967295 .* expected 64x32"),
        ("tiles", "Pixel Data is in 2048 tiles"),
    ):
        with pytest.raises(InputError, match=message):
            read_dicom(tmp_path / f"{name}.dcm")
    assert tracemalloc.get_traced_memory()[1] < 1 << 22
    tracemalloc.stop()


def test_other_compressions_are_refused_before_anything_is_unpacked(tmp_path):
    """Deflate has no bound on what comes out; JPEG Baseline changes counts."""
    dataset = nm_dataset(PIXELS["anterior"][None])
    for syntax in (DeflatedExplicitVRLittleEndian, JPEGBaseline8Bit):
        path = save(dataset, tmp_path / "nm.dcm")
        old, new = str(ExplicitVRLittleEndian).encode(), str(syntax).encode()
        # A UID of even length: pad with a zero byte, and mend the length before it.
        new += b"\0" * (len(new) % 2)
        at = path.read_bytes().index(old + b"\0")
        data = path.read_bytes()
        length = len(new).to_bytes(2, "little")
        path.write_bytes(data[: at - 2] + length + new + data[at + len(old) + 1 :])
        with pytest.raises(InputError, match=f"Transfer Syntax is {syntax.name[:13]}"):
            read_dicom(path)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("syntax", [None, RLELossless, JPEGLosslessSV1, JPEG2000Lossless])
def test_damage_is_refused_or_read_and_nothing_else(tmp_path, syntax):
    """Random bytes in header and codestream: gdcm ends the process at some of these."""
    dataset = two_views(("anterior", "posterior"))
    if syntax:
        encode_pixels(dataset, syntax)
    whole = save(dataset, tmp_path / "nm.dcm").read_bytes()
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(80):
        data = bytearray(whole)
        for at in rng.integers(132, len(data), rng.integers(1, 20)):
            data[at] = rng.integers(256)
        (tmp_path / "nm.dcm").write_bytes(data)
        try:
            frames = read_dicom(tmp_path / "nm.dcm")
            assert all(frame.pixels.min() >= 0 for frame in frames)
        except InputError as error:
            refused += 1
            assert "\n" not in str(error) and "Doe" not in str(error)
    assert refused


def test_errors_repeat_no_text_of_the_file(tmp_path):
    """In a file with an element of a wrong kind pydicom's own words quote its value."""
    dataset = nm_dataset(PIXELS["anterior"][None])
    path = save(dataset, tmp_path / "nm.dcm")
    data = path.read_bytes()
    # Columns, (0028,0011), as text: a name.
    tag = b"\x28\x00\x11\x00"
    at = data.index(tag + b"US")
    path.write_bytes(data[:at] + tag + b"LO\x08\x00Doe^Jane" + data[at + 10 :])
    with pytest.raises(InputError, match="Columns is no whole number") as error:
        read_dicom(path)
    assert "Doe" not in str(error.value)
