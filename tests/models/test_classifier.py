"""The classifier: UNet++'s encoder by name and shape, and blind to what is no image."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from bonescan_jax.models.classifier import Classifier
from bonescan_jax.models.unetpp import UNetPlusPlus

FILTERS = (4, 8)


def classifier(norm: str = "batch", dropout: float = 0.0) -> Classifier:
    model = nnx.eval_shape(lambda: Classifier(1, FILTERS, 1, norm, dropout, rngs=nnx.Rngs(0)))
    # As of a trained net: running statistics and biases that are not those of the start.
    rng = np.random.default_rng(0)
    state = jax.tree.map(
        lambda leaf: jnp.asarray(np.abs(rng.normal(0, 0.3, leaf.shape)), jnp.float32),
        nnx.state(model),
    )
    nnx.update(model, state)
    return model


def logits(model: Classifier, image: np.ndarray, inside: np.ndarray) -> np.ndarray:
    graph, state = nnx.split(model)
    return np.asarray(jax.jit(lambda *x: nnx.merge(graph, state)(*x, False))(image, inside))


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(1).uniform(0, 2, (3, 24, 16, 1)).astype(np.float32)


def test_the_encoder_is_that_of_unetpp():
    unetpp = nnx.eval_shape(lambda: UNetPlusPlus(1, 3, FILTERS, 1, rngs=nnx.Rngs(0)))
    nodes = nnx.to_pure_dict(nnx.state(classifier().nodes))
    whole = nnx.to_pure_dict(nnx.state(unetpp.nodes))
    assert sorted(nodes) == ["0_0", "1_0"]
    for name, node in nodes.items():
        assert jax.tree.map(jnp.shape, node) == jax.tree.map(jnp.shape, whole[name])


@pytest.mark.parametrize("norm", ["none", "batch", "group", "instance"])
def test_padding_changes_nothing(image: np.ndarray, norm: str):
    model = classifier(norm)
    inside = np.ones(image.shape[:3], bool)
    before = logits(model, image, inside)
    assert before.shape == (3,)
    assert len(np.unique(before)) == 3
    around = ((0, 0), (8, 12), (4, 20))
    padded = np.pad(image, (*around, (0, 0)), constant_values=5.0)  # what must not be looked at
    after = logits(model, padded, np.pad(inside, around))
    np.testing.assert_allclose(after, before, rtol=1e-5)


def test_padding_does_not_enter_the_statistics_of_training(image: np.ndarray):
    around = ((0, 0), (8, 12), (4, 20))
    inside = np.ones(image.shape[:3], bool)
    padded = np.pad(image, (*around, (0, 0)), constant_values=5.0)
    whole, part = classifier("batch"), classifier("batch")
    np.testing.assert_allclose(
        part(padded, np.pad(inside, around), True), whole(image, inside, True), rtol=1e-5
    )
    tracked = [nnx.to_pure_dict(nnx.state(model, nnx.BatchStat)) for model in (part, whole)]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), *tracked)


def test_dropout_is_for_training_only(image: np.ndarray):
    model = classifier("none", dropout=0.5)
    inside = np.ones(image.shape[:3], bool)
    one, other = (model(image, inside, True, jax.random.key(seed)) for seed in (0, 1))
    assert not np.allclose(one, other)
    np.testing.assert_allclose(
        logits(model, image, inside), logits(classifier("none"), image, inside)
    )


def test_sizes_that_do_not_halve_are_refused(image: np.ndarray):
    with pytest.raises(ValueError, match="expected multiples of 2"):
        classifier()(image[:, :-1], np.ones((3, 23, 16), bool), False)
