"""Which weights of one network another one can start from, and how they are made to fit."""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

# Kernel of the convolution that sees the image, of UNet++, classifier and U-Net.
_FIRST = re.compile(r"params/(nodes/0_0|encoder/0)/conv1/kernel")
_HEAD = re.compile(r"params/heads?/")
_ENCODER = re.compile(r"(^|/)(nodes/\d+_0|encoder/\d+)/")


class Fit(NamedTuple):
    """What a network starts from another one with; keys are paths as `path_name` gives them."""

    taken: dict[str, np.ndarray]  # of the shapes of the new network
    adapted: dict[str, str]  # of these, what was done to them
    fresh: dict[str, str]  # what the new network has beside, and why it starts fresh
    unused: list[str]  # what the other network has beside


def path_name(path: tuple[Any, ...]) -> str:
    """The path of an array in a tree as text: "nodes/0_0/conv1/kernel"."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def is_encoder(path: str) -> bool:
    """Whether an array belongs to the encoder: to X^{i,0}, or to that of a U-Net."""
    return bool(_ENCODER.search(path))


def fit_weights(
    source: Mapping[str, np.ndarray],
    shapes: Mapping[str, tuple[int, ...]],
    source_views: int,
    views: int,
) -> Fit:
    """Makes the weights of one network fit another, array by array.

    An array is taken where one of the same path and shape is there. For another number of views,
    the kernel of the first convolution is shared out so that equal views give the response that
    they gave, and each view gets the mean of the heads' outputs for the views. A convolution and
    its normalisation, or a kernel and its bias, are taken together or not at all.

    Args:
        source: arrays of {"params", "stats"} of the other network by path.
        shapes: of the new network.
        source_views: channels of the other network's images.
        views: of the new network's.
    """
    known = {_as_node(path): path for path in source}
    taken: dict[str, np.ndarray] = {}
    adapted, fresh, refused = {}, {}, {}
    for path, shape in shapes.items():
        own = known.get(_as_node(path))
        if own is None:
            fresh[path] = "has no counterpart"
            continue
        array, note = _fitted(path, source[own], shape, source_views, views)
        if array is None:
            refused[_layer(path)] = fresh[path] = note
            continue
        taken[path] = array
        if note:
            adapted[path] = note
    for path in [path for path in taken if _layer(path) in refused]:
        fresh[path] = refused[_layer(path)]
        del taken[path]
        adapted.pop(path, None)
    used = {known[_as_node(path)] for path in taken}
    return Fit(taken, adapted, fresh, [path for path in source if path not in used])


def _fitted(
    path: str, array: np.ndarray, shape: tuple[int, ...], source_views: int, views: int
) -> tuple[np.ndarray | None, str]:
    """An array of the shape, or None; what was done to it, or why there is none."""
    otherwise = f"has another shape: {array.shape} there, {shape} here"
    if _HEAD.match(path) and array.shape[:-1] == shape[:-1]:
        return _fitted_head(array, shape, source_views, views)
    if array.shape == shape:
        return array, ""
    if _FIRST.fullmatch(path) and array.shape[2] == source_views and shape[2] == views:
        total = array.sum(2, keepdims=True)
        if (*shape[:2], 1, *shape[3:]) == total.shape:
            return np.repeat(total / views, views, 2), f"from {source_views} to {views} views"
    return None, otherwise


def _fitted_head(
    array: np.ndarray, shape: tuple[int, ...], source_views: int, views: int
) -> tuple[np.ndarray | None, str]:
    """Outputs lie view by view, and within a view class by class."""
    found, expected = array.shape[-1] // source_views, shape[-1] // views
    if found != expected:
        return None, f"has other classes: {found} there, {expected} here"
    if source_views == views:
        return array, ""
    by_view = array.reshape(*array.shape[:-1], source_views, found)
    each = np.repeat(by_view.mean(-2, keepdims=True), views, -2)
    return each.reshape(shape), f"from {source_views} to {views} views"


def _as_node(path: str) -> str:
    """The path with the encoder of a U-Net named as that of a UNet++."""
    return re.sub(r"/encoder/(\d+)/", r"/nodes/\1_0/", path)


def _layer(path: str) -> str:
    """The convolution that an array belongs to, weights and statistics of its norm included."""
    layer = path.partition("/")[2].rpartition("/")[0]
    return re.sub(r"norm(\d)$", r"conv\1", layer)
