"""Measures how well counts are got back from grey values, on phantoms after JPEG.

    python -m tests.accuracy.counts --patients=200 --seed=1 [--crops=DIR]

Two tables: counts that wrapped modulo 256 before the gain, with clipping after it, as the phantom
and the real crops with overflow have it (`wrapped_before_gain`), and grey values that wrapped after
it, as BS-80K is said to have it (`wrapped_after_gain`). A turn is 256 counts in one, 256 grey
values in the other.

In each two sets of views: `phantom`, as simulated; `added`, the same bodies with four more hot
spots each, peaks spread evenly in their logarithm from 0.8 to 12 turns, ellipses with half axes of
0.7 to 13 pixels blurred by σ = 1.1 to 2.3 pixels. An overflowing hot spot is an 8-connected region
of gain × counts > 255 with at least four wrapped pixels; it is found if any of them gets a turn. A
pixel is right if it gets its number of turns. A hot spot's total is over the region. `crops` is a
folder of real chest crops. Progress goes to standard error, the figures as one line of JSON to
standard output.
"""

import argparse
import itertools
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from scipy import ndimage

from bonescan_jax.phantom.patient import PhantomView, simulate_patient, to_grey
from bonescan_jax.scans.counts import bone_reference, estimate_gain
from bonescan_jax.scans.unwrap import unwrap_grey

NEAR = np.ones((3, 3))
PEAKS = (1, 1.2, 2, 3, 5, 8, 1000)  # in turns: bounds of the rows of the table
SIDE = 24  # pixels around the middle of an added hot spot
GAUSS = np.mgrid[-SIDE : SIDE + 1, -SIDE : SIDE + 1].astype(np.float64)


class Channel(NamedTuple):
    """How counts become grey values."""

    wraps_before_gain: bool

    def turn(self, gain: float) -> float:
        """Counts that a turn takes away."""
        return 256 if self.wraps_before_gain else 256 / gain

    def turns(self, counts: np.ndarray, gain: float) -> np.ndarray:
        """Return how often each pixel wraps, (H, W) int64."""
        return (counts if self.wraps_before_gain else stretch(counts, gain)).astype(np.int64) // 256

    def grey(self, counts: np.ndarray, gain: float) -> np.ndarray:
        """Return what a JPEG file of quality 100 holds, (H, W) uint8."""
        if self.wraps_before_gain:
            return through_jpeg(to_grey(counts, gain))
        return through_jpeg((stretch(counts, gain) % 256).astype(np.uint8))


CHANNELS = {"wrapped_before_gain": Channel(True), "wrapped_after_gain": Channel(False)}


def through_jpeg(grey: np.ndarray) -> np.ndarray:
    """Send (H, W) uint8 through JPEG of quality 100."""
    _, data = cv2.imencode(".jpg", grey, [cv2.IMWRITE_JPEG_QUALITY, 100])
    return cv2.imdecode(data, cv2.IMREAD_UNCHANGED)


def stretch(counts: np.ndarray, gain: float) -> np.ndarray:
    """Return round(gain × counts), neither wrapped nor clipped."""
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


def add_hot_spots(counts: np.ndarray, turn: float, rng: np.random.Generator) -> np.ndarray:
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
            peak = turn * np.exp(rng.uniform(np.log(0.8), np.log(12)))
            counts[around(row, column)] += rng.poisson(spot * peak / spot.max())
    return counts


