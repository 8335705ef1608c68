"""Batches: a function of the step alone, laid around hot spots, every scan once an epoch."""

import multiprocessing
import signal
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import cv2
import jax
import ml_collections
import numpy as np
import pytest

from bonescan_jax.cluster.mesh import make_mesh
from bonescan_jax.datasets.decode import decode
from bonescan_jax.errors import InputError
from bonescan_jax.input_pipeline import (
    example_records,
    scan_batches,
    stack_examples,
    start_worker,
    training_batches,
    view_records,
)
from bonescan_jax.phantom.patient import to_grey
from bonescan_jax.scans import ABNORMAL
from bonescan_jax.scans.files import read_image_file
from bonescan_jax.scans.overflow import find_overflow
from bonescan_jax.tasks.crops import TrainingExample
from tests.hot_spots import hot_body, wrap_after_gain


def batches(config: ml_collections.ConfigDict, start: int, stop: int) -> list[dict]:
    return [
        jax.device_get(each) for each in training_batches(config, make_mesh(config), start, stop)
    ]


def assert_same(found: list[dict], expected: list[dict]) -> None:
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        jax.tree.map(np.testing.assert_array_equal, a, b)


def test_continuing_gives_the_batches_that_would_have_come(
    small_config: ml_collections.ConfigDict,
):
    whole = batches(small_config, 0, 6)
    assert_same(batches(small_config, 4, 6), whole[4:])
    samples = np.concatenate([batch["sample"] for batch in whole])
    assert samples.tolist() == list(range(48))


def test_threads_and_processes_change_nothing(small_config: ml_collections.ConfigDict):
    expected = batches(small_config, 0, 4)
    small_config.data.num_threads = 1
    assert_same(batches(small_config, 0, 4), expected)
    small_config.data.num_workers = 2
    assert_same(batches(small_config, 0, 4), expected)


def test_a_mesh_changes_nothing(small_config: ml_collections.ConfigDict):
    expected = batches(small_config, 0, 2)
    small_config.mesh.update({"data": 2, "spatial": 4})
    assert_same(batches(small_config, 0, 2), expected)


def test_an_epoch_holds_every_scan_once_in_an_order_of_its_own(
    small_config: ml_collections.ConfigDict,
):
    small_config.data.crop_height, small_config.data.crop_width = 1024, 256
    small_config.train.batch_size = 12  # the training split: 6 patients, 2 views
    originals = [decode(record, "ellipse") for record in view_records(small_config, "train")]
    keys = [scan["image"].astype(np.uint16).tobytes() for scan in originals]
    orders = []
    for batch in batches(small_config, 0, 3):
        orders.append([keys.index(image.tobytes()) for image in batch["image"]])
        assert sorted(orders[-1]) == list(range(12))
    assert orders[0] != orders[1] != orders[2]


@pytest.mark.parametrize("recipe", ["box", "ellipse", "otsu"])
def test_a_window_is_cut_from_the_whole_scan(small_config: ml_collections.ConfigDict, recipe: str):
    """Though only what is needed is decoded and painted, also of boxes that reach out of it."""
    record = next(record for record in view_records(small_config, "train") if len(record["boxes"]))
    pixels = np.arange(0, 1024 * 256, 997)
    record["overflow"] = np.stack([pixels, np.full_like(pixels, 600)], axis=1)
    whole = decode(record, recipe)
    assert whole["image"].dtype == np.uint16
    xmin, ymin, xmax, ymax, _ = record["boxes"][1].tolist()
    corners = [(ymin + 2, xmin + 3), (ymax - 67, xmax - 68), (0, 0), (1024 - 64, 256 - 64)]
    for top, left in corners:
        window = (slice(top, top + 64), slice(left, left + 64))
        part = decode(record, recipe, window)
        np.testing.assert_array_equal(part["image"], whole["image"][window])
        np.testing.assert_array_equal(part["mask"], whole["mask"][window])
        assert part["mask"].any()


@pytest.mark.parametrize("export", [to_grey, wrap_after_gain])
def test_a_prepared_hot_spot_has_the_values_of_its_file(tmp_path: Path, export: Callable):
    """What training sees is what prediction sees, wrapped and clipped pixels as well."""
    grey = np.zeros((1024, 256), np.uint8)
    grey[300:556, 60:188] = export(hot_body(600, 5), 2.0)
    image = cv2.imencode(".jpg", grey, [cv2.IMWRITE_JPEG_QUALITY, 100])[1].tobytes()
    (tmp_path / "1.jpg").write_bytes(image)
    (view,) = read_image_file(tmp_path / "1.jpg")
    record = {"image": image, "boxes": np.zeros((0, 5), np.int32), **find_overflow(image).fields()}
    found = decode(record, "box")["image"]
    assert found.max() > 1000
    np.testing.assert_array_equal(found, view.pixels)


