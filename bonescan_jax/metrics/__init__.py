"""Scores, each against its published definition. NumPy only."""
