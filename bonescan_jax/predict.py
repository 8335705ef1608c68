"""Finds hot spots on image files: a mask, an overlay and boxes with scores for each view."""

import json
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any

import jax
import ml_collections
import numpy as np

from bonescan_jax.cluster.mesh import make_evaluation_mesh
from bonescan_jax.errors import DISK_ERRORS, InputError
from bonescan_jax.models.build import views_per_example
from bonescan_jax.report.overlay import draw_overlay, save_overlay, save_result
from bonescan_jax.runs.progress import Progress
from bonescan_jax.runs.workdir import write_json
from bonescan_jax.scans import ABNORMAL, CLASSES, HEIGHT, VIEWS, WIDTH
from bonescan_jax.scans.counts import bone_reference
from bonescan_jax.scans.export import as_exported
from bonescan_jax.scans.files import FileView, ViewHeader, decode_image, read_view_headers
from bonescan_jax.scans.findings import SKIPPED, Finding, print_left_out, printable
from bonescan_jax.scans.listing import ImageFile, image_stem, is_result, list_image_files
from bonescan_jax.scans.masks import mask_to_boxes, most_probable_mask
from bonescan_jax.scans.pairing import pair_headers
from bonescan_jax.scans.views import mirror, views_of
from bonescan_jax.tasks import require_segmentation
from bonescan_jax.trained import (
    USUAL,
    Choice,
    Ensemble,
    config_of,
    config_place,
    folder_of,
    is_file,
    load_trained,
    prune,
)

BOXES = "xmin and ymin are the first column and row inside, xmax and ymax the first ones outside"


def predict(
    workdirs: Sequence[Path],
    source: Path,
    out: Path | None = None,
    choice: Choice = USUAL,
    *,
    limit: int = 0,
    changes: Mapping[str, Any] | None = None,
) -> tuple[dict[str, Any], list[str]]:
    """Runs the networks of some workdirs as one over a file, or all of a folder or a zip file.

    Headers are read first, so that views are paired over all files; then pixels, one example after
    the other. Each view gives out/NAME_mask.png (0 background, 1 abnormal, 2 normal),
    out/NAME_overlay.png and out/NAME.json, in the folders that the input has; boxes are in the
    pixels of the file. A table of the files that were left out goes to standard error.

    Args:
        workdirs: of training runs, or files of their weights; several predict as one, the mean of
            their probabilities.
        source: JPEG, PNG or DICOM file, or a folder or a zip file of them.
        out: folder to write to; by default "predictions" in the workdir, or in the folder of
            several (`trained.folder_of`); of files, in the current one.
        choice: whose predictions count; for a head of a UNet++ only the nodes that it needs are
            computed.
        limit: the first so many examples only, which are pairs and lone views for a network of
            both views, else views; 0 is all.
        changes: settings by name that differ from the runs', such as {"evaluate.min_area": 9}.

    Returns:
        How many `files` there are, how many `views` were read of them, how many `pairs` are among
        these and how many are `alone`, how many files were `skipped`, how many boxes of each class
        were found, and where they are. And a sentence for each skipped file.

    Raises:
        InputError: workdir, source or out cannot be used.
    """
    for workdir in workdirs:
        require_segmentation(
            config_of(workdir),
            config_place(workdir),
            "what is written are masks and boxes",
        )
    listing = list_image_files(source)
    find = _Finder(workdirs, choice, changes or {})
    config = find.config
    if out is None:
        out = Path() if any(map(is_file, workdirs)) else folder_of(workdirs)
        out /= "predictions"
    _make_folder(out)
    left_out = list(listing.findings)
    headers = _read_headers(listing.files, left_out)
    pairs = pair_headers(headers)
    examples = _examples(headers, pairs, find.num_views)[: limit or None]
    writer = _Writer(out, config, _result_names(headers))
    with Progress("predict", len(examples)) as progress:
        for example in _read_pixels(examples, left_out):
            findings = find({place: _seen(view) for place, (_, view) in example.items()})
            for place, (header, view) in example.items():
                notes = _notes(config.data.views, view.view, len(example))
                try:
                    writer.write(header, view, *findings[place], notes)
                except InputError as error:
                    _skip(left_out, str(error))
            progress.advance()
    print_left_out(left_out)
    problems = [finding.sentence for finding in left_out if finding.outcome == SKIPPED]
    together = sum(all(_key(header) in writer.written for header in pair) for pair in pairs)
    return {
        "files": len(listing.files) + sum(each.outcome == SKIPPED for each in listing.findings),
        "views": len(writer.written),
        "pairs": together,
        "alone": len(writer.written) - 2 * together,
        "skipped": len(problems),
        **{f"boxes_{name}": count for name, count in writer.spots.items()},
        "predictor": find.predictor,
        "out": str(out),
    }, problems


