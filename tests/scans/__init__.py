"""Tests of bonescan_jax.scans."""
