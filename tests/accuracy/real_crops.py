"""Reads labelled crops of real scans with a network of whole views, and scores it as a classifier.

    python -m tests.accuracy.real_crops --workdir RUN [RUN …] --crops FOLDER [--out FILE]

`--crops` is a region of BS-80K's classification data (chestRANT/1.jpg, …, chestRANT/chestRANT.txt,
which says 0 or 1 of each). The network has seen none of them: it reads each crop as a view with
nothing around it. A crop's score is the largest probability of abnormal inside the crop, away from
its cut edge. Thousands of real patients say more of what a network of simulated ones is worth
than a few whole scans; the labels are of the crop as a whole. Standard output gets a line of
JSON: AUC with its 95 % interval over patients, and how many boxes of abnormal a normal crop gets.
"""

import argparse
import json
from pathlib import Path

import cv2
import jax
import numpy as np
from sklearn.metrics import roc_auc_score

from bonescan_jax.cluster.mesh import make_evaluation_mesh
from bonescan_jax.scans import ABNORMAL
from bonescan_jax.scans.masks import mask_to_boxes, most_probable_mask
from bonescan_jax.scans.unwrap import unwrap_grey
from bonescan_jax.trained import USUAL, Ensemble, load_trained, prune

CANVAS = (256, 128)  # holds every crop
# Grey level of bone. A crop is too small to tell, but the export brings every whole view to one
# sum: in front views of seven patients (ids 1 to 7) bone is at 22.6 to 32.3, in the median 28.6.
# From number 800 on, pixels are smaller and so much dimmer (docs/phantom.md).
NUMBERS, BONE = (700, 800), (28.0, 28.0 * (2.14 / 2.4) ** 2)
EDGE = 10  # pixels inside the cut edge that do not count: networks have not seen such edges
BATCH = 16


def read_crops(folder: Path) -> tuple[list[np.ndarray], np.ndarray]:
    """Crops (H, W) in which bone is at 1, and whether each is labelled abnormal."""
    lines = (folder / f"{folder.name}.txt").read_text().split("\n")
    pairs = [line.split() for line in lines if line.strip()]
    grey = [cv2.imread(str(folder / name), cv2.IMREAD_GRAYSCALE) for name, _ in pairs]
    bone = np.interp([int(Path(name).stem) for name, _ in pairs], NUMBERS, BONE)
    crops = [unwrap_grey(each).values / level for each, level in zip(grey, bone, strict=True)]
    return crops, np.array([int(label) for _, label in pairs])


def on_canvas(crop: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A crop in the middle of black (256, 128), and which pixels count (bool)."""
    image, inside = np.zeros(CANVAS, np.float32), np.zeros(CANVAS, np.uint8)
    top, left = ((whole - own) // 2 for whole, own in zip(CANVAS, crop.shape, strict=True))
    window = np.s_[top : top + crop.shape[0], left : left + crop.shape[1]]
    image[window] = crop
    inside[window] = cv2.morphologyEx((crop > 0).astype(np.uint8), cv2.MORPH_CLOSE, np.ones((7, 7)))
    return image, cv2.erode(inside, np.ones((2 * EDGE + 1,) * 2, np.uint8)) > 0


def score(workdirs: list[Path], crops: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """(N,) largest probability of abnormal of each crop, and how many boxes of it there are."""
    mesh = make_evaluation_mesh(jax.devices()[:1])
    members = [prune(each) for each in load_trained(workdirs, mesh, USUAL, {})]
    say, config = Ensemble(members, mesh), members[0].config
    scores, boxes = [], []
    for first in range(0, len(crops), BATCH):
        some = crops[first : first + BATCH]
        padded = [*some, *[np.ones((8, 8), np.float32)] * (BATCH - len(some))]
        placed = [on_canvas(crop) for crop in padded]
        views = 2 if config.data.views == "both" else 1
        image = np.zeros((BATCH, *CANVAS, views), np.float32)
        image[..., 0] = [each for each, _ in placed]
        reference = np.ones((BATCH, views), np.float32)
        said = jax.device_get(say({"image": image, "reference": reference})[say.row])
        for number in range(len(some)):
            probabilities, inside = said[number, 0], placed[number][1]  # of the anterior view
            scores.append(float(np.where(inside, probabilities[..., ABNORMAL], 0).max()))
            mask = np.where(inside, most_probable_mask(probabilities), 0).astype(np.uint8)
            found = mask_to_boxes(mask, probabilities, min_area=config.evaluate.min_area)
            boxes.append(sum(box.label == ABNORMAL for box in found))
    return np.array(scores), np.array(boxes)


def main() -> None:
    """Reads flags, predicts and prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--workdir", type=Path, required=True, nargs="+", help="read as one network"
    )
    parser.add_argument("--crops", type=Path, required=True)
    parser.add_argument("--out", type=Path, help="gets scores and boxes of each crop (npz)")
    arguments = parser.parse_args()
    crops, abnormal = read_crops(arguments.crops)
    scores, boxes = score(arguments.workdir, crops)
    if arguments.out:
        np.savez(arguments.out, scores=scores, boxes=boxes, abnormal=abnormal)
    rng = np.random.default_rng(0)
    picks = (rng.integers(len(scores), size=len(scores)) for _ in range(1000))
    low, high = np.percentile([roc_auc_score(abnormal[p], scores[p]) for p in picks], [2.5, 97.5])
    print(
        json.dumps(
            {
                "crops": len(scores),
                "auc": round(float(roc_auc_score(abnormal, scores)), 4),
                "auc_low": round(float(low), 4),
                "auc_high": round(float(high), 4),
                "boxes_per_normal_crop": round(float(boxes[abnormal == 0].mean()), 4),
                "abnormal_crops_with_box": round(float((boxes[abnormal == 1] > 0).mean()), 4),
                "normal_crops_with_box": round(float((boxes[abnormal == 0] > 0).mean()), 4),
            }
        )
    )


if __name__ == "__main__":
    main()
