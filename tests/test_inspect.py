"""What `bonescan inspect` tells, and how it ends."""

import json
import sys

import cv2
import numpy as np
import pytest

from bonescan_jax.cli.main import main
from bonescan_jax.phantom.patient import simulate_patient
from bonescan_jax.scans import HEIGHT, WIDTH
from tests.hot_spots import sprinkled_jpeg
from tests.layout import BOXES, voc, write_layout
from tests.scans.dicom_files import PIXELS, nm_dataset, one_view, save, two_views
from tests.scans.test_files import with_full_bladder


def call(capsys, *arguments) -> tuple[int, dict, str]:
    """Exit code, the JSON of the last line, and standard error."""
    code = 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["bonescan", "inspect", *map(str, arguments)])
        try:
            main()
        except SystemExit as leaving:
            code = leaving.code
    output = capsys.readouterr()
    lines = output.out.splitlines()
    assert len(lines) <= 1
    return code, json.loads(lines[-1]) if lines else {}, output.err


@pytest.fixture(scope="module")
def phantom():
    return [with_full_bladder(view) for view in simulate_patient(5, 1).views]


def test_gain_overflow_and_counts_of_a_jpeg(phantom, tmp_path, capsys):
    """Against the simulator, which knows them."""
    for view in phantom:
        folder = tmp_path / ("wholeBodyANT" if view.view == "anterior" else "wholeBodyPOST")
        folder.mkdir()
        jpeg = cv2.imencode(".jpg", view.grey, [cv2.IMWRITE_JPEG_QUALITY, 100])[1]
        (folder / "1.jpg").write_bytes(jpeg.tobytes())
        code, result, table = call(capsys, folder / "1.jpg")
        assert code == 0
        assert (result["kind"], result["layout"]) == ("jpeg", "BS-80K whole body")
        assert (result["view"], result["size"]) == (view.view, [HEIGHT, WIDTH])
        assert (result["scans"], result["unreadable"]) == (1, 0)
        assert result["boxes_abnormal"] is None  # no folder of annotations
        assert result["gain"] == pytest.approx(view.gain, rel=0.05)
        assert result["counts"] == pytest.approx(int(view.counts.sum()), rel=0.05)
        lost = int((view.counts > 255).sum())
        assert result["overflowed"] == 1
        assert result["overflowed_pixels"] == pytest.approx(lost, rel=0.1, abs=5)
        assert view.view in table and "BS-80K whole body" in table


def test_counts_and_views_of_a_dicom_file(tmp_path, capsys):
    path = save(two_views(("posterior", "anterior")), tmp_path / "nm.dcm")
    code, result, table = call(capsys, path)
    assert code == 0
    assert result["view"] == ["posterior", "anterior"]
    assert result["counts"] == [int(PIXELS[view].sum()) for view in result["view"]]
    assert (result["gain"], result["kind"]) == ([1.0, 1.0], ["dicom", "dicom"])
    assert (result["scans"], result["pairs"], result["overflowed"]) == (2, 1, 0)
    assert (result["noted"], "Counts Accumulated" in table) == (0, False)
    assert "Doe" not in table


def test_declared_counts_that_differ_are_noted(tmp_path, capsys):
    dataset = nm_dataset(PIXELS["anterior"][None])
    dataset.CountsAccumulated = 7
    code, result, table = call(capsys, save(dataset, tmp_path / "nm.dcm"))
    assert (code, result["noted"]) == (0, 1)
    assert result["note"].startswith("Counts Accumulated is 7, the pixels sum to ")
    assert "Counts Accumulated is 7" in " ".join(table.split())


def test_notes_of_every_kind_of_file_are_in_the_table(tmp_path, capsys):
    (tmp_path / "a.jpg").write_bytes(sprinkled_jpeg())
    dataset = two_views(("anterior", "posterior"))
    dataset.PixelSpacing = [2.8, 2.8]
    save(dataset, tmp_path / "b.dcm")
    code, result, table = call(capsys, tmp_path)
    assert (code, result["noted"]) == (0, 3)
    words = " ".join(table.split())
    assert "unwrapped hot spots are" in words
    assert words.count("Pixel Spacing is") == 2


def test_views_in_two_files_are_a_pair(tmp_path, capsys):
    for number, view in enumerate(PIXELS):
        save(one_view(view), tmp_path / f"{number}.dcm")
    assert call(capsys, tmp_path)[1]["pairs"] == 1
    assert call(capsys, tmp_path / "0.dcm", tmp_path / "1.dcm")[1]["pairs"] == 1
    assert call(capsys, tmp_path / "0.dcm")[1]["pairs"] == 0


def test_boxes_of_a_folder_of_bs80k(tmp_path, capsys):
    write_layout(tmp_path, (1, 2))  # patient 2 is annotated as without hot spots
    (tmp_path / "chestRANT").mkdir()
    crop = np.random.default_rng(0).poisson(20, (140, 70)).astype(np.uint8)
    cv2.imwrite(str(tmp_path / "chestRANT" / "1.jpg"), crop)
    code, result, _ = call(capsys, tmp_path)
    assert (code, result["scans"], result["unreadable"]) == (0, 5, 0)
    _, result, _ = call(capsys, tmp_path / "wholeBodyANT" / "1.jpg")
    assert (result["boxes_abnormal"], result["boxes_normal"]) == (1, len(BOXES) - 1)
    _, result, _ = call(capsys, tmp_path / "wholeBodyPOST" / "2.jpg")
    assert (result["boxes_abnormal"], result["boxes_normal"]) == (0, 0)
    _, result, _ = call(capsys, tmp_path / "chestRANT" / "1.jpg")
    assert (result["layout"], result["view"], result["size"]) == (
        "BS-80K crop",
        "anterior",
        [140, 70],
    )
    assert result["boxes_normal"] is None


def test_unreadable_files_are_rows_and_the_others_are_told(tmp_path, capsys):
    write_layout(tmp_path, (1, 2))
    image = tmp_path / "wholeBodyANT" / "1.jpg"
    image.write_bytes(image.read_bytes()[:5000])
    xml = tmp_path / "wholeBodyPOST" / "post" / "1.xml"
    xml.write_text(voc().replace("Abnormal", "Weird"))
    (tmp_path / "scan[red].dcm").write_bytes(b"no DICOM")  # what rich takes for a colour
    code, result, err = call(capsys, tmp_path)
    assert code == 2
    assert (result["scans"], result["unreadable"]) == (2, 3)
    words = " ".join(err.split())
    for reason in ("truncated or damaged", "'Weird'", "scan[red].dcm", "is not an image file"):
        assert reason in words
    assert err.splitlines()[-1] == "bonescan inspect: 3 of 5 files cannot be read, see the table"
    assert "Traceback" not in err


def test_a_single_unreadable_file_is_one_sentence(tmp_path, capsys):
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    code, result, err = call(capsys, tmp_path / "a.png")
    assert (code, result["scans"], result["unreadable"]) == (2, 0, 1)
    assert err.splitlines()[-1].startswith(f"bonescan inspect: {tmp_path / 'a.png'}: is a PNG")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "no FILE or DIR"),
        (("nowhere.dcm",), "nowhere.dcm: does not exist"),
        (("--wide",), "wide"),
    ],
)
def test_bad_calls_are_one_sentence(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    code, result, err = call(capsys, *arguments)
    assert (code, result) == (2, {})
    assert message in err and "Traceback" not in err
