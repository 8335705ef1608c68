"""Trains a MONAI network on prepared scans for so many seconds, as its users would, and scores it.

    .venv-peers/bin/python -m tests.accuracy.monai_peer --data_dir DIR --seconds 480 --out FOLDER
        [--network unetplusplus|unet] [--widths 16 16 32 64 128 16] [--seed 0] [--threads 1]
        [--patients N]

Runs in the environment of `bash launch/setup.sh peers`. The scans are those of `bonescan prepare
--config=configs/phantom.py`, the split too; both views of a patient are the channels of one image,
as in the quick start. Transforms, loss and inference are MONAI's usual ones: intensities normalised
by channel, crops around labels and beside them in equal number, flips, scaled and shifted
intensities, Dice and cross-entropy on every head, a sliding window. The learning rate falls on a
cosine of the time that is used. What it predicts goes the way of our own predictions, so FOLDER is
one for `bonescan evaluate --against=FOLDER` and `bonescan report`. Standard output gets the
headline as a line of JSON.
"""

import argparse
import json
import math
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import torch
from monai.data import Dataset, set_track_meta
from monai.inferers import sliding_window_inference
from monai.losses import DiceCELoss
from monai.networks.nets import BasicUNet, BasicUNetPlusPlus
from monai.transforms import (
    CastToTyped,
    Compose,
    NormalizeIntensityd,
    RandCropByPosNegLabeld,
    RandFlipd,
    RandScaleIntensityd,
    RandShiftIntensityd,
)
from torch.utils.data import DataLoader, RandomSampler

from bonescan_jax.cluster.mesh import make_evaluation_mesh
from bonescan_jax.config import default_config
from bonescan_jax.datasets.records import data_fingerprint
from bonescan_jax.input_pipeline import example_records, scan_batches, stack_examples, view_records
from bonescan_jax.metrics.rows import ViewRow, write_rows
from bonescan_jax.metrics.summary import choose_thresholds, summarize
from bonescan_jax.runs.workdir import write_json
from bonescan_jax.scans import CLASSES
from bonescan_jax.tasks import segment
from bonescan_jax.tasks.task import ScanBatch

CROP = (128, 128)
BATCH = 8
LEARNING_RATE = 1e-3
WIDTHS = (32, 32, 64, 128, 256, 32)  # MONAI's default
NAME = "monai"  # of the predictor
normalise = NormalizeIntensityd("image", nonzero=True, channel_wise=True)


def load_pairs(config: ml_collections.ConfigDict, most: int | None) -> list[dict[str, np.ndarray]]:
    """Image (2, H, W) and label (2, H, W) of the training pairs, normalised once, as in a cache."""
    examples = example_records(config, "train")
    pairs = []
    for index in range(min(len(examples), most or len(examples))):
        arrays = stack_examples([segment.whole_views(config, examples[index])], 1)
        image, mask = (np.moveaxis(arrays[name][0], -1, 0) for name in ("image", "mask"))
        image = np.asarray(normalise({"image": image})["image"], np.float16)  # thousands fit
        pairs.append({"image": image, "label": mask.copy()})
    return pairs


def crops(pairs: list[dict[str, np.ndarray]], seed: int) -> DataLoader:
    """Endless batches of crops, augmented in the usual way."""
    keys = ["image", "label"]
    transforms = Compose(
        [
            RandCropByPosNegLabeld(keys, "label", CROP, pos=1, neg=1, num_samples=1),
            CastToTyped("image", np.float32),
            RandFlipd(keys, prob=0.5, spatial_axis=1),
            RandScaleIntensityd("image", factors=0.1, prob=0.5),
            RandShiftIntensityd("image", offsets=0.1, prob=0.5),
        ]
    )
    transforms.set_random_state(seed)
    dataset = Dataset(pairs, transforms)
    generator = torch.Generator().manual_seed(seed)
    sampler = RandomSampler(dataset, replacement=True, num_samples=10**7, generator=generator)
    return DataLoader(dataset, BATCH, sampler=sampler, collate_fn=_collate)


def _collate(examples: list[list[dict[str, torch.Tensor]]]) -> tuple[torch.Tensor, torch.Tensor]:
    flat = [crop for example in examples for crop in example]
    image = torch.stack([torch.as_tensor(crop["image"]).float() for crop in flat])
    return image, torch.stack([torch.as_tensor(crop["label"]).long() for crop in flat])


def make_network(name: str, widths: tuple[int, ...]) -> torch.nn.Module:
    """MONAI's network of six widths, the last that of its heads, for two views of three classes."""
    shape = {"spatial_dims": 2, "in_channels": 2, "out_channels": 2 * len(CLASSES)}
    if name == "unet":
        return BasicUNet(**shape, features=widths)
    return BasicUNetPlusPlus(**shape, features=widths, deep_supervision=True)


