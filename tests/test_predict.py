"""Files in, findings out: every kind of file, a mask of the file's own size, boxes inside it."""

import json
from collections.abc import Callable
from pathlib import Path

import cv2
import ml_collections
import numpy as np
import pytest

import bonescan_jax.predict
from bonescan_jax.cli.main import main
from bonescan_jax.cluster.mesh import make_mesh
from bonescan_jax.errors import InputError
from bonescan_jax.inspect import inspect_files
from bonescan_jax.phantom.dicom import write_dicom
from bonescan_jax.predict import predict
from bonescan_jax.runs.workdir import read_config
from bonescan_jax.scans.files import read_view_headers
from bonescan_jax.scans.listing import list_image_files
from bonescan_jax.scans.pairing import pair_headers
from bonescan_jax.trained import Choice, load_network
from tests.bright import jpeg, spot, use_bright_network, write_run
from tests.hot_spots import sprinkled_jpeg
from tests.layout import write_layout, zip_layout
from tests.scans.dicom_files import PIXELS, nm_dataset, save, scan_file


def test_a_png_smaller_than_a_scan(trained: Path, tmp_path: Path):
    pixels = np.random.default_rng(0).poisson(300, (900, 200)).astype(np.uint16)
    cv2.imwrite(str(tmp_path / "a.png"), pixels)
    result, problems = predict([trained], tmp_path / "a.png", tmp_path / "out", Choice("mean"))
    assert problems == []
    found = json.loads((tmp_path / "out" / "a.json").read_text())
    mask = cv2.imread(str(tmp_path / "out" / found["mask"]), cv2.IMREAD_UNCHANGED)
    assert mask.shape == (900, 200)
    assert set(np.unique(mask)) <= {0, 1, 2}
    overlay = cv2.imread(str(tmp_path / "out" / found["overlay"]))
    assert overlay.shape[0] > 2 * 900  # shown at twice its size or more
    assert result["views"] == 1
    assert result["boxes_abnormal"] + result["boxes_normal"] == len(found["boxes"])
    for box in found["boxes"]:
        assert 0 <= box["xmin"] < box["xmax"] <= 200
        assert 0 <= box["ymin"] < box["ymax"] <= 900
        assert 0 < box["score"] <= 1
        inside = mask[box["ymin"] : box["ymax"], box["xmin"] : box["xmax"]]
        assert {"abnormal": 1, "normal": 2}[box["label"]] in inside


def test_notes_are_beside_the_findings(trained: Path, tmp_path: Path):
    (tmp_path / "a.jpg").write_bytes(sprinkled_jpeg())
    save(nm_dataset(PIXELS["anterior"][None]), tmp_path / "b.dcm")
    for name, phrase in (("a.jpg", "times as rough as noise"), ("b.dcm", "which view this is")):
        predict([trained], tmp_path / name, tmp_path / "out", Choice("mean"))
        (note,) = json.loads((tmp_path / "out" / name[0]).with_suffix(".json").read_text())["notes"]
        assert phrase in note


def test_a_folder_in_the_layout_of_bs80k(trained: Path, tmp_path: Path):
    """Both folders hold a 1.jpg: neither may overwrite the other."""
    source = write_layout(tmp_path / "source", (1, 2, 3))
    result, _ = predict([trained], source, tmp_path / "out", Choice("head_1"))
    assert result["views"] == 6
    assert len(list((tmp_path / "out").rglob("*.json"))) == 6
    assert predict([trained], source, tmp_path / "two", Choice("mean"), limit=2)[0]["views"] == 2


