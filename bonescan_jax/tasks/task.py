"""The interface of a task: the functions that `segment` and `classify` both have."""

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar

import jax
import ml_collections
from flax import nnx
from jax.sharding import Mesh

from bonescan_jax.datasets.decode import View
from bonescan_jax.datasets.records import Record
from bonescan_jax.hyperparameters import Hyperparameters
from bonescan_jax.metrics.rows import ViewRow
from bonescan_jax.models.build import ImageNetwork, Network, Tree

AnyNetwork = Network | ImageNetwork
Result = TypeVar("Result")


class ScanBatch(NamedTuple):
    """Whole scans for evaluation; the last batch of a split is padded with copies."""

    arrays: dict[str, jax.Array]  # image, mask (B, H, W, V), gain, reference (B, V)
    records: list[Record]  # of the real views only, B × V: patient, view, boxes, abnormal


# What the predict step gives for each batch of a split, queued when it is asked for.
Predictions = Iterable[tuple[ScanBatch, jax.Array]]
Scores = dict[str, float | None]


class Task(Protocol):
    """A module of this package; shapes are those of `train_step.Batch`."""

    # The entries of a batch that the predict step takes, after the weights.
    INPUTS: tuple[str, ...]
    # The scores of `validation_scores`.
    SCORES: tuple[str, ...]

    def validate(self, config: ml_collections.ConfigDict) -> None:
        """Raises InputError where settings do not fit the task."""

    def build_model(self, config: ml_collections.ConfigDict, seed: int | jax.Array) -> nnx.Module:
        """The model of config.model with fresh weights."""

    def as_network(self, config: ml_collections.ConfigDict, model: nnx.Module) -> Any:  # noqa: ANN401
        """The model without its weights."""

    def batch_loss(
        self,
        hyperparameters: Hyperparameters,
        network: Any,  # noqa: ANN401 - the task's own kind
        params: Tree,
        stats: Tree,
        image: jax.Array,
        mask: jax.Array,
        sample: jax.Array,
    ) -> tuple[jax.Array, tuple[Tree, jax.Array]]:
        """The loss of an augmented batch; then the new statistics and the loss of each head."""

    def training_example(
        self, config: ml_collections.ConfigDict
    ) -> Callable[[int, Sequence[Record]], list[View]]:
        """Decodes the records of an example to views of crop size, by global sample index."""

    def whole_views(
        self, config: ml_collections.ConfigDict, records: Sequence[Record]
    ) -> list[View]:
        """The records of an example to its views, uncropped: as they are evaluated."""

    def make_predict_step(
        self,
        network: Any,  # noqa: ANN401
        mesh: Mesh,
        mirror: bool = False,
    ) -> Callable[..., jax.Array]:
        """The jitted function from weights and `INPUTS` to (predictors, B, …) probabilities.

        With `mirror`, they are followed by the mean of each with what it says of the batch with
        left and right swapped; the views of a pair are swapped together.
        """

    def predictor_names(self, network: Any) -> tuple[str, ...]:  # noqa: ANN401
        """What gives probabilities, in the order of the predict step's results."""

    def validation_scores(
        self,
        config: ml_collections.ConfigDict,
        network: Any,  # noqa: ANN401
        predictions: Predictions,
    ) -> tuple[str, Scores]:
        """The best predictor on a split, and its scores."""

    def rank(self, scores: Scores) -> float:
        """The score of a validation that decides which step is best; higher is better."""

    def fit_baseline(
        self, config: ml_collections.ConfigDict, records: Iterable[Record]
    ) -> dict[str, Any]:
        """What the network is compared with, fitted to the training views; as JSON can hold it."""

    def scored_rows(
        self,
        config: ml_collections.ConfigDict,
        names: Sequence[str],
        row: int,
        predictions: Iterable[tuple[ScanBatch, Sequence[jax.Array]]],
        baseline: dict[str, Any],
    ) -> Iterator[ViewRow]:
        """What all figures are computed from: a row for each view.

        Args:
            config: of the run.
            names: of all predictions of a batch, in order.
            row: of the prediction that counts; it is one of the first array.
            predictions: of each batch one or more arrays as the predict step gives them.
            baseline: as `fit_baseline` gives it.
        """

    def headline(self, rows: Sequence[ViewRow], selected: str) -> dict[str, Any]:
        """The scores that a run is known by, from the rows of a split."""


def mirrored_name(predictor: str) -> str:
    """What a predictor is called where its prediction on mirrored views is averaged in."""
    return f"{predictor} mirrored"


def one_ahead(results: Iterable[Result]) -> Iterator[Result]:
    """The same results, each when the next has been queued: the device never waits for the host."""
    results = iter(results)
    waiting = list(itertools.islice(results, 1))
    for result in results:
        yield waiting.pop()
        waiting.append(result)
    yield from waiting
