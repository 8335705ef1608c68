"""Ahead of time: compiles the step for devices that are not here, and keeps what comes out."""
