"""Simulated DICOM: valid NM files of many kinds that hold exactly the true counts."""

import io
import json
import sys

import numpy as np
import pydicom
import pytest
from pydicom.uid import NuclearMedicineImageStorage

from bonescan_jax.cli.main import main
from bonescan_jax.errors import InputError
from bonescan_jax.phantom.dicom import SYNTAXES, make_datasets, write_dicom
from bonescan_jax.phantom.patient import PhantomView, simulate_patient
from bonescan_jax.scans import Box
from bonescan_jax.scans.dicom import pair_views, read_dicom
from bonescan_jax.scans.listing import list_image_files

PATIENTS = range(1, 61)


def small_views(patient: int) -> list[PhantomView]:
    """Views that take no time to simulate; one patient has more counts than int16 can hold."""
    rng = np.random.default_rng(patient)
    views = []
    for view in ("anterior", "posterior"):
        counts = rng.poisson(40, (64, 32)).astype(np.uint16)
        counts[5, 5] = 40000 if patient == 7 else counts[5, 5]
        mask = np.zeros(counts.shape, np.uint8)
        views.append(PhantomView(view, counts, counts, mask, (), 2.0, (0, 64, 0, 32), mask))
    return views


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Patient, views, datasets and paths of all patients."""
    folder = tmp_path_factory.mktemp("dicom")
    made = []
    for patient in PATIENTS:
        views = small_views(patient)
        datasets = make_datasets(views, seed=0, patient=patient)
        paths = [folder / f"{patient}-{number}.dcm" for number in range(len(datasets))]
        for dataset, path in zip(datasets, paths, strict=True):
            dataset.save_as(path, enforce_file_format=True)
        made.append((patient, views, datasets, paths))
    return made


def test_every_variant_reads_back_with_exactly_the_true_counts(files):
    variants = set()
    for _, views, datasets, paths in files:
        frames = [frame for path in paths for frame in read_dicom(path)]
        (pair,), left = pair_views(frames)
        assert not left
        for view, frame in zip(views, pair, strict=True):
            assert frame.view == view.view
            assert (frame.pixels == view.counts).all()
        order = tuple(len(read_dicom(path)) for path in paths), frames[0].view
        syntax = datasets[0].file_meta.TransferSyntaxUID
        variants.add((order, syntax, datasets[0].PixelRepresentation))
        for path in paths:
            declared = pydicom.dcmread(path).CountsAccumulated
            assert declared == sum(frame.pixels.sum() for frame in read_dicom(path))
    orders, syntaxes, signs = (set(column) for column in zip(*variants, strict=True))
    assert len(orders) == 4 and syntaxes == set(SYNTAXES) and signs == {0, 1}


def test_files_say_what_an_nm_whole_body_image_must(files):
    """PS3.3, A.5 and C.8.4: the elements that must have a value."""
    for _, _, datasets, paths in files[:12]:
        for path in paths:
            dataset = pydicom.dcmread(path)
            assert dataset.SOPClassUID == NuclearMedicineImageStorage
            assert dataset.file_meta.MediaStorageSOPInstanceUID == dataset.SOPInstanceUID
            assert list(dataset.ImageType) == ["ORIGINAL", "PRIMARY", "WHOLE BODY", "EMISSION"]
            assert list(dataset.FrameIncrementPointer) == [0x00540010, 0x00540020]
            frames = dataset.NumberOfFrames
            assert np.atleast_1d(dataset.DetectorVector).tolist() == list(range(1, frames + 1))
            assert np.atleast_1d(dataset.EnergyWindowVector).tolist() == [1] * frames
            assert len(dataset.DetectorInformationSequence) == frames
            for detector in dataset.DetectorInformationSequence:
                anterior = detector.ViewCodeSequence[0].CodeValue == "399321004"
                # Rows run to the patient's left if he is seen from the front.
                assert detector.ImageOrientationPatient[0] == (1 if anterior else -1)
                assert len(detector.ImagePositionPatient) == 3
            assert dataset.PixelSpacing == [2.4, 2.4]
            assert dataset.ActualFrameDuration > 0
            assert dataset.PatientIdentityRemoved == "YES" and not dataset.PatientID
        assert len({dataset.StudyInstanceUID for dataset in datasets}) == 1
        assert len({dataset.SOPInstanceUID for dataset in datasets}) == len(datasets)


def test_a_patient_is_always_the_same_file_and_no_other(files):
    for patient, views, _, paths in files[:8]:
        again = make_datasets(views, seed=0, patient=patient)
        for dataset, path in zip(again, paths, strict=True):
            stream = io.BytesIO()
            dataset.save_as(stream, enforce_file_format=True)
            assert stream.getvalue() == path.read_bytes()
    studies = {datasets[0].StudyInstanceUID for _, _, datasets, _ in files}
    assert len(studies) == len(files)
    other = make_datasets(small_views(1), seed=1, patient=1)
    assert other[0].StudyInstanceUID not in studies


def test_a_folder_holds_files_and_their_truth(tmp_path):
    finished = []
    summary = write_dicom(tmp_path / "out", 2, 3, num_processes=1, on_patient=finished.append)
    assert (summary["patients"], summary["views"], sorted(finished)) == (2, 4, [1, 2])
    for patient in (1, 2):
        simulated = simulate_patient(3, patient)
        truth = np.load(tmp_path / "out" / "truth" / f"{patient}.npz")
        folder = tmp_path / "out" / str(patient)
        frames = {f.view: f for path in sorted(folder.iterdir()) for f in read_dicom(path)}
        for view in simulated.views:
            assert (frames[view.view].pixels == view.counts).all()
            assert (truth[f"counts_{view.view}"] == view.counts).all()
            assert (truth[f"mask_{view.view}"] == view.mask).all()
            boxes = [Box(*row) for row in truth[f"boxes_{view.view}"].tolist()]
            assert boxes == list(view.boxes)
    with pytest.raises(InputError, match="already holds something"):
        write_dicom(tmp_path / "out", 2, 3)


def test_the_verb_writes_either_layout(tmp_path, monkeypatch, capsys):
    arguments = ["bonescan", "phantom", f"--out={tmp_path / 'out'}", "--patients=1", "--seed=3"]
    monkeypatch.setattr(sys, "argv", [*arguments, "--layout=dicom", "--processes=1"])
    main()
    output = capsys.readouterr()
    assert json.loads(output.out.splitlines()[-1])["views"] == 2
    assert "simulate patients: 1/1" in output.err
    assert len(list_image_files(tmp_path / "out").files) == len(
        list((tmp_path / "out" / "1").iterdir())
    )
