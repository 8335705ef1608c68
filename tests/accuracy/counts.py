"""Measures how well counts are got back from grey values, on phantoms after JPEG.

    python -m tests.accuracy.counts --patients=200 --seed=1 [--crops=DIR]

Two sets of views: `phantom`, as simulated; `added`, the same bodies with four more hot spots each,
peaks spread evenly in their logarithm from 0.8 to 12 × 256, ellipses with half axes of 0.7 to 13
pixels blurred by σ = 1.1 to 2.3 pixels. An overflowing hot spot is an 8-connected region of at
least four pixels with round(gain × counts) >= 256; it is found if any of its pixels gets a turn. A
pixel is right if it comes out within 128 of the truth (JPEG carries 255 over to 256 and back).
`crops` is a folder of real chest crops. Progress goes to standard error, the figures as one line of
JSON to standard output.
"""

import argparse
import itertools
import json
import sys
from pathlib import Path

import cv2
import numpy as np
from scipy import ndimage

from bonescan_jax.scans.counts import bone_reference, estimate_gain, unwrap_grey
from bonescan_jax.scans.phantom import simulate_patient

NEAR = np.ones((3, 3))
PEAKS = (1, 1.2, 2, 3, 5, 8, 1000)  # in units of 256: bounds of the rows of the table
SIDE = 24  # pixels around the middle of an added hot spot
GAUSS = np.mgrid[-SIDE : SIDE + 1, -SIDE : SIDE + 1].astype(np.float64)


def through_jpeg(values: np.ndarray) -> np.ndarray:
    """Wrap grey values (H, W) and send them through JPEG of quality 100."""
    wrapped = (values % 256).astype(np.uint8)
    _, data = cv2.imencode(".jpg", wrapped, [cv2.IMWRITE_JPEG_QUALITY, 100])
    return cv2.imdecode(data, cv2.IMREAD_UNCHANGED)


def stretch(counts: np.ndarray, gain: float) -> np.ndarray:
    """Return round(gain × counts), not wrapped."""
    return np.rint(gain * counts.astype(np.float64)).astype(np.int64)


def places(where: np.ndarray, number: int, rng: np.random.Generator) -> list[tuple[int, int]]:
    """Choose up to so many pixels of a mask far enough from the image's edge, apart or not."""
    inside = np.zeros_like(where)
    inside[SIDE:-SIDE, SIDE:-SIDE] = True
    rows, columns = np.nonzero(where & inside)
    chosen = rng.integers(len(rows), size=number) if len(rows) else []
    return [(int(rows[i]), int(columns[i])) for i in chosen]


def around(row: int, column: int) -> tuple[slice, slice]:
    return slice(row - SIDE, row + SIDE + 1), slice(column - SIDE, column + SIDE + 1)


def add_hot_spots(counts: np.ndarray, gain: float, rng: np.random.Generator) -> np.ndarray:
    """Add four hot spots to (H, W) counts, inside the body, apart from each other."""
    counts = counts.astype(np.int64)
    body = ndimage.gaussian_filter(counts.astype(np.float64), 4) > 4
    free = ndimage.binary_erosion(body, iterations=8)
    for _ in range(4):
        for row, column in places(free, 1, rng):
            free[around(row, column)] = False
            angle, (y, x) = rng.uniform(0, np.pi), GAUSS
            long, short = np.exp(rng.uniform(np.log(0.7), np.log(13), 2))
            u, v = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
            spot = ((u / long) ** 2 + (v / short) ** 2 <= 1).astype(np.float64)
            spot = ndimage.gaussian_filter(spot, rng.uniform(1.1, 2.3))
            peak = 256 * np.exp(rng.uniform(np.log(0.8), np.log(12))) / gain
            counts[around(row, column)] += rng.poisson(spot * peak / spot.max())
    return counts


class Overflow:
    """Tally of unwrapped views against the truth."""

    def __init__(self) -> None:
        self.clean = self.clean_touched = self.pixels_touched_elsewhere = 0
        self.rows: list[tuple[float, ...]] = []  # a hot spot each
        self.crumbs: list[tuple[int, int]] = []  # of regions under four pixels: pixels, right ones

    def add(self, truth: np.ndarray) -> None:
        """Unwrap a view whose true stretched counts are `truth`."""
        scan = unwrap_grey(through_jpeg(truth))
        right = np.abs(scan.values.astype(np.int64) - truth) < 128
        over = truth >= 256
        if not over.any():
            self.clean += 1
            self.clean_touched += bool(scan.turns.any())
            return
        self.pixels_touched_elsewhere += int((~right & ~over).sum())
        alone, _ = ndimage.label(~right, NEAR)
        alone = (np.bincount(alone.ravel())[alone] == 1) & ~right
        regions, _ = ndimage.label(over, NEAR)
        for number, window in enumerate(ndimage.find_objects(regions), start=1):
            part = regions[window] == number
            size, correct = int(part.sum()), int(right[window][part].sum())
            if size < 4:
                self.crumbs.append((size, correct))
                continue
            true = truth[window][part]
            self.rows.append((
                true.max() / 256,
                size,
                correct,
                bool(scan.turns[window][part].any()),
                abs(float(scan.values[window][part].sum()) / true.sum() - 1),
                int(alone[window][part].sum()),
            ))  # fmt: skip

    def report(self) -> dict[str, object]:
        """Return shares and errors, by the true peak of the hot spot."""
        rows = np.array(self.rows, np.float64).reshape(-1, 6)
        crumbs = np.array(self.crumbs, np.int64).reshape(-1, 2).sum(axis=0)
        table = {}
        for low, high in itertools.pairwise(PEAKS):
            chosen = rows[(rows[:, 0] >= low) & (rows[:, 0] < high)]
            if len(chosen):
                _, size, correct, found, error, single = chosen.T
                table[f"peak {low}-{high} x 256"] = {
                    "hot_spots": len(chosen),
                    "found": round(found.mean(), 4),
                    "pixels": int(size.sum()),
                    "pixels_right": round(correct.sum() / size.sum(), 4),
                    "pixels_wrong_alone": round(single.sum() / size.sum(), 5),
                    "all_pixels_right": round((size == correct).mean(), 3),
                    "total_error_median": round(float(np.median(error)), 4),
                    "total_error_90th_percentile": round(float(np.percentile(error, 90)), 4),
                }
        return {
            "views_without_overflow": self.clean,
            "of_these_touched": self.clean_touched,
            "hot_spots": len(rows),
            "found": round(rows[:, 3].mean(), 4) if len(rows) else None,
            "pixels_wrong_outside_overflow": self.pixels_touched_elsewhere,
            "pixels_in_regions_under_4": int(crumbs[0]),
            "of_these_right": round(crumbs[1] / max(1, crumbs[0]), 4),
            "by_peak": table,
        }


