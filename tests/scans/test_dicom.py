"""NM DICOM: counts and views, whatever the order of frames and the encoding."""

import gdcm
import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    ExplicitVRLittleEndian,
    NuclearMedicineImageStorage,
    RLELossless,
    SecondaryCaptureImageStorage,
    generate_uid,
)

from bonescan_jax.errors import InputError
from bonescan_jax.scans.dicom import read_dicom

SNOMED_CT = {"anterior": ("399321004", "SCT"), "posterior": ("399001007", "SCT")}
SNOMED_RT = {"anterior": ("G-5215", "SRT"), "posterior": ("G-5216", "SRT")}
# A code of one's own: the meaning in words must do.
PRIVATE = {"anterior": ("A", "99LOCAL"), "posterior": ("P", "99LOCAL")}


def counts(seed: int, shape=(64, 32)) -> np.ndarray:
    return np.random.default_rng(seed).poisson(40, shape)


PIXELS = {"anterior": counts(1), "posterior": counts(2)}


def nm_dataset(frames: np.ndarray, dtype=np.uint16) -> Dataset:
    """A whole-body file of (F, H, W) counts that says nothing of views."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = NuclearMedicineImageStorage
    dataset.SOPInstanceUID = generate_uid()
    dataset.Modality = "NM"
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "WHOLE BODY", "EMISSION"]
    dataset.PatientName = "Doe^Jane"
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.NumberOfFrames, dataset.Rows, dataset.Columns = frames.shape
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.HighBit = 15
    dataset.PixelRepresentation = int(np.issubdtype(dtype, np.signedinteger))
    dataset.PixelSpacing = [2.26, 2.5]
    dataset.CountsAccumulated = int(frames.sum())
    dataset.PixelData = frames.astype(dtype).tobytes()
    return dataset


def detector(view: str, codes: dict) -> Dataset:
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator = codes[view]
    code.CodeMeaning = f"{view.title()} projection"
    item = Dataset()
    item.ViewCodeSequence = [code]
    item.ImageOrientationPatient = [1, 0, 0, 0, 0, -1]  # gdcm asks for both
    item.ImagePositionPatient = [0, 0, 0]
    return item


def two_views(order, codes=SNOMED_CT, **kwargs) -> Dataset:
    dataset = nm_dataset(np.stack([PIXELS[view] for view in order]), **kwargs)
    dataset.DetectorInformationSequence = [detector(view, codes) for view in order]
    dataset.DetectorVector = [1, 2]
    dataset.EnergyWindowVector = [1, 1]
    return dataset


def save(dataset: Dataset, path):
    dataset.save_as(path, enforce_file_format=True)
    return path


def assert_both_views(path) -> None:
    frames = {frame.view: frame for frame in read_dicom(path)}
    assert frames.keys() == PIXELS.keys()
    for view, frame in frames.items():
        assert frame.pixels.dtype == np.float32
        assert (frame.pixels == PIXELS[view]).all()
        assert frame.pixel_spacing == (2.26, 2.5)
        assert frame.counts_accumulated == sum(pixels.sum() for pixels in PIXELS.values())


@pytest.mark.parametrize("dtype", [np.uint16, np.int16])
@pytest.mark.parametrize("codes", [SNOMED_CT, SNOMED_RT, PRIVATE])
@pytest.mark.parametrize("order", [("anterior", "posterior"), ("posterior", "anterior")])
def test_views_follow_the_codes_in_either_order(tmp_path, order, codes, dtype):
    assert_both_views(save(two_views(order, codes, dtype=dtype), tmp_path / "nm.dcm"))


def test_views_follow_the_detector_vector(tmp_path):
    dataset = two_views(("anterior", "posterior"))
    dataset.DetectorInformationSequence = dataset.DetectorInformationSequence[::-1]
    dataset.DetectorVector = [2, 1]
    assert_both_views(save(dataset, tmp_path / "nm.dcm"))


def test_without_vectors_detectors_run_faster_than_energy_windows(tmp_path):
    dataset = nm_dataset(np.stack([counts(seed) for seed in range(4)]))
    dataset.DetectorInformationSequence = [
        detector(view, SNOMED_CT) for view in ("posterior", "anterior")
    ]
    frames = read_dicom(save(dataset, tmp_path / "nm.dcm"))
    assert [(frame.view, frame.energy_window) for frame in frames] == [
        ("posterior", 1),
        ("anterior", 1),
        ("posterior", 2),
        ("anterior", 2),
    ]


def test_compressed_files_give_the_same_counts(tmp_path):
    plain = save(two_views(("posterior", "anterior"), dtype=np.int16), tmp_path / "plain.dcm")
    dataset = pydicom.dcmread(plain)
    dataset.compress(RLELossless)
    assert_both_views(save(dataset, tmp_path / "rle.dcm"))

    reader = gdcm.ImageReader()
    reader.SetFileName(str(plain))
    assert reader.Read()
    change = gdcm.ImageChangeTransferSyntax()
    change.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.JPEGLosslessProcess14_1))
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer = gdcm.ImageWriter()
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    writer.SetFileName(str(tmp_path / "jpeg.dcm"))
    assert writer.Write()
    assert pydicom.dcmread(tmp_path / "jpeg.dcm").file_meta.TransferSyntaxUID.is_compressed
    assert_both_views(tmp_path / "jpeg.dcm")


@pytest.mark.parametrize(
    ("image_id", "series", "view"),
    [
        ("WB_ANT", None, "anterior"),
        ("POSTERIOR_E", None, "posterior"),
        (None, "Whole body post", "posterior"),
        ("WHOLE BODY", "anterior", "anterior"),
        (None, "Bone 3h POST INJ", None),
        ("LAO ANTERIOR", None, None),
        ("ANT/POST", None, None),
        (None, None, None),
    ],
)
def test_text_tells_the_view_of_a_single_frame(tmp_path, image_id, series, view):
    dataset = nm_dataset(PIXELS["anterior"][None])
    dataset.ImageID, dataset.SeriesDescription = image_id, series
    (frame,) = read_dicom(save(dataset, tmp_path / "nm.dcm"))
    assert frame.view == view


def test_text_tells_nothing_of_several_frames(tmp_path):
    dataset = nm_dataset(np.stack(list(PIXELS.values())))
    dataset.ImageID = "ANT"
    assert [frame.view for frame in read_dicom(save(dataset, tmp_path / "nm.dcm"))] == [None, None]


def test_secondary_capture_with_modality_nm_is_read(tmp_path):
    dataset = two_views(("anterior", "posterior"))
    dataset.SOPClassUID = SecondaryCaptureImageStorage
    dataset.ImageType = ["DERIVED", "SECONDARY", "OTHER"]
    assert_both_views(save(dataset, tmp_path / "sc.dcm"))


def test_rescaled_counts_are_counts_again(tmp_path):
    dataset = nm_dataset(PIXELS["anterior"][None])
    dataset.RescaleSlope, dataset.RescaleIntercept = 0.5, 0
    (frame,) = read_dicom(save(dataset, tmp_path / "nm.dcm"))
    assert (frame.pixels == PIXELS["anterior"] / 2).all()


def negative() -> np.ndarray:
    return PIXELS["anterior"][None] - 100


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"Modality": "CT"}, "Modality is CT, expected NM"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "TOMO"]}, "Image Type, value 3, is TOMO"),
        ({"PhotometricInterpretation": "MONOCHROME1"}, "Photometric Interpretation is MONOCHROME1"),
        ({"BitsAllocated": 32}, "Bits Allocated is 32, expected 16 or 8"),
        ({"PixelData": negative().astype(np.int16).tobytes()}, "expected counts from 0"),
        ({"PixelData": b"1234"}, "cannot be read as DICOM"),
        ({"DetectorVector": [1, 2]}, "DetectorVector has 2 values, expected one for each of the 1"),
    ],
)
def test_what_is_no_whole_body_count_image_is_refused(tmp_path, change, message):
    dataset = nm_dataset(PIXELS["anterior"][None], dtype=np.int16)
    for field, value in change.items():
        setattr(dataset, field, value)
    with pytest.raises(InputError, match=message) as error:
        read_dicom(save(dataset, tmp_path / "nm.dcm"))
    assert "Doe" not in str(error.value)
    assert "\n" not in str(error.value)


def test_other_and_cut_files_are_refused(tmp_path):
    path = save(two_views(("anterior", "posterior")), tmp_path / "nm.dcm")
    data = path.read_bytes()
    for length in (0, 100, 140, 300, len(data) - 2000):
        path.write_bytes(data[:length])
        with pytest.raises(InputError, match=r"nm\.dcm"):
            read_dicom(path)
    with pytest.raises(InputError, match="cannot be read"):
        read_dicom(tmp_path / "nowhere.dcm")
