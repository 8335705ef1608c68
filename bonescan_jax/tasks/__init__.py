"""What a run learns: a class for every pixel (segment) or for a whole image (classify).

All that the two do in their own way lies in their modules, behind the same functions (`task.Task`);
nothing else asks for config.task.
"""

from types import ModuleType
from typing import cast

import jax
import ml_collections
from flax import nnx

from bonescan_jax.config import validate as validate_settings
from bonescan_jax.errors import InputError
from bonescan_jax.models.build import Tree
from bonescan_jax.tasks import classify, segment
from bonescan_jax.tasks.task import AnyNetwork, Task

TASKS: dict[str, ModuleType] = {"segment": segment, "classify": classify}


def task_of(config: ml_collections.ConfigDict) -> Task:
    """The functions of config.task.

    Raises:
        InputError: there is no such task.
    """
    if config.task not in TASKS:
        raise InputError(f"config: task is {config.task!r}, expected one of {', '.join(TASKS)}")
    return cast(Task, TASKS[config.task])


def validate(config: ml_collections.ConfigDict) -> None:
    """Checks all that can be checked before any data is read.

    Raises:
        InputError: a setting has a value outside its choices, or two do not fit together.
    """
    task = task_of(config)
    validate_settings(config)
    task.validate(config)


def require_segmentation(config: ml_collections.ConfigDict, where: str, why: str) -> None:
    """Raises InputError where a run does not give masks.

    Args:
        config: of the run.
        where: it stands, such as the path of a config.json.
        why: half a sentence, such as "what is written are masks and boxes".
    """
    if task_of(config) is not segment:
        raise InputError(f"{where}: task is {config.task!r}, expected 'segment': {why}")


def build_network(config: ml_collections.ConfigDict) -> AnyNetwork:
    """The model of config.task and config.model without its weights; computes nothing."""
    task = task_of(config)
    return task.as_network(config, nnx.eval_shape(lambda: task.build_model(config, 0)))


def initial_weights(config: ml_collections.ConfigDict, seed: int | jax.Array) -> tuple[Tree, Tree]:
    """Fresh weights and running statistics as plain dictionaries, a function of the seed."""
    model = task_of(config).build_model(config, seed)
    _, *states = nnx.split(model, nnx.Param, nnx.BatchStat)
    params, stats = map(nnx.to_pure_dict, states)
    return params, stats


def predictor_row(config: ml_collections.ConfigDict, network: AnyNetwork, predictor: str) -> int:
    """The row of the predict step's result that holds a predictor.

    Raises:
        InputError: the network has no such predictor.
    """
    names = task_of(config).predictor_names(network)
    if predictor == "mean":
        return len(names) - 1  # also of a network with a single head
    if predictor not in names:
        raise InputError(f"--predictor is {predictor!r}, expected one of {', '.join(names)}")
    return names.index(predictor)
