"""Scores a trained network on the whole scans of a split, as its task wants it."""

import contextlib
import functools
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import ml_collections
from jax.sharding import Mesh

from bonescan_jax.cluster.agreement import from_primary
from bonescan_jax.cluster.distributed import is_primary
from bonescan_jax.cluster.mesh import make_evaluation_mesh, replicated
from bonescan_jax.datasets.records import data_fingerprint
from bonescan_jax.errors import InputError
from bonescan_jax.input_pipeline import example_records, scan_batches, view_records
from bonescan_jax.metrics.paired import compare_runs
from bonescan_jax.metrics.rows import ViewRow, read_rows, write_rows, write_tables
from bonescan_jax.metrics.summary import Thresholds, choose_thresholds, summarize
from bonescan_jax.models.build import Tree, views_per_example
from bonescan_jax.runs.checkpoint import find_step, restore_average
from bonescan_jax.runs.progress import Progress
from bonescan_jax.runs.start import trained_on
from bonescan_jax.runs.workdir import change, read_config, write_json
from bonescan_jax.tasks import build_network, initial_weights, predictor_row, task_of
from bonescan_jax.tasks.task import AnyNetwork, ScanBatch, Scores

# In workdir/evaluation: the predictor that did best on the validation split.
BEST = "best_predictor.json"


def load_network(
    config: ml_collections.ConfigDict, workdir: Path, mesh: Mesh, checkpoint: str = "newest"
) -> tuple[AnyNetwork, Tree, int]:
    """The network of a run with its averaged weights on every device, and their step.

    Args:
        config: of the run.
        workdir: of the run.
        mesh: to put the weights on.
        checkpoint: "newest", or "best" in validation.

    Raises:
        InputError: the workdir holds no such checkpoint.
    """
    params, stats = jax.eval_shape(lambda: initial_weights(config, config.seed))
    abstract = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=replicated(mesh)),
        {"params": params, "stats": stats},
    )
    weights, step = restore_average(workdir, abstract, checkpoint)
    return build_network(config), weights, step


class Predicted:
    """What the network says of each batch of a split, as a task's scores take it; with the rate.

    Args:
        config: of the run.
        split: train, validation or test.
        network: of the run.
        mesh: that weights and batches lie on.
        shown: whether progress is shown.
    """

    def __init__(
        self,
        config: ml_collections.ConfigDict,
        split: str,
        network: AnyNetwork,
        mesh: Mesh,
        shown: bool = False,
    ) -> None:
        self.config, self.split, self.mesh, self.shown = config, split, mesh, shown
        task = task_of(config)
        self.inputs, self.step = task.INPUTS, task.make_predict_step(network, mesh)
        self.views, self.seconds = 0, 0.0  # of the last pass, after its first batch, which compiles

    def __call__(
        self, weights: Tree, before_batch: Callable[[], None] = lambda: None
    ) -> Iterator[tuple[ScanBatch, jax.Array]]:
        """One pass over the split with these weights; `before_batch` may raise what ends it."""
        total = len(example_records(self.config, self.split)) * views_per_example(self.config)
        started, self.views = None, 0
        with Progress(f"evaluate {self.split}", total, shown=self.shown) as progress:
            for batch in scan_batches(self.config, self.split, self.mesh):
                before_batch()
                probabilities = self.step(weights, *(batch.arrays[name] for name in self.inputs))
                if started is None:
                    jax.block_until_ready(probabilities)
                    started = time.monotonic()
                else:
                    self.views += len(batch.records)
                yield batch, probabilities
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
    predicted = Predicted(config, "validation", network, mesh)

    def validate(weights: Tree, before_batch: Callable[[], None]) -> tuple[str, Scores]:
        predictions = predicted(weights, before_batch)
        return task_of(config).validation_scores(config, network, predictions)

    return validate


def resolve_predictor(workdir: Path, predictor: str, checkpoint: str = "newest") -> str:
    """A predictor's name; `best` is the one that did best on the validation split in training.

    Raises:
        InputError: `best` was asked for and training never validated.
    """
    if predictor != "best":
        return predictor
    if checkpoint == "best":
        _, validation = find_step(workdir, checkpoint)
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