def test_a_network_of_both_views_takes_them_together_or_one(
    small_config: ml_collections.ConfigDict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    small_config.data.views = "both"
    run = write_run(tmp_path / "run", small_config)
    seen = []
    finder = bonescan_jax.predict._Finder.__call__

    def record(self: object, views: dict) -> dict:
        seen.append(sorted(views))
        return finder(self, views)

    monkeypatch.setattr(bonescan_jax.predict._Finder, "__call__", record)
    source = write_layout(tmp_path / "source", (1, 2))
    assert predict([run], source, tmp_path / "out", Choice("mean"))[0]["views"] == 4
    assert seen == [[0, 1], [0, 1]]
    (source / "wholeBodyANT" / "1.jpg").unlink()
    assert predict([run], source, tmp_path / "out", Choice("mean"))[0]["views"] == 3
    assert seen[2:] == [[0, 1], [1]]
    write_dicom(tmp_path / "dicom", 4, 0, num_processes=1)
    assert predict([run], tmp_path / "dicom", tmp_path / "out", Choice("mean"))[0]["views"] == 8
    assert seen[4:] == [[0, 1]] * 4


def test_a_pruned_network_finds_what_its_head_finds(trained: Path):
    config = read_config(trained)
    network, weights, _ = load_network(config, trained, make_mesh(config))
    pruned, kept = network.prune(weights, "head_1")
    image = np.random.default_rng(0).random((1, 64, 64, 1)).astype(np.float32)
    all_heads, _ = network.apply(weights["params"], weights["stats"], image, False)
    one_head, _ = pruned.apply(kept["params"], kept["stats"], image, False)
    np.testing.assert_array_equal(one_head[0], all_heads[0])
    assert len(kept["params"]["nodes"]) == 3


def test_bad_input_is_named(trained: Path, tmp_path: Path):
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8 no image")
    with pytest.raises(InputError, match="nothing.jpg: does not exist"):
        predict([trained], tmp_path / "nothing.jpg", tmp_path / "out", Choice("mean"))
    result, (problem,) = predict(
        [trained], tmp_path / "broken.jpg", tmp_path / "out", Choice("mean")
    )
    assert (result["views"], result["skipped"]) == (0, 1)
    assert problem.startswith(f"{tmp_path / 'broken.jpg'}: ")
    with pytest.raises(InputError, match="holds no config.json"):
        predict([tmp_path], tmp_path / "broken.jpg", tmp_path / "out", Choice("mean"))


def test_config_of_another_program(tmp_path: Path):
    (tmp_path / "config.json").write_text('{"model": {"depth": 50}}')
    with pytest.raises(InputError, match=r"config.json: .*depth"):
        read_config(tmp_path)


@pytest.fixture
def bright_run(
    small_config: ml_collections.ConfigDict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], Path]:
    """Makes a run of these views whose network finds what is bright."""
    use_bright_network(monkeypatch)

    def make(views: str) -> Path:
        small_config.data.views = views
        return write_run(tmp_path / "run", small_config)

    return make


def bs80k_files(root: Path, patients: tuple[int, ...]) -> Path:
    """Both views of each patient in the folders of BS-80K."""
    for folder, column in (("wholeBodyANT", 100), ("wholeBodyPOST", 40)):
        (root / folder).mkdir(parents=True)
        for patient in patients:
            (root / folder / f"{patient}.jpg").write_bytes(jpeg(spot(column)))
    return root


def found(out: Path, name: str) -> dict:
    return json.loads((out / f"{name}.json").read_text())


def test_views_are_paired_over_the_whole_input(tmp_path, bright_run, capfd):
    """Whatever the folders and the number of files; the limit counts pairs; inspect agrees."""
    run = bright_run("both")
    for patient in range(70):
        study = f"1.2.840.{patient}"
        scan_file(tmp_path / f"in/ant/1.2.3.{patient}", "anterior", spot(100), study)
        scan_file(tmp_path / f"in/post/1.2.4.{patient}", "posterior", spot(40), study)
    result, problems = predict([run], tmp_path / "in", tmp_path / "out", Choice("mean"), limit=3)
    assert (result["pairs"], result["alone"], result["views"], problems) == (3, 0, 6, [])
    assert len(list((tmp_path / "out").rglob("*.json"))) == 6
    headers = [
        header
        for file in list_image_files(tmp_path / "in").files
        for header in read_view_headers(file)
    ]
    assert len(pair_headers(headers)) == 70
    assert inspect_files([tmp_path / "in"])[0]["pairs"] == 70


def test_the_limit_counts_pairs_of_bs80k(tmp_path, bright_run):
    run = bright_run("both")
    source = bs80k_files(tmp_path / "source", (1, 2, 3))
    result, _ = predict([run], source, tmp_path / "out", Choice("mean"), limit=2)
    assert (result["pairs"], result["views"]) == (2, 4)
    assert inspect_files([source])[0]["pairs"] == 3


