"""Handling of non-finite losses and gradients: reported, with the scans they came from."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from bonescan_jax.cluster.preemption import PREEMPTION
from bonescan_jax.errors import RunError
from bonescan_jax.models.build import Tree
from bonescan_jax.runs.checkpoint import last_good
from bonescan_jax.runs.workdir import write_json
from bonescan_jax.train_step import TrainState

NAME = "nonfinite.json"
# A network whose every update is skipped no longer learns, whatever was asked for.
SKIPS_IN_A_ROW = 20


class NumberWatch:
    """Checks the health of each step, as `train_step` gives it, and follows the config's policy.

    The device has already skipped the update of a step with non-finite values, so nothing waits for
    this: the health is read while the next step runs.

    Args:
        policy: "stop" or "skip", of config.train.on_nonfinite.
        workdir: gets nonfinite.json, a list of the steps with non-finite values.
        abstract: the state, for the names of its arrays.
        heads: names of the losses.
        start: the step to continue from; the file's entries for later steps are dropped.
    """

    def __init__(
        self, policy: str, workdir: Path, abstract: TrainState, heads: Sequence[str], start: int
    ) -> None:
        self.policy, self.workdir, self.path, self.in_a_row = policy, workdir, workdir / NAME, 0
        self.names = {
            "loss": heads,
            "gradient": _names(abstract.params),
            "statistics": _names(abstract.stats),
        }
        self.events = []
        if self.path.exists():
            before = json.loads(self.path.read_text())["steps"]
            self.events = [event for event in before if event["step"] <= start]

    def read(self, step: int, health: dict[str, Any]) -> None:
        """Checks a step's health; does nothing if all values are finite.

        Args:
            step: whose health it is.
            health: of `train_step.examine`.

        Raises:
            RunError: the policy is "stop", or too many steps in a row were skipped.
        """
        if bool(health["finite"]):
            self.in_a_row = 0
            return
        self.in_a_row += 1
        health = jax.device_get(health)
        bad = [
            f"{kind} {name}"
            for kind, names in self.names.items()
            for name, size in zip(names, health[kind], strict=True)
            if not np.isfinite(size)
        ]
        # With "skip" the run goes on, and all files need not be read for every sick step.
        goes_on = self.policy == "skip" and self.in_a_row < SKIPS_IN_A_ROW
        remains = f"step {PREEMPTION.saved} is saved" if goes_on else last_good(self.workdir)
        samples = health["sample"].tolist()
        self.events.append({"step": step, "samples": samples, "tensors": bad, "remains": remains})
        write_json(self.path, {"steps": self.events})
        found = f"step {step}: {len(bad)} tensors hold non-finite values, first {bad[0]}"
        if goes_on:
            print(f"bonescan: {found}; its update is skipped, see {self.path}", file=sys.stderr)
            return
        skipped = f" ({SKIPS_IN_A_ROW} steps in a row)" if self.policy == "skip" else ""
        raise RunError(
            f"{found}{skipped}; {self.path} lists them and the samples of the batch; {remains}"
        )


def _names(tree: Tree) -> list[str]:
    return [jax.tree_util.keystr(path) for path, _ in jax.tree.leaves_with_path(tree)]
