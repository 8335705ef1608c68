"""Broken input for every reader, in a process of its own."""