def evaluate(
    workdir: Path,
    split: str,
    predictor: str,
    checkpoint: str = "newest",
    changes: dict[str, Any] | None = None,
    against: Path | None = None,
) -> dict[str, Any]:
    """Scores the run in a workdir on a split and writes workdir/evaluation/<split>.json.

    All devices found share the scans, whatever devices the run was trained on.

    Args:
        workdir: of a training run.
        split: train, validation or test.
        predictor: whose scores are the headline: "mean" of the heads, one, as "head_2", or "best".
        checkpoint: "newest", or "best" in validation.
        against: workdir of another run that was scored on the same views, to compare with.
        changes: settings by name that differ from the run's, such as {"data.dir": "elsewhere"}.

    Returns:
        The headline scores; of masks beside those of the threshold detector. "same_data" tells
        whether these are the data that the run was trained on: otherwise the split may hold its
        training patients. None: the run does not say.

    Raises:
        InputError: workdir, data or predictor cannot be used.
    """
    config = read_config(workdir)
    change(config, changes or {})
    scorer = _Scorer(config, workdir, predictor, checkpoint)
    same_data = _same_data(config, workdir)
    rows, images_per_second = scorer.predict(split)
    thresholds = choose_thresholds(scorer.validation_rows() if split != "validation" else rows)
    summary = {
        **scorer.about(split),
        **task_of(config).headline(rows, scorer.predictor),
        "images_per_second": images_per_second,
        "workdir": str(workdir),
        "same_data": same_data,
    }
    details = summarize(rows, scorer.predictor, thresholds)
    write_json(workdir / "evaluation" / f"{split}.json", summary | details)
    if against is not None:
        compared = _compare(rows, scorer.predictor, thresholds, against, split)
        write_json(workdir / "evaluation" / f"{split}_against.json", compared)
        summary["against"] = compared["against"]
    return summary


def _compare(
    rows: Sequence[ViewRow], selected: str, thresholds: Thresholds, against: Path, split: str
) -> dict[str, Any]:
    about, others = read_rows(rows_file(against, split))
    chosen = choose_thresholds(read_rows(rows_file(against, "validation"))[1])
    found = compare_runs(rows, others, (selected, about["selected"]), (thresholds, chosen))
    return {"against": str(against), "step_of_other": about["step"], **found}


def rows_file(workdir: Path, split: str) -> Path:
    """Where the rows of a split are."""
    return workdir / "evaluation" / f"{split}.rows.jsonl"


class _Scorer:
    """Makes the rows of splits by one network, which is loaded when it is first needed."""

    def __init__(
        self, config: ml_collections.ConfigDict, workdir: Path, predictor: str, checkpoint: str
    ) -> None:
        self.config, self.workdir, self.checkpoint = config, workdir, checkpoint
        self.mesh = make_evaluation_mesh()
        self.network, self.weights, self.step = load_network(config, workdir, self.mesh, checkpoint)
        self.predictor = resolve_predictor(workdir, predictor, checkpoint)
        self.row = predictor_row(config, self.network, self.predictor)

    def about(self, split: str) -> dict[str, Any]:
        """What the rows of a split depend on."""
        data = self.config.data
        return {
            "split": split,
            "step": self.step,
            "selected": self.predictor,
            "checkpoint": self.checkpoint,
            "data": data.name,
            "data_fingerprint": data_fingerprint(Path(data.dir), data.name),
            "min_area": self.config.evaluate.min_area,
        }

    def validation_rows(self) -> list[ViewRow]:
        """Those in the workdir, if they are of this network and these data."""
        path, about = rows_file(self.workdir, "validation"), self.about("validation")
        if from_primary(lambda: _are_kept(path, about)):
            return read_rows(path)[1]
        return self.predict("validation")[0]

    def predict(self, split: str) -> tuple[list[ViewRow], float | None]:
        """Predicts a split and writes its rows; also the views a second that this took."""
        predicted = Predicted(self.config, split, self.network, self.mesh, shown=is_primary())
        records = functools.partial(view_records, self.config)
        rows = list(
            task_of(self.config).scored_rows(
                self.config, self.network, self.row, predicted(self.weights), records, split
            )
        )
        if is_primary():
            write_rows(rows_file(self.workdir, split), self.about(split), rows)
            write_tables(self.workdir / "evaluation" / split, rows)
        return rows, predicted.images_per_second()


def _are_kept(path: Path, about: dict[str, Any]) -> bool:
    """Whether there are rows of the same network and data."""
    with contextlib.suppress(InputError):
        found, _ = read_rows(path)
        return all(found.get(name) == value for name, value in about.items())
    return False


def _same_data(config: ml_collections.ConfigDict, workdir: Path) -> bool | None:
    """Whether the data are those that the run was trained on; says so where they are not."""
    trained, here = trained_on(workdir), data_fingerprint(Path(config.data.dir), config.data.name)
    if trained is None or trained == here:
        return None if trained is None else True
    if is_primary():
        print(
            f"bonescan: {config.data.dir}: {config.data.name} is not the data that {workdir} was "
            f"trained on (fingerprint {here}, expected {trained}): this split may hold patients "
            "of its training",
            file=sys.stderr,
        )
    return False
