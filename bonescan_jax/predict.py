"""Finds hot spots on image files: a mask, an overlay and boxes with scores for each view."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import jax
import ml_collections
import numpy as np

from bonescan_jax.cluster.mesh import make_mesh
from bonescan_jax.errors import InputError
from bonescan_jax.evaluate import load_network, resolve_predictor
from bonescan_jax.report.overlay import draw_overlay, save_overlay
from bonescan_jax.runs.progress import Progress
from bonescan_jax.runs.workdir import read_config, write_json
from bonescan_jax.scans import CLASSES, HEIGHT, VIEWS, WIDTH
from bonescan_jax.scans.bs80k import FOLDERS
from bonescan_jax.scans.counts import bone_reference
from bonescan_jax.scans.dicom import pair_views
from bonescan_jax.scans.files import FileView, list_image_files, read_image_file
from bonescan_jax.scans.masks import mask_to_boxes, most_probable_mask
from bonescan_jax.scans.views import mirror, views_of
from bonescan_jax.tasks import predictor_row, require_segmentation
from bonescan_jax.tasks.segment import make_predict_step

GREY_SUFFIXES = (".jpg", ".jpeg", ".png")  # all other files are DICOM
READ_AT_ONCE = 64  # DICOM files, so that a folder of any size fits into memory


def predict(
    workdir: Path,
    source: Path,
    out: Path,
    predictor: str,
    limit: int,
    checkpoint: str = "newest",
) -> dict[str, Any]:
    """Runs the network of a workdir over a file or a folder of files.

    Each view gives out/NAME_mask.png (0 background, 1 abnormal, 2 normal), out/NAME_overlay.png
    and out/NAME.json; boxes are in the pixels of the file.

    Args:
        workdir: of a training run.
        source: JPEG, PNG or DICOM file, or a folder of them.
        out: folder to write to.
        predictor: "mean" of all heads, one of them, as "head_2", or "best"; for a head of a UNet++
            only the nodes that it needs are computed.
        limit: the first so many files only; 0 is all.
        checkpoint: "newest", or "best" in validation.

    Returns:
        How many views were read and hot spots of each class found, and where.

    Raises:
        InputError: workdir, predictor or a file cannot be used; files before it are done.
    """
    config = read_config(workdir)
    require_segmentation(
        config, str(workdir / "config.json"), "what is written are masks and boxes"
    )
    files = list_image_files(source)
    files = files[: limit or len(files)]
    predictor = resolve_predictor(workdir, predictor, checkpoint)
    find = _Finder(config, workdir, predictor, checkpoint)
    out.mkdir(parents=True, exist_ok=True)
    views, spots = 0, dict.fromkeys(CLASSES[1:], 0)
    with Progress("predict", len(files)) as progress:
        for paths in _group_files(files):
            read = [(path, view) for path in paths for view in _read_views(path, source)]
            for example in _examples(read, find.num_views):
                findings = find({place: view.pixels for place, (_, view) in example.items()})
                for place, (path, view) in example.items():
                    for box in _write_view(out, path, view, *findings[place], config):
                        spots[box["label"]] += 1
                    views += 1
            progress.advance(len(paths))
    return {
        "views": views,
        **{f"boxes_{name}": count for name, count in spots.items()},
        "predictor": predictor,
        "out": str(out),
    }


def _read_views(path: Path, source: Path) -> list[FileView]:
    """The views of a file; below a folder their names begin with that of the folder they lie in."""
    folders = path.parent.relative_to(source).parts if source.is_dir() else ()
    return [view._replace(name="-".join([*folders, view.name])) for view in read_image_file(path)]


def _group_files(files: list[Path]) -> list[list[Path]]:
    """Files that may hold two views of one patient, together.

    BS-80K has the views in folders of their own, under one name; DICOM tells in its headers which
    files belong together, so those of one folder are read at once.
    """
    groups: dict[Path, list[Path]] = {}
    for path in files:
        folder = path.resolve().parent
        if path.suffix.lower() not in GREY_SUFFIXES:
            place = folder
        else:
            in_bs80k = folder.name in FOLDERS.values()
            place = (folder.parent if in_bs80k else folder) / path.name
        groups.setdefault(place, []).append(path)
    return [
        group[start : start + READ_AT_ONCE]
        for group in groups.values()
        for start in range(0, len(group), READ_AT_ONCE)
    ]


def _examples(
    views: list[tuple[Path, FileView]], num_views: int
) -> Iterator[dict[int, tuple[Path, FileView]]]:
    """What the network is to see at once, by place: 0 anterior or unknown, 1 posterior.

    Args:
        views: of one group, each with its file.
        num_views: 1 for a network of single views; 2 for one of both, which also takes one of them.
    """
    if num_views == 1:
        yield from ({0: view} for view in views)
        return
    by_frame = {id(view.frame): (path, view) for path, view in views if view.frame}
    pairs, alone = pair_views([view.frame for _, view in views if view.frame])
    for pair in pairs:
        yield {place: by_frame[id(frame)] for place, frame in enumerate(pair)}
    grey = [each for each in views if not each[1].frame]
    if {view.view for _, view in grey} == set(VIEWS):
        yield {VIEWS.index(view.view): (path, view) for path, view in grey}
        grey = []
    for each in [by_frame[id(frame)] for frame in alone] + grey:
        yield {int(each[1].view == "posterior"): each}


class _Finder:
    """Views of one patient to their masks and class probabilities, on one device."""

    def __init__(
        self, config: ml_collections.ConfigDict, workdir: Path, predictor: str, checkpoint: str
    ) -> None:
        config.mesh.data, config.mesh.spatial = 1, 1
        mesh = make_mesh(config)
        network, self.weights, _ = load_network(config, workdir, mesh, checkpoint)
        if predictor in network.heads[:-1]:
            network, self.weights = network.prune(self.weights, predictor)
        self.row = predictor_row(config, network, predictor)
        self.step = make_predict_step(network, mesh)
        self.num_views = network.views

    def __call__(self, views: dict[int, np.ndarray]) -> dict[int, tuple[np.ndarray, np.ndarray]]:
        """By place (1024, 256) grey values or counts to classes and probabilities (…, 3)."""
        image = np.zeros((1, HEIGHT, WIDTH, self.num_views), np.float32)
        reference = np.ones((1, self.num_views), np.float32)  # a view that is not there is black
        for place, pixels in views.items():
            image[0, ..., place] = mirror(pixels) if place else pixels
            reference[0, place] = bone_reference(pixels)
        probabilities = jax.device_get(self.step(self.weights, image, reference)[self.row])
        scans = views_of(probabilities)
        return {
            place: (most_probable_mask(scans[place]).astype(np.uint8), scans[place])
            for place in views
        }


def _write_view(
    out: Path,
    path: Path,
    view: FileView,
    mask: np.ndarray,
    probabilities: np.ndarray,
    config: ml_collections.ConfigDict,
) -> list[dict[str, Any]]:
    """Writes the three files of a view and returns its boxes, in the pixels of its file."""
    top, left, height, width = view.region
    window = np.s_[top : top + height, left : left + width]
    pixels, mask, probabilities = view.pixels[window], mask[window], probabilities[window]
    boxes = [
        {**box._asdict(), "label": CLASSES[box.label], "score": round(box.score, 4)}
        for box in mask_to_boxes(mask, probabilities, min_area=config.evaluate.min_area)
    ]
    mask_path, overlay_path = out / f"{view.name}_mask.png", out / f"{view.name}_overlay.png"
    if not cv2.imwrite(str(mask_path), mask):
        raise InputError(f"{mask_path}: cannot be written")
    save_overlay(overlay_path, draw_overlay(pixels, mask, boxes, view.name, view=view.view))
    write_json(
        out / f"{view.name}.json",
        {
            "file": path.name,
            "view": view.view,
            "notes": view.notes,
            "boxes": boxes,
            "mask": mask_path.name,
            "overlay": overlay_path.name,
        },
    )
    return boxes
