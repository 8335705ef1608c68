"""Writes small NM DICOM files, for tests."""

from pathlib import Path

import imagecodecs
import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import ExplicitVRLittleEndian, NuclearMedicineImageStorage, generate_uid

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


def one_view(view: str, patient="P1", study="1.2.3", reference=None, window=1) -> Dataset:
    dataset = nm_dataset(PIXELS[view][None])
    dataset.DetectorInformationSequence = [detector(view, SNOMED_CT)]
    dataset.DetectorVector, dataset.EnergyWindowVector = [1], [window]
    dataset.PatientID, dataset.StudyInstanceUID = patient, study
    if reference:
        dataset.FrameOfReferenceUID = reference
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


def compressed(dataset: Dataset, syntax: str, code) -> Dataset:
    """The dataset with each of its frames encoded by `code`."""
    frames = [code(frame.astype(np.uint16)) for frame in dataset.pixel_array.reshape(-1, 64, 32)]
    dataset.PixelData = encapsulate(frames)
    dataset["PixelData"].VR, dataset["PixelData"].is_undefined_length = "OB", True
    dataset.file_meta.TransferSyntaxUID = syntax
    return dataset


def jpeg_lossless(frame: np.ndarray, predictor: int = 1) -> bytes:
    return imagecodecs.jpeg8_encode(frame, lossless=True, predictor=predictor)


def scan_file(path: Path, view: str, pixels: np.ndarray, study: str) -> Path:
    """Writes a file of one view with these (H, W) counts."""
    dataset = nm_dataset(pixels[None])
    dataset.DetectorInformationSequence = [detector(view, SNOMED_CT)]
    dataset.DetectorVector = dataset.EnergyWindowVector = [1]
    dataset.PatientID, dataset.StudyInstanceUID = study, study
    path.parent.mkdir(parents=True, exist_ok=True)
    return save(dataset, path)
