"""Tests of bonescan_jax/runs."""
