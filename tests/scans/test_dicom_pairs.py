"""Which two DICOM frames are the views of one scan, without telling whose."""

from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

from bonescan_jax.scans.dicom import DicomFrame, pair_views, read_dicom
from tests.scans.dicom_files import PIXELS, one_view, save, two_views


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
