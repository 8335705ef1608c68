"""What a study asks, as its file tells it: the config, the trials, the objectives."""

import copy
import difflib
import importlib.util
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple, NoReturn

import ml_collections
import optuna

from bonescan_jax.config import default_config
from bonescan_jax.errors import InputError
from bonescan_jax.runs.workdir import MAY_CHANGE, change, flatten
from bonescan_jax.sweep.sampling import PRUNERS, SAMPLERS, make_sampler
from bonescan_jax.tasks import task_of, validate

Settings = dict[str, Any]  # values by dotted name, as JSON holds them

# What a trial can be judged by beside `validation.NAME`, a score of the validation split.
MEASURES = ("images_per_second", "seconds", "memory_gib")
DIRECTIONS = ("maximize", "minimize")
TRIED = 16  # trials of a search that are drawn and checked before anything starts

# When a run validates decides when a trial may be pruned: here that is part of the question.
_FREE = {name for name in MAY_CHANGE if not name.startswith("train.eval_every")}

_CONSTANTS: dict[str, type] = {
    "CONFIG": str,
    "SETTINGS": dict,
    "OBJECTIVES": dict,
    "CONSTRAINTS": dict,
    "TRIALS": int,
    "SEED": int,
    "SAMPLER": str,
    "PRUNER": str,
    "REDUCTION": int,
    "FOLDS": bool,
}


class Study(NamedTuple):
    """A question to the data, and how it is asked."""

    name: str  # of its file, without .py
    text: str  # of its file
    given: Settings  # CONFIG, and what SETTINGS changes in it for all trials
    config: ml_collections.ConfigDict  # what all trials share
    points: list[Settings] | None  # the listed trials; None where they are sampled
    search: Callable[[Any], Settings] | None  # from an Optuna trial to what it sets
    trials: int
    objectives: dict[str, str]  # maximize or minimize, by name
    constraints: dict[str, float]  # the most that each of these may be
    seed: int
    sampler: str
    pruner: str
    reduction: int  # of the trials that reach a rung, one in so many goes on
    folds: bool  # a trial is a cross-validation

    @property
    def base(self) -> Settings:
        """All settings that trials share and that change what is computed, as JSON has them."""
        settings = flatten(json.loads(self.config.to_json()))
        return {name: settings[name] for name in sorted(settings.keys() - _FREE)}

    def settings(self, trial: optuna.Trial, index: int) -> Settings:
        """What the trial of this number sets: a point of the list, or what the search suggests.

        Raises:
            InputError: the search sets what cannot be.
        """
        if self.points is not None:
            return self.points[index]
        assert self.search is not None
        found = self.search(trial)
        if not isinstance(found, dict):
            _refuse(f"{self.name}.py", f"search() returned {found!r}, expected settings by name")
        return json.loads(json.dumps(found))

    def space(self) -> dict[str, optuna.distributions.BaseDistribution]:
        """Of a list: the values that each setting takes which differs between the points."""
        assert self.points is not None
        columns = {name: [point[name] for point in self.points] for name in self.points[0]}
        return {
            name: _distribution(values)
            for name, values in columns.items()
            if any(value != values[0] for value in values)
        }

    def config_of(self, settings: Settings, where: str) -> ml_collections.ConfigDict:
        """The config of a trial.

        Args:
            settings: what it sets.
            where: they stand, for messages.

        Raises:
            InputError: there is no such setting, or its value cannot be.
        """
        return _changed(self.config, settings, where)


