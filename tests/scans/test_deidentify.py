"""De-identification: every secret that a file can hold is gone, the image is not."""

import copy
import io
import re

import numpy as np
import pydicom
import pytest
from pydicom.datadict import DicomDictionary, keyword_for_tag
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.tag import Tag
from pydicom.uid import UID, JPEGLosslessSV1

from bonescan_jax.scans.deidentify import deidentify
from bonescan_jax.scans.dicom import read_dicom
from bonescan_jax.scans.dicom_pixels import DicomError
from tests.scans.dicom_files import (
    PIXELS,
    SNOMED_CT,
    assert_both_views,
    jpeg_lossless,
    nm_dataset,
    save,
    two_views,
)

# Without these it would be another image; all others get a secret.
IMAGE = {
    "SOPClassUID", "Modality", "ImageType", "SamplesPerPixel", "PhotometricInterpretation",
    "NumberOfFrames", "Rows", "Columns", "PixelSpacing", "BitsAllocated", "BitsStored", "HighBit",
    "PixelRepresentation", "PixelData", "CountsAccumulated", "DetectorVector",
    "DetectorInformationSequence", "ViewCodeSequence", "EnergyWindowVector",
    "SpecificCharacterSet",
}  # fmt: skip
# Numbers that belong to the image; what numbers they are is no secret.
NUMBERS = {
    "ActualFrameDuration", "CountRate", "ScanVelocity", "ScanLength", "RescaleSlope",
    "RescaleIntercept", "EnergyWindowLowerLimit", "EnergyWindowUpperLimit", "ZoomFactor",
    "FieldOfViewDimensions", "StartAngle", "ImagePositionPatient", "ImageOrientationPatient",
}  # fmt: skip
TEXT = ("AE", "AS", "CS", "DA", "DT", "LO", "LT", "PN", "SH", "ST", "TM", "UC", "UR", "UT")
BYTES = ("OB", "OW", "OF", "OD", "OL", "OV", "UN")
PLAIN_ELEMENTS = [
    (Tag(tag), vr.split(" or ")[-1])
    for tag, (vr, _, _, _, keyword) in DicomDictionary.items()
    if 0x0008 <= tag >> 16 < 0x7FE0 and keyword not in IMAGE | NUMBERS and vr != "SQ"
]
SEQUENCES = [
    Tag(tag)
    for tag, (vr, *_) in DicomDictionary.items()
    if vr == "SQ" and tag >> 16 >= 0x0008 and keyword_for_tag(tag) not in IMAGE
]


class Secrets:
    """Plants secrets, each of its own, and remembers them."""

    def __init__(self):
        self.planted: list[bytes] = []

    def new(self, vr: str):
        """A value that pydicom takes for this VR."""
        number = 100000 + len(self.planted)
        if vr in ("IS", "DS"):
            secret = f"77{number}"
        elif vr == "UI":
            secret = f"1.2.999.{number}.5"
        else:
            secret = f"SECRET{number}"
        self.planted.append(secret.encode())
        return secret.encode() + b"\0" * (len(secret) % 2) if vr in BYTES else secret

    def plant(self, dataset: Dataset, elements) -> None:
        """Sets the elements, pairs of tag and VR; numbers in binary hold no text."""
        for tag, vr in elements:
            if vr in (*TEXT, *BYTES, "UI", "IS", "DS"):
                dataset.add(DataElement(tag, vr, self.new(vr)))

    def plant_private(self, dataset: Dataset) -> None:
        """Adds private groups, with a sequence in each."""
        for group in (0x0009, 0x0029, 0x0055):
            block = dataset.private_block(group, self.new("LO"), create=True)
            block.add_new(1, "LO", self.new("LO"))
            block.add_new(2, "UN", self.new("UN"))
            block.add_new(3, "SQ", [self.item()])

    def item(self) -> Dataset:
        """An item with one element of each kind."""
        item = Dataset()
        by_vr = {vr: (tag, vr) for tag, vr in PLAIN_ELEMENTS}
        self.plant(item, by_vr.values())
        return item