def test_every_result_has_a_name_of_its_own(tmp_path, bright_run):
    """UIDs without suffix, one stem with several suffixes or cases, folders joined by "-"."""
    run = bright_run("each")
    names = ("1.2.3.101", "1.2.3.102", "a.png", "a.jpg", "A.PNG", "x-y/z.png", "x/y-z.png", "b.PNG")
    for name in names:
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name.startswith("1.2"):
            scan_file(path, "anterior", spot(50), name)
        else:
            suffix = Path(name).suffix.lower()
            path.write_bytes(cv2.imencode(suffix, spot(50).astype(np.uint8))[1].tobytes())
    out = tmp_path / "out"
    result, problems = predict([run], tmp_path / "in", out, Choice("mean"))
    assert (result["views"], problems) == (len(names), [])
    written = {str(path.relative_to(out).with_suffix("")) for path in out.rglob("*.json")}
    assert written == {
        *("1.2.3.101-anterior", "1.2.3.102-anterior", "a.png-2", "a.jpg", "A.PNG", "b"),
        *("x-y/z", "x/y-z"),
    }
    assert {found(out, name)["file"] for name in written} == set(names)


def test_names_that_are_not_utf8_or_too_long(tmp_path, bright_run):
    run = bright_run("each")
    (tmp_path / "in").mkdir()
    for name in ("caf\udce9.png", "a.png", "n" * 249 + ".png"):
        data = cv2.imencode(".png", spot(50))[1].tobytes()
        (tmp_path / "in" / name).write_bytes(data)
    out = tmp_path / "out"
    result, (problem,) = predict([run], tmp_path / "in", out, Choice("mean"))
    assert result["views"] == 2
    assert found(out, "caf\udce9")["file"] == "caf\\udce9.png"
    assert (out / "caf\udce9_mask.png").exists()
    assert "nnn.png: its results cannot be written" in problem and "File name too long" in problem
    assert len(list(out.iterdir())) == 6


def test_results_are_not_taken_for_scans_and_overwrite_nothing_of_others(tmp_path, bright_run):
    run = bright_run("each")
    source = tmp_path / "in"
    source.mkdir()
    cv2.imwrite(str(source / "a.png"), spot(50))
    for out in (source / "found", source):
        for _ in range(2):
            result, problems = predict([run], source, out, Choice("mean"))
            assert (result["views"], problems) == (1, [])
    cv2.imwrite(str(source / "b.png"), spot(60))
    (source / "b.json").write_text('{"shapes": []}')  # of an annotation tool
    cv2.imwrite(str(source / "a_mask.png"), spot(70))  # somebody's own
    (source / "a.json").unlink()
    before = (source / "a_mask.png").read_bytes()
    result, problems = predict([run], source, source, Choice("mean"))
    assert result["views"] == 1  # a_mask
    assert all("was not written by bonescan predict" in problem for problem in problems)
    assert (len(problems), (source / "a_mask.png").read_bytes()) == (2, before)
    assert (source / "b.json").read_text() == '{"shapes": []}'
    assert not (source / "b_mask.png").exists()


