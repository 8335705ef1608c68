"""Runs one reader on many broken inputs and tells of each failure; `fuzz.py` starts it.

A failure is an exception that the reader does not promise, an input that takes longer than two
seconds, a result that breaks the reader's contract, or a file that appears where none should.
"""

import argparse
import json
import logging
import os
import resource
import shutil
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
from hypothesis import HealthCheck, Phase, given, seed, settings

from bonescan_jax.errors import InputError
from bonescan_jax.scans import HEIGHT, WIDTH
from bonescan_jax.scans.annotations import parse_boxes, parse_labels
from bonescan_jax.scans.bs80k import open_bs80k
from bonescan_jax.scans.files import read_image_file
from bonescan_jax.scans.jpeg import decode_jpeg
from tests.fuzz import inputs

SLOW_SECONDS = 2.0
MEMORY = 4 << 30  # bytes of address space on top of what the libraries take
SETTINGS = {"name": "set", "split_seed": 0, "split_fractions": (0.6, 0.2, 0.2), "num_folds": 2}


class Refused(Exception):
    """The reader said no in the way it promises to."""


def check_boxes(path: Path) -> None:
    """`parse_boxes`: boxes inside the image, or None with a reason."""
    boxes, defects = parse_boxes(path.read_bytes())
    assert all("\n" not in phrase and phrase.isprintable() for _, _, phrase in defects)
    if boxes is None:
        assert defects
        raise Refused
    for box in boxes:
        assert 0 <= box.xmin < box.xmax <= WIDTH
        assert 0 <= box.ymin < box.ymax <= HEIGHT


def check_labels(path: Path) -> None:
    """`parse_labels`: ids that fit into a record, sentences of one line."""
    labels, defects = parse_labels(path.read_bytes())
    assert all("\n" not in phrase and phrase.isprintable() for _, _, phrase in defects)
    assert all(0 < patient < 10**9 for patient in labels)
    if not labels:
        raise Refused


def check_jpeg(path: Path) -> None:
    """`decode_jpeg`: an array, or ValueError as its docstring says."""
    try:
        image = decode_jpeg(path.read_bytes())
    except ValueError as error:
        assert str(error)
        raise Refused from error
    assert (image.ndim, image.dtype) == (2, np.uint8)


def check_image_file(path: Path) -> None:
    """`read_image_file`: views of finite values."""
    try:
        views = read_image_file(path)
    except InputError as error:
        raise Refused from error
    for view in views:
        assert view.pixels.shape == (HEIGHT, WIDTH)
        assert np.isfinite(view.pixels).all()


def check_source(path: Path) -> None:
    """`open_bs80k`: a source whose scans can be read."""
    try:
        source = open_bs80k(path)
    except InputError as error:
        raise Refused from error
    for scan in source:
        assert scan.image[:2] == b"\xff\xd8"


def check_prepare(path: Path) -> None:
    """`prepare`: a whole data set, or nothing."""
    from bonescan_jax.datasets.bs80k import open_split, prepare  # noqa: PLC0415 - slow to import

    data_dir = Path("prepared")
    data_dir.mkdir()
    try:
        summary = prepare(path, data_dir, **SETTINGS)
    except InputError as error:
        assert not list(data_dir.iterdir())
        raise Refused from error
    assert [entry.name for entry in data_dir.iterdir()] == ["set"]
    assert len(open_split(data_dir, "set", "train")) == 2 * summary["splits"]["train"]


TARGETS: dict[str, tuple[Callable, Callable[[Path], None], str]] = {
    "xml": (inputs.xml_files, check_boxes, "1.xml"),
    "txt": (inputs.label_files, check_labels, "labels.txt"),
    "jpeg": (inputs.jpeg_files, check_jpeg, "1.jpg"),
    "jpeg_file": (inputs.jpeg_files, check_image_file, "1.jpg"),
    "png_file": (inputs.png_files, check_image_file, "1.png"),
    "dicom_file": (inputs.dicom_files, check_image_file, "1.dcm"),
    "zip": (inputs.zip_files, check_source, "source.zip"),
    "prepare": (inputs.zip_files, check_prepare, "source.zip"),
}


def main() -> None:
    """Prints a line of JSON for each failure and one at the end."""
    parser = argparse.ArgumentParser()
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("--examples", type=int)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--input", type=Path, help="file to write each input to before it is read")
    arguments = parser.parse_args()
    strategy, check, name = TARGETS[arguments.target]
    logging.disable()
    warnings.simplefilter("ignore")
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    tally = {"inputs": 0, "accepted": 0, "slowest_seconds": 0.0}

    @seed(arguments.seed)
    @settings(
        max_examples=arguments.examples,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy())
    def examine(data: bytes) -> None:
        path = arguments.input.with_name(name)
        path.write_bytes(data)
        arguments.input.write_bytes(data)  # what was read last, should the process die
        tally["inputs"] += 1
        started = time.perf_counter()
        try:
            check(path)
            tally["accepted"] += 1
        except Refused:
            pass
        except BaseException as error:
            place = traceback.extract_tb(error.__traceback__)[-1]
            kind = f"{type(error).__name__} at {Path(place.filename).name}:{place.lineno}"
            tell(kind, "".join(traceback.format_exception(error)), data)
        seconds = time.perf_counter() - started
        tally["slowest_seconds"] = max(tally["slowest_seconds"], seconds)
        if seconds > SLOW_SECONDS:
            tell("slow", f"took {seconds:.2f} s", data)
        # The working folder and the temporary one are empty before and after.
        shutil.rmtree("prepared", ignore_errors=True)
        if strays := [*os.listdir("."), *os.listdir(os.environ["TMPDIR"])]:
            tell("stray file", f"left {strays}", data)

    examine()
    print(json.dumps(tally), flush=True)


def tell(kind: str, details: str, data: bytes) -> None:
    """Tells of one failure in one line."""
    print(json.dumps({"failure": kind, "details": details, "input": data.hex()}), flush=True)


if __name__ == "__main__":
    sys.exit(main())