def by_view(logits: torch.Tensor) -> torch.Tensor:
    """(B, 6, H, W) to (2 B, 3, H, W): the views of an example one after the other."""
    return logits.reshape(-1, len(CLASSES), *logits.shape[2:])


def train(network: torch.nn.Module, loader: DataLoader, seconds: float) -> int:
    """Trains for so long; returns the number of steps."""
    loss_of = DiceCELoss(include_background=False, softmax=True, to_onehot_y=True, batch=True)
    optimizer = torch.optim.AdamW(network.parameters(), LEARNING_RATE, weight_decay=1e-4)
    start = said = time.monotonic()
    for step, (image, label) in enumerate(loader):
        share = (time.monotonic() - start) / seconds
        if share >= 1:
            return step
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * 0.5 * (1 + math.cos(math.pi * share))
        heads = network(image)
        heads = heads if isinstance(heads, list | tuple) else [heads]
        truth = label.reshape(-1, 1, *CROP)
        loss = sum(loss_of(by_view(head), truth) for head in heads) / len(heads)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        if time.monotonic() - said > 15:
            said = time.monotonic()
            print(f"step {step}, loss {loss.item():.3f}", file=sys.stderr)
    raise AssertionError("the loader is endless")


@torch.no_grad()
def predictions(
    config: ml_collections.ConfigDict, network: torch.nn.Module, split: str
) -> Iterator[tuple[ScanBatch, list[jax.Array]]]:
    """The probabilities (1, B, V, H, W, K) of each batch of a split."""
    network.eval()

    def last_head(window: torch.Tensor) -> torch.Tensor:
        heads = network(window)
        return heads[-1] if isinstance(heads, list | tuple) else heads

    for batch in scan_batches(config, split, make_evaluation_mesh(jax.devices()[:1])):
        images = np.moveaxis(np.asarray(batch.arrays["image"]), -1, 1).astype(np.float32)
        inputs = torch.stack([torch.as_tensor(normalise({"image": x})["image"]) for x in images])
        logits = sliding_window_inference(inputs, CROP, 8, last_head, overlap=0.25)
        found = by_view(logits).softmax(1).numpy()
        found = found.reshape(len(images), 2, *found.shape[1:])
        yield batch, [jnp.asarray(np.moveaxis(found, 2, -1)[None])]


def score(
    config: ml_collections.ConfigDict, network: torch.nn.Module, out: Path, step: int
) -> dict:
    """Rows and figures of the test split, at thresholds chosen on validation."""
    baseline = segment.fit_baseline(config, list(view_records(config, "train"))[:400])
    rows: dict[str, list[ViewRow]] = {}
    for split in ("validation", "test"):
        said = predictions(config, network, split)
        rows[split] = list(segment.scored_rows(config, [NAME], 0, said, baseline))
    member = {"workdir": NAME, "step": step, "predictor": NAME, "weights": ""}
    about = {
        **{"split": "test", "step": step, "selected": NAME, "members": [member], "mirror": False},
        **{"alone": False, "checkpoint": "newest", "data": config.data.name},
        "data_dir": config.data.dir,
        "data_fingerprint": data_fingerprint(Path(config.data.dir), config.data.name),
        "min_area": config.evaluate.min_area,
    }
    headline = segment.headline(rows["test"], NAME)
    details = summarize(rows["test"], NAME, choose_thresholds(rows["validation"]))
    write_rows(out / "evaluation" / "test.rows.jsonl", about, rows["test"])
    write_json(out / "evaluation" / "test.json", about | headline | details)
    return {"step": step, **headline}


def main() -> None:
    """Reads flags, trains, scores and prints the headline."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data_dir", required=True)
    parser.add_argument("--seconds", type=float, required=True, help="of training")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--network", choices=("unetplusplus", "unet"), default="unetplusplus")
    parser.add_argument(
        "--widths", type=int, nargs=6, default=WIDTHS, help="of the rows, and heads"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--patients", type=int, help="of the training split, the first so many")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(arguments.seed)
    torch.set_flush_denormal(True)  # as XLA does
    set_track_meta(False)  # plain tensors are faster
    config = default_config()
    config.data.name, config.data.views, config.data.dir = "phantom", "both", arguments.data_dir
    network = make_network(arguments.network, tuple(arguments.widths))
    loader = crops(load_pairs(config, arguments.patients), arguments.seed)
    steps = train(network, loader, arguments.seconds)
    print(json.dumps(score(config, network, arguments.out, steps)))


if __name__ == "__main__":
    main()