def read_study(path: Path, changes: Mapping[str, Any] | None = None) -> Study:
    """The study of a file in configs/sweeps/, with every trial's settings checked.

    Args:
        path: of the file.
        changes: settings of all trials that do not touch what is computed, such as data.dir.

    Raises:
        InputError: the file is none, or one of its trials sets what cannot be.
    """
    module, where = _load(path), str(path)
    values = _constants(module, where)
    if "CONFIG" not in values:
        _refuse(where, "CONFIG is missing, expected the path of a config such as configs/bs80k.py")
    config = _changed(load_config(Path(values["CONFIG"])), values.get("SETTINGS", {}), where)
    change(config, dict(changes or {}))
    objectives = values.get("OBJECTIVES", {"validation.score": "maximize"})
    constraints = values.get("CONSTRAINTS", {})
    folds = values.get("FOLDS", False)
    _check_objectives(objectives, constraints, folds, task_of(config).SCORES, where)
    points, search = _points(module, config, where), getattr(module, "search", None)
    if (points is None) == (search is None):
        _refuse(where, "expected one function: sweep(add), which lists trials, or search(trial)")
    if points is None and values.get("TRIALS", 0) < 1:
        _refuse(where, "TRIALS is missing, expected how many trials search() is asked for")
    if points is not None and "TRIALS" in values:
        _refuse(where, "TRIALS is given, expected only with search(): sweep() lists its trials")
    if points is not None and "SAMPLER" in values:
        _refuse(where, "SAMPLER is given, expected only with search(): sweep() lists its trials")
    study = Study(
        name=path.stem,
        text=path.read_text(),
        given={"CONFIG": values["CONFIG"], **values.get("SETTINGS", {})},
        config=config,
        points=points,
        search=search,
        trials=values["TRIALS"] if points is None else len(points),
        objectives=objectives,
        constraints={name: float(most) for name, most in constraints.items()},
        seed=values.get("SEED", 0),
        sampler=_choice(values, "SAMPLER", "random", SAMPLERS, where),
        pruner=_choice(values, "PRUNER", "none", PRUNERS, where),
        reduction=values.get("REDUCTION", 3),
        folds=folds,
    )
    _check_pruner(study, where)
    _try_trials(study, where)
    return study


def load_config(path: Path) -> ml_collections.ConfigDict:
    """The config of a file such as configs/phantom.py.

    Raises:
        InputError: there is no such file, or it gives no config.
    """
    get_config = getattr(_load(path), "get_config", None)
    config = get_config() if get_config else None
    if not isinstance(config, ml_collections.ConfigDict) or set(flatten(config.to_dict())) != set(
        flatten(default_config().to_dict())
    ):
        _refuse(str(path), "holds no get_config() that returns a config of bonescan_jax.config")
    return config


def _load(path: Path) -> ModuleType:
    """The module of a Python file."""
    if not path.is_file():
        raise InputError(f"{path}: there is no such file")
    spec = importlib.util.spec_from_file_location(f"bonescan_{path.stem}", path)
    if spec is None or spec.loader is None:
        _refuse(str(path), "expected a Python file, NAME.py")
    module = importlib.util.module_from_spec(spec)
    written, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        spec.loader.exec_module(module)
    except SyntaxError as error:
        _refuse(f"{path}, line {error.lineno}", f"is no Python: {error.msg}")
    except Exception as error:  # the file is a program, which can raise anything
        _refuse(str(path), f"cannot be loaded: {type(error).__name__}: {error}")
    finally:
        sys.dont_write_bytecode = written
    return module


def _constants(module: ModuleType, where: str) -> dict[str, Any]:
    """The names in capitals, each of its kind."""
    found = {
        name: value
        for name, value in vars(module).items()
        if name.isupper() and not name.startswith("_")
    }
    for name, value in found.items():
        if name not in _CONSTANTS:
            nearest = difflib.get_close_matches(name, _CONSTANTS, 1) or [", ".join(_CONSTANTS)]
            _refuse(where, f"sets {name}, expected {nearest[0]}")
        kind = _CONSTANTS[name]
        negative = kind is int and (isinstance(value, bool) or value < 0)
        if not isinstance(value, kind) or negative:
            _refuse(where, f"{name} is {value!r}, expected a value of type {kind.__name__}")
    return found


def _points(
    module: ModuleType, config: ml_collections.ConfigDict, where: str
) -> list[Settings] | None:
    """The trials that sweep(add) lists, each with a value for all settings that any has."""
    sweep = getattr(module, "sweep", None)
    if sweep is None:
        return None
    added: list[Settings] = []

    def add(**settings: Any) -> None:  # noqa: ANN401 - whatever a setting can be
        try:
            added.append(json.loads(json.dumps(settings)))
        except TypeError as error:
            _refuse(where, f"trial {len(added)}: {error}, expected numbers, text and tuples")

    sweep(add)
    if not added:
        _refuse(where, "sweep() lists no trial, expected at least one call of add()")
    usual = flatten(json.loads(config.to_json()))
    names = sorted({name for point in added for name in point})
    points = [{name: point.get(name, usual.get(name)) for name in names} for point in added]
    for number, point in enumerate(points):
        if point in points[:number]:
            _refuse(where, f"trial {number} has the settings of trial {points.index(point)}")
    return points


