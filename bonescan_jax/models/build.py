"""From config.model to a pure function over plain dictionaries of arrays."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
from flax import nnx
from jax.sharding import Mesh

from bonescan_jax.cluster.mesh import DATA
from bonescan_jax.models import packed
from bonescan_jax.models.blocks import CONVOLUTION
from bonescan_jax.models.fold import fold_batch_norm
from bonescan_jax.models.patches import from_patches, to_patches
from bonescan_jax.models.unetpp import prune
from bonescan_jax.scans import CLASSES

Tree = Any  # nested dictionaries of arrays


def views_per_example(config: ml_collections.ConfigDict) -> int:
    """How many views the network sees at once: channels of its input."""
    return 2 if config.data.views == "both" else 1


Lay = Callable[[jax.Array], jax.Array]


class HeadLogits(NamedTuple):
    """Float32 logits of every head, classes first, and how a mask is laid out as their pixels."""

    classes: list[jax.Array]  # (K, …)
    bones: list[jax.Array]  # (len(BONES), …) one for each patch; none without `num_bones`
    lay: Lay  # a mask (B, H, W, V) of classes
    lay_bones: Lay  # and one of bones


class Network(NamedTuple):
    """A model without its weights: what stays the same over a run."""

    graph: nnx.GraphDef
    heads: tuple[str, ...]  # head_1 …, the shallowest first
    views: int  # channels of the input; each head has its classes for each of them
    packed: str = "off"  # config.model.packed; auto is off until `on` names the devices
    shards: int = 1  # equal parts of the batch on different devices
    remat: str = "none"  # config.model.remat
    patch: int = 1  # config.model.patch

    def on(self, mesh: Mesh) -> "Network":
        """The network as it is computed on the devices of a mesh."""
        execution = self.packed
        if execution == "auto":
            # Packing fills the 128 lanes of a TPU's registers and matrix units. Others have fewer,
            # and it costs nearly twice the multiplications.
            execution = "on" if mesh.devices.flat[0].platform == "tpu" else "off"
        return self._replace(packed=execution, shards=mesh.shape[DATA])

    def class_logits(
        self, params: Tree, stats: Tree, image: jax.Array, train: bool
    ) -> tuple[HeadLogits, Tree]:
        """Logits of every head, however their pixels lie, and the statistics after this batch.

        Args:
            params: the weights.
            stats: the running statistics of batch normalisation; empty for other norms.
            image: (B, H, W, V) as `augment.normalize` gives it.
            train: use and track the batch's own statistics.
        """
        image = to_patches(image, self.patch)
        if self.packed == "on":
            model = self._model(params, stats, train)
            heads, cell = packed.apply(model, image, train, self.shards)
            stats = nnx.to_pure_dict(nnx.state(model, nnx.BatchStat)) if train else stats
            lay: Lay = functools.partial(packed.pack_mask, cell=cell, shards=self.shards)
        else:
            heads, stats = self._plain(params, stats, image, train)
            heads = [jnp.moveaxis(head, -1, 0) for head in heads]
            lay = functools.partial(jnp.moveaxis, source=-1, destination=0)

        # Outputs are V · K · patch², then V · bones.
        def classes(head: jax.Array) -> jax.Array:
            split = head[:outputs].reshape(self.views, len(CLASSES), -1, *head.shape[1:])
            return jnp.moveaxis(split, 1, 0).reshape(len(CLASSES), -1, *head.shape[1:])

        def bones(head: jax.Array) -> jax.Array:
            return jnp.moveaxis(head[outputs:].reshape(self.views, -1, *head.shape[1:]), 1, 0)

        outputs = self.views * len(CLASSES) * self.patch**2
        return HeadLogits(
            [classes(head) for head in heads],
            [bones(head) for head in heads if len(head) > outputs],
            lambda mask: lay(to_patches(mask, self.patch)),
            lambda mask: lay(mask[:, :: self.patch, :: self.patch]),
        ), stats

    def _model(self, params: Tree, stats: Tree, train: bool) -> Any:  # noqa: ANN401 - of any net
        model = nnx.merge(self.graph, params, stats)
        if not train:
            fold_batch_norm(model)
        return model

    def _plain(
        self, params: Tree, stats: Tree, image: jax.Array, train: bool
    ) -> tuple[list[jax.Array], Tree]:
        """What the model returns, not packed, and the running statistics."""
        if not train:
            return self._model(params, stats, False)(image, False), stats

        def compute(params: Tree, image: jax.Array) -> tuple[list[jax.Array], Tree]:
            model = self._model(params, stats, True)
            return model(image, True), nnx.to_pure_dict(nnx.state(model, nnx.BatchStat))

        if self.remat == "activations":
            kept = jax.checkpoint_policies.save_only_these_names(CONVOLUTION)
            compute = jax.checkpoint(compute, policy=kept)
        return compute(params, image)

    def apply(
        self, params: Tree, stats: Tree, image: jax.Array, train: bool
    ) -> tuple[list[jax.Array], Tree]:
        """As `class_logits`, but logits (B, H, W, V, K), and the statistics."""
        image = to_patches(image, self.patch)
        shape = (self.views, len(CLASSES) * self.patch**2)
        if self.packed == "on":
            model = self._model(params, stats, train)
            heads, cell = packed.apply(model, image, train, self.shards)
            logits = [
                packed.unpack_logits(
                    jnp.moveaxis(head.reshape(*shape, *head.shape[1:]), 1, 0),
                    image.shape[:3],
                    cell,
                    self.shards,
                )
                for head in heads
            ]
            stats = nnx.to_pure_dict(nnx.state(model, nnx.BatchStat)) if train else stats
        else:
            heads, stats = self._plain(params, stats, image, train)
            logits = [head.reshape(*head.shape[:-1], *shape) for head in heads]
        return [from_patches(head, self.patch) for head in logits], stats

    def prune(self, weights: Tree, head: str) -> tuple["Network", Tree]:
        """The UNet++ down to one of its heads, with the weights {"params", "stats"} it needs."""
        model = prune(nnx.merge(self.graph, weights["params"], weights["stats"]), int(head[5:]))
        graph, *states = nnx.split(model, nnx.Param, nnx.BatchStat)
        params, stats = map(nnx.to_pure_dict, states)
        kept = {"params": params, "stats": stats}
        return self._replace(graph=graph, heads=(head,)), kept


class ImageNetwork(NamedTuple):
    """A classifier of whole images without its weights: what stays the same over a run."""

    graph: nnx.GraphDef
    heads: tuple[str, ...] = ("image",)
    patch: int = 1  # config.model.patch

    def on(self, mesh: Mesh) -> "ImageNetwork":
        """The network as it is computed on the devices of a mesh, which is the same on all."""
        del mesh
        return self

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
        image = to_patches(image, self.patch)
        inside = to_patches(inside[..., None], self.patch).any(-1)
        if key is None:
            fold_batch_norm(model)
            return model(image, inside, False, None), stats
        logits = model(image, inside, True, key)
        return logits, nnx.to_pure_dict(nnx.state(model, nnx.BatchStat))


def model_settings(config: ml_collections.ConfigDict, seed: int | jax.Array) -> dict[str, Any]:
    """What every model of this package is built with; fresh weights follow from the seed."""
    settings = config.model
    return {
        "in_channels": views_per_example(config) * settings.patch**2,
        "filters": tuple(settings.filters),
        "levels": settings.levels,
        "norm": settings.norm,
        "dtype": jnp.dtype(settings.dtype),
        "rngs": nnx.Rngs(jax.random.key(seed)),
    }
