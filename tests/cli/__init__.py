"""Tests of bonescan_jax/cli."""
