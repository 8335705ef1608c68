"""Tests of bonescan_jax.datasets."""
