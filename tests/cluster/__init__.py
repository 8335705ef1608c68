"""Tests of bonescan_jax/cluster."""
