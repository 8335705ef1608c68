"""Tests of bonescan_jax.models."""