def _make_folder(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if error.errno in DISK_ERRORS:
            raise
        raise InputError(
            f"{printable(str(out))}: cannot be made ({error.strerror}), expected --out to be a "
            "folder or the name of a new one."
        ) from error


def _read_headers(files: Sequence[ImageFile], left_out: list[Finding]) -> list[ViewHeader]:
    """The views of all files; a file that is no scan is left out."""

    def read(file: ImageFile) -> list[ViewHeader] | InputError:
        try:
            return read_view_headers(file)
        except InputError as error:
            return error

    headers = []
    with Progress("read headers", len(files)) as progress, ThreadPoolExecutor() as pool:
        for read_or_error in pool.map(read, files):
            if isinstance(read_or_error, InputError):
                _skip(left_out, str(read_or_error))
            else:
                headers += read_or_error
            progress.advance()
    return headers


def _skip(left_out: list[Finding], sentence: str) -> None:
    finding = Finding(SKIPPED, "file that cannot be used", sentence)
    if finding not in left_out[-2:]:  # both views of a file may say the same
        left_out.append(finding)


def _examples(
    headers: Sequence[ViewHeader],
    pairs: Sequence[tuple[ViewHeader, ViewHeader]],
    num_views: int,
) -> list[dict[int, ViewHeader]]:
    """The views of each example, by place: 0 anterior or unknown, 1 posterior.

    Args:
        headers: of all files.
        pairs: among them.
        num_views: 1 for a network of single views; 2 for one of both, which also takes one of them.
    """
    if num_views == 1:
        return [{0: header} for header in headers]
    partners = {_key(header): dict(enumerate(pair)) for pair in pairs for header in pair}
    examples: list[dict[int, ViewHeader]] = []
    paired: set[tuple] = set()
    for header in headers:
        if _key(header) not in partners:
            examples.append({int(header.view == "posterior"): header})
        elif _key(header) not in paired:
            example = partners[_key(header)]
            paired.update(map(_key, example.values()))
            examples.append(example)
    return examples


def _key(header: ViewHeader) -> tuple[Path, int]:
    """Which view of which file this is."""
    return header.file.path, header.number


def _read_pixels(
    examples: Sequence[dict[int, ViewHeader]], left_out: list[Finding]
) -> Iterator[dict[int, tuple[ViewHeader, FileView]]]:
    """The examples with their pixels; a view whose file cannot be read is missing from its own."""

    @lru_cache(maxsize=2)  # the files of a pair: each may hold more than one view
    def read(file: ImageFile) -> list[FileView]:
        return decode_image(file.read(), file.path)

    for example in examples:
        views = {}
        for place, header in example.items():
            try:
                views[place] = header, read(header.file)[header.number]
            except InputError as error:
                _skip(left_out, str(error))
        yield views


def _seen(view: FileView) -> np.ndarray:
    """The pixels of a view as networks learned to see them: a JPEG file comes from the export."""
    return view.pixels if view.kind == "jpeg" else as_exported(view.pixels)


def _notes(trained_on: str, view: str | None, num_views: int) -> list[str]:
    """What makes the findings on a view less reliable.

    Args:
        trained_on: data.views of the run: one of VIEWS, "each" or "both".
        view: of the file.
        num_views: that the network saw at once.
    """
    if trained_on == "both" and num_views == 1:
        return ["read alone: the network was trained on both views together"]
    if trained_on in VIEWS and view != trained_on:
        return [f"the network was trained on {trained_on} views, this one is {view or 'unknown'}"]
    return []


def _result_names(headers: Sequence[ViewHeader]) -> dict[tuple[Path, int], str]:
    """Where the results of each view go, below the output folder and without suffix, all distinct.

    A result is named as its file without the suffix of an image, in the same folders; where two
    would be one, the suffix stays, and a number is added if that does not do. Names that differ in
    case only are one on many disks.
    """
    short = {_key(header): _place_of(header, image_stem) for header in headers}
    times = Counter(map(_folded, short.values()))
    taken = {name for name, number in times.items() if number == 1}
    names = {}
    for header in headers:
        name = short[_key(header)]
        if times[_folded(name)] > 1:
            full, number = _place_of(header, str), 1
            name = full
            while _folded(name) in taken:
                number += 1
                name = f"{full}-{number}"
            taken.add(_folded(name))
        names[_key(header)] = name
    return names


def _place_of(header: ViewHeader, shorten: Callable[[str], str]) -> str:
    """Folders and name of a file, and which of its views it is."""
    folder, slash, name = header.file.name.rpartition("/")
    which = header.name.removeprefix(image_stem(name))
    return f"{folder}{slash}{shorten(name)}{which}"


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


class _Finder:
    """Views of one patient to their masks and class probabilities, on one device."""

    def __init__(
        self, workdirs: Sequence[Path], choice: Choice, changes: Mapping[str, Any]
    ) -> None:
        mesh = make_evaluation_mesh(jax.devices()[:1])
        members = [prune(each) for each in load_trained(workdirs, mesh, choice, changes)]
        self.config = members[0].config
        self.say = Ensemble(members, mesh, choice.mirror, choice.alone)
        self.predictor = self.say.selected
        self.num_views = views_per_example(self.config)

    def __call__(self, views: dict[int, np.ndarray]) -> dict[int, tuple[np.ndarray, np.ndarray]]:
        """By place (1024, 256) grey values or counts to classes and probabilities (…, 3)."""
        image = np.zeros((1, HEIGHT, WIDTH, self.num_views), np.float32)
        reference = np.ones((1, self.num_views), np.float32)  # a missing view is black
        for place, pixels in views.items():
            image[0, ..., place] = mirror(pixels) if place else pixels
            reference[0, place] = bone_reference(pixels)
        said = self.say({"image": image, "reference": reference})
        scans = views_of(jax.device_get(said[self.say.row]))
        return {
            place: (most_probable_mask(scans[place]).astype(np.uint8), scans[place])
            for place in views
        }


class _Writer:
    """Writes the three files of each view and counts what was found."""

    def __init__(
        self, out: Path, config: ml_collections.ConfigDict, names: dict[tuple[Path, int], str]
    ) -> None:
        self.out, self.min_area, self.names = out, config.evaluate.min_area, names
        self.written: set[tuple[Path, int]] = set()
        self.spots = dict.fromkeys(CLASSES[1:], 0)

    def write(
        self,
        header: ViewHeader,
        view: FileView,
        mask: np.ndarray,
        probabilities: np.ndarray,
        notes: list[str],
    ) -> None:
        """Writes the results of one view, boxes in the pixels of its file.

        Raises:
            InputError: a file is there that is none of ours, or the name does not do.
            OSError: the disk is full or the like.
        """
        top, left, height, width = view.region
        window = np.s_[top : top + height, left : left + width]
        pixels, mask, probabilities = view.pixels[window], mask[window], probabilities[window]
        boxes = [
            {**box._asdict(), "label": CLASSES[box.label], "score": round(box.score, 4)}
            for box in mask_to_boxes(mask, probabilities, min_area=self.min_area)
        ]
        place = self.out / self.names[_key(header)]
        mask_path, overlay_path, json_path = (
            place.with_name(place.name + ending)
            for ending in ("_mask.png", "_overlay.png", ".json")
        )
        title = printable(place.name)
        content = {
            "file": printable(header.file.name),
            "view": view.view,
            "image_score": round(float(probabilities[..., ABNORMAL].max()), 4),
            "boxes": boxes,
            "box_limits": BOXES,
            "mask": printable(mask_path.name),
            "overlay": printable(overlay_path.name),
            "notes": [*view.notes, *notes],
        }
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            _refuse_foreign(mask_path, overlay_path, json_path)
            # The longest name first: if it is too long, nothing is written.
            save_overlay(overlay_path, draw_overlay(pixels, mask, boxes, title, view=view.view))
            save_result(mask_path, mask)
            write_json(json_path, content)
        except OSError as error:
            if error.errno in DISK_ERRORS:
                raise
            raise InputError(
                f"{printable(str(header.file.path))}: its results cannot be written as "
                f"{printable(str(place))} ({error.strerror})."
            ) from error
        self.written.add(_key(header))
        for box in boxes:
            self.spots[box["label"]] += 1


def _refuse_foreign(mask: Path, overlay: Path, json_path: Path) -> None:
    """Refuses to write over a file that no earlier prediction wrote.

    Raises:
        InputError: which one.
    """
    if _is_our_json(json_path, mask.name):
        return
    for path in (mask, overlay, json_path):
        if path.exists() and not (path.suffix == ".png" and is_result(path.read_bytes()[:132])):
            raise InputError(
                f"{printable(str(path))}: is there and was not written by bonescan predict, "
                "expected a free name; choose another --out."
            )


def _is_our_json(path: Path, mask: str) -> bool:
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and content.get("mask") == printable(mask)
