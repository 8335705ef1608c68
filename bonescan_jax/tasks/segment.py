"""Segmenting: a class for every pixel of a scan, scored as masks, hot spots and images."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from bonescan_jax.augment import normalize
from bonescan_jax.cluster.mesh import batch_shardings, to_host
from bonescan_jax.datasets.decode import View, decode
from bonescan_jax.datasets.records import Record
from bonescan_jax.errors import InputError
from bonescan_jax.hyperparameters import Hyperparameters
from bonescan_jax.losses import bones_loss, deep_supervision_loss
from bonescan_jax.metrics import segmentation, summary
from bonescan_jax.metrics.candidates import view_findings
from bonescan_jax.metrics.rows import ViewRow, pixel_counts
from bonescan_jax.metrics.threshold import (
    BestThreshold,
    ThresholdBaseline,
    threshold_overlap_counts,
)
from bonescan_jax.models.build import Network, Tree, model_settings, views_per_example
from bonescan_jax.models.unet import UNet
from bonescan_jax.models.unetpp import UNetPlusPlus
from bonescan_jax.scans import ABNORMAL, CLASSES, VIEWS
from bonescan_jax.scans.bones import BONES
from bonescan_jax.scans.masks import most_probable_mask
from bonescan_jax.scans.views import views_of
from bonescan_jax.tasks.crops import CLASS_BITS, TrainingExample
from bonescan_jax.tasks.task import Predictions, ScanBatch, Scores, one_ahead

INPUTS = ("image", "reference")
SCORES = ("dice_abnormal", "dice_normal")
# Brightest intensity, relative to bone, that the threshold detector tells apart.
BRIGHTEST = 50.0


def validate(config: ml_collections.ConfigDict) -> None:
    """Raises InputError where settings do not fit the task."""
    if config.data.name == "regions":
        raise InputError("config: data.name is 'regions', which has no boxes: set task to classify")
    if config.model.packed == "on" and config.model.name != "unetpp":
        raise InputError(
            "config: model.packed is 'on', expected auto or off for a network that is not a UNet++"
        )


def knows_bones(config: ml_collections.ConfigDict) -> bool:
    """Whether training has an auxiliary head for bones, which only simulated scans know."""
    return config.loss.bones_weight > 0 and config.data.name == "phantom"


def build_model(config: ml_collections.ConfigDict, seed: int | jax.Array) -> UNetPlusPlus | UNet:
    """The model of config.model with fresh weights."""
    shared = model_settings(config, seed)
    shared["num_classes"] = views_per_example(config) * len(CLASSES) * config.model.patch**2
    if knows_bones(config):
        shared["num_bones"] = views_per_example(config) * len(BONES)
    if config.model.name == "unet":
        return UNet(**shared)
    return UNetPlusPlus(deep_supervision=config.model.deep_supervision, **shared)


def as_network(config: ml_collections.ConfigDict, model: UNetPlusPlus | UNet) -> Network:
    """The model without its weights."""
    # A U-Net has one head; it is named like the last of a UNet++.
    columns = getattr(model, "supervised", (model.levels,))
    heads = tuple(f"head_{column}" for column in columns)
    execution = config.model.packed if config.model.name == "unetpp" else "off"
    views = views_per_example(config)
    return Network(
        nnx.split(model)[0],
        heads,
        views,
        packed=execution,
        remat=config.model.remat,
        patch=config.model.patch,
    )


def batch_loss(
    hyperparameters: Hyperparameters,
    network: Network,
    params: Tree,
    stats: Tree,
    image: jax.Array,
    mask: jax.Array,
    sample: jax.Array,
) -> tuple[jax.Array, tuple[Tree, jax.Array]]:
    """Cross-entropy and overlap of every head with the mask, and cross-entropy with its bones."""
    del sample
    logits, stats = network.class_logits(params, stats, image, True)
    with jax.named_scope("loss"):
        classes = logits.lay(mask & (2**CLASS_BITS - 1))
        total, losses = deep_supervision_loss(logits.classes, classes, hyperparameters.loss)
        if logits.bones:
            bones = logits.lay_bones(mask >> CLASS_BITS)
            found = [bones_loss(head, bones) for head in logits.bones]
            total += hyperparameters.loss["bones_weight"] * sum(found) / len(found)
    return total, (stats, jnp.stack(losses))


def training_example(
    config: ml_collections.ConfigDict,
) -> Callable[[int, Sequence[Record]], list[View]]:
    """Decodes and crops the records of an example."""
    return TrainingExample(config.data, config.seed, knows_bones(config))


def whole_views(config: ml_collections.ConfigDict, records: Sequence[Record]) -> list[View]:
    """The records of an example to its views, uncropped: as they are evaluated."""
    return [decode(record, config.data.mask) for record in records]


def make_predict_step(network: Network, mesh: Mesh, mirror: bool = False) -> jax.stages.Wrapped:
    """Jitted class probabilities of every head, and of their mean as the last predictor.

    The function takes {"params", "stats"}, images (B, H, W, V) and references (B, V), and returns
    (predictors, B, V, H, W, classes) float32, predictors = heads, then their mean (the paper's
    accurate mode) where there are several; with `mirror` also as `Task.make_predict_step` says.
    """
    network = network.on(mesh)

    def of_heads(weights: Tree, pixels: jax.Array) -> jax.Array:
        logits, _ = network.apply(weights["params"], weights["stats"], pixels, False)
        # Keeps XLA on a CPU from fusing this with the last convolutions into a slow loop.
        logits = jax.lax.optimization_barrier(logits)
        probabilities = jnp.moveaxis(jax.nn.softmax(jnp.stack(logits)), -2, 2)
        if len(logits) == 1:
            return probabilities
        return jnp.concatenate([probabilities, probabilities.mean(0, keepdims=True)])

    def predict(weights: Tree, image: jax.Array, reference: jax.Array) -> jax.Array:
        pixels = normalize(image, reference)
        probabilities = of_heads(weights, pixels)
        if not mirror:
            return probabilities
        mirrored = of_heads(weights, pixels[:, :, ::-1])[..., ::-1, :]
        return jnp.concatenate([probabilities, (probabilities + mirrored) / 2])

    shardings = batch_shardings(mesh)
    return jax.jit(predict, in_shardings=(None, shardings["image"], shardings["reference"]))


def predictor_names(network: Network) -> tuple[str, ...]:
    """The heads, then their mean where there are several: the rows of `make_predict_step`."""
    return network.heads if len(network.heads) == 1 else (*network.heads, "mean")


def validation_scores(
    config: ml_collections.ConfigDict, network: Network, predictions: Predictions
) -> tuple[str, Scores]:
    """The predictor with the best mean Dice of both classes, and its pooled Dice."""
    del config
    return best_predictor(split_counts(predictions), network)


def split_counts(predictions: Predictions) -> np.ndarray:
    """(predictors, images, classes - 1, 3) overlap counts of every scan of a split."""
    overlaps = (
        (_scored(batch), overlap_counts(probabilities, batch.arrays["mask"]))
        for batch, probabilities in predictions
    )
    return np.concatenate([to_host(found)[:, real] for real, found in one_ahead(overlaps)], 1)


def _scored(batch: ScanBatch) -> list[int]:
    """Which views of a batch are scored: not what fills it up, nor missing ones."""
    return [n for n, record in enumerate(batch.records) if not record.get("missing")]


@jax.jit
def overlap_counts(probabilities: jax.Array, mask: jax.Array) -> jax.Array:
    """True positive, false positive and false negative pixels by class, predictor and image.

    Args:
        probabilities: (P, B, V, H, W, K); the prediction is `most_probable_mask` of them.
        mask: (B, H, W, V) true classes.

    Returns:
        (P, B V, K - 1, 3) int32 true positives, false positives, false negatives.
    """
    prediction = most_probable_mask(probabilities)
    prediction = prediction.reshape(len(prediction), -1, *prediction.shape[-2:])
    mask = jnp.moveaxis(mask, -1, 1).reshape(prediction.shape[1:])
    counts = []
    for label in range(1, probabilities.shape[-1]):
        found, true = prediction == label, mask == label
        pairs = (found & true, found & ~true, ~found & true)
        counts.append(jnp.stack([pair.sum((-2, -1), dtype=jnp.int32) for pair in pairs], -1))
    return jnp.stack(counts, -2)


def pooled_dice(counts: np.ndarray) -> dict[str, float | None]:
    """{"dice_abnormal", "dice_normal"} over all pixels of (images, classes - 1, 3) counts."""
    return {f"dice_{name}": dice for name, dice in segmentation.pooled_dice(counts).items()}


def best_predictor(counts: np.ndarray, network: Network) -> tuple[str, dict[str, float | None]]:
    """The predictor with the best mean Dice of both classes, and its pooled Dice.

    Args:
        counts: (predictors, images, classes - 1, 3) of the validation split.
        network: whose predictors they are.
    """
    dice = [pooled_dice(each) for each in counts]
    # Where a class is nowhere and nowhere predicted, it tells nothing.
    means = [np.mean([value or 0.0 for value in each.values()]) for each in dice]
    best = len(means) - 1 - int(np.argmax(means[::-1]))  # of equals the mean of the heads
    return predictor_names(network)[best], dice[best]


def rank(scores: Scores) -> float:
    """The mean Dice of both classes."""
    return float(np.mean([scores.get(name) or 0.0 for name in ("dice_abnormal", "dice_normal")]))


def fit_baseline(config: ml_collections.ConfigDict, records: Iterable[Record]) -> dict[str, Any]:
    """The brightness threshold of each class with the best Dice on the training views."""
    baseline = ThresholdBaseline(limit=BRIGHTEST, num_bins=5000)
    for record in records:
        view = decode(record, config.data.mask)
        intensity = (view["image"] / view["reference"])[None]
        baseline.accumulate(intensity, view["mask"][None])
    return {name: each._asdict() for name, each in baseline.best_thresholds().items()}


def scored_rows(
    config: ml_collections.ConfigDict,
    names: Sequence[str],
    row: int,
    predictions: Iterable[tuple[ScanBatch, Sequence[jax.Array]]],
    baseline: dict[str, Any],
) -> Iterator[ViewRow]:
    """A row for each view: pixels of every predictor and of the threshold detector.

    All are scored side by side, because the mean of the heads is not always the best of them (arXiv
    1912.05074). Candidates are those of the predictor in this row.
    """
    thresholds = {name: BestThreshold(**each) for name, each in baseline.items()}
    for batch, counts, selected in one_ahead(_counted(predictions, row)):
        found = np.concatenate([to_host(each) for each in counts])
        views = zip(batch.records, views_of(to_host(selected)), _host_views(batch), strict=False)
        for number, (record, scan, view) in enumerate(views):
            if record.get("missing"):
                continue
            pixels = {name: found[i, number].tolist() for i, name in enumerate(names)}
            detected = threshold_overlap_counts(
                (view["image"] / view["reference"])[None], view["mask"][None], thresholds
            )
            candidates, lesions = view_findings(
                scan, record["boxes"], config.data.mask, config.evaluate.min_area, view["image"]
            )
            yield ViewRow(
                patient=int(record["patient"]),
                view=VIEWS[record["view"]],
                region=None,
                abnormal=bool(record["abnormal"]),
                score=float(scan[..., ABNORMAL].max()),
                counts=float(view["image"].sum(dtype=np.int64) / view["gain"]),
                overflow=bool(len(record["overflow"])),
                pixels=pixels | {"threshold": detected[0].tolist()},
                candidates=candidates,
                lesions=lesions,
            )


def _counted(
    predictions: Iterable[tuple[ScanBatch, Sequence[jax.Array]]], row: int
) -> Iterator[tuple[ScanBatch, list[jax.Array], jax.Array]]:
    """Of each batch the overlap counts, and the prediction in a row; the others can be freed."""
    for batch, said in predictions:
        counts = [overlap_counts(each, batch.arrays["mask"]) for each in said]
        yield batch, counts, said[0][row]


def _host_views(batch: ScanBatch) -> Iterator[View]:
    """The views of a batch as they were decoded."""
    arrays = {name: to_host(array) for name, array in batch.arrays.items()}
    pixels = {name: views_of(np.moveaxis(arrays[name], -1, 1)) for name in ("image", "mask")}
    numbers = {name: arrays[name].ravel() for name in ("gain", "reference")}
    for place in range(len(pixels["image"])):
        yield {name: each[place] for name, each in (pixels | numbers).items()}


def headline(rows: Sequence[ViewRow], selected: str) -> dict[str, Any]:
    """Lesions, masks and images by the selected predictor; Dice of the threshold detector."""
    threshold = pooled_dice(pixel_counts(rows, "threshold"))
    return {
        "num_images": len(rows),
        **summary.headline(rows, selected),
        **{name.replace("dice_", "dice_threshold_"): dice for name, dice in threshold.items()},
    }