def _changed(
    config: ml_collections.ConfigDict, settings: Mapping[str, Any], where: str
) -> ml_collections.ConfigDict:
    changed = copy.deepcopy(config)
    known = flatten(changed.to_dict())
    for name, value in settings.items():
        if name not in known:
            nearest = difflib.get_close_matches(name, known, 1)
            hint = f"did you mean {nearest[0]}?" if nearest else "see bonescan_jax/config.py"
            _refuse(where, f"sets {name}: there is no such setting; {hint}")
        try:
            changed.update_from_flattened_dict({name: value})
        except (TypeError, ValueError) as error:
            _refuse(where, f"{name} is {value!r}: {error}")
    return changed


def _distribution(values: list[Any]) -> optuna.distributions.BaseDistribution:
    """What holds all of these values: numbers from the lowest to the highest, or choices."""
    kinds = {type(value) for value in values}
    if kinds <= {int}:
        return optuna.distributions.IntDistribution(min(values), max(values))
    if kinds <= {int, float}:
        return optuna.distributions.FloatDistribution(min(values), max(values))
    choices = sorted({as_choice(value) for value in values}, key=str)
    return optuna.distributions.CategoricalDistribution(choices)


def as_choice(value: Any) -> Any:  # noqa: ANN401 - whatever JSON holds
    """A value as Optuna stores a choice: a list as its JSON."""
    return json.dumps(value) if isinstance(value, list) else value


def _check_objectives(
    objectives: Mapping[str, str],
    constraints: Mapping[str, float],
    folds: bool,
    scores: Sequence[str],
    where: str,
) -> None:
    if not objectives:
        _refuse(where, 'OBJECTIVES is empty, expected such as {"validation.score": "maximize"}')
    for name, direction in objectives.items():
        if direction not in DIRECTIONS:
            _refuse(where, f"OBJECTIVES: {name} is {direction!r}, expected maximize or minimize")
    for name in (*objectives, *constraints):
        known = ("validation.score", *(f"validation.{each}" for each in scores), *MEASURES)
        if name not in known:
            _refuse(where, f"judges by {name}, expected one of {', '.join(known)}")
        if folds and not name.startswith("validation."):
            _refuse(where, f"judges folds by {name}, expected a score on validation")
    for name, most in constraints.items():
        if isinstance(most, bool) or not isinstance(most, int | float):
            _refuse(where, f"CONSTRAINTS: {name} is {most!r}, expected a number, the most allowed")


def _check_pruner(study: Study, where: str) -> None:
    if study.pruner == "none":
        return
    if len(study.objectives) > 1:
        _refuse(where, f"PRUNER is {study.pruner!r}, expected none with several objectives")
    if (study.pruner == "wilcoxon") != study.folds:
        _refuse(where, f"PRUNER is {study.pruner!r}: wilcoxon compares folds (FOLDS = True), the "
                       "others compare scores within a run")  # fmt: skip
    if study.reduction < 2:
        _refuse(where, f"REDUCTION is {study.reduction}, expected 2 or more")
    if not next(iter(study.objectives)).startswith("validation."):
        _refuse(where, "a pruner looks at scores on validation, expected such an objective")
    train = study.config.train
    if not study.folds and not (
        train.eval_every_steps or train.eval_every_epochs or train.eval_every_examples
    ):
        _refuse(where, f"PRUNER is {study.pruner!r} and train.eval_every_steps 0, expected "
                       "validations on the way")  # fmt: skip


def _try_trials(study: Study, where: str) -> None:
    """Raises InputError where a trial cannot be: all of a list, the first ones of a search."""
    if study.points is not None:
        for number, point in enumerate(study.points):
            _validate(study, point, f"{where}: trial {number}")
        return
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    trials = optuna.create_study()
    for number in range(min(study.trials, TRIED)):
        trials.sampler = make_sampler("random", study.seed, number)
        trial = trials.ask()
        try:
            settings = study.settings(trial, number)
        except InputError:
            raise
        except Exception as error:  # the file is a program, which can raise anything
            _refuse(where, f"search() fails: {type(error).__name__}: {error}")
        _validate(study, settings, f"{where}: trial {number}")


def _validate(study: Study, settings: Settings, where: str) -> None:
    config = study.config_of(settings, where)
    try:
        validate(config)
    except InputError as error:
        _refuse(where, str(error).removeprefix("config: "))


def _choice(
    values: Mapping[str, Any], name: str, usual: str, choices: tuple[str, ...], where: str
) -> str:
    value = values.get(name, usual)
    if value not in choices:
        _refuse(where, f"{name} is {value!r}, expected one of {', '.join(choices)}")
    return value


def _refuse(where: str, what: str) -> NoReturn:
    raise InputError(f"{where}: {what}")