class Overflow:
    """Tally of unwrapped views against the truth."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self.fits = self.fits_changed = self.clips = self.clips_turned = 0  # views that do not wrap
        self.wrong_elsewhere = 0
        self.rows: list[tuple[float, ...]] = []  # a hot spot each
        self.crumbs: list[tuple[int, int]] = []  # of under four pixels that wrapped: all, right

    def add(self, counts: np.ndarray, gain: float) -> None:
        """Unwrap a view of (H, W) counts."""
        truth, turns = stretch(counts, gain), self.channel.turns(counts, gain)
        grey = self.channel.grey(counts, gain)
        scan = unwrap_grey(grey)
        if not turns.any():
            if truth.max() > 255:
                self.clips += 1
                self.clips_turned += bool(scan.turns.any())
            else:
                self.fits += 1
                self.fits_changed += bool((scan.values != grey).any())
            return
        right, wrapped = scan.turns == turns, turns > 0
        self.wrong_elsewhere += int((~right & ~wrapped).sum())
        alone, _ = ndimage.label(~right, NEAR)
        alone = (np.bincount(alone.ravel())[alone] == 1) & ~right
        regions, _ = ndimage.label(truth > 255, NEAR)
        peaks = counts / self.channel.turn(gain)
        for number, window in enumerate(ndimage.find_objects(regions), start=1):
            region = regions[window] == number
            part = region & wrapped[window]
            size, correct = int(part.sum()), int(right[window][part].sum())
            if size < 4:
                self.crumbs.append((size, correct))
                continue
            total = truth[window][region].sum()
            self.rows.append((
                peaks[window][region].max(),
                size,
                correct,
                bool(scan.turns[window][part].any()),
                abs(float(scan.values[window][region].sum(dtype=np.float64)) / total - 1),
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
                table[f"peak {low}-{high} turns"] = {
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
            "views_without_overflow": self.fits,
            "of_these_changed": self.fits_changed,
            "views_clipped_only": self.clips,
            "of_these_turned": self.clips_turned,
            "hot_spots": len(rows),
            "found": round(rows[:, 3].mean(), 4) if len(rows) else None,
            "pixels_wrong_outside_overflow": self.wrong_elsewhere,
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


def measure_channel(channel: Channel, patients: int, seed: int) -> dict[str, object]:
    """Overflow and gain of phantoms that went through a channel."""
    rng = np.random.default_rng(seed)
    plain, added = Overflow(channel), Overflow(channel)
    gains: list[float] = []
    for view in phantom_views(patients, seed):
        plain.add(view.counts, view.gain)
        added.add(add_hot_spots(view.counts, channel.turn(view.gain), rng), view.gain)
        gains.append(estimate_gain(channel.grey(view.counts, view.gain)) / view.gain - 1)
    return {
        "phantom": plain.report(),
        "added": added.report(),
        "gain_relative_error": relative(gains),
    }


def measure_reference(patients: int, seed: int) -> dict[str, object]:
    """What hot spots and the gain change in the brightness of bone; gains of raw counts."""
    rng = np.random.default_rng(seed)
    kinds = ("lesion", "bladder_and_injection", "30_lesions", "120_lesions")
    shifts: dict[str, list[float]] = {kind: [] for kind in kinds}
    scaled: list[float] = []
    wrong = 0
    for view in phantom_views(patients, seed):
        wrong += estimate_gain(view.counts) != 1
        bone = bone_reference(view.counts)
        scaled.append(bone_reference(stretch(view.counts, view.gain)) / view.gain / bone - 1)
        for kind in kinds:
            shifts[kind].append(bone_reference(with_lesions(view.counts, kind, rng)) / bone - 1)
    return {
        "raw_counts_without_gain_1": int(wrong),
        "bone_reference_under_gain": relative(scaled),
        "bone_reference_shift": {kind: relative(shift) for kind, shift in shifts.items()},
    }


def phantom_views(patients: int, seed: int) -> Iterator[PhantomView]:
    for patient in range(patients):
        yield from simulate_patient(seed, patient).views
        if patient % 10 == 9:
            print(f"{patient + 1} of {patients} patients", file=sys.stderr, flush=True)


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
    amount = (arguments.patients, arguments.seed)
    result = {name: measure_channel(channel, *amount) for name, channel in CHANNELS.items()}
    result |= measure_reference(*amount)
    if arguments.crops:
        result["crops"] = measure_crops(arguments.crops)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
