"""Tests of bonescan_jax/phantom."""
