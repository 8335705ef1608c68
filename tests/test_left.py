"""Left is left: what is found on a scan is told where it is, whichever view and however batched.

The network finds what is bright, and all spots are left of the middle, each at a place of its own:
a view that is mirrored once too often or too rarely, or taken for another, shows.
"""

import json
import re
from pathlib import Path

import cv2
import ml_collections
import numpy as np
import pytest

from bonescan_jax.datasets.bs80k import prepare
from bonescan_jax.evaluate import evaluate
from bonescan_jax.metrics.rows import ViewRow, read_rows
from bonescan_jax.predict import predict
from bonescan_jax.report.overlay import CAPTION_HEIGHT, COLOURS, MARGIN, TITLE_HEIGHT
from bonescan_jax.report.page import write_report
from bonescan_jax.report.pictures import picture_name
from bonescan_jax.scans import ABNORMAL, HEIGHT, VIEWS, WIDTH
from bonescan_jax.trained import Choice
from tests.bright import (
    SCORE,
    SIDE,
    STEP,
    box_around,
    jpeg,
    spot,
    spot_of,
    use_bright_network,
    write_run,
    write_spots,
)
from tests.report.test_scan_data import decoded
from tests.scans.dicom_files import scan_file

TEST_PATIENTS = 9


@pytest.fixture(scope="module")
def spots_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared data set "phantom" of 15 patients: 3 for training, 3, and 9 for the test."""
    root = tmp_path_factory.mktemp("spots")
    source = write_spots(root / "source", 15)
    fractions = (0.2, 0.2, 0.6)
    prepare(source, root / "data", name="phantom", split_seed=0, split_fractions=fractions)
    return root / "data"


@pytest.fixture
def config(
    small_config: ml_collections.ConfigDict, spots_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> ml_collections.ConfigDict:
    """Of a bright run; on eight devices a batch is eight examples, and the last one is not full."""
    use_bright_network(monkeypatch)
    small_config.data.update({"dir": str(spots_dir), "mask": "box"})
    return small_config


def box_of(row: ViewRow) -> tuple[int, int, int, int]:
    return box_around(*spot_of(row.patient, row.view))


@pytest.mark.parametrize("views", ["both", "each", "posterior"])
def test_spots_are_scored_and_shown_where_they_are(
    config: ml_collections.ConfigDict, tmp_path: Path, views: str
):
    config.data.views = views
    run = write_run(tmp_path / "run", config)
    scores = evaluate([run], "test", Choice("mean"))
    expected = [view for view in VIEWS if views in ("both", "each", view)]
    assert (scores["num_images"], scores["step"]) == (TEST_PATIENTS * len(expected), STEP)
    assert scores["dice_abnormal"] == 1
    written = json.loads((run / "evaluation" / "test.json").read_text())
    assert written["masks"]["mean"]["abnormal"]["pooled"]["dice"]["value"] == 1
    lesions = written["lesions"]["abnormal"]
    assert lesions["num_lesions"] == TEST_PATIENTS * len(expected)
    for rule in ("centre", "overlap"):
        assert lesions[rule]["per_view"]["0.3"]["value"] == 1
        assert lesions[rule]["curve"]["false_positives"][0] == 0

    _, rows = read_rows(run / "evaluation" / "test.rows.jsonl")
    assert [row.view for row in rows] == expected * TEST_PATIENTS
    assert len({row.patient for row in rows}) == TEST_PATIENTS
    for row in rows:
        assert [each.box for each in row.lesions] == [box_of(row)]
        (candidate,) = row.candidates
        assert (candidate.box, candidate.area) == (box_of(row), SIDE**2)
        assert candidate.score == row.score == pytest.approx(SCORE)
        assert candidate.overlaps == ((0, 1.0),)
    check_report(run, rows)


def check_report(run: Path, rows: list[ViewRow]) -> None:
    """Boxes in the data of the page, and spots in its pictures."""
    html = Path(str(write_report([run])["report"])).read_text()
    data = json.loads(re.search(r'id="data">(.*?)</script>', html)[1])
    (found,) = (each["scans"] for each in data["runs"])
    shown = {
        (scan["patient"], view["view"]): view | said
        for scan, of_scan in zip(data["scans"], found, strict=True)
        for view, said in zip(scan["views"], of_scan["views"], strict=True)
    }
    assert len(shown) == len(rows)
    for row in rows:
        view = shown[row.patient, row.view]
        assert view["lesions"] == [[ABNORMAL, *box_of(row)]]
        (candidate,) = view["candidates"]
        assert candidate == [ABNORMAL, row.score, *box_of(row), 0]  # a hit of lesion 0
        name = picture_name(row.patient, row.view, None)
        assert view["pictures"] == [[row.view, name]]
        picture = decoded(re.search(rf'id="{name}">(.*?)</script>', html)[1])
        assert box_of_bright(picture > 60) == box_of(row)


def box_of_bright(bright: np.ndarray) -> tuple[int, int, int, int]:
    """The box (xmin, ymin, xmax, ymax) around all that is True."""
    rows, columns = np.nonzero(bright)
    return columns.min(), rows.min(), columns.max() + 1, rows.max() + 1


def test_masks_from_pixels_are_where_the_spots_are(
    config: ml_collections.ConfigDict, tmp_path: Path
):
    """The recipe that looks at pixels for the mask in a box."""
    config.data.update({"views": "both", "mask": "otsu"})
    run = write_run(tmp_path / "run", config)
    evaluate([run], "test", Choice("mean"))
    _, rows = read_rows(run / "evaluation" / "test.rows.jsonl")
    for row in rows:
        (lesion,) = row.lesions
        assert lesion.box == box_of(row)
        assert 0 < lesion.area <= SIDE**2
        (candidate,) = row.candidates
        assert candidate.box == box_of(row) and len(candidate.overlaps) == 1


def write_images(folder: Path) -> dict[str, int]:
    """A pair and a lone posterior view, as DICOM and in BS-80K's layout; name → column of spot."""
    for name, view, column, study in (
        ("a", "anterior", 100, "1.1"),
        ("p", "posterior", 40, "1.1"),
        ("lone", "posterior", 60, "1.2"),
    ):
        scan_file(folder / f"{name}.dcm", view, spot(column), study)
    for place, column in (("ANT/5", 90), ("POST/5", 30), ("POST/6", 50)):
        path = folder / f"wholeBody{place}.jpg"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(jpeg(spot(column)))
    return {
        **{"a-anterior": 100, "p-posterior": 40, "lone-posterior": 60},
        **{"wholeBodyANT/5-anterior": 90, "wholeBodyPOST/5-posterior": 30},
        "wholeBodyPOST/6-posterior": 50,
    }


