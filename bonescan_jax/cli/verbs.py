"""The verbs of `bonescan` by name: flags only, each verb's work is in the module it calls."""

from bonescan_jax.cli import data, measure, runs

VERBS = {**data.VERBS, **runs.VERBS, **measure.VERBS}
