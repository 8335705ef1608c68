"""From config.model to a pure function over plain dictionaries of arrays."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
from flax import nnx

from bonescan_jax.models.unet import UNet
from bonescan_jax.models.unetpp import UNetPlusPlus, prune
from bonescan_jax.scans import CLASSES

Tree = Any  # nested dictionaries of arrays

IN_CHANNELS = 1  # each view is an image of its own


class Network(NamedTuple):
    """A model without its weights: what stays the same over a run."""

    graph: nnx.GraphDef
    heads: tuple[str, ...]  # head_1 …, the shallowest first

    def apply(
        self, params: Tree, stats: Tree, image: jax.Array, train: bool
    ) -> tuple[list[jax.Array], Tree]:
        """Logits of every head, and the running statistics after this batch.

        Args:
            params: the weights.
            stats: the running statistics of batch normalisation; empty for other norms.
            image: (B, H, W, 1) as `augment.normalize` gives it.
            train: use and track the batch's own statistics.
        """
        model = nnx.merge(self.graph, params, stats)
        logits = model(image, train)
        return logits, nnx.to_pure_dict(nnx.state(model, nnx.BatchStat))

    def prune(self, weights: Tree, head: str) -> tuple["Network", Tree]:
        """The UNet++ down to one of its heads, with the weights {"params", "stats"} it needs."""
        model = prune(nnx.merge(self.graph, weights["params"], weights["stats"]), int(head[5:]))
        graph, params, stats = nnx.split(model, nnx.Param, nnx.BatchStat)
        kept = {"params": nnx.to_pure_dict(params), "stats": nnx.to_pure_dict(stats)}
        return Network(graph, (head,)), kept


def build_model(config: ml_collections.ConfigDict, seed: int) -> UNetPlusPlus | UNet:
    """The model of config.model with fresh weights."""
    settings = config.model
    shared = {
        "in_channels": IN_CHANNELS,
        "num_classes": len(CLASSES),
        "filters": tuple(settings.filters),
        "levels": settings.levels,
        "norm": settings.norm,
        "dtype": jnp.dtype(settings.dtype),
        "rngs": nnx.Rngs(seed),
    }
    if settings.name == "unet":
        return UNet(**shared)
    return UNetPlusPlus(deep_supervision=settings.deep_supervision, **shared)


def build_network(config: ml_collections.ConfigDict) -> Network:
    """The model of config.model without its weights; computes nothing."""
    model = nnx.eval_shape(lambda: build_model(config, 0))
    graph, _ = nnx.split(model)
    # A U-Net has one head; it is named like the last of a UNet++.
    columns = getattr(model, "supervised", (model.levels,))
    return Network(graph, tuple(f"head_{column}" for column in columns))


def initial_weights(config: ml_collections.ConfigDict) -> tuple[Tree, Tree]:
    """Fresh weights and running statistics as plain dictionaries, a function of config.seed."""
    model = build_model(config, config.seed)
    _, params, stats = nnx.split(model, nnx.Param, nnx.BatchStat)
    return nnx.to_pure_dict(params), nnx.to_pure_dict(stats)
