"""Weights of one network in another: the same answers where they fit, reasons where not."""

from typing import Any

import jax
import ml_collections
import numpy as np
import pytest

from bonescan_jax.config import default_config
from bonescan_jax.models.build import views_per_example
from bonescan_jax.models.transfer import Fit, fit_weights, path_name
from bonescan_jax.tasks import build_network, initial_weights


def config_of(**changes: Any) -> ml_collections.ConfigDict:
    config = default_config()
    config.model.filters, config.model.levels, config.model.dtype = (4, 8, 8), 2, "float32"
    config.update_from_flattened_dict(changes)
    return config


def arrays_of(config: ml_collections.ConfigDict, seed: int = 0) -> dict[str, np.ndarray]:
    """Weights with every number random: those of a fresh network hold many zeros and ones."""
    params, stats = initial_weights(config, seed)
    rng = np.random.default_rng(seed)
    return {
        path_name(path): rng.uniform(0.5, 1.5, leaf.shape).astype(np.float32) / 4
        for path, leaf in jax.tree.leaves_with_path({"params": params, "stats": stats})
    }


def fit(source: ml_collections.ConfigDict, config: ml_collections.ConfigDict) -> Fit:
    shapes = {path: array.shape for path, array in arrays_of(config).items()}
    views = views_per_example(source), views_per_example(config)
    return fit_weights(arrays_of(source, 1), shapes, *views)


def heads(config: ml_collections.ConfigDict, arrays: dict[str, np.ndarray], image: Any) -> list:
    """Logits (B, H, W, V, K) of each head."""
    params, stats = initial_weights(config, 0)
    tree = {"params": params, "stats": stats}
    tree = jax.tree.map_with_path(lambda path, _: arrays[path_name(path)], tree)
    return build_network(config).apply(tree["params"], tree["stats"], image, False)[0]


IMAGE = np.random.default_rng(0).uniform(0, 3, (2, 16, 8, 1)).astype(np.float32)
PAIR = np.concatenate([IMAGE, IMAGE], -1)


def test_a_network_of_two_views_says_of_equal_views_what_that_of_one_said():
    one, two = config_of(), config_of(**{"data.views": "both"})
    found = fit(one, two)
    assert found.fresh == {}
    assert set(found.adapted.values()) == {"from 1 to 2 views"}
    assert len(found.adapted) == 1 + 2 * 2  # first kernel; kernel and bias of two heads
    pairs = zip(heads(two, found.taken, PAIR), heads(one, arrays_of(one, 1), IMAGE), strict=True)
    for of_both, of_one in pairs:
        for view in range(2):
            np.testing.assert_allclose(of_both[..., view, :], of_one[..., 0, :], rtol=1e-4)


def test_a_network_of_one_view_says_of_it_the_mean_of_what_that_of_two_said_of_equal_views():
    one, two = config_of(), config_of(**{"data.views": "both"})
    found = fit(two, one)
    assert found.fresh == {}
    pairs = zip(heads(one, found.taken, IMAGE), heads(two, arrays_of(two, 1), PAIR), strict=True)
    for of_one, of_both in pairs:
        np.testing.assert_allclose(of_one[..., 0, :], of_both.mean(-2), rtol=1e-4)


def test_more_levels_keep_what_has_the_same_place_and_shape():
    shallow = config_of()
    deep = config_of(**{"model.filters": (4, 8, 8, 8), "model.levels": 3})
    found = fit(shallow, deep)
    assert found.unused == []
    assert set(found.taken) == set(arrays_of(shallow))
    assert {path.split("/")[2] for path in found.fresh} == {"0_3", "1_2", "2_1", "3_0", "3"}
    assert set(found.fresh.values()) == {"has no counterpart"}


def test_convolution_and_normalisation_are_taken_together_or_not_at_all():
    found = fit(config_of(), config_of(**{"model.filters": (4, 6, 8)}))
    name = "nodes/2_0"  # reads 6 channels instead of 8, and gives 8 as before
    assert found.fresh[f"params/{name}/conv1/kernel"] == (
        "has another shape: (3, 3, 8, 8) there, (3, 3, 6, 8) here"
    )
    for path in ("params/{}/norm1/scale", "stats/{}/norm1/mean"):
        assert "has another shape" in found.fresh[path.format(name)]
    for path in ("params/{}/conv2/kernel", "stats/{}/norm2/mean"):
        assert path.format(name) in found.taken
    assert "params/heads/1/bias" in found.taken
    wider = fit(config_of(), config_of(**{"model.filters": (6, 8, 8)}))
    assert not [path for path in wider.taken if "heads" in path]  # no bias without its kernel


@pytest.mark.parametrize("name", ["classify", "unet"])
def test_encoders_of_all_networks_fit_each_other(name: str):
    nested = config_of()
    change = {"task": "classify"} if name == "classify" else {"model.name": "unet"}
    other = config_of(**change)
    for source, config in ((nested, other), (other, nested)):
        found = fit(source, config)
        rows = {path.split("/")[-3] for path in found.taken if path.count("/") == 4}
        assert rows == ({"0", "1", "2"} if config.model.name == "unet" else {"0_0", "1_0", "2_0"})
        assert len(found.taken) == 3 * 10  # rows × (2 kernels, 2 × 4 of the norms)
        array = arrays_of(source, 1)
        row = "encoder/1" if source.model.name == "unet" else "nodes/1_0"
        own = "encoder/1" if config.model.name == "unet" else "nodes/1_0"
        np.testing.assert_array_equal(
            found.taken[f"stats/{own}/norm2/mean"], array[f"stats/{row}/norm2/mean"]
        )


def test_heads_of_other_classes_are_not_taken():
    """Of one view and six classes, they have the shape of two views and three."""
    config = config_of(**{"data.views": "both"})
    arrays = arrays_of(config)
    shapes = {path: array.shape for path, array in arrays.items()}
    found = fit_weights(arrays, shapes, 1, 2)
    assert found.fresh["params/heads/1/kernel"] == "has other classes: 6 there, 3 here"
    assert "params/heads/1/bias" in found.fresh
    assert "params/nodes/1_1/conv1/kernel" in found.taken


def test_another_kind_of_norm_takes_what_both_have():
    found = fit(config_of(), config_of(**{"model.norm": "group"}))
    assert found.fresh == {}
    assert {path.split("/")[0] for path in found.unused} == {"stats"}
