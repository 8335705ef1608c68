"""NM DICOM: counts and views, whatever the order of frames and the encoding."""

import tracemalloc

import cv2
import imagecodecs
import numpy as np
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    NuclearMedicineImageStorage,
    RLELossless,
    SecondaryCaptureImageStorage,
    generate_uid,
)

from bonescan_jax.errors import InputError
from bonescan_jax.scans.dicom import DicomFrame, pair_views, read_dicom
from bonescan_jax.scans.dicom_pixels import encode_pixels

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
    dataset.PixelSpacing = [2.26, 2.4]
    dataset.CountsAccumulated = int(frames.sum())
    dataset.PixelData = frames.astype(dtype).tobytes()
    return dataset


def detector(view: str, codes: dict) -> Dataset:
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator = codes[view]
    code.CodeMeaning = f"{view.title()} projection"
    item = Dataset()
    item.ViewCodeSequence = [code]
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
        assert frame.pixel_spacing == (2.26, 2.4)
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


def compressed(dataset: Dataset, syntax: str, code) -> Dataset:
    """The dataset with each of its frames encoded by `code`."""
    frames = [code(frame.astype(np.uint16)) for frame in dataset.pixel_array.reshape(-1, 64, 32)]
    dataset.PixelData = encapsulate(frames)
    dataset["PixelData"].VR, dataset["PixelData"].is_undefined_length = "OB", True
    dataset.file_meta.TransferSyntaxUID = syntax
    return dataset


def jpeg_lossless(frame: np.ndarray, predictor: int = 1) -> bytes:
    return imagecodecs.jpeg8_encode(frame, lossless=True, predictor=predictor)


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


# ---- pairs ---------------------------------------------------------------------------------------


def one_view(view: str, patient="P1", study="1.2.3", reference=None, window=1) -> Dataset:
    dataset = nm_dataset(PIXELS[view][None])
    dataset.DetectorInformationSequence = [detector(view, SNOMED_CT)]
    dataset.DetectorVector, dataset.EnergyWindowVector = [1], [window]
    dataset.PatientID, dataset.StudyInstanceUID = patient, study
    if reference:
        dataset.FrameOfReferenceUID = reference
    return dataset


def read(dataset: Dataset, path) -> list[DicomFrame]:
    return read_dicom(save(dataset, path / f"{generate_uid()}.dcm"))


def test_views_in_two_files_are_paired_by_patient_and_study(tmp_path):
    frames = []
    for view, patient, study in (
        ("posterior", "P1", "1.2.3"),
        ("anterior", "P2", "1.2.4"),
        ("anterior", "P1", "1.2.3"),
        ("posterior", "P2", "1.2.5"),  # another study of the same person
    ):
        frames += read(one_view(view, patient, study), tmp_path)
    (pair,), left = pair_views(frames)
    assert pair.anterior is frames[2] and pair.posterior is frames[0]
    assert [frame.view for frame in left] == ["anterior", "posterior"]


def test_two_scans_of_one_study_stay_apart(tmp_path):
    """An early and a late scan: by their files, else by their frames of reference, else not."""
    early = read(two_views(("posterior", "anterior")), tmp_path)
    late = read(two_views(("anterior", "posterior")), tmp_path)
    pairs, left = pair_views([*early, *late])
    assert not left
    assert {frame.groups for frame in pairs[0]} != {frame.groups for frame in pairs[1]}
    assert all(pair.anterior.groups == pair.posterior.groups for pair in pairs)

    single = [
        frame
        for view in PIXELS
        for reference in ("1.1", "1.2")
        for frame in read(one_view(view, reference=reference), tmp_path)
    ]
    pairs, left = pair_views(single)
    assert len(pairs) == 2 and not left
    assert all(pair.anterior.groups[1] == pair.posterior.groups[1] for pair in pairs)

    same = [frame for view in PIXELS for _ in "12" for frame in read(one_view(view), tmp_path)]
    assert pair_views(same) == ([], same)  # nothing tells which belong together


def test_energy_windows_and_unknown_files_are_not_mixed(tmp_path):
    frames = read(one_view("anterior"), tmp_path) + read(one_view("posterior", window=2), tmp_path)
    assert pair_views(frames)[0] == []
    nameless = [one_view(view, study="") for view in PIXELS]
    frames = [frame for dataset in nameless for frame in read(dataset, tmp_path)]
    assert pair_views(frames)[0] == []


def test_nothing_personal_is_in_a_frame(tmp_path):
    (frame,) = read(one_view("anterior", patient="P1234567", study="1.2.840.99"), tmp_path)
    (again,) = read(one_view("anterior", patient="P1234567", study="1.2.840.99"), tmp_path)
    (other,) = read(one_view("anterior", patient="P1234568", study="1.2.840.99"), tmp_path)
    assert frame.groups[2] == again.groups[2] != other.groups[2]
    text = repr(frame)
    for personal in ("Doe", "P1234567", "1.2.840.99"):
        assert personal not in text


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


@pytest.mark.parametrize("dtype", [np.uint16, np.int16])
def test_jpeg_ls_gives_the_same_counts(tmp_path, dtype):
    dataset = two_views(("posterior", "anterior"), dtype=dtype)
    dataset = compressed(dataset, JPEGLSLossless, imagecodecs.jpegls_encode)
    assert_both_views(save(dataset, tmp_path / "nm.dcm"))
