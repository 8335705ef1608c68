"""Classifying: one class for a whole image, from its label alone."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh

from bonescan_jax.augment import normalize
from bonescan_jax.cluster.mesh import batch_shardings, to_host
from bonescan_jax.datasets.decode import View, decode_labelled
from bonescan_jax.datasets.records import Record
from bonescan_jax.errors import InputError
from bonescan_jax.hyperparameters import Hyperparameters
from bonescan_jax.metrics.classification import roc_auc
from bonescan_jax.metrics.rows import ViewRow
from bonescan_jax.models.build import ImageNetwork, Tree, model_settings, views_per_example
from bonescan_jax.models.classifier import Classifier
from bonescan_jax.scans import ABNORMAL, BACKGROUND, VIEWS
from bonescan_jax.scans.regions import REGIONS
from bonescan_jax.tasks.task import Predictions, ScanBatch, Scores, one_ahead

INPUTS = ("image", "mask", "reference")
SCORES = ("auc", "auc_low", "auc_high")
# Folded into the key of a batch for dropout: far from the numbers that splitting a key counts by.
DROPOUT = 0xD209


def validate(config: ml_collections.ConfigDict) -> None:
    """Raises InputError where settings do not fit the task."""
    if config.model.packed == "on":
        raise InputError(
            "config: model.packed is 'on', expected auto or off where task is 'classify': it acts "
            "on networks of whole scans"
        )
    if config.model.remat != "none":
        raise InputError(
            f"config: model.remat is {config.model.remat!r}, expected none where task is "
            "'classify': it acts on networks of whole scans"
        )
    if config.data.name != "regions":
        return
    if config.data.views == "both":
        raise InputError(
            "config: data.views is 'both', expected each, anterior or posterior for data.name "
            "'regions', whose views do not show the same part"
        )
    unknown = set(config.data.regions) - set(REGIONS)
    if unknown:
        raise InputError(
            f"config: data.regions holds {min(unknown)!r}, expected some of {', '.join(REGIONS)}"
        )


def build_model(config: ml_collections.ConfigDict, seed: int | jax.Array) -> Classifier:
    """The model of config.model with fresh weights."""
    return Classifier(dropout=config.model.dropout, **model_settings(config, seed))


def as_network(config: ml_collections.ConfigDict, model: Classifier) -> ImageNetwork:
    """The model without its weights."""
    return ImageNetwork(nnx.split(model)[0], patch=config.model.patch)


def batch_loss(
    hyperparameters: Hyperparameters,
    network: ImageNetwork,
    params: Tree,
    stats: Tree,
    image: jax.Array,
    mask: jax.Array,
    sample: jax.Array,
) -> tuple[jax.Array, tuple[Tree, jax.Array]]:
    """Binary cross-entropy with the class of the mask, which is that of the image's label."""
    key = dropout_key(hyperparameters.seed, sample)
    logits, stats = network.apply(params, stats, image, _inside(mask), key)
    labels = (mask == ABNORMAL).any((1, 2, 3)).astype(jnp.float32)
    loss = optax.sigmoid_binary_cross_entropy(logits, labels).mean()
    return loss, (stats, loss[None])


def dropout_key(seed: int | jax.Array, sample: jax.Array) -> jax.Array:
    """The key of dropout for a batch, of the seed and its first global sample index.

    Folding in a small number would give a key that augmentation splits off for that sample.
    """
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), sample[0]), DROPOUT)


def training_example(
    config: ml_collections.ConfigDict,
) -> Callable[[int, Sequence[Record]], list[View]]:
    """Decodes the records of an example; nothing is random."""
    return _LabelledExample(config)


class _LabelledExample:
    """A class and no closure: worker processes get it pickled."""

    def __init__(self, config: ml_collections.ConfigDict) -> None:
        self.config = config

    def __call__(self, index: int, records: Sequence[Record]) -> list[View]:
        return whole_views(self.config, records)


def whole_views(config: ml_collections.ConfigDict, records: Sequence[Record]) -> list[View]:
    """The records of an example to its views of crop size: as they are trained and evaluated."""
    size = (config.data.crop_height, config.data.crop_width)
    return [decode_labelled(record, size) for record in records]


