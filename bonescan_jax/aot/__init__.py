"""Ahead-of-time compilation of the step for devices that are not attached."""
