"""Own scans: whose they are by patients.csv, by DICOM header and by name."""

import numpy as np
import pytest

from bonescan_jax.errors import InputError
from bonescan_jax.scans import VIEWS
from bonescan_jax.scans.folder import open_folder
from tests.own_scans import (
    count_reasons,
    counts,
    decoded,
    write_dicom_folder,
    write_png,
    write_views,
)


def test_views_of_dicom_are_paired_by_header_and_no_identifier_is_kept(tmp_path):
    truth = write_dicom_folder(tmp_path, 4)
    source = open_folder(tmp_path)
    assert source.patients == (1, 2, 3, 4)
    for (patient, view), pixels in truth.items():
        np.testing.assert_array_equal(decoded(source.read(patient, view).image), pixels)


def test_the_table_says_whose_scan_it_is_and_which_holds_nothing(tmp_path):
    rng = np.random.default_rng(0)
    lines = ["file,patient,view,label"]
    for number in range(6):
        write_png(tmp_path / f"image{number}.png", counts(rng))
        lines.append(f"image{number}.png,Smith{number // 2},{VIEWS[number % 2]},0")
    write_png(tmp_path / "other.png", counts(rng))
    (tmp_path / "patients.csv").write_text("\n".join([*lines, "gone.png,Smith9,anterior,0"]))
    source = open_folder(tmp_path)
    assert source.patients == (1, 2, 3)  # no name
    assert count_reasons(source)["ignored"] == {"file not in patients.csv": 1}
    assert count_reasons(source)["skipped"] == {"line without a file": 1}
    (tmp_path / "patients.csv").write_text("\n".join(lines).replace("Smith", "4"))
    assert open_folder(tmp_path).patients == (40, 41, 42)
    (tmp_path / "patients.csv").write_text("\n".join([*lines, lines[1]]))
    with pytest.raises(InputError, match=r"patients\.csv: has image0\.png more than once"):
        open_folder(tmp_path)
    (tmp_path / "patients.csv").write_text("file,patient\n")
    with pytest.raises(InputError, match=r"patients\.csv: has no column view"):
        open_folder(tmp_path)


def test_a_patient_with_one_view_keeps_it(tmp_path):
    write_views(tmp_path)
    (tmp_path / "2-posterior.png").unlink()
    source = open_folder(tmp_path, unannotated="empty")
    assert source.missing == [(2, "posterior")]
    scan = source.read(2, "posterior")
    assert scan.missing
    assert not decoded(scan.image).any()
    assert not source.read(2, "anterior").missing
