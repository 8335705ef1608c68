"""Trained networks with their weights on devices: one, or several that predict as one."""

import functools
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from jax.sharding import Mesh

from bonescan_jax.cluster.agreement import check_agreement, from_primary
from bonescan_jax.cluster.mesh import replicated, to_every_device, to_host
from bonescan_jax.errors import InputError
from bonescan_jax.models.build import Network, Tree
from bonescan_jax.models.transfer import path_name
from bonescan_jax.runs.checkpoint import (
    compare_shapes,
    find_step,
    restore_weights,
    shapes_by_path,
)
from bonescan_jax.runs.start import trained_on
from bonescan_jax.runs.weights_file import WeightsFile, read_weights_file
from bonescan_jax.runs.workdir import change, flatten, read_config
from bonescan_jax.tasks import build_network, initial_weights, predictor_row, task_of
from bonescan_jax.tasks.task import AnyNetwork, mirrored_name

# In workdir/evaluation: the predictor that did best on the validation split.
BEST = "best_predictor.json"
# What the networks of an ensemble must share: what they see, and what they say of it.
SHARED = ("task", "data.views", "data.mask")
SHARED_BY_CLASSIFIERS = ("data.regions", "data.crop_height", "data.crop_width")
NAME_LIMIT = 200  # of the folder that is named after the runs of an ensemble


class Choice(NamedTuple):
    """Which of the predictions of a run count."""

    predictor: str = "best"  # "mean" of the heads, one, as "head_2", or the "best" in validation
    checkpoint: str = "newest"  # or "best" in validation
    mirror: bool = False  # test-time augmentation: averaged with the prediction on mirrored views
    alone: bool = False  # each view of a pair is read without the other, to see what that one gives


USUAL = Choice()


class Trained(NamedTuple):
    """The network of a run with its weights."""

    workdir: Path  # or file of its weights
    config: ml_collections.ConfigDict
    network: AnyNetwork
    weights: Tree  # {"params", "stats"}
    step: int
    predictor: str  # the chosen one, by its name among those of the task
    file: dict[str, Any] | None = None  # run.json, where the weights came from a file


class Source(NamedTuple):
    """Weights that another network starts from."""

    config: ml_collections.ConfigDict  # of the run that they are of
    arrays: dict[str, np.ndarray]  # of {"params", "stats"}, by path
    about: dict[str, Any]  # "source", "step", "sha256" of a file, "data_fingerprint"


def load_network(
    config: ml_collections.ConfigDict,
    workdir: Path,
    mesh: Mesh,
    checkpoint: str = "newest",
    averaged: bool = True,
) -> tuple[AnyNetwork, Tree, int]:
    """The network of a run with its weights on every device, and their step.

    Args:
        config: of the run.
        workdir: of the run.
        mesh: to put the weights on.
        checkpoint: "newest", or "best" in validation.
        averaged: the moving average of the weights, and not those of the step itself.

    Raises:
        InputError: the workdir holds no such checkpoint.
    """
    params, stats = jax.eval_shape(lambda: initial_weights(config, config.seed))
    abstract = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=replicated(mesh)),
        {"params": params, "stats": stats},
    )
    weights, step = restore_weights(workdir, abstract, checkpoint, averaged)
    return build_network(config), weights, step


def is_file(place: Path) -> bool:
    """Whether this is a file of weights, and not a workdir."""
    return os.path.isfile(place)  # unlike Path.is_file, says no to a name that is too long


def config_of(place: Path) -> ml_collections.ConfigDict:
    """The config of a run, from its workdir or a file of its weights.

    Raises:
        InputError: there is no run, or it is not one of this program.
    """
    return read_file(place).config if is_file(place) else read_config(place)


def read_file(place: Path) -> WeightsFile:
    """A file of weights, which every process reads; all of them hold the same one.

    Raises:
        InputError: on every process, where one of them cannot read it or holds another.
    """
    files = []

    def view() -> dict[str, Any]:
        files.append(read_weights_file(place))
        return {f"{place}: sha256": files[-1].sha256}

    check_agreement(view)
    return files[-1]


