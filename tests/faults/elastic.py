"""One run moved to other devices, processes, mesh shapes and data workers: the same run.

Run by hand: .venv/bin/python -m tests.faults.elastic --out=DIR
Each chain is told to stop (SIGTERM) twice and continued elsewhere, and is compared with a run of
the same config that nothing disturbed: which samples each step saw, with a checksum of their
pixels, and the loss. The last line is JSON.
"""

import argparse
import json
import signal
import sys
from pathlib import Path
from typing import Any

from bonescan_jax.cluster.preemption import EXIT_CODE
from tests.faults.processes import PATIENCE, finish, prepare_data, start, wait_for_step

# Where each third of a run takes place.
CHAINS: dict[str, list[dict[str, Any]]] = {
    "devices 8, 4 (2 × 2), 1": [
        {"devices": 8},
        {"devices": 4, "mesh.data": 2, "mesh.spatial": 2},
        {"devices": 1},
    ],
    "processes 2, 1, 2 (1 × 2)": [
        {"processes": 2},
        {"processes": 1},
        {"processes": 2, "mesh.data": 1, "mesh.spatial": 2},
    ],
    "workers 0, 2, 4": [{"data.num_workers": number} for number in (0, 2, 4)],
}
STOPS = (10, 20)  # of SETTINGS' 40 steps
# Two orders of summation differ by rounding, and 40 steps of training amplify it.
TOLERANCE = 1e-4


def run(workdir: Path, data: Path, places: list[dict[str, Any]]) -> None:
    """Trains in each place in turn, told to stop at STOPS."""
    for number, place in enumerate(places):
        running = start(workdir, data, **place, **{"train.log_samples": True})
        if number == len(places) - 1:
            finish(workdir, running)
            return
        wait_for_step(workdir, STOPS[number], running)
        for process in running:
            process.send_signal(signal.SIGTERM)
        assert {process.wait(PATIENCE) for process in running} == {EXIT_CODE}


def lines(path: Path, **wanted: str) -> list[dict[str, Any]]:
    """The lines of a JSON lines file that have these values."""
    entries = [json.loads(line) for line in path.read_text().splitlines()]
    return [entry for entry in entries if wanted.items() <= entry.items()]


def compare(workdir: Path, whole: Path) -> dict[str, Any]:
    """How a run differs from the one that nothing disturbed."""
    samples, expected = (lines(place / "samples.jsonl") for place in (workdir, whole))
    losses = [
        [line["loss"] for line in lines(place / "metrics.jsonl", kind="train")]
        for place in (workdir, whole)
    ]
    differences = [abs(a - b) / abs(b) for a, b in zip(*losses, strict=True)]
    return {
        "same_samples": samples == expected,
        "steps_repeated": len(samples) - len({line["step"] for line in samples}),
        "largest_relative_loss_difference": max(differences),
    }


def main() -> None:
    """Runs all chains, or those whose name holds --only."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", default="")
    arguments = parser.parse_args()
    data = prepare_data(arguments.out)
    whole = arguments.out / "whole"
    run(whole, data, [{"devices": 8}])
    results = {}
    for number, (name, places) in enumerate(CHAINS.items()):
        if arguments.only in name:
            run(arguments.out / f"chain_{number}", data, places)
            results[name] = compare(arguments.out / f"chain_{number}", whole)
            print(json.dumps({name: results[name]}), file=sys.stderr)
    same = all(result["same_samples"] for result in results.values())
    difference = max(result["largest_relative_loss_difference"] for result in results.values())
    summary = {"same_samples": same, "largest_relative_loss_difference": difference}
    print(json.dumps({**summary, "chains": results}))
    sys.exit(not (same and difference <= TOLERANCE))


if __name__ == "__main__":
    main()
