"""Plants foci into scans and measures how many of them a network finds, and what else it marks.

    python -m tests.accuracy.planted --workdir RUN --scans FOLDER [--foci 3] [--repeats 5]

`--scans` is a folder in BS-80K's layout (wholeBodyANT/1.jpg, wholeBodyPOST/1.jpg, …). Foci are
Gaussians of 8 to 25 mm (full width at half maximum, as imaged), 2 to 8 times as bright at their
peak as the bone that they lie on, with Poisson noise, in both views of a patient: in the other view
they are weaker, by what tissue in between takes away. The scans go through BS-80K's export again.
A focus counts in the view that it was planted in. It is found if the centre of a box of abnormal
lies within its full width; an abnormal box anywhere else than on a focus is false. Lesions of the
scans themselves are counted as false, so take scans of few. Standard output gets a line of JSON.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from bonescan_jax.phantom.patient import to_grey
from bonescan_jax.predict import predict
from bonescan_jax.scans import HEIGHT, VIEWS, WIDTH
from bonescan_jax.scans.bs80k import FOLDERS
from bonescan_jax.scans.counts import bone_reference
from bonescan_jax.scans.files import read_image_file
from bonescan_jax.trained import Choice

PIXEL_MM = 2.3  # between the two cameras that docs/phantom.md infers
WIDTHS = (8.0, 25.0)  # mm
CONTRASTS = (2.0, 8.0)
BRIGHT = 3.0  # times local bone: from here on a focus should be found
WEAKER = (0.1, 0.9)  # in the other view
APART = 30.0  # pixels between foci
HOT_MARGIN = 21  # pixels around what is hot already


class Focus(NamedTuple):
    """A planted focus, in the pixels of its view."""

    view: str
    column: float
    row: float
    width: float  # full width at half maximum, pixels
    contrast: float  # peak over local bone


def bone_places(pixels: np.ndarray) -> np.ndarray:
    """(H, W) bool: where there is bone of usual brightness, away from what is hot."""
    smooth = cv2.GaussianBlur(pixels.astype(np.float32), (0, 0), 2.0)
    bone = bone_reference(pixels)
    hot = cv2.dilate((smooth > 2 * bone).astype(np.uint8), np.ones((HOT_MARGIN,) * 2, np.uint8))
    places = (smooth > 0.7 * bone) & (smooth < 1.5 * bone) & (hot == 0)
    places[:20], places[-20:] = False, False
    return places


def plant(
    counts: dict[str, np.ndarray], places: dict[str, np.ndarray], number: int,
    rng: np.random.Generator,
) -> tuple[dict[str, np.ndarray], list[Focus]]:  # fmt: skip
    """The counts of both views with foci in them, and where these are."""
    planted = {view: pixels.copy() for view, pixels in counts.items()}
    foci: list[Focus] = []
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    for view, own in counts.items():
        rows, columns = np.nonzero(places[view])
        other = VIEWS[1 - VIEWS.index(view)]
        for pick in rng.permutation(len(rows)):
            if sum(focus.view == view for focus in foci) == number:
                break
            row, column = float(rows[pick]), float(columns[pick])
            taken = [
                (focus.row, focus.column if focus.view == view else WIDTH - 1 - focus.column)
                for focus in foci
            ]
            if any(np.hypot(row - r, column - c) < APART for r, c in taken):
                continue
            width = rng.uniform(*WIDTHS) / PIXEL_MM
            contrast = float(np.exp(rng.uniform(*np.log(CONTRASTS))))
            local = cv2.GaussianBlur(own.astype(np.float32), (0, 0), 2.0)
            peak = (contrast - 1) * local[int(row), int(column)]
            sigma = width / 2.355
            for place, share in ((view, 1.0), (other, rng.uniform(*WEAKER))):
                if place not in counts:
                    continue
                middle = column if place == view else WIDTH - 1 - column
                shape = np.exp(-((y - row) ** 2 + (x - middle) ** 2) / (2 * sigma**2))
                planted[place] += rng.poisson(share * peak * shape)
            foci.append(Focus(view, column, row, width, contrast))
    return planted, foci


def read_patients(folder: Path) -> dict[str, dict[str, tuple[np.ndarray, float]]]:
    """By patient and view the counts and the gain of the scans in a folder."""
    patients: dict[str, dict[str, tuple[np.ndarray, float]]] = {}
    for view, name in FOLDERS.items():
        for path in sorted((folder / name).glob("*.jpg")):
            (scan,) = read_image_file(path)
            counts = np.rint(scan.pixels / scan.gain).astype(np.int64)
            patients.setdefault(path.stem, {})[view] = counts, scan.gain
    return patients


def is_near(focus: Focus, view: str, box: dict) -> bool:
    """Whether the centre of a box lies within a focus, which shows in the other view too."""
    column = focus.column if view == focus.view else WIDTH - 1 - focus.column
    middle = (box["xmin"] + box["xmax"]) / 2, (box["ymin"] + box["ymax"]) / 2
    return bool(np.hypot(middle[0] - column, middle[1] - focus.row) <= focus.width)


def main() -> None:
    """Reads flags, plants, predicts and prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", type=Path, required=True, nargs="+")
    parser.add_argument("--scans", type=Path, required=True)
    parser.add_argument("--foci", type=int, default=3, help="in each view")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--patients", nargs="*", help="only these")
    parser.add_argument("--least_score", type=float, default=0.0, help="of a box")
    parser.add_argument("--out", type=Path, help="keeps scans and results here")
    arguments = parser.parse_args()
    patients = read_patients(arguments.scans)
    if arguments.patients:
        patients = {name: patients[name] for name in arguments.patients}
    found: list[tuple[float, float, bool]] = []  # contrast, width in mm, found
    false = []
    with tempfile.TemporaryDirectory() as temporary:
        root = arguments.out or Path(temporary)
        truth: dict[tuple[int, str], list[Focus]] = {}
        for repeat in range(arguments.repeats):
            for number, (patient, views) in enumerate(patients.items()):
                rng = np.random.default_rng([arguments.seed, repeat, number])
                counts = {view: each[0] for view, each in views.items()}
                places = {view: bone_places(each * views[view][1]) for view, each in counts.items()}
                planted, truth[repeat, patient] = plant(counts, places, arguments.foci, rng)
                for view, pixels in planted.items():
                    path = root / f"{repeat}" / FOLDERS[view] / f"{patient}.jpg"
                    path.parent.mkdir(parents=True, exist_ok=True)
                    grey = to_grey(pixels, views[view][1])
                    path.write_bytes(
                        cv2.imencode(".jpg", grey, [cv2.IMWRITE_JPEG_QUALITY, 100])[1].tobytes()
                    )
        out = root / "found"
        predict(arguments.workdir, root, out, Choice())
        for (repeat, patient), foci in truth.items():
            for view in patients[patient]:
                path = out / f"{repeat}" / FOLDERS[view] / f"{patient}-{view}.json"
                written = json.loads(path.read_text())
                boxes = [
                    box
                    for box in written["boxes"]
                    if box["label"] == "abnormal" and box["score"] >= arguments.least_score
                ]
                for focus in foci:
                    if focus.view == view:
                        hit = any(is_near(focus, view, box) for box in boxes)
                        found.append((focus.contrast, focus.width * PIXEL_MM, hit))
                false.append(
                    sum(not any(is_near(focus, view, box) for focus in foci) for box in boxes)
                )
    print(json.dumps(summary(found, false)))


def summary(found: list[tuple[float, float, bool]], false: list[int]) -> dict[str, float]:
    """Shares found, by contrast and width, and false boxes a view."""
    contrast, width, hit = np.array(found).T
    bright = contrast > BRIGHT
    groups = {
        "all": np.ones(len(hit), bool),
        f"over_{BRIGHT:g}_times_bone": bright,
        f"up_to_{BRIGHT:g}_times_bone": ~bright,
        "bright_up_to_15_mm": bright & (width <= 15),
        "bright_over_15_mm": bright & (width > 15),
    }
    shares = {name: round(float(hit[which].mean()), 3) for name, which in groups.items()}
    print(f"{len(hit)} foci, {int(bright.sum())} bright, {len(false)} views", file=sys.stderr)
    return {
        "foci": len(hit),
        "views": len(false),
        **{f"found_{name}": share for name, share in shares.items()},
        "false_boxes_a_view": round(float(np.mean(false)), 2),
        "false_boxes_most": int(max(false)),
    }


if __name__ == "__main__":
    main()
