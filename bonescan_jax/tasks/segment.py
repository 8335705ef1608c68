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
from bonescan_jax.losses import deep_supervision_loss
from bonescan_jax.metrics.candidates import view_findings
from bonescan_jax.metrics.rows import ViewRow, pixel_counts
from bonescan_jax.metrics.segmentation import segmentation_scores
from bonescan_jax.metrics.threshold import ThresholdBaseline, threshold_overlap_counts
from bonescan_jax.models.build import Network, Tree, model_settings, views_per_example
from bonescan_jax.models.unet import UNet
from bonescan_jax.models.unetpp import UNetPlusPlus
from bonescan_jax.scans import ABNORMAL, CLASSES, VIEWS
from bonescan_jax.scans.masks import most_probable_mask
from bonescan_jax.scans.views import views_of
from bonescan_jax.tasks.crops import TrainingExample
from bonescan_jax.tasks.task import Predictions, Scores, one_ahead

INPUTS = ("image", "reference")
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


def build_model(config: ml_collections.ConfigDict, seed: int | jax.Array) -> UNetPlusPlus | UNet:
    """The model of config.model with fresh weights."""
    shared = model_settings(config, seed)
    shared["num_classes"] = views_per_example(config) * len(CLASSES)
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
    return Network(nnx.split(model)[0], heads, views, packed=execution, remat=config.model.remat)


def batch_loss(
    hyperparameters: Hyperparameters,
    network: Network,
    params: Tree,
    stats: Tree,
    image: jax.Array,
    mask: jax.Array,
    sample: jax.Array,
) -> tuple[jax.Array, tuple[Tree, jax.Array]]:
    """Cross-entropy and overlap of every head with the mask."""
    del sample
    logits, lay, stats = network.class_logits(params, stats, image, True)
    with jax.named_scope("loss"):
        total, losses = deep_supervision_loss(logits, lay(mask), hyperparameters.loss)
    return total, (stats, jnp.stack(losses))


def training_example(
    config: ml_collections.ConfigDict,
) -> Callable[[int, Sequence[Record]], list[View]]:
    """Decodes and crops the records of an example."""
    return TrainingExample(config.data, config.seed)


def whole_views(config: ml_collections.ConfigDict, records: Sequence[Record]) -> list[View]:
    """The records of an example to its views, uncropped: as they are evaluated."""
    return [decode(record, config.data.mask) for record in records]


def make_predict_step(network: Network, mesh: Mesh) -> jax.stages.Wrapped:
    """Jitted class probabilities of every head, and of their mean as the last predictor.

    The function takes {"params", "stats"}, images (B, H, W, V) and references (B, V), and returns
    (predictors, B, V, H, W, classes) float32, predictors = heads, then their mean (the paper's
    accurate mode) where there are several.
    """
    network = network.on(mesh)

    def predict(weights: Tree, image: jax.Array, reference: jax.Array) -> jax.Array:
        logits, _ = network.apply(
            weights["params"], weights["stats"], normalize(image, reference), False
        )
        # Keeps XLA on a CPU from fusing this with the last convolutions into a slow loop.
        logits = jax.lax.optimization_barrier(logits)
        probabilities = jnp.moveaxis(jax.nn.softmax(jnp.stack(logits)), -2, 2)
        if len(logits) == 1:
            return probabilities
        return jnp.concatenate([probabilities, probabilities.mean(0, keepdims=True)])

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
        (len(batch.records), overlap_counts(probabilities, batch.arrays["mask"]))
        for batch, probabilities in predictions
    )
    return np.concatenate([to_host(found)[:, :real] for real, found in one_ahead(overlaps)], 1)


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
    scores = segmentation_scores(counts)
    return {f"dice_{name}": scores[name]["dice_pooled"] for name in CLASSES[1:]}


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


def scored_rows(
    config: ml_collections.ConfigDict,
    network: Network,
    row: int,
    predictions: Predictions,
    records: Callable[[str], Iterable[Record]],
    split: str,
) -> Iterator[ViewRow]:
    """A row for each view: pixels of every head, their mean and the threshold detector.

    All are scored side by side, because the mean of the heads is not always the best of them (arXiv
    1912.05074). Candidates are those of the predictor in this row.
    """
    names = predictor_names(network)
    baseline = _threshold_rows(config, records, split)
    for batch, probabilities in one_ahead(predictions):
        counts = to_host(overlap_counts(probabilities, batch.arrays["mask"]))
        views = views_of(to_host(probabilities[row]))
        for number, (record, scan) in enumerate(zip(batch.records, views, strict=False)):
            threshold, image, total = next(baseline)
            pixels = {name: counts[i, number].tolist() for i, name in enumerate(names)}
            candidates, lesions = view_findings(
                scan, record["boxes"], config.data.mask, config.evaluate.min_area, image
            )
            yield ViewRow(
                patient=int(record["patient"]),
                view=VIEWS[record["view"]],
                region=None,
                abnormal=bool(record["abnormal"]),
                score=float(scan[..., ABNORMAL].max()),
                counts=total,
                overflow=bool(len(record["overflow"])),
                pixels=pixels | {"threshold": threshold},
                candidates=candidates,
                lesions=lesions,
            )


def _threshold_rows(
    config: ml_collections.ConfigDict, records: Callable[[str], Iterable[Record]], split: str
) -> Iterator[tuple[list[list[int]], np.ndarray, float]]:
    """Of each view the overlap counts of the threshold detector fitted to the training scans.

    Yields:
        (classes - 1, 3) counts as lists; the view's pixels (H, W), and how many counts of the
        camera they hold.
    """
    baseline = ThresholdBaseline(limit=BRIGHTEST, num_bins=5000)
    for record in records("train"):
        baseline.accumulate(*_intensity_and_mask(decode(record, config.data.mask)))
    thresholds = baseline.best_thresholds()
    for record in records(split):
        view = decode(record, config.data.mask)
        counts = threshold_overlap_counts(*_intensity_and_mask(view), thresholds)
        total = float(view["image"].sum(dtype=np.int64) / view["gain"])
        yield counts[0].tolist(), view["image"], total


def _intensity_and_mask(view: View) -> tuple[np.ndarray, np.ndarray]:
    """(1, H, W) brightness relative to bone, and (1, H, W) true classes."""
    return (view["image"] / view["reference"])[None], view["mask"][None]


def headline(rows: Sequence[ViewRow], selected: str) -> dict[str, Any]:
    """Dice over the pixels of all views, of the selected predictor and the threshold detector."""
    threshold = pooled_dice(pixel_counts(rows, "threshold"))
    return {
        "num_images": len(rows),
        **pooled_dice(pixel_counts(rows, selected)),
        **{name.replace("dice_", "dice_threshold_"): dice for name, dice in threshold.items()},
    }
