"""Saves and restores a run with Orbax: weights, optimizer and data position in one step."""

from pathlib import Path
from typing import Any

import orbax.checkpoint as ocp

from bonescan_jax.errors import InputError
from bonescan_jax.models.build import Tree
from bonescan_jax.train_step import TrainState

# One checkpoint step holds three items. The averaged weights lie apart from the rest so that
# `evaluate` and `predict` can read them without knowing the optimizer.
TRAIN, AVERAGE, POSITION = "train", "average", "position"


def open_checkpoints(workdir: Path, keep: int = 1) -> ocp.CheckpointManager:
    """The manager of workdir/checkpoints; it saves in the background and keeps the last `keep`."""
    return ocp.CheckpointManager(
        (workdir / "checkpoints").absolute(),
        item_names=(TRAIN, AVERAGE, POSITION),
        options=ocp.CheckpointManagerOptions(max_to_keep=keep),
    )


def save(manager: ocp.CheckpointManager, state: TrainState, position: dict[str, Any]) -> None:
    """Starts saving a state under its step; it is on disk after `manager.wait_until_finished()`.

    Args:
        manager: from `open_checkpoints`.
        state: what to save; it may be donated as soon as this returns.
        position: where the data stands, plain JSON.
    """
    train = {
        "step": state.step,
        "params": state.params,
        "stats": state.stats,
        "optimizer": state.optimizer,
    }
    manager.save(
        int(state.step),
        args=ocp.args.Composite(
            **{
                TRAIN: ocp.args.StandardSave(train),
                AVERAGE: ocp.args.StandardSave(state.average),
                POSITION: ocp.args.JsonSave(position),
            }
        ),
    )


def restore(
    manager: ocp.CheckpointManager, abstract: TrainState
) -> tuple[TrainState, dict[str, Any]] | None:
    """The newest state and its data position, or None where nothing was saved yet.

    Args:
        manager: from `open_checkpoints`.
        abstract: shapes, types and the shardings to restore onto, whatever they were at saving.
    """
    step = manager.latest_step()
    if step is None:
        return None
    train = {
        "step": abstract.step,
        "params": abstract.params,
        "stats": abstract.stats,
        "optimizer": abstract.optimizer,
    }
    items = manager.restore(
        step,
        args=ocp.args.Composite(
            **{
                TRAIN: ocp.args.StandardRestore(train),
                AVERAGE: ocp.args.StandardRestore(abstract.average),
                POSITION: ocp.args.JsonRestore(),
            }
        ),
    )
    return TrainState(**items[TRAIN], average=items[AVERAGE]), items[POSITION]


def restore_average(workdir: Path, abstract: Tree) -> tuple[Tree, int]:
    """The newest averaged weights, {"params", "stats"}, and the step they are from.

    Raises:
        InputError: the workdir holds no finished checkpoint.
    """
    if not (workdir / "checkpoints").is_dir():
        raise InputError(f"{workdir}: holds no checkpoints folder; train first: bonescan train")
    with open_checkpoints(workdir) as manager:
        step = manager.latest_step()
        if step is None:
            raise InputError(f"{workdir}/checkpoints: holds no finished checkpoint")
        items = manager.restore(
            step, args=ocp.args.Composite(**{AVERAGE: ocp.args.StandardRestore(abstract)})
        )
    return items[AVERAGE], step
