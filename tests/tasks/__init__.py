"""Tests of bonescan_jax/tasks."""