def full_of_secrets() -> tuple[bytes, list[bytes]]:
    """A two-view file with a secret in every element of the dictionary, at each depth, and beside.

    Returns:
        The file, and the secrets.
    """
    secrets = Secrets()
    dataset = two_views(("posterior", "anterior"))
    dataset.ImageType = [*dataset.ImageType[:3], secrets.new("CS")]
    secrets.plant(dataset, PLAIN_ELEMENTS)
    for tag in SEQUENCES:
        dataset.add(DataElement(tag, "SQ", Sequence([secrets.item()])))
    for overlay in (0x6000, 0x6002, 0x5000):
        secrets.plant(dataset, [(Tag(overlay, 0x0022), "LO"), (Tag(overlay, 0x3000), "OW")])
    energy = dataset.EnergyWindowInformationSequence[0]
    energy.EnergyWindowRangeSequence = [secrets.item()]
    for detector in dataset.DetectorInformationSequence:
        code = detector.ViewCodeSequence[0]
        secrets.plant(detector, PLAIN_ELEMENTS)
        secrets.plant(code, [e for e in PLAIN_ELEMENTS if e[0] not in code])
        code.ViewModifierCodeSequence = [secrets.item()]
        detector.ViewCodeSequence.append(secrets.item())
        for nested in (detector, code):
            secrets.plant_private(nested)
    secrets.plant_private(dataset)
    dataset.preamble = secrets.new("LO").encode().ljust(128, b"\0")
    meta = dataset.file_meta
    meta.SourceApplicationEntityTitle = secrets.new("AE")
    meta.ImplementationVersionName = secrets.new("SH")
    meta.PrivateInformationCreatorUID = secrets.new("UI")
    meta.PrivateInformation = secrets.new("OB")
    stream = io.BytesIO()
    dataset.save_as(stream, enforce_file_format=True)
    return stream.getvalue(), secrets.planted


@pytest.fixture
def lenient(monkeypatch):
    """Lets pydicom write text where a date or a code should be, as careless vendors do."""
    monkeypatch.setattr(pydicom.config.settings, "writing_validation_mode", pydicom.config.IGNORE)


def saved(dataset: Dataset) -> bytes:
    stream = io.BytesIO()
    dataset.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def test_no_secret_in_any_element_of_the_dictionary_survives(tmp_path, lenient):
    data, secrets = full_of_secrets()
    assert len(secrets) > 8000
    written = re.findall(rb"SECRET\d{6}|77\d{6}|1\.2\.999\.\d{6}\.5", data)
    assert set(secrets) <= set(written)
    dataset = pydicom.dcmread(io.BytesIO(data))
    result = saved(deidentify(dataset, key=b"fixed"))
    assert [secret for secret in secrets if secret in result] == []
    assert b"SECRET" not in result and b"Doe" not in result and b"1.2.999" not in result
    (tmp_path / "nm.dcm").write_bytes(result)
    assert_both_views(tmp_path / "nm.dcm")


def test_no_secret_in_a_codestream_or_in_unused_bits_survives(tmp_path):
    dataset = nm_dataset(PIXELS["anterior"][None])
    code = jpeg_lossless(PIXELS["anterior"].astype(np.uint16))
    comment = b"SECRET COMMENT"
    segment = b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment
    dataset.PixelData = encapsulate([code[:2] + segment + code[2:]])
    dataset["PixelData"].VR, dataset["PixelData"].is_undefined_length = "OB", True
    dataset.file_meta.TransferSyntaxUID = JPEGLosslessSV1
    dataset = pydicom.dcmread(save(dataset, tmp_path / "nm.dcm"))
    result = deidentify(dataset)
    assert b"SECRET" in saved(dataset) and b"SECRET" not in saved(result)
    assert (result.pixel_array == PIXELS["anterior"]).all()

    overlaid = nm_dataset(PIXELS["anterior"][None] | 0xF000)
    overlaid.BitsStored, overlaid.HighBit = 12, 11
    assert (deidentify(overlaid).pixel_array == PIXELS["anterior"]).all()


