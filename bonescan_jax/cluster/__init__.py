"""Devices and processes of one job: mesh, start and end, agreement, signals, compiler flags."""