def read_source(place: Path, mesh: Mesh) -> Source:
    """The averaged weights of a run on the host: the newest of a workdir, or those of a file.

    Raises:
        InputError: there are none.
    """
    if from_primary(lambda: is_file(place)):
        file = read_file(place)
        step, sha256, fingerprint = file.run["step"], file.sha256, file.run.get("data_fingerprint")
        config, arrays = file.config, file.arrays
    else:
        check_agreement(lambda: flatten(json.loads(read_config(place).to_json())))
        config, sha256, fingerprint = read_config(place), None, trained_on(place)
        _, weights, step = load_network(config, place, mesh)
        arrays = arrays_by_path(weights)
    about = {
        "source": str(place.absolute()),
        "step": step,
        "sha256": sha256,
        "data_fingerprint": fingerprint,
    }
    return Source(config, arrays, about)


def arrays_by_path(weights: Tree) -> dict[str, np.ndarray]:
    """The arrays of a tree on the host, by their paths."""
    return {path_name(path): to_host(leaf) for path, leaf in jax.tree.leaves_with_path(weights)}


def digest_of(weights: Tree) -> str:
    """16 hexadecimal digits of these weights, to tell them from those of another run."""
    digest = hashlib.blake2b(digest_size=8)
    for path, array in sorted(arrays_by_path(weights).items()):
        digest.update(path.encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def load_trained(
    workdirs: Sequence[Path], mesh: Mesh, choice: Choice, changes: Mapping[str, Any]
) -> list[Trained]:
    """The networks of some runs, which have the same task on the same views.

    Args:
        workdirs: of the runs, or files of their weights.
        mesh: to put the weights on.
        choice: whose predictions count.
        changes: settings by name that differ from those of all runs, as {"data.dir": "elsewhere"}.

    Raises:
        InputError: a workdir or the choice cannot be used, or the runs do not fit together.
    """
    are_files = from_primary(lambda: [is_file(place) for place in workdirs])
    files = {
        place: read_file(place) for place, known in zip(workdirs, are_files, strict=True) if known
    }
    configs = []
    for place in workdirs:
        config = files[place].config if place in files else read_config(place)
        change(config, dict(changes))
        configs.append(config)
    _check_alike(workdirs, configs)
    members = []
    for place, config in zip(workdirs, configs, strict=True):
        if place in files:
            member = _load_file(place, files[place], mesh, choice)
        else:
            network, weights, step = load_network(config, place, mesh, choice.checkpoint)
            predictor = resolve_predictor(place, choice)
            member = Trained(place, config, network, weights, step, predictor)
        names = task_of(config).predictor_names(member.network)
        row = predictor_row(config, member.network, member.predictor)
        members.append(member._replace(predictor=names[row]))
    return members


def _load_file(place: Path, file: WeightsFile, mesh: Mesh, choice: Choice) -> Trained:
    if choice.checkpoint != "newest":
        raise InputError(
            f"--checkpoint is {choice.checkpoint!r}, expected newest: {place} holds the weights of "
            f"step {file.run['step']} only"
        )
    params, stats = jax.eval_shape(lambda: initial_weights(file.config, 0))
    abstract = {"params": params, "stats": stats}
    found = {name: array.shape for name, array in file.arrays.items()}
    compare_shapes(place, found, shapes_by_path(abstract), "its config.json")
    weights = jax.tree.map_with_path(lambda path, _: file.arrays[path_name(path)], abstract)
    predictor = file.run["predictor"] if choice.predictor == "best" else choice.predictor
    network = build_network(file.config)
    on_mesh = to_every_device(weights, mesh)
    return Trained(place, file.config, network, on_mesh, file.run["step"], predictor, file.run)


def _check_alike(workdirs: Sequence[Path], configs: Sequence[ml_collections.ConfigDict]) -> None:
    if len({workdir.resolve() for workdir in workdirs}) < len(workdirs):
        raise InputError(f"--workdir names {max(workdirs, key=workdirs.count)} twice")
    first, *others = (flatten(json.loads(config.to_json())) for config in configs)
    names = SHARED + (SHARED_BY_CLASSIFIERS if first["task"] == "classify" else ())
    for workdir, settings in zip(workdirs[1:], others, strict=True):
        for name in names:
            if settings[name] != first[name]:
                raise InputError(
                    f"{config_place(workdir)}: {name} is {settings[name]!r}, expected "
                    f"{first[name]!r} as in {workdirs[0]}: networks that predict as one see the "
                    "same and say the same of it"
                )


def config_place(place: Path) -> str:
    """Where the settings of a run stand, for messages."""
    return f"{place}: config.json" if is_file(place) else f"{place / 'config.json'}"


def resolve_predictor(workdir: Path, choice: Choice) -> str:
    """The chosen predictor; `best` is the one that did best on the validation split in training.

    Raises:
        InputError: `best` was asked for and training never validated.
    """
    if choice.predictor != "best":
        return choice.predictor
    if choice.checkpoint == "best":
        _, validation = find_step(workdir, choice.checkpoint)
        assert validation is not None  # it is the best of those that were validated
        return validation["predictor"]
    path = workdir / "evaluation" / BEST

    def read() -> str:
        try:
            return json.loads(path.read_text())["predictor"]
        except (OSError, ValueError, KeyError) as error:
            raise InputError(
                f"{path}: does not name the best predictor ({error}); give --predictor=mean"
            ) from error

    return from_primary(read)


def folder_of(workdirs: Sequence[Path]) -> Path:
    """Where what is found out about these runs together goes: the workdir of a single one.

    Raises:
        InputError: the names of several are too long to name a folder, or one is a file.
    """
    for place in workdirs:
        if is_file(place):
            raise InputError(f"--out is missing: {place} is a file and no folder for results")
    if len(workdirs) == 1:
        return workdirs[0]
    name = "+".join(workdir.resolve().name for workdir in workdirs)
    if len(name.encode()) > NAME_LIMIT:
        raise InputError(
            f"--out is missing: the names of {len(workdirs)} workdirs are too long for a folder"
        )
    return workdirs[0].resolve().parent / name


def prune(member: Trained) -> Trained:
    """Without the nodes of a UNet++ that its predictor does not need, where that is one head."""
    if not isinstance(member.network, Network) or member.predictor not in member.network.heads[:-1]:
        return member
    network, weights = member.network.prune(member.weights, member.predictor)
    return member._replace(network=network, weights=weights)


class Ensemble:
    """Networks that predict as one: the mean of what the chosen predictor of each says.

    Of a single network it is what each of its predictors says.

    Attributes:
        names: of the predictions, in order.
        selected: the one that counts.
        row: the place of that one.

    Args:
        members: one network or more.
        mesh: that weights and batches lie on.
        mirror: whether what counts is averaged with the prediction on mirrored views.
        alone: whether each view of a pair is read without the other.
    """

    def __init__(
        self, members: Sequence[Trained], mesh: Mesh, mirror: bool = False, alone: bool = False
    ) -> None:
        self.members, self.alone = members, alone
        task = task_of(members[0].config)
        self._inputs = task.INPUTS
        # Equal networks, as those of the folds, compile once.
        make = functools.cache(lambda network: task.make_predict_step(network, mesh, mirror))
        self._steps = [make(member.network) for member in members]
        of_members = [task.predictor_names(member.network) for member in members]
        plain = [
            names.index(member.predictor) for names, member in zip(of_members, members, strict=True)
        ]
        mirrored = [row + len(names) for row, names in zip(plain, of_members, strict=True)]
        # The chosen row of each member, of views as they are and mirrored.
        self._rows = [plain, mirrored] if mirror else [plain]
        if len(members) == 1:
            names, selected = of_members[0], members[0].predictor
        else:
            names = (*(f"member_{number + 1}" for number in range(len(members))), "ensemble")
            selected = "ensemble"
        self.names = (*names, *map(mirrored_name, names)) if mirror else names
        self.selected = mirrored_name(selected) if mirror else selected
        self.row = self.names.index(self.selected)

    def __call__(self, arrays: Mapping[str, jax.Array | np.ndarray]) -> jax.Array:
        """(names, B, …) probabilities of a batch, as the task's predict step gives them."""
        image = arrays["image"]
        if not self.alone or image.shape[-1] == 1:
            return self._predict(arrays)
        # A view that is missing is black, as in training (augment.hidden_view).
        each = [
            self._predict({**arrays, "image": image * shown})[:, :, place : place + 1]
            for place, shown in enumerate(np.eye(image.shape[-1], dtype=image.dtype))
        ]
        return jnp.concatenate(each, axis=2)

    def _predict(self, arrays: Mapping[str, jax.Array | np.ndarray]) -> jax.Array:
        said = [
            step(member.weights, *(arrays[name] for name in self._inputs))
            for step, member in zip(self._steps, self.members, strict=True)
        ]
        if len(said) == 1:
            return said[0]
        return jnp.concatenate(
            [
                _with_mean([each[row] for each, row in zip(said, rows, strict=True)])
                for rows in self._rows
            ]
        )


@jax.jit
def _with_mean(each: Sequence[jax.Array]) -> jax.Array:
    """(members + 1, …): what each says, then their mean."""
    stacked = jnp.stack(each)
    return jnp.concatenate([stacked, stacked.mean(0, keepdims=True)])
