"""Trains a UNet++ with deep supervision on whole-body bone scans, in JAX."""

import multiprocessing
import os

# A worker process that decodes scans imports this package too: were it to touch the accelerator, it
# would take memory from the training, or wait for a device that one process only may hold.
if multiprocessing.parent_process() is not None:
    os.environ["JAX_PLATFORMS"] = "cpu"
