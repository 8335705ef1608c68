"""Writes simulated patients as NM whole-body DICOM, as varied as hospitals' files.

By patient: two frames in one file, in either order, or two files; signed or unsigned; uncompressed,
RLE, JPEG Lossless or JPEG 2000. Only the View Code Sequence names the view.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    NuclearMedicineImageStorage,
    RLELossless,
)

from bonescan_jax.phantom.files import (
    PatientTask,
    for_each_patient,
    tally_view,
    view_truth,
    write_folder,
)
from bonescan_jax.phantom.patient import PhantomView, simulate_patient
from bonescan_jax.scans.deidentify import deidentify, view_code
from bonescan_jax.scans.dicom_pixels import encode_pixels

SYNTAXES = (ExplicitVRLittleEndian, RLELossless, JPEGLosslessSV1, JPEG2000Lossless)
# Which view each frame of each file shows, by place: 0 is anterior.
_ARRANGEMENTS = (((0, 1),), ((1, 0),), ((0,), (1,)), ((1,), (0,)))
_ENERGY_WINDOW = (126.0, 154.0)  # keV; Tc-99m, 140 keV ± 10 %
_SCAN_VELOCITY = 1.67  # mm/s, 10 cm a minute
# Rows run from head to feet; columns to the patient's left, seen from behind to his right.
_ORIENTATIONS = {"anterior": [1, 0, 0, 0, 0, -1], "posterior": [-1, 0, 0, 0, 0, -1]}
_STREAM = 1  # of random numbers, beside that of simulate_patient


def write_dicom(
    out: Path, num_patients: int, seed: int, num_processes: int | None = None,
    on_patient: Callable[[int], None] | None = None, rule: str = "bs80k",
) -> dict[str, int | float]:  # fmt: skip
    """Simulates patients 1 … num_patients into OUT/<patient>/1.dcm (and 2.dcm) and OUT/truth/.

    Args:
        out: folder to make; must not exist or be empty. It appears only when all is written.
        num_patients: how many.
        seed: same seed, same files; the same patients as in BS-80K's layout.
        num_processes: None: one for each usable core.
        on_patient: called here with the patient's number as each is finished, in any order.
        rule: which hot spots are Abnormal, one of `uptake.CLASS_RULES`.

    Returns:
        What `bonescan_jax.phantom.files.write_folder` returns.

    Raises:
        InputError: as `bonescan_jax.phantom.files.write_folder`.
    """

    def write_all(folder: Path, processes: int) -> Counter[str]:
        (folder / "truth").mkdir(parents=True)
        totals: Counter[str] = Counter()
        patients = for_each_patient(_write_patient, folder, num_patients, seed, processes, rule)
        for patient, tally in patients:
            totals.update(tally)
            if on_patient is not None:
                on_patient(patient)
        return totals

    return write_folder(out, num_patients, num_processes, write_all)


def _write_patient(task: PatientTask) -> tuple[int, dict[str, int]]:
    """Simulates and writes one patient; runs in a worker."""
    out, seed, patient = Path(task[0]), task[1], task[2]
    cv2.setNumThreads(1)
    views = simulate_patient(seed, patient, task[3]).views
    (out / str(patient)).mkdir()
    for number, dataset in enumerate(make_datasets(views, seed, patient), 1):
        dataset.save_as(out / str(patient) / f"{number}.dcm", enforce_file_format=True)
    tally: Counter[str] = Counter()
    truth: dict[str, np.ndarray] = {}
    for view in views:
        tally.update(tally_view(view))
        truth |= view_truth(view)
    np.savez_compressed(out / "truth" / f"{patient}.npz", allow_pickle=False, **truth)
    return patient, dict(tally)


def make_datasets(views: Sequence[PhantomView], seed: int, patient: int) -> list[Dataset]:
    """Makes the one or two files of a patient, de-identified.

    Args:
        views: anterior, posterior.
        seed: of the data set.
        patient: with the seed it decides on frames, sign and compression.
    """
    rng = np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, patient, _STREAM])))
    arrangement = _ARRANGEMENTS[rng.integers(len(_ARRANGEMENTS))]
    signed = bool(rng.integers(2)) and max(view.counts.max() for view in views) < 1 << 15
    syntax = SYNTAXES[rng.integers(len(SYNTAXES))]
    datasets = []
    for number, places in enumerate(arrangement, 1):
        dataset = _nm_dataset([views[place] for place in places], signed)
        # De-identification makes UIDs of these.
        dataset.SOPInstanceUID = f"{patient}.1.1.{number}"
        dataset.SeriesInstanceUID = f"{patient}.1.1"
        dataset.StudyInstanceUID = f"{patient}.1"
        dataset.FrameOfReferenceUID = f"{patient}.2"
        dataset = deidentify(dataset, key=f"phantom {seed}".encode())
        if syntax.is_compressed:
            encode_pixels(dataset, syntax)
        datasets.append(dataset)
    return datasets


def _nm_dataset(views: Sequence[PhantomView], signed: bool) -> Dataset:
    """An NM Image (PS3.3, A.5) of whole-body frames, one detector each, one energy window."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = NuclearMedicineImageStorage
    dataset.Modality, dataset.BodyPartExamined = "NM", "WHOLEBODY"
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "WHOLE BODY", "EMISSION"]
    frames = np.stack([view.counts for view in views])
    _set_pixels(dataset, frames.astype(np.int16 if signed else np.uint16), views[0].pixel)
    dataset.CountsAccumulated = int(frames.sum())
    dataset.AcquisitionTerminationCondition = "TIME"
    top, bottom, _, _ = views[0].field
    dataset.ScanLength = round((bottom - top) * views[0].pixel)
    dataset.ScanVelocity = _SCAN_VELOCITY
    dataset.ActualFrameDuration = round(1000 * dataset.ScanLength / _SCAN_VELOCITY)  # ms
    dataset.WholeBodyTechnique = "1PS"
    dataset.CorrectedImage = ["UNIF", "NRGY", "LIN"]
    window = Dataset()
    window.EnergyWindowLowerLimit, window.EnergyWindowUpperLimit = _ENERGY_WINDOW
    information = Dataset()
    information.EnergyWindowRangeSequence = [window]
    dataset.EnergyWindowInformationSequence = [information]
    dataset.NumberOfEnergyWindows, dataset.EnergyWindowVector = 1, [1] * len(views)
    dataset.DetectorInformationSequence = [_detector(view.view) for view in views]
    dataset.NumberOfDetectors = len(views)
    dataset.DetectorVector = list(range(1, len(views) + 1))
    return dataset


def _set_pixels(dataset: Dataset, frames: np.ndarray, spacing: float) -> None:
    """Describes (F, H, W) pixels of 16 bits, `spacing` mm apart, and puts them in."""
    dataset.NumberOfFrames, dataset.Rows, dataset.Columns = frames.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.PixelSpacing = [spacing, spacing]
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 16, 15
    dataset.PixelRepresentation = int(frames.dtype == np.int16)
    dataset.PixelData = frames.astype(frames.dtype.newbyteorder("<")).tobytes()


def _detector(view: str) -> Dataset:
    detector = Dataset()
    detector.CollimatorType = "PARA"
    detector.ImageOrientationPatient = _ORIENTATIONS[view]
    detector.ImagePositionPatient = [0, 0, 0]
    detector.ViewCodeSequence = [view_code(view)]
    return detector
