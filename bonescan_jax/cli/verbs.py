"""The verbs of `bonescan` by name: flags only, each verb's work is in the module it calls."""

from bonescan_jax.cli import data, measure, runs, sweep

VERBS = {**data.VERBS, **runs.VERBS, **sweep.VERBS, **measure.VERBS}
