"""`bonescan deidentify`: nothing personal comes out, nothing is overwritten, refusals are told."""

import json
import sys

import numpy as np
import pytest
from pydicom.uid import SecondaryCaptureImageStorage

from bonescan_jax.cli.main import main
from bonescan_jax.scans.dicom import read_dicom
from tests.scans.dicom_files import PIXELS, nm_dataset, save, two_views


def call(capsys, *arguments) -> tuple[int, dict, str]:
    """Exit code, the JSON line, and standard error."""
    code = 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["bonescan", "deidentify", *map(str, arguments)])
        try:
            main()
        except SystemExit as leaving:
            code = leaving.code
    output = capsys.readouterr()
    return code, json.loads(output.out) if output.out else {}, output.err


def test_a_file_keeps_its_counts_and_views_alone(tmp_path, capsys):
    path = save(two_views(("posterior", "anterior")), tmp_path / "Doe.dcm")
    out = tmp_path / "new" / "out.dcm"
    code, result, _ = call(capsys, path, out)
    assert code == 0
    assert result == {"out": str(out), "files": 1, "written": 1, "refused": 0}
    assert b"Doe" in path.read_bytes() and b"Doe" not in out.read_bytes()
    for before, after in zip(read_dicom(path), read_dicom(out), strict=True):
        assert (before.view, before.pixel_spacing) == (after.view, after.pixel_spacing)
        np.testing.assert_array_equal(before.pixels, after.pixels)


def test_a_folder_is_numbered_and_what_may_hold_a_name_refused(tmp_path, capsys):
    source = tmp_path / "in"
    (source / "Doe^Jane").mkdir(parents=True)
    save(nm_dataset(PIXELS["anterior"][None]), source / "Doe^Jane" / "DOE1.dcm")
    burned = nm_dataset(PIXELS["anterior"][None])
    burned.BurnedInAnnotation = "YES"
    save(burned, source / "b.dcm")
    capture = two_views(("anterior", "posterior"))
    capture.SOPClassUID, capture.ImageType = SecondaryCaptureImageStorage, ["DERIVED", "SECONDARY"]
    save(capture, source / "c.dcm")
    (source / "d.dcm").write_bytes(b"no DICOM")
    save(nm_dataset(PIXELS["posterior"][None]), source / "e.dcm")
    code, result, err = call(capsys, source, tmp_path / "out")
    assert (code, result["written"], result["refused"]) == (2, 2, 3)
    for sentence in ("b.dcm: Burned In Annotation is YES", "c.dcm: Burned In Annotation is not NO",
                     "d.dcm: is not a DICOM file"):  # fmt: skip
        assert sentence in err
    assert "Traceback" not in err
    written = sorted((tmp_path / "out").rglob("*"))
    assert [path.suffix for path in written] == [".dcm", ".dcm"]
    for path in written:
        assert path.stem.isdigit() and b"Doe" not in path.read_bytes()


def test_nothing_is_overwritten(tmp_path, capsys):
    path = save(nm_dataset(PIXELS["anterior"][None]), tmp_path / "a.dcm")
    before = path.read_bytes()
    (tmp_path / "empty").mkdir()
    for out in (path, tmp_path / "empty", tmp_path):
        code, result, err = call(capsys, path, out)
        assert (code, result) == (2, {})
        assert "exists, expected a path where nothing is yet" in err
    assert path.read_bytes() == before


@pytest.mark.parametrize("arguments", [(), ("a",), ("a", "b", "c"), ("nowhere.dcm", "out")])
def test_bad_calls_are_one_sentence(tmp_path, monkeypatch, capsys, arguments):
    monkeypatch.chdir(tmp_path)
    code, result, err = call(capsys, *arguments)
    assert (code, result) == (2, {})
    assert "expected" in err and "Traceback" not in err
