"""From config.model to a pure function over plain dictionaries of arrays."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
from flax import nnx

from bonescan_jax.models.classifier import Classifier
from bonescan_jax.models.unet import UNet
from bonescan_jax.models.unetpp import UNetPlusPlus, prune
from bonescan_jax.scans import CLASSES

Tree = Any  # nested dictionaries of arrays


def views_per_example(config: ml_collections.ConfigDict) -> int:
    """How many views the network sees at once: channels of its input."""
    return 2 if config.data.views == "both" else 1


class Network(NamedTuple):
    """A model without its weights: what stays the same over a run."""

    graph: nnx.GraphDef
    heads: tuple[str, ...]  # head_1 …, the shallowest first
    views: int  # channels of the input; each head has its classes for each of them

    def apply(
        self, params: Tree, stats: Tree, image: jax.Array, train: bool
    ) -> tuple[list[jax.Array], Tree]:
        """Logits (B, H, W, V, K) of every head, and the running statistics after this batch.

        Args:
            params: the weights.
            stats: the running statistics of batch normalisation; empty for other norms.
            image: (B, H, W, V) as `augment.normalize` gives it.
            train: use and track the batch's own statistics.
        """
        model = nnx.merge(self.graph, params, stats)
        heads = model(image, train)
        logits = [head.reshape(*head.shape[:-1], self.views, len(CLASSES)) for head in heads]
        return logits, nnx.to_pure_dict(nnx.state(model, nnx.BatchStat))

    def prune(self, weights: Tree, head: str) -> tuple["Network", Tree]:
        """The UNet++ down to one of its heads, with the weights {"params", "stats"} it needs."""
        model = prune(nnx.merge(self.graph, weights["params"], weights["stats"]), int(head[5:]))
        graph, params, stats = nnx.split(model, nnx.Param, nnx.BatchStat)
        kept = {"params": nnx.to_pure_dict(params), "stats": nnx.to_pure_dict(stats)}
        return Network(graph, (head,), self.views), kept


class ImageNetwork(NamedTuple):
    """A classifier of whole images without its weights: what stays the same over a run."""

    graph: nnx.GraphDef
    heads: tuple[str, ...] = ("image",)

    def apply(
        self,
        params: Tree,
        stats: Tree,
        image: jax.Array,
        inside: jax.Array,
        key: jax.Array | None = None,
    ) -> tuple[jax.Array, Tree]:
        """Logits (B,) of being abnormal, and the running statistics after this batch.

        Args:
            params: the weights.
            stats: the running statistics of batch normalisation; empty for other norms.
            image: (B, H, W, V) as `augment.normalize` gives it.
            inside: (B, H, W) bool, where there is image.
            key: given in training only: of dropout.
        """
        model = nnx.merge(self.graph, params, stats)
        logits = model(image, inside, key is not None, key)
        return logits, nnx.to_pure_dict(nnx.state(model, nnx.BatchStat))


def build_model(config: ml_collections.ConfigDict, seed: int) -> UNetPlusPlus | UNet | Classifier:
    """The model of config.task and config.model with fresh weights."""
    settings = config.model
    shared = {
        "in_channels": views_per_example(config),
        "filters": tuple(settings.filters),
        "levels": settings.levels,
        "norm": settings.norm,
        "dtype": jnp.dtype(settings.dtype),
        "rngs": nnx.Rngs(seed),
    }
    if config.task == "classify":
        return Classifier(dropout=settings.dropout, **shared)
    shared["num_classes"] = views_per_example(config) * len(CLASSES)
    if settings.name == "unet":
        return UNet(**shared)
    return UNetPlusPlus(deep_supervision=settings.deep_supervision, **shared)


def build_network(config: ml_collections.ConfigDict) -> Network | ImageNetwork:
    """The model of config.task and config.model without its weights; computes nothing."""
    model = nnx.eval_shape(lambda: build_model(config, 0))
    graph, _ = nnx.split(model)
    if config.task == "classify":
        return ImageNetwork(graph)
    # A U-Net has one head; it is named like the last of a UNet++.
    columns = getattr(model, "supervised", (model.levels,))
    heads = tuple(f"head_{column}" for column in columns)
    return Network(graph, heads, views_per_example(config))


def initial_weights(config: ml_collections.ConfigDict) -> tuple[Tree, Tree]:
    """Fresh weights and running statistics as plain dictionaries, a function of config.seed."""
    model = build_model(config, config.seed)
    _, params, stats = nnx.split(model, nnx.Param, nnx.BatchStat)
    return nnx.to_pure_dict(params), nnx.to_pure_dict(stats)