@pytest.mark.parametrize("kind", ["folder", "zip", "links"])
def test_files_that_are_no_scan_are_skipped_and_told(
    tmp_path, bright_run, monkeypatch, capsys, kind
):
    run = bright_run("both")
    source = tmp_path / "in"
    for view, column in (("anterior", 100), ("posterior", 40)):
        scan_file(source / f"1.2.{column}", view, spot(column), "1.1")
    whole = (source / "1.2.100").read_bytes()
    (source / "1.2.99").write_bytes(whole[:-5000])  # of the same study
    for name, changes in {
        "spot.dcm": {"ImageType": ["ORIGINAL", "PRIMARY", "STATIC", "EMISSION"]},
        "ct.dcm": {"Modality": "CT"},
        "DICOMDIR": {"Modality": "CT"},
    }.items():
        dataset = nm_dataset(spot(50)[None])
        for keyword, value in changes.items():
            setattr(dataset, keyword, value)
        save(dataset, source / name)
    (source / "._a.jpg").write_bytes(b"\0\5\x16\7")
    if kind == "zip":
        source = zip_layout(source, tmp_path / "in.zip")
    elif kind == "links":
        (tmp_path / "links" / "sub").mkdir(parents=True)
        for path in source.iterdir():
            (tmp_path / "links" / "sub" / path.name).symlink_to(path)
        (tmp_path / "links" / "loop").symlink_to(tmp_path / "links")
        source = tmp_path / "links"
    flags = [f"--workdir={run}", f"--input={source}", f"--out={tmp_path / 'out'}"]
    monkeypatch.setattr("sys.argv", ["bonescan", "predict", "--predictor=mean", *flags])
    with pytest.raises(SystemExit) as leaving:
        main()
    assert leaving.value.code == 2
    output = capsys.readouterr()
    result = json.loads(output.out)
    assert (result["views"], result["pairs"], result["alone"], result["skipped"]) == (2, 1, 0, 3)
    words = "".join(output.err.split())
    for name in ("1.2.99:PixelDataholds", "spot.dcm:ImageType", "ct.dcm:Modality", "DICOMDIR:"):
        assert name in words
    assert "3 of 5 files" in output.err.splitlines()[-1]
    assert "Traceback" not in output.err


def test_a_view_whose_partner_is_damaged_is_read_alone(tmp_path, bright_run):
    run = bright_run("both")
    source = bs80k_files(tmp_path / "source", (1,))
    image = source / "wholeBodyANT" / "1.jpg"
    image.write_bytes(image.read_bytes()[:5000])
    result, (problem,) = predict([run], source, tmp_path / "out", Choice("mean"))
    assert (result["views"], result["pairs"], result["alone"]) == (1, 0, 1)
    assert "truncated or damaged" in problem
    assert "read alone" in found(tmp_path / "out", "wholeBodyPOST/1-posterior")["notes"][-1]


def test_images_that_are_links_have_the_view_of_the_folder_of_the_link(tmp_path, bright_run):
    """As git-annex and DVC keep images; a folder that is a link counts by its own name too."""
    run = bright_run("both")
    source = bs80k_files(tmp_path / "source", (1, 2))
    for path in list(source.glob("wholeBody*/*.jpg")):
        kept = tmp_path / "kept" / f"{path.parent.name}{path.stem}"
        kept.parent.mkdir(exist_ok=True)
        path.rename(kept)
        path.symlink_to(kept)
    (source / "wholeBodyPOST").rename(tmp_path / "elsewhere")
    (source / "wholeBodyPOST").symlink_to(tmp_path / "elsewhere")
    assert predict([run], source, tmp_path / "out", Choice("mean"))[0]["pairs"] == 2


@pytest.mark.parametrize("below", ["", "/deeper"])
def test_out_that_is_a_file_is_one_sentence(tmp_path, bright_run, below):
    run = bright_run("each")
    cv2.imwrite(str(tmp_path / "a.png"), spot(50))
    with pytest.raises(
        InputError, match=r"a.png.*: cannot be made .*expected --out to be a folder"
    ):
        predict([run], tmp_path / "a.png", Path(f"{tmp_path / 'a.png'}{below}"), Choice("mean"))


def test_a_view_that_a_network_was_not_trained_on_is_noted(tmp_path, bright_run):
    run = bright_run("anterior")
    scan_file(tmp_path / "p.dcm", "posterior", spot(40), "1.1")
    predict([run], tmp_path / "p.dcm", tmp_path / "out", Choice("mean"))
    assert found(tmp_path / "out", "p-posterior")["notes"] == [
        "the network was trained on anterior views, this one is posterior"
    ]


def test_settings_that_belong_to_the_run_cannot_be_changed(trained: Path, tmp_path: Path):
    source = write_layout(tmp_path / "source", (1,))
    changes = {"evaluate.min_area": 10**6}
    result, _ = predict([trained], source, tmp_path / "out", Choice("mean"), changes=changes)
    assert result["views"] and not result["boxes_abnormal"] and not result["boxes_normal"]
    with pytest.raises(InputError, match="--config.model.levels: belongs to the run"):
        predict([trained], source, tmp_path / "out", Choice("mean"), changes={"model.levels": 1})
