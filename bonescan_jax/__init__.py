"""Trains a UNet++ with deep supervision on whole-body bone scans, in JAX."""
