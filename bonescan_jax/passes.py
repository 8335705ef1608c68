"""One pass of a network over the whole scans of a split; validation during training is one."""

import time
from collections.abc import Callable, Iterator
from typing import TypeVar

import jax
import ml_collections
from jax.sharding import Mesh

from bonescan_jax.input_pipeline import example_records, scan_batches
from bonescan_jax.models.build import Tree, views_per_example
from bonescan_jax.runs.progress import Progress
from bonescan_jax.tasks import task_of
from bonescan_jax.tasks.task import AnyNetwork, ScanBatch, Scores

Said = TypeVar("Said")


class Pass:
    """Goes over the batches of a split, and tells the rate.

    Args:
        config: of the run.
        split: train, validation, test or all.
        mesh: that weights and batches lie on.
        shown: whether progress is shown.
    """

    def __init__(
        self, config: ml_collections.ConfigDict, split: str, mesh: Mesh, shown: bool = False
    ) -> None:
        self.config, self.split, self.mesh, self.shown = config, split, mesh, shown
        self.views, self.seconds = 0, 0.0  # of the last pass, after its first batch, which compiles

    def __call__(
        self,
        predict: Callable[[dict[str, jax.Array]], Said],
        before_batch: Callable[[], None] = lambda: None,
    ) -> Iterator[tuple[ScanBatch, Said]]:
        """Each batch with what is said of its arrays; `before_batch` may raise what ends it."""
        total = len(example_records(self.config, self.split)) * views_per_example(self.config)
        started, self.views = None, 0
        with Progress(f"evaluate {self.split}", total, shown=self.shown) as progress:
            for batch in scan_batches(self.config, self.split, self.mesh):
                before_batch()
                said = predict(batch.arrays)
                if started is None:
                    jax.block_until_ready(said)
                    started = time.monotonic()
                else:
                    self.views += len(batch.records)
                yield batch, said
                self.seconds = time.monotonic() - started
                progress.advance(len(batch.records))

    def images_per_second(self) -> float | None:
        """Views a second of the last pass, scoring included; None where it had one batch."""
        return round(self.views / self.seconds, 3) if self.views else None


def make_validation(
    config: ml_collections.ConfigDict, network: AnyNetwork, mesh: Mesh
) -> Callable[[Tree, Callable[[], None]], tuple[str, Scores]]:
    """The function that scores weights on the validation split: the best predictor, its scores.

    Its second argument is called before every batch, and may raise what ends the validation.
    """
    over_validation = Pass(config, "validation", mesh)
    task = task_of(config)
    step = task.make_predict_step(network, mesh)

    def validate(weights: Tree, before_batch: Callable[[], None]) -> tuple[str, Scores]:
        def predict(arrays: dict[str, jax.Array]) -> jax.Array:
            return step(weights, *(arrays[name] for name in task.INPUTS))

        return task.validation_scores(config, network, over_validation(predict, before_batch))

    return validate
