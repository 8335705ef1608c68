"""NM DICOM: which view each frame is, whatever their order, and what is no bone scan."""

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import SecondaryCaptureImageStorage

from bonescan_jax.errors import InputError
from bonescan_jax.scans.dicom import read_dicom
from tests.scans.dicom_files import (
    PIXELS,
    PRIVATE,
    SNOMED_CT,
    SNOMED_RT,
    assert_both_views,
    counts,
    detector,
    nm_dataset,
    save,
    two_views,
)


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


def test_the_energy_window_is_told(tmp_path):
    dataset = nm_dataset(np.stack([counts(seed) for seed in range(2)]))
    dataset.DetectorInformationSequence = [detector("anterior", SNOMED_CT)]
    dataset.EnergyWindowVector, dataset.DetectorVector = [2, 1], [1, 1]
    windows = []
    for lower, upper in ((126.0, 154.0), (108.5, 126.0)):
        limits, window = Dataset(), Dataset()
        limits.EnergyWindowLowerLimit, limits.EnergyWindowUpperLimit = lower, upper
        window.EnergyWindowRangeSequence = [limits]
        windows.append(window)
    dataset.EnergyWindowInformationSequence = windows
    frames = read_dicom(save(dataset, tmp_path / "nm.dcm"))
    assert [(frame.view, frame.energy_window, frame.energy_range) for frame in frames] == [
        ("anterior", 2, (108.5, 126.0)),
        ("anterior", 1, (126.0, 154.0)),
    ]


@pytest.mark.parametrize(
    ("image_id", "series", "view"),
    [
        ("WB_ANT", None, "anterior"),
        ("POSTERIOR_E", None, "posterior"),
        (None, "Whole body post", None),
        ("WHOLE BODY", "anterior", "anterior"),
        (None, "Bone 3h POST INJ", None),
        ("LAO ANTERIOR", None, None),
        ("ANT/POST", None, None),
        (None, None, None),
        ("POST", None, "posterior"),
        ("Bone Scan WB_POST_E", None, "posterior"),
        ("ANT1", None, "anterior"),
        ("Whole Body POST 2", None, "posterior"),
        ("POST MASTECTOMY", None, None),
        ("WB POST FRACTURE", None, None),
        ("POST 3H", None, None),
        ("WB 3 POST", None, None),
        ("POST PROSTATECTOMY", "anterior", "anterior"),
        ("POST INJ POSTERIOR", None, "posterior"),
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


def negative() -> np.ndarray:
    return PIXELS["anterior"][None] - 100


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"Modality": "CT"}, "Modality is CT, expected NM"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "TOMO"]}, "Image Type, value 3, is TOMO"),
        ({"PhotometricInterpretation": "MONOCHROME1"}, "Photometric Interpretation is MONOCHROME1"),
        ({"BitsAllocated": 32}, "Bits Allocated is 32, expected 8 or 16"),
        ({"SamplesPerPixel": 3}, "Samples per Pixel is 3, expected 1"),
        ({"HighBit": 11}, "High Bit is 11, expected 15"),
        ({"PixelData": negative().astype(np.int16).tobytes()}, "expected counts from 0"),
        ({"PixelData": b"1234"}, "Pixel Data holds 4 bytes, expected 4096 for 1x64x32 pixels"),
        ({"PixelData": bytes(8192)}, "Pixel Data holds 8192 bytes, expected 4096"),
        ({"Rows": 0}, "Rows is 0, expected 1 to 65535"),
        ({"NumberOfFrames": -1}, "Number of Frames is -1, expected 1 to"),
        ({"NumberOfFrames": 10**6}, "is 1000000x64x32, expected at most 16777216 pixels"),
        ({"RescaleSlope": "NaN", "RescaleIntercept": 0}, "Rescale Slope is not a finite number"),
        ({"RescaleSlope": 1, "RescaleIntercept": "inf"}, "Intercept is not a finite number"),
        ({"RescaleSlope": 1e30, "RescaleIntercept": 0}, "expected at most 16777216"),
        ({"RescaleSlope": -1, "RescaleIntercept": 0}, "expected counts from 0"),
        ({"PixelSpacing": ["NaN", 2]}, "Pixel Spacing is not a finite number"),
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


@pytest.mark.parametrize(
    "text", ["WB 3HR POST", "POST MDP", "BONE 3 HRS ANT", "antero-posterior", "postero-anterior"]
)
def test_a_series_description_is_not_guessed_from(tmp_path, text):
    dataset = nm_dataset(PIXELS["anterior"][None])
    dataset.SeriesDescription = text
    (frame,) = read_dicom(save(dataset, tmp_path / "nm.dcm"))
    assert frame.view is None
    assert "which view" in frame.notes[0]


@pytest.mark.parametrize("meaning", ["antero-posterior", "postero-anterior projection"])
def test_a_direction_of_rays_is_no_view(tmp_path, meaning):
    dataset = two_views(("anterior", "posterior"))
    code = Dataset()
    code.CodeMeaning = meaning
    dataset.DetectorInformationSequence[0].ViewCodeSequence = [code]
    frames = read_dicom(save(dataset, tmp_path / "nm.dcm"))
    assert [frame.view for frame in frames] == [None, "posterior"]
    assert ["which view" in " ".join(frame.notes) for frame in frames] == [True, False]


@pytest.mark.parametrize("spacing", [[0, 0], 2.26])
def test_a_spacing_that_is_none_does_not_keep_a_scan_from_being_read(tmp_path, spacing):
    dataset = two_views(("anterior", "posterior"))
    dataset.PixelSpacing, dataset.RescaleSlope = spacing, None
    for frame in read_dicom(save(dataset, tmp_path / "nm.dcm")):
        assert frame.pixel_spacing is None
        assert "Pixel Spacing" in frame.notes[0]


def test_pixels_of_another_size_are_noted_and_of_twice_the_size_refused(tmp_path):
    dataset = two_views(("anterior", "posterior"))
    for spacing, notes in ((2.4, 0), (2.8, 1)):
        dataset.PixelSpacing = [spacing, spacing]
        frames = read_dicom(save(dataset, tmp_path / "nm.dcm"))
        assert [len(frame.notes) for frame in frames] == [notes, notes]
    dataset.PixelSpacing = [4.52, 4.52]
    with pytest.raises(InputError, match=r"Pixel Spacing is 4\.52 x 4\.52 mm, expected 1\.51 to"):
        read_dicom(save(dataset, tmp_path / "nm.dcm"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"RescaleSlope": 0}, "Rescale Slope is 0"),
        ({"DetectorVector": [0, 1]}, "DetectorVector holds 0"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "WHOLE BODY", "TRANSMISSION"]}, "is TRANSMISSION"),
        (
            {
                "SOPClassUID": "1.2.840.10008.5.1.4.1.1.7",
                "ImageType": ["DERIVED", "SECONDARY", "RECON TOMO"],
            },
            "value 3, is RECON TOMO",
        ),
    ],
)
def test_what_is_no_bone_scan_in_counts_is_refused(tmp_path, change, message):
    dataset = two_views(("anterior", "posterior"))
    for field, value in change.items():
        setattr(dataset, field, value)
    with pytest.raises(InputError, match=message):
        read_dicom(save(dataset, tmp_path / "nm.dcm"))
