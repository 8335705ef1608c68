"""Tests of bonescan_jax.metrics."""
