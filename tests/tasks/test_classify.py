"""Classifying: dropout draws numbers of its own."""

import jax
import jax.numpy as jnp
import numpy as np

from bonescan_jax.tasks.classify import dropout_key


def test_the_key_of_dropout_is_none_that_augmentation_uses():
    """Augmentation folds a sample's index into the seed's key and splits that."""
    sample = jax.random.fold_in(jax.random.key(3), 17)
    used = jax.random.key_data(jax.random.split(sample, 64))
    dropout = jax.random.key_data(dropout_key(3, jnp.array([17, 18])))
    assert not np.any((used == dropout).all(-1))
    other = jax.random.key_data(dropout_key(3, jnp.array([18])))
    assert not np.array_equal(dropout, other)
