"""Tests of bonescan_jax/benchmark."""
