"""Which settings a trial gets, and which trials end early: Optuna's samplers and pruners by name.

What is sampled at random is a function of the study's seed, the number of the trial and the name of
the setting: the same with one worker and with a thousand, in whatever order they work.
"""

import warnings
import zlib
from collections.abc import Container
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState

from bonescan_jax.errors import InputError

SAMPLERS = ("random", "tpe", "cmaes", "gp")
PRUNERS = ("none", "successive_halving", "hyperband", "median", "wilcoxon")
_P_VALUE = 0.1  # at which a pruned trial is worse than the best, over folds


class SeededSampler(optuna.samplers.BaseSampler):
    """Random values that depend on nothing but (seed, trial, name).

    Args:
        seed: of the study.
        trial: number of the trial in the study, whichever attempt at it this is.
    """

    def __init__(self, seed: int, trial: int) -> None:
        self._of = [seed, trial]

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """Nothing is sampled together."""
        return {}

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Nothing is sampled together."""
        return {}

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, name: str, distribution: BaseDistribution
    ) -> Any:  # noqa: ANN401 - whatever the distribution holds
        """A value of this setting."""
        seed = _seed([*self._of, zlib.crc32(name.encode())])
        return optuna.samplers.RandomSampler(seed).sample_independent(
            study, trial, name, distribution
        )


def make_sampler(name: str, seed: int, trial: int) -> optuna.samplers.BaseSampler:
    """The sampler of one trial.

    Raises:
        InputError: it needs a package that is not installed.
    """
    if name == "random":
        return SeededSampler(seed, trial)
    own = _seed([seed, trial])  # one seed for all would give all workers the same first guesses
    if name == "tpe":
        return optuna.samplers.TPESampler(seed=own)
    if name == "cmaes":
        return optuna.samplers.CmaEsSampler(seed=own)
    try:
        return optuna.samplers.GPSampler(seed=own)
    except ImportError as error:
        raise InputError(
            "SAMPLER is 'gp', which needs PyTorch: pip install torch, or SAMPLER = \"tpe\""
        ) from error


def _seed(entropy: list[int]) -> int:
    return int(np.random.SeedSequence(entropy).generate_state(1)[0])


def make_pruner(name: str, reduction: int, first: int, last: int) -> optuna.pruners.BasePruner:
    """The pruner of a study.

    Args:
        name: one of PRUNERS.
        reduction: one in so many goes on from a rung.
        first: examples seen at the first validation, which is the first rung.
        last: examples seen at the end.
    """
    if name == "successive_halving":
        return optuna.pruners.SuccessiveHalvingPruner(first, reduction, 0)
    if name == "hyperband":
        return optuna.pruners.HyperbandPruner(first, last, reduction)
    if name == "median":
        return optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=first)
    if name == "wilcoxon":
        with warnings.catch_warnings():  # that Optuna calls it experimental is pinned, not news
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return optuna.pruners.WilcoxonPruner(p_threshold=_P_VALUE)
    return optuna.pruners.NopPruner()


class OneOfEach(optuna.Study):
    """A study as a pruner sees it: each trial once, whatever number of attempts it took.

    An attempt that ended early hands its scores to the next one; counted twice, they would make
    the competition look harder than it is.
    """

    def get_trials(
        self, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        """All trials but the attempts that were given up."""
        trials = super().get_trials(deepcopy, states)
        return [trial for trial in trials if trial.state != TrialState.FAIL]