@pytest.mark.parametrize("views", ["both", "each", "posterior"])
def test_spots_of_files_are_found_where_they_are(
    config: ml_collections.ConfigDict, tmp_path: Path, views: str
):
    """In mask, box and overlay, of views in a pair and alone."""
    config.data.views = views
    run = write_run(tmp_path / "run", config)
    columns = write_images(tmp_path / "in")
    out = tmp_path / "out"
    result, problems = predict([run], tmp_path / "in", out, Choice("mean"))
    assert (problems, result["pairs"], result["alone"]) == ([], 2, 2)
    for name, column in columns.items():
        found = json.loads((out / f"{name}.json").read_text())
        (box,) = found["boxes"]
        sides = box_around(column, 500)
        assert tuple(box[side] for side in ("xmin", "ymin", "xmax", "ymax")) == sides
        assert (box["label"], box["score"], found["image_score"]) == ("abnormal", SCORE, SCORE)
        assert "outside" in found["box_limits"]
        mask = cv2.imread(str(out / f"{name}_mask.png"), cv2.IMREAD_UNCHANGED)
        assert box_of_bright(mask == ABNORMAL) == sides and mask.max() == ABNORMAL
        assert outlined_columns(cv2.imread(str(out / f"{name}_overlay.png"))) == sides[::2]
        alone = name in ("lone-posterior", "wholeBodyPOST/6-posterior")
        assert found["notes"] == expected_notes(views, name, alone)


def test_a_spot_that_both_cameras_see_lies_on_itself(
    config: ml_collections.ConfigDict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """What is at one place of the body, at mirrored columns, is at one place for the network."""
    config.data.views = "both"
    use_bright_network(monkeypatch, in_all_views=True)
    run = write_run(tmp_path / "run", config)
    for study, column in (("1.1", WIDTH - 1 - 100), ("1.2", 100)):
        scan_file(tmp_path / f"in/{study}a.dcm", "anterior", spot(100), study)
        scan_file(tmp_path / f"in/{study}p.dcm", "posterior", spot(column), study)
    result, problems = predict([run], tmp_path / "in", tmp_path / "out", Choice("mean"))
    assert (problems, result["pairs"], result["boxes_abnormal"]) == ([], 2, 2)
    for name, column in (("1.1a-anterior", 100), ("1.1p-posterior", WIDTH - 1 - 100)):
        (box,) = json.loads((tmp_path / "out" / f"{name}.json").read_text())["boxes"]
        assert (box["xmin"], box["xmax"]) == box_around(column, 500)[::2]


def expected_notes(views: str, name: str, alone: bool) -> list[str]:
    if views == "both" and alone:
        return ["read alone: the network was trained on both views together"]
    if views == "posterior" and "anterior" in name:
        return ["the network was trained on posterior views, this one is anterior"]
    return []


def outlined_columns(overlay: np.ndarray) -> tuple[int, int]:
    """Columns of the scan that a picture's only outline begins at and ends before.

    Args:
        overlay: BGR, as OpenCV reads it.
    """
    left, top = 2 * MARGIN + 2 * WIDTH, TITLE_HEIGHT + CAPTION_HEIGHT  # of the second panel
    panel = overlay[top : top + 2 * HEIGHT, left : left + 2 * WIDTH, ::-1]
    of_outline = (panel == COLOURS[ABNORMAL]).all(-1)
    # Upright lines as long as the spot: the score that stands beside it has none.
    lines = np.nonzero(of_outline.sum(0) >= 2 * SIDE)[0]
    # Those of the box lie one pixel of the scan outside those of the mask.
    outer = (lines.min() + 2, lines.max() + 1 - 2)
    assert (lines == (lines.min(), outer[0], outer[1] - 1, lines.max())).all()
    return outer[0] // 2, outer[1] // 2
