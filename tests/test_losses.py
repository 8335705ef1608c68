"""The losses against optax and against formulas written out."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bonescan_jax.config import default_config
from bonescan_jax.hyperparameters import Section, section
from bonescan_jax.losses import deep_supervision_loss, head_loss

LOGITS = 3 * jax.random.normal(jax.random.key(0), (3, 2, 8, 6))  # classes first
MASK = jax.random.randint(jax.random.key(1), (2, 8, 6), 0, 3)


def settings(**changes: object) -> Section:
    loss = default_config().loss
    plain = {"cross_entropy_weight": 0.0, "overlap_weight": 0.0, "focal_gamma": 0.0}
    loss.update(plain | {"class_weights": (1.0, 1.0, 1.0)} | changes)
    return section(loss)


def test_plain_cross_entropy_is_that_of_optax():
    expected = optax.softmax_cross_entropy_with_integer_labels(
        jnp.moveaxis(LOGITS, 0, -1), MASK
    ).mean()
    found = head_loss(LOGITS, MASK, settings(cross_entropy_weight=1.0))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_focal_and_class_weights():
    probabilities = np.asarray(jax.nn.softmax(LOGITS, axis=0))
    weights, total = (1.0, 8.0, 4.0), 0.0
    for index in np.ndindex(MASK.shape):
        label = int(MASK[index])
        p = probabilities[(label, *index)]
        total += weights[label] * (1 - p) ** 2 * -np.log(p)
    loss = settings(cross_entropy_weight=0.5, focal_gamma=2.0, class_weights=weights)
    np.testing.assert_allclose(head_loss(LOGITS, MASK, loss), 0.5 * total / MASK.size, rtol=1e-4)


@pytest.mark.parametrize(("a", "b"), [(0.5, 0.5), (0.3, 0.7)])
def test_overlap_is_the_tversky_index_of_the_foreground_pooled_over_the_batch(a: float, b: float):
    probabilities = np.asarray(jax.nn.softmax(LOGITS, axis=0))
    indices = []
    for label in (1, 2):
        p, t = probabilities[label], np.asarray(MASK == label)
        hit = (p * t).sum()
        indices.append((hit + 1) / (hit + a * (p * ~t).sum() + b * ((1 - p) * t).sum() + 1))
    loss = settings(overlap_weight=1.0, false_positive_weight=a, false_negative_weight=b)
    np.testing.assert_allclose(head_loss(LOGITS, MASK, loss), 1 - np.mean(indices), rtol=1e-5)


def test_a_certain_right_answer_costs_nothing_and_a_wrong_one_much():
    right = 30 * jax.nn.one_hot(MASK, 3, axis=0)
    loss = section(default_config().loss)
    assert head_loss(right, MASK, loss) < 1e-4
    assert head_loss(-right, MASK, loss) > 5


def test_heads_weigh_the_same():
    loss = section(default_config().loss)
    total, each = deep_supervision_loss([LOGITS, -LOGITS, 2 * LOGITS], MASK, loss)
    np.testing.assert_allclose(total, jnp.mean(jnp.stack(each)), rtol=1e-6)
    np.testing.assert_allclose(each[1], head_loss(-LOGITS, MASK, loss), rtol=1e-6)


@pytest.mark.parametrize("gamma", [0.1, 0.5, 1.0, 2.0])
def test_focal_gradient_is_finite_where_a_pixel_is_certain(gamma: float):
    loss = settings(cross_entropy_weight=1.0, focal_gamma=gamma)
    certain = 200 * jax.nn.one_hot(MASK, 3, axis=0)
    for logits in (certain, -certain, certain[::-1]):
        gradient = jax.grad(lambda logits: head_loss(logits, MASK, loss))(logits)
        assert jnp.isfinite(gradient).all()


def test_focal_below_one_is_the_formula_written_out():
    probability = np.take_along_axis(np.asarray(jax.nn.softmax(LOGITS, 0)), MASK[None], 0)
    expected = np.mean((1 - probability) ** 0.5 * -np.log(probability))
    loss = settings(cross_entropy_weight=1.0, focal_gamma=0.5)
    np.testing.assert_allclose(head_loss(LOGITS, MASK, loss), expected, rtol=1e-4)
