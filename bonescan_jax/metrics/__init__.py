"""Metrics, each tested against its published definition. NumPy and SciPy only."""
