"""Damages each file of the newest checkpoint in turn: nothing wrong may ever be loaded.

Run by hand: .venv/bin/python -m tests.faults.corrupt --workdir=DIR, of a run with two checkpoints
or more; it works on a copy. Each file is truncated, emptied, has one bit flipped, or is removed.
The last line is JSON: `fell_back`, how often the step before was restored, bit for bit; `refused`,
how often nothing was, with a sentence, because no other step was left; `wrong`, which must be 0.
"""

import argparse
import contextlib
import io
import json
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from bonescan_jax.cluster.mesh import make_mesh
from bonescan_jax.errors import InputError
from bonescan_jax.runs.checkpoint import Checkpoints, look_for_saved, restore_weights
from bonescan_jax.runs.workdir import read_config
from bonescan_jax.train_step import TrainState, make_initial_state


def truncate(path: Path) -> None:
    """Loses the second half, as when a copy stops."""
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def empty(path: Path) -> None:
    """Keeps the name alone, as a full disk does."""
    path.write_bytes(b"")


def flip_bit(path: Path) -> None:
    """Changes one bit in the middle."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


def remove(path: Path) -> None:
    """Is gone."""
    path.unlink()


DAMAGES = (truncate, empty, flip_bit, remove)


def abstract_state(workdir: Path) -> TrainState:
    """Shapes and shardings of the state of a run."""
    config = read_config(workdir)
    return make_initial_state(config, make_mesh(config))[1]


def corrupt(workdir: Path, abstract: TrainState, scratch: Path) -> dict[str, Any]:
    """Damages every file of a workdir's newest checkpoint in every way, on copies.

    Args:
        workdir: of a run with two checkpoints or more.
        abstract: its state.
        scratch: an empty folder.

    Returns:
        What the last line says.
    """
    steps = sorted(int(path.name) for path in (workdir / "checkpoints").iterdir())
    newest, before = steps[-1], steps[-2]
    expected = _restored(_copy(workdir, [before], scratch / "before"), abstract)
    outcomes = {"fell_back": 0, "refused": 0, "wrong": 0}
    unharmed = _copy(workdir, [newest], scratch / "newest") / "checkpoints" / str(newest)
    files = sorted(path.relative_to(unharmed) for path in unharmed.rglob("*") if path.is_file())
    for kept in ([before, newest], [newest]):
        for name in files:
            for damage in DAMAGES:
                outcome = _outcome(workdir, kept, name, damage, abstract, expected, scratch)
                outcomes[outcome] += 1
                if outcome != ("fell_back" if len(kept) > 1 else "refused"):
                    print(f"{damage.__name__} {name}: {outcome}", file=sys.stderr)
    return {"files": len(files), "damages": len(DAMAGES), **outcomes}


def _outcome(
    workdir: Path,
    kept: list[int],
    name: Path,
    damage: Callable[[Path], None],
    abstract: TrainState,
    expected: list[np.ndarray],
    scratch: Path,
) -> str:
    copy = _copy(workdir, kept, scratch / "damaged")
    damage(copy / "checkpoints" / str(kept[-1]) / name)
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            found = _restored(copy, abstract)
    except InputError as error:
        return "refused" if "holds no good checkpoint" in str(error) else "wrong"
    if f"{kept[-1]} is damaged and skipped" not in said.getvalue():
        return "wrong"
    same = all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))
    return "fell_back" if same else "wrong"


def _restored(workdir: Path, abstract: TrainState) -> list[np.ndarray]:
    """All arrays that a run would go on from, then those that `evaluate` would score."""
    state, _ = Checkpoints(workdir, 1, look_for_saved(workdir)).restore(abstract)
    average, _ = restore_weights(workdir, abstract.average, "newest")
    return [np.asarray(leaf) for leaf in jax.tree.leaves((state, average))]


def _copy(workdir: Path, steps: list[int], place: Path) -> Path:
    shutil.rmtree(place, ignore_errors=True)
    for step in steps:
        shutil.copytree(workdir / "checkpoints" / str(step), place / "checkpoints" / str(step))
    return place


def main() -> None:
    """Runs it from the command line; exit code 0 if nothing wrong was loaded."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workdir", type=Path, required=True)
    workdir = parser.parse_args().workdir
    with tempfile.TemporaryDirectory() as scratch:
        result = corrupt(workdir, abstract_state(workdir), Path(scratch))
    print(json.dumps(result))
    every = result["files"] * result["damages"]
    sys.exit(not result["fell_back"] == result["refused"] == every)


if __name__ == "__main__":
    main()