def test_crops_hold_hot_spots_as_often_as_asked(small_config: ml_collections.ConfigDict):
    data = small_config.data
    record = next(record for record in view_records(small_config, "train") if len(record["boxes"]))

    def share(hot_spot_crops: float, abnormal_crops: float) -> tuple[float, float]:
        data.hot_spot_crops, data.abnormal_crops = hot_spot_crops, abnormal_crops
        crop = TrainingExample(data, seed=0)
        masks = [crop(index, [record])[0]["mask"] for index in range(200)]
        return np.mean([mask.any() for mask in masks]), np.mean(
            [ABNORMAL in mask for mask in masks]
        )

    assert share(1.0, 1.0) == (1.0, 1.0)
    always, abnormal = share(1.0, 0.3)
    assert always == 1.0
    np.testing.assert_allclose(abnormal, 0.3, atol=0.1)
    seldom, _ = share(0.0, 1.0)
    assert seldom < 0.5


def test_views_are_chosen(small_config: ml_collections.ConfigDict):
    found = {}
    for views in ("anterior", "posterior", "each", "both"):
        small_config.data.views = views
        found[views] = [(r["patient"], r["view"]) for r in view_records(small_config, "test")]
    assert {view for _, view in found["anterior"]} == {0}
    assert {view for _, view in found["posterior"]} == {1}
    assert sorted(found["anterior"] + found["posterior"]) == found["each"] == found["both"]


def test_both_views_lie_on_each_other(small_config: ml_collections.ConfigDict):
    """The posterior view is mirrored with its mask, and a crop shows the same place in both."""
    anterior, posterior = [decode(r, "box") for r in view_records(small_config, "train")][:2]
    small_config.data.views = "both"
    records = example_records(small_config, "train")[0]
    assert [record["view"] for record in records] == [0, 1]
    views = [decode(record, "box") for record in records]
    whole = {name: array[0] for name, array in stack_examples([views], 1).items()}
    for name in ("image", "mask"):
        np.testing.assert_array_equal(whole[name][..., 0], anterior[name])
        np.testing.assert_array_equal(whole[name][..., 1], np.fliplr(posterior[name]))
    small_config.data.mask = "box"
    crop = TrainingExample(small_config.data, seed=0)
    for index in range(5):
        views = crop(index, records)
        cut = {name: array[0] for name, array in stack_examples([views], 1).items()}
        assert cut["image"].shape == cut["mask"].shape == (64, 64, 2)
        places = [
            (top, left)
            for top in range(1024 - 63)
            for left in range(256 - 63)
            if (whole["image"][top, left] == cut["image"][0, 0]).all()
            and (whole["image"][top : top + 64, left : left + 64] == cut["image"]).all()
        ]
        assert len(places) == 1
        ((top, left),) = places
        window = whole["mask"][top : top + 64, left : left + 64]
        np.testing.assert_array_equal(cut["mask"], window)


def test_abnormal_examples_come_as_often_as_asked(small_config: ml_collections.ConfigDict):
    """Of the training patients one holds nothing abnormal."""
    small_config.data.crop_height, small_config.data.crop_width = 1024, 256
    small_config.data.views = "both"

    def share(asked: float) -> float:
        small_config.data.abnormal_examples = asked
        masks = [batch["mask"] for batch in batches(small_config, 0, 6)]
        return np.mean([(ABNORMAL == mask).any((1, 2, 3)).mean() for mask in masks])

    assert share(1.0) == 1.0
    assert 0.7 < share(0.0) < 1.0


def test_evaluation_sees_every_scan_once_and_whole(small_config: ml_collections.ConfigDict):
    small_config.evaluate.batch_size = 3
    expected = list(view_records(small_config, "test"))
    seen = []
    for batch in scan_batches(small_config, "test", make_mesh(small_config)):
        images = np.asarray(batch.arrays["image"])
        assert images.shape == (3, 1024, 256, 1)
        for image, record in zip(images, batch.records, strict=False):
            np.testing.assert_array_equal(image[..., 0], decode(record, "ellipse")["image"])
        seen += batch.records
    assert [record["image"] for record in seen] == [record["image"] for record in expected]
    assert len(seen) == 4


def test_data_that_are_not_there(small_config: ml_collections.ConfigDict):
    small_config.data.dir = "nowhere"
    with pytest.raises(InputError, match="nowhere.*bonescan prepare"):
        example_records(small_config, "train")


def test_every_patient_is_tested_in_one_fold(small_config: ml_collections.ConfigDict):
    tested = []
    for small_config.data.fold in range(5):
        tested += sorted({record["patient"] for record in view_records(small_config, "test")})
    assert sorted(tested) == list(range(1, 11))


def _seen() -> tuple[str, bool]:
    platforms = jax.config.jax_platforms
    return platforms, signal.getsignal(signal.SIGTERM) == signal.SIG_IGN


def test_a_worker_uses_the_cpu_and_ignores_signals(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("JAX_PLATFORMS")  # as on a machine with an accelerator
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, context, initializer=start_worker) as pool:
        assert pool.submit(_seen).result() == ("cpu", True)