def test_the_image_and_what_explains_it_is_kept(tmp_path):
    dataset = two_views(("posterior", "anterior"), dtype=np.int16)
    dataset.ScanVelocity, dataset.WholeBodyTechnique = "1.671598", "1PS"
    dataset.CorrectedImage = ["NRGY", "LIN"]
    before = copy.deepcopy(dataset)
    result = deidentify(dataset)
    assert dataset == before  # it is another dataset
    assert_both_views(save(result, tmp_path / "nm.dcm"))
    for keyword in ("ImageType", "PixelSpacing", "CountsAccumulated", "ScanVelocity",
                    "WholeBodyTechnique", "CorrectedImage", "PixelRepresentation"):  # fmt: skip
        assert result[keyword].value == dataset[keyword].value
    assert result.PatientIdentityRemoved == "YES"
    assert result.DeidentificationMethod
    (code,) = result.DeidentificationMethodCodeSequence
    assert (code.CodeValue, code.CodingSchemeDesignator) == ("113100", "DCM")


def test_a_view_told_by_free_text_becomes_a_code(tmp_path):
    dataset = nm_dataset(PIXELS["posterior"][None])
    dataset.ImageID = "MR JONES POSTERIOR"
    result = deidentify(dataset)
    assert "ImageID" not in result and b"JONES" not in saved(result)
    (code,) = result.DetectorInformationSequence[0].ViewCodeSequence
    assert (code.CodeValue, code.CodingSchemeDesignator) == SNOMED_CT["posterior"]
    (frame,) = read_dicom(save(result, tmp_path / "nm.dcm"))
    assert frame.view == "posterior"


def test_uids_are_new_and_stay_related():
    files = [nm_dataset(PIXELS[view][None]) for view in PIXELS]
    for number, dataset in enumerate(files):
        dataset.StudyInstanceUID, dataset.SOPInstanceUID = "1.2.3", f"1.2.3.{number}"
    one, two = (deidentify(dataset) for dataset in files)
    assert one.StudyInstanceUID == two.StudyInstanceUID != "1.2.3"
    assert one.SOPInstanceUID != two.SOPInstanceUID
    assert one.SeriesInstanceUID != two.SeriesInstanceUID  # neither file had one
    for keyword in ("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"):
        assert UID(one[keyword].value).is_valid
    assert one.file_meta.MediaStorageSOPInstanceUID == one.SOPInstanceUID
    keyed = [deidentify(files[0], key=key).StudyInstanceUID for key in (b"a", b"a", b"b")]
    assert keyed[0] == keyed[1] != keyed[2]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"Modality": "CT"}, "Modality is CT, expected NM"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.2"}, "SOP Class is another one"),
        ({"PixelData": b"1234"}, "Pixel Data holds 4 bytes"),
        ({"Rows": 65535, "Columns": 65535}, "expected at most 16777216 pixels"),
    ],
)
def test_what_is_no_whole_body_scan_is_refused(change, message):
    dataset = nm_dataset(PIXELS["anterior"][None])
    for field, value in change.items():
        setattr(dataset, field, value)
    with pytest.raises(DicomError, match=message):
        deidentify(dataset)


@pytest.mark.parametrize(("sop_class", "burned_in"), [("7", None), ("7", "YES"), ("20", "YES")])
def test_pixels_that_may_hold_a_name_are_refused(sop_class, burned_in):
    dataset = two_views(("anterior", "posterior"))
    dataset.SOPClassUID = f"1.2.840.10008.5.1.4.1.1.{sop_class}"
    dataset.BurnedInAnnotation = burned_in
    with pytest.raises(DicomError, match="Burned In Annotation"):
        deidentify(dataset)
