"""Feeds broken files to every reader of the package and reports what it cannot take.

    python tests/fuzz/fuzz.py --examples=20000 [--target=zip] [--seed=0] [--save=DIR]

Each reader runs in a child process, so that a crash of a decoder is seen and survived. The last
line on standard output is JSON: how many inputs, how many failures, the slowest input in seconds.
Every kind of failure is saved with its input and its traceback. Exit code 1 if there is any.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
# Share of all inputs; a source of 16 images takes longer than a file of labels.
SHARES = {
    "xml": 0.25,
    "txt": 0.1,
    "jpeg": 0.15,
    "jpeg_file": 0.1,
    "png_file": 0.13,
    "dicom_file": 0.15,
    "zip": 0.1,
    "prepare": 0.02,
}
CHUNK = 500  # inputs of one child
HANG_SECONDS = 20.0  # without a new input


def main() -> int:
    """Runs all targets; see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--examples", type=int, default=2000, help="inputs, over all readers")
    parser.add_argument("--target", choices=SHARES, action="append", help="default: all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--save", type=Path, help="folder for failing inputs; default: none")
    arguments = parser.parse_args()
    started = time.monotonic()
    targets = {name: SHARES[name] for name in arguments.target or SHARES}
    totals: dict[str, Counter] = defaultdict(Counter)
    kinds: Counter[str] = Counter()
    slowest = 0.0
    for target, share in targets.items():
        left = max(1, round(arguments.examples * share / sum(targets.values())))
        for number in range(0, left, CHUNK):
            size = min(CHUNK, left - number)
            failures, tally = _run_child(target, size, arguments.seed + number)
            totals[target].update(inputs=tally["inputs"], accepted=tally["accepted"])
            slowest = max(slowest, tally["slowest_seconds"])
            for failure in failures:
                kind = f"{target}: {failure['failure']}"
                if not kinds[kind]:
                    print(f"{kind}\n{failure['details']}", file=sys.stderr)
                    _save(arguments.save, target, failure)
                kinds[kind] += 1
        print(f"{target}: {dict(totals[target])}", file=sys.stderr)
    result = {
        "inputs": sum(total["inputs"] for total in totals.values()),
        "failures": kinds.total(),
        "slowest_seconds": round(slowest, 3),
        "seconds": round(time.monotonic() - started, 1),
        "by_target": {target: dict(total) for target, total in totals.items()},
        "kinds": dict(kinds),
    }
    print(json.dumps(result))
    return int(bool(kinds))


def _run_child(target: str, examples: int, seed: int) -> tuple[list[dict], dict[str, Any]]:
    """One child: its failures, with its own death as the last one, and its tally."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for name in ("cwd", "tmp", "input", "hypothesis"):
            (folder / name).mkdir()
        environment = os.environ | {
            "PYTHONPATH": str(ROOT),
            "TMPDIR": str(folder / "tmp"),
            "HYPOTHESIS_STORAGE_DIRECTORY": str(folder / "hypothesis"),
            "JAX_PLATFORMS": "cpu",
        }
        current = folder / "input" / "current"
        command = [sys.executable, "-m", "tests.fuzz.child", target, f"--examples={examples}",
                   f"--seed={seed}", f"--input={current}"]  # fmt: skip
        with (folder / "out").open("w+") as out, (folder / "err").open("w+") as err:
            child = subprocess.Popen(
                command, cwd=folder / "cwd", env=environment, stdout=out, stderr=err
            )
            hung = _wait(child, current)
            out.seek(0)
            lines = [json.loads(line) for line in out if line.startswith("{")]
            err.seek(0)
            complaint = err.read()[-3000:]
        failures = [line for line in lines if "failure" in line]
        tally = next((line for line in lines if "inputs" in line), None)
        if tally is None:
            died = "hang" if hung else f"died with exit code {child.returncode}"
            data = current.read_bytes().hex() if current.exists() else ""
            failures.append({"failure": died, "details": complaint, "input": data})
            tally = {"inputs": 0, "accepted": 0, "slowest_seconds": HANG_SECONDS * hung}
        return failures, tally


def _wait(child: subprocess.Popen, current: Path) -> bool:
    """Waits for the child; kills it where one input takes too long. Returns whether it did."""
    last = time.time()
    while True:
        try:
            child.wait(0.2)
            return False
        except subprocess.TimeoutExpired:
            if current.exists():
                last = max(last, current.stat().st_mtime)
            if time.time() - last > HANG_SECONDS:
                child.kill()
                child.wait()
                return True


def _save(folder: Path | None, target: str, failure: dict) -> None:
    if folder is None:
        return
    folder.mkdir(parents=True, exist_ok=True)
    data = bytes.fromhex(failure["input"])
    stem = f"{target}-{hashlib.sha256(data).hexdigest()[:12]}"
    (folder / f"{stem}.bin").write_bytes(data)
    (folder / f"{stem}.txt").write_text(f"{failure['failure']}\n{failure['details']}\n")


if __name__ == "__main__":
    sys.exit(main())