def make_predict_step(
    network: ImageNetwork, mesh: Mesh, mirror: bool = False
) -> jax.stages.Wrapped:
    """Jitted probabilities (1, B) of being abnormal, or (2, B) with `mirror`.

    The function takes {"params", "stats"}, images (B, H, W, V), masks of the same shape that are
    background where there is no image, and references (B, V).
    """

    def of_head(weights: Tree, pixels: jax.Array, inside: jax.Array) -> jax.Array:
        logits, _ = network.apply(weights["params"], weights["stats"], pixels, inside)
        return jax.nn.sigmoid(logits)[None]

    def classify(
        weights: Tree, image: jax.Array, mask: jax.Array, reference: jax.Array
    ) -> jax.Array:
        pixels, inside = normalize(image, reference), _inside(mask)
        probabilities = of_head(weights, pixels, inside)
        if not mirror:
            return probabilities
        mirrored = of_head(weights, pixels[:, :, ::-1], inside[:, :, ::-1])
        return jnp.concatenate([probabilities, (probabilities + mirrored) / 2])

    shardings = batch_shardings(mesh)
    return jax.jit(
        classify,
        in_shardings=(None, shardings["image"], shardings["mask"], shardings["reference"]),
    )


def _inside(mask: jax.Array) -> jax.Array:
    """(B, H, W, V) of labelled images to (B, H, W) bool: where there is image in any view."""
    return (mask != BACKGROUND).any(-1)


def predictor_names(network: ImageNetwork) -> tuple[str, ...]:
    """The one head."""
    return network.heads


def validation_scores(
    config: ml_collections.ConfigDict, network: ImageNetwork, predictions: Predictions
) -> tuple[str, Scores]:
    """The one predictor, and its AUC."""
    said = ((batch, (probabilities,)) for batch, probabilities in predictions)
    return network.heads[0], _auc(list(scored_rows(config, network.heads, 0, said, {})))


def rank(scores: Scores) -> float:
    """The AUC."""
    return scores.get("auc") or 0.0


def fit_baseline(config: ml_collections.ConfigDict, records: Iterable[Record]) -> dict[str, Any]:
    """Nothing: images have no pixels to tell by brightness."""
    del config, records
    return {}


def scored_rows(
    config: ml_collections.ConfigDict,
    names: Sequence[str],
    row: int,
    predictions: Iterable[tuple[ScanBatch, Sequence[jax.Array]]],
    baseline: dict[str, Any],
) -> Iterator[ViewRow]:
    """A row for each image of a split: patient, region (if it has one), view, label and score.

    Of a network of both views, an image is an example of the two, abnormal if one of them is.
    """
    del names, baseline
    views = views_per_example(config)
    for batch, said in one_ahead(predictions):
        for number, probability in zip(
            range(0, len(batch.records), views), to_host(said[0])[row], strict=False
        ):
            records = batch.records[number : number + views]
            yield ViewRow(
                patient=int(records[0]["patient"]),
                view=" and ".join(VIEWS[record["view"]] for record in records),
                region=REGIONS[records[0]["region"]] if "region" in records[0] else None,
                abnormal=any(bool(record["abnormal"]) for record in records),
                score=float(probability),
                counts=None,
                overflow=any(len(record["overflow"]) for record in records),
                pixels={},
                candidates=(),
                lesions=(),
            )


def headline(rows: Sequence[ViewRow], selected: str) -> dict[str, Any]:
    """The AUC of all images with its interval."""
    del selected
    return {"num_images": len(rows), **_auc(rows)}


def _auc(rows: Sequence[ViewRow]) -> dict[str, float | None]:
    """{"auc", "auc_low", "auc_high"}; None where all are of one class."""
    found = roc_auc(
        np.array([row.score for row in rows]),
        np.array([row.abnormal for row in rows], bool),
        clusters=np.array([row.patient for row in rows]),
    )
    return dict(zip(("auc", "auc_low", "auc_high"), found or (None, None, None), strict=True))
