"""Tests of bonescan_jax/aot."""