def with_lesions(counts: np.ndarray, kind: str, rng: np.random.Generator) -> np.ndarray:
    """Add hot spots of a kind to bone: what bone_reference should not notice."""
    body = ndimage.gaussian_filter(counts.astype(np.float64), 2)
    bone = bone_reference(counts)
    expected = np.zeros_like(body)
    y, x = GAUSS
    number = {"lesion": 1, "bladder_and_injection": 2, "30_lesions": 30, "120_lesions": 120}[kind]
    for i, (row, column) in enumerate(places(body > 0.8 * bone, number, rng)):
        sigma, peak = rng.uniform(1.5, 4.5), body[row, column] * np.expm1(abs(rng.normal(1.5, 0.4)))
        if kind == "bladder_and_injection":
            sigma, peak = ((8.0, 20 * bone), (5.0, 60 * bone))[i]
        expected[around(row, column)] += peak * np.exp(-(x**2 + y**2) / (2 * sigma**2))
    return counts + rng.poisson(expected)


def relative(errors: list[float]) -> dict[str, float]:
    size = np.abs(errors)
    return {
        "median": round(float(np.median(errors)), 5),
        "median_absolute": round(float(np.median(size)), 5),
        "95th_percentile_absolute": round(float(np.percentile(size, 95)), 5),
        "maximum_absolute": round(float(size.max()), 5),
    }


def measure_phantoms(patients: int, seed: int) -> dict[str, object]:
    rng = np.random.default_rng(seed)
    plain, added = Overflow(), Overflow()
    kinds = ("lesion", "bladder_and_injection", "30_lesions", "120_lesions")
    gains: list[float] = []
    shifts: dict[str, list[float]] = {kind: [] for kind in kinds}
    scaled: list[float] = []
    unscaled_wrong = 0
    for patient in range(patients):
        for view in simulate_patient(seed, patient).views:
            truth = stretch(view.counts, view.gain)
            plain.add(truth)
            added.add(stretch(add_hot_spots(view.counts, view.gain, rng), view.gain))
            gains.append(estimate_gain(through_jpeg(truth)) / view.gain - 1)
            unscaled_wrong += estimate_gain(view.counts) != 1
            bone = bone_reference(view.counts)
            scaled.append(bone_reference(truth) / view.gain / bone - 1)
            for kind in kinds:
                shifts[kind].append(bone_reference(with_lesions(view.counts, kind, rng)) / bone - 1)
        if patient % 10 == 9:
            print(f"{patient + 1} of {patients} patients", file=sys.stderr, flush=True)
    return {
        "phantom": plain.report(),
        "added": added.report(),
        "gain_relative_error": relative(gains),
        "raw_counts_without_gain_1": int(unscaled_wrong),
        "bone_reference_under_gain": relative(scaled),
        "bone_reference_shift": {kind: relative(shift) for kind, shift in shifts.items()},
    }


def measure_crops(folder: Path) -> dict[str, object]:
    """Which real crops are taken to overflow, against their maxima; some gains by id."""
    touched, bright, gains = [], [], {}
    files = sorted(folder.glob("*.jpg"))
    for number, file in enumerate(files):
        grey = cv2.imread(str(file), cv2.IMREAD_GRAYSCALE)
        scan = unwrap_grey(grey)
        name = int(file.stem)
        if scan.turns.any():
            touched.append([name, int(grey.max()), int((scan.turns > 0).sum()),
                            int(scan.turns.max())])  # fmt: skip
        if grey.max() >= 250:
            bright.append(name)
        if name in (1, 2, 10, 280, 1500):
            gains[name] = round(scan.gain, 3)
        if number % 500 == 499:
            print(f"{number + 1} of {len(files)} crops", file=sys.stderr, flush=True)
    return {
        "crops": len(files),
        "maximum_250_or_more": sorted(bright),
        "touched_id_maximum_pixels_turns": sorted(touched),
        "touched_under_200": sum(row[1] < 200 for row in touched),
        "gains": gains,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--patients", type=int, required=True, help="phantoms, two views each")
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--crops", type=Path, help="folder of real crops, <id>.jpg")
    arguments = parser.parse_args()
    result = measure_phantoms(arguments.patients, arguments.seed)
    if arguments.crops:
        result["crops"] = measure_crops(arguments.crops)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
