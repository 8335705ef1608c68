"""A network that finds what is bright, runs of it, and scans with one spot in each view."""

from pathlib import Path

import cv2
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest
from flax import nnx

from bonescan_jax.cluster.mesh import make_mesh
from bonescan_jax.runs.checkpoint import Checkpoints, look_for_saved
from bonescan_jax.runs.workdir import write_config
from bonescan_jax.scans import ABNORMAL, HEIGHT, WIDTH
from bonescan_jax.tasks import segment
from bonescan_jax.train_step import make_initial_state
from tests.layout import FOLDERS, voc

STEP = 7  # of the checkpoint of `write_run`
SCORE = 0.9  # that the network gives to what is bright
SIDE = 9  # pixels of a spot
BACKGROUND, SPOT = 10, 120  # mean counts of the scan; counts of a spot, too few to run over


class Bright(nnx.Module):
    """Calls abnormal what is four times as bright as bone; both of its heads say the same.

    Args:
        in_all_views: of an example, at the same place of each, or in one alone.
    """

    levels, supervised = 2, (1, 2)

    def __init__(self, in_all_views: bool = False) -> None:
        self.in_all_views = in_all_views
        self.limit = nnx.Param(jnp.float32(2))  # the input is the square root of brightness

    def __call__(self, image: jax.Array, train: bool) -> list[jax.Array]:
        """(B, H, W, V) to logits (B, H, W, 3 V), the classes of a view side by side."""
        del train
        bright = image > self.limit[...]
        if self.in_all_views:
            bright = jnp.broadcast_to(bright.all(-1, keepdims=True), bright.shape)
        abnormal = jnp.where(bright, jnp.log(SCORE / (1 - SCORE)), -8)
        logits = jnp.stack([0 * image, abnormal, 0 * image - 20], -1)
        return [logits.reshape(*image.shape[:3], -1)] * len(self.supervised)


def use_bright_network(monkeypatch: pytest.MonkeyPatch, in_all_views: bool = False) -> None:
    """Lets every run have this network, whatever its config says; all else stays as it is."""
    monkeypatch.setattr(segment, "build_model", lambda *_: Bright(in_all_views))


def write_run(workdir: Path, config: ml_collections.ConfigDict) -> Path:
    """Writes config and checkpoint of a run that was not trained.

    Call `use_bright_network` before, or its weights are random.
    """
    config.mesh.data = 1
    workdir.mkdir()
    write_config(workdir, config)
    init, _ = make_initial_state(config, make_mesh(config))
    checkpoints = Checkpoints(workdir, 1, look_for_saved(workdir))
    checkpoints.save(STEP, init(config.seed), {})
    checkpoints.wait()
    return workdir


def box_around(column: int, row: int) -> tuple[int, int, int, int]:
    """The box (xmin, ymin, xmax, ymax) of a spot with this centre."""
    xmin, ymin = column - SIDE // 2, row - SIDE // 2
    return xmin, ymin, xmin + SIDE, ymin + SIDE


def spot(column: int, row: int = 500) -> np.ndarray:
    """A scan of counts (1024, 256) uint16 with one spot."""
    pixels = np.random.default_rng(column).poisson(BACKGROUND, (HEIGHT, WIDTH)).astype(np.uint16)
    xmin, ymin, xmax, ymax = box_around(column, row)
    pixels[ymin:ymax, xmin:xmax] = SPOT
    return pixels


def spot_of(patient: int, view: str) -> tuple[int, int]:
    """Column and row of the spot of a patient: all are different, and left of the middle."""
    return (20 + 4 * patient if view == "anterior" else 101 - 4 * patient), 100 + 40 * patient


def write_spots(root: Path, patients: int) -> Path:
    """Writes BS-80K's layout: a spot in every view, annotated as abnormal."""
    for folder, xml_folder in FOLDERS.items():
        (root / folder / xml_folder).mkdir(parents=True)
        view = {"ant": "anterior", "post": "posterior"}[xml_folder]
        for patient in range(1, patients + 1):
            column, row = spot_of(patient, view)
            boxes = ((*box_around(column, row), ABNORMAL),)
            (root / folder / xml_folder / f"{patient}.xml").write_text(voc(boxes))
            (root / folder / f"{patient}.jpg").write_bytes(jpeg(spot(column, row)))
        lines = [f"{patient}.jpg 1\n" for patient in range(1, patients + 1)]
        (root / folder / f"{folder}.txt").write_text("".join(lines))
    return root


def jpeg(pixels: np.ndarray) -> bytes:
    """Grey values as a JPEG file of quality 100."""
    data = cv2.imencode(".jpg", pixels.astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, 100])[1]
    return data.tobytes()
