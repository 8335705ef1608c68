"""Measures the ribs of real chest crops: what the table of docs/phantom.md compares with.

    python -m tests.accuracy.measure_real_crops FOLDER

FOLDER is BS-80K's chestRANT: 1.jpg, …, and chestRANT.txt. Only crops labelled normal are measured.
For each camera (docs/phantom.md) and feature, standard output gets the median and the 10th and the
90th percentile.
"""

import argparse
from pathlib import Path

import cv2
import numpy as np

from bonescan_jax.phantom.features import rib_features
from bonescan_jax.scans.unwrap import unwrap_grey

CAMERAS = {"up to 700": (0, 700), "from 800 on": (800, 10**6)}


def main() -> None:
    """Reads the crops and prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    lines = (folder / f"{folder.name}.txt").read_text().split("\n")
    normal = [line.split()[0] for line in lines if line.split()[1:] == ["0"]]
    found: dict[str, list[dict[str, float]]] = {camera: [] for camera in CAMERAS}
    for name in normal:
        for camera, (first, last) in CAMERAS.items():
            if first <= int(Path(name).stem) <= last:
                grey = cv2.imread(str(folder / name), cv2.IMREAD_GRAYSCALE)
                features = rib_features(unwrap_grey(grey).values)
                if features:
                    found[camera].append(features)
    for camera, rows in found.items():
        for name in rows[0]:
            low, middle, high = np.percentile([row[name] for row in rows], [10, 50, 90])
            print(f"{camera}, {len(rows)} crops, {name}: {middle:.3g} ({low:.3g} to {high:.3g})")


if __name__ == "__main__":
    main()
