"""The first state of a run that starts from the weights of another one (train.init_from)."""

import dataclasses
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import rich.console
import rich.table
import rich.text
from jax.sharding import Mesh

from bonescan_jax.cluster.distributed import is_primary
from bonescan_jax.errors import InputError
from bonescan_jax.models.build import views_per_example
from bonescan_jax.models.transfer import Fit, fit_weights, path_name
from bonescan_jax.train_step import TrainState
from bonescan_jax.trained import Source, read_source


def start_from(
    place: Path,
    config: ml_collections.ConfigDict,
    state: TrainState,
    abstract: TrainState,
    mesh: Mesh,
    facts: dict[str, Any],
) -> tuple[TrainState, dict[str, Any]]:
    """Puts what fits of another run into a fresh state: weights, statistics and their average.

    A table on standard error tells what was taken, adapted and not taken. Every process reads the
    source; each device gets its part only.

    Args:
        place: a workdir, of which the newest averaged weights are taken, or a file of weights.
        config: of the new run.
        state: of the new run, before its first step; it is used up.
        abstract: its shapes and shardings.
        mesh: that it lies on.
        facts: of the data of the new run, as `runs.start.started` gives them.

    Returns:
        The state, and what environment.json says of the source.

    Raises:
        InputError: the source cannot be read, or nothing of it fits.
    """
    source = read_source(place, mesh)
    shapes = {
        path_name(path): leaf.shape for path, leaf in jax.tree.leaves_with_path(abstract.average)
    }
    views = views_per_example(source.config), views_per_example(config)
    fit = fit_weights(source.arrays, shapes, *views)
    if not fit.taken:
        path, reason = next(iter(fit.fresh.items()))
        raise InputError(
            f"config: train.init_from is {str(place)!r}, of which nothing fits this network, "
            f"expected a run of similar model.filters: {path} {reason}"
        )
    if is_primary():
        _tell(place, source, fit, shapes)
        _warn_of_known_patients(place, source, config, facts)
    taken = _total(shapes, fit.taken)
    return _filled(state, abstract, fit.taken), {
        **source.about,
        "arrays_taken": taken[0],
        "arrays": len(shapes),
        "parameters_taken": taken[1],
        "parameters": _total(shapes, shapes)[1],
    }


def _filled(state: TrainState, abstract: TrainState, taken: dict[str, np.ndarray]) -> TrainState:
    """The state with some of its weights replaced, the running average alike."""
    shardings = {
        path_name(path): leaf.sharding for path, leaf in jax.tree.leaves_with_path(abstract.average)
    }
    placed = {
        path: jax.make_array_from_callback(array.shape, shardings[path], array.__getitem__)
        for path, array in taken.items()
    }

    def fill(state: TrainState, placed: dict[str, jax.Array]) -> TrainState:
        def one(path: tuple[Any, ...], leaf: jax.Array) -> jax.Array:
            # A copy: weights and average are donated to the first step, which needs two buffers.
            return jnp.copy(placed.get(path_name(path), leaf))

        before = {"params": state.params, "stats": state.stats}
        weights = jax.tree.map_with_path(one, before)
        average = jax.tree.map(jnp.copy, weights)
        return dataclasses.replace(state, **weights, average=average)

    out = jax.tree.map(lambda leaf: leaf.sharding, abstract)
    return jax.jit(fill, donate_argnums=0, out_shardings=out)(state, placed)


def _tell(place: Path, source: Source, fit: Fit, shapes: dict[str, tuple[int, ...]]) -> None:
    """Prints how many arrays and parameters were taken, adapted and not taken, and why."""
    table = rich.table.Table("", "arrays", "parameters", "which")
    for column in table.columns[1:3]:
        column.justify = "right"

    def add(outcome: str, paths: list[str], text: str, sizes: dict[str, tuple[int, ...]]) -> None:
        arrays, parameters = _total(sizes, paths)
        table.add_row(outcome, str(arrays), f"{parameters:,}", rich.text.Text(text))

    exact = [path for path in fit.taken if path not in fit.adapted]
    step = source.about["step"]
    add("taken", exact, f"averaged weights of step {step} of {place}", shapes)
    for outcome, notes in (("adapted", fit.adapted), ("starts fresh", fit.fresh)):
        # A shape belongs to an array, all else that can be said of it to many.
        reasons = {path: note.partition(":")[0] for path, note in notes.items()}
        for reason in Counter(reasons.values()):
            paths = [path for path in notes if reasons[path] == reason]
            add(outcome, paths, f"{reason}: {_named(paths, notes)}", shapes)
    if fit.unused:
        sizes = {path: array.shape for path, array in source.arrays.items()}
        add("left out", fit.unused, f"has no place here: {_named(fit.unused, {})}", sizes)
    console = rich.console.Console(stderr=True)
    if not console.is_terminal:  # a log file has no width of its own
        console.width = 160
    console.print(table)


def _named(paths: list[str], notes: dict[str, str]) -> str:
    """The first of them, with what is particular about it, and the number of the others."""
    detail = notes.get(paths[0], "").partition(": ")[2]
    more = f" and {len(paths) - 1} more" if len(paths) > 1 else ""
    return paths[0] + (f" ({detail})" if detail else "") + more


def _total(shapes: dict[str, tuple[int, ...]], paths: Iterable[str]) -> tuple[int, int]:
    """The number of arrays, and of the parameters and statistics in them."""
    sizes = [int(np.prod(shapes[path])) for path in paths]
    return len(sizes), sum(sizes)


def _warn_of_known_patients(
    place: Path, source: Source, config: ml_collections.ConfigDict, facts: dict[str, Any]
) -> None:
    """Says so where the source was trained on patients that this run is to be tested on."""
    same = source.about["data_fingerprint"] == facts["data_fingerprint"]
    if same and source.config.data.fold != config.data.fold:
        print(
            f"bonescan: {place}: data.fold is {source.config.data.fold} of the same data, and "
            f"{config.data.fold} here: validation and test of this run hold patients that the "
            "weights to start from were trained on",
            file=sys.stderr,
        )
