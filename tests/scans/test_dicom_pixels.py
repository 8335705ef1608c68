"""Pixels of NM DICOM: the same counts, whatever they are encoded with."""

import cv2
import imagecodecs
import numpy as np
import pytest
from pydicom.dataset import FileMetaDataset
from pydicom.uid import (
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from bonescan_jax.scans.dicom import read_dicom
from bonescan_jax.scans.dicom_pixels import encode_pixels
from tests.scans.dicom_files import (
    PIXELS,
    assert_both_views,
    compressed,
    jpeg_lossless,
    nm_dataset,
    save,
    two_views,
)


@pytest.mark.parametrize("dtype", [np.uint16, np.int16])
@pytest.mark.parametrize("syntax", [RLELossless, JPEGLosslessSV1, JPEG2000Lossless])
def test_compressed_files_give_the_same_counts(tmp_path, syntax, dtype):
    dataset = two_views(("posterior", "anterior"), dtype=dtype)
    encode_pixels(dataset, syntax)
    assert_both_views(save(dataset, tmp_path / "nm.dcm"))


def test_jpegs_of_other_encoders_give_the_same_counts(tmp_path):
    """OpenCV's JPEG 2000 and another predictor of JPEG Lossless, padded as NM1's is."""

    def jpeg_2000(frame):
        """OpenCV wraps the codestream into a JP2 file: it begins with SOC and SIZ."""
        data = cv2.imencode(".jp2", frame, [cv2.IMWRITE_JPEG2000_COMPRESSION_X1000, 1000])[1]
        return data.tobytes()[data.tobytes().index(b"\xff\x4f\xff\x51") :]

    order = ("anterior", "posterior")
    dataset = compressed(two_views(order), JPEG2000Lossless, jpeg_2000)
    assert_both_views(save(dataset, tmp_path / "j2k.dcm"))
    dataset = compressed(two_views(order), JPEGLossless, lambda f: jpeg_lossless(f, 6) + b"\xff")
    assert_both_views(save(dataset, tmp_path / "jpeg.dcm"))


@pytest.mark.parametrize("dtype", [np.uint16, np.int16])
def test_jpeg_ls_gives_the_same_counts(tmp_path, dtype):
    dataset = two_views(("posterior", "anterior"), dtype=dtype)
    dataset = compressed(dataset, JPEGLSLossless, imagecodecs.jpegls_encode)
    assert_both_views(save(dataset, tmp_path / "nm.dcm"))


@pytest.mark.parametrize("signed", [0, 1])
@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize(
    "syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian]
)
def test_every_byte_order_and_size_gives_the_same_counts(tmp_path, syntax, bits, signed):
    dataset = two_views(("posterior", "anterior"))
    frames = np.stack([PIXELS["posterior"], PIXELS["anterior"]])
    order = ">" if syntax == ExplicitVRBigEndian else "<"
    data = frames.astype(f"{order}{'i' if signed else 'u'}{bits // 8}").tobytes()
    dataset.add_new("PixelData", "OB" if bits == 8 else "OW", data)
    dataset.BitsAllocated = dataset.BitsStored = bits
    dataset.HighBit, dataset.PixelRepresentation = bits - 1, signed
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.save_as(
        tmp_path / "nm.dcm",
        implicit_vr=syntax == ImplicitVRLittleEndian,
        little_endian=syntax != ExplicitVRBigEndian,
        enforce_file_format=True,
    )
    assert_both_views(tmp_path / "nm.dcm")


def test_bits_above_the_stored_ones_are_no_counts(tmp_path):
    """Old files keep an overlay there (PS3.5, 8.1.1)."""
    dataset = two_views(("anterior", "posterior"))
    frames = np.stack([PIXELS["anterior"], PIXELS["posterior"]]).astype(np.uint16)
    dataset.PixelData = (frames | 0xF000).tobytes()
    dataset.BitsStored, dataset.HighBit = 12, 11
    assert_both_views(save(dataset, tmp_path / "nm.dcm"))


@pytest.mark.parametrize("keep_meta", [True, False])
@pytest.mark.parametrize("implicit", [True, False])
def test_a_file_without_preamble_is_read(tmp_path, implicit, keep_meta):
    dataset = two_views(("posterior", "anterior"))
    if implicit:
        dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    if not keep_meta:
        dataset.file_meta = FileMetaDataset()
    dataset.preamble = None
    path = tmp_path / "IM0001"
    dataset.save_as(path, implicit_vr=implicit, little_endian=True, enforce_file_format=False)
    assert path.read_bytes()[128:132] != b"DICM"
    assert_both_views(path)


def test_rescaled_counts_are_counts_again(tmp_path):
    dataset = nm_dataset(PIXELS["anterior"][None])
    dataset.RescaleSlope, dataset.RescaleIntercept = 0.5, 0
    (frame,) = read_dicom(save(dataset, tmp_path / "nm.dcm"))
    assert (frame.pixels == PIXELS["anterior"] / 2).all()
