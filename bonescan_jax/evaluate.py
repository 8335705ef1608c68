"""Scores a trained network: masks of whole scans beside a brightness threshold, or labels."""

import itertools
import json
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import jax
import ml_collections
import numpy as np
from jax.sharding import Mesh

from bonescan_jax.cluster.agreement import from_primary
from bonescan_jax.cluster.distributed import is_primary
from bonescan_jax.cluster.mesh import make_mesh, replicated, to_host
from bonescan_jax.errors import InputError
from bonescan_jax.input_pipeline import (
    decode,
    example_records,
    scan_batches,
    view_records,
)
from bonescan_jax.metrics.classification import roc_auc
from bonescan_jax.metrics.detection import ScoredBoxes, detection_scores
from bonescan_jax.metrics.segmentation import segmentation_scores
from bonescan_jax.metrics.threshold import ThresholdBaseline, threshold_overlap_counts
from bonescan_jax.models.build import (
    ImageNetwork,
    Network,
    Tree,
    build_network,
    initial_weights,
    views_per_example,
)
from bonescan_jax.runs.checkpoint import find_step, restore_average
from bonescan_jax.runs.progress import Progress
from bonescan_jax.runs.workdir import read_config, write_json
from bonescan_jax.scans import ABNORMAL, CLASSES, VIEWS
from bonescan_jax.scans.masks import ScoredBox, mask_to_boxes, most_probable_mask
from bonescan_jax.scans.regions import REGIONS
from bonescan_jax.scans.views import views_of
from bonescan_jax.train_step import make_classify_step, make_predict_step, overlap_counts

Result = TypeVar("Result")
PredictStep = Callable[[Tree, jax.Array, jax.Array], jax.Array]

# In workdir/evaluation: the predictor that did best on the validation split.
BEST = "best_predictor.json"
# Brightest intensity, relative to bone, that the threshold detector tells apart.
BRIGHTEST = 50.0


def load_network(
    config: ml_collections.ConfigDict, workdir: Path, mesh: Mesh, checkpoint: str = "newest"
) -> tuple[Network | ImageNetwork, Tree, int]:
    """The network of a run with its averaged weights on every device, and their step.

    Args:
        config: of the run.
        workdir: of the run.
        mesh: to put the weights on.
        checkpoint: "newest", or "best" in validation.

    Raises:
        InputError: the workdir holds no such checkpoint.
    """
    params, stats = jax.eval_shape(lambda: initial_weights(config))
    abstract = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=replicated(mesh)),
        {"params": params, "stats": stats},
    )
    weights, step = restore_average(workdir, abstract, checkpoint)
    return build_network(config), weights, step


def make_validation(
    config: ml_collections.ConfigDict, network: Network | ImageNetwork, mesh: Mesh
) -> Callable[[Tree, Callable[[], None]], tuple[str, dict[str, float | None]]]:
    """The function that scores weights on the validation split: the best predictor, its scores.

    Its second argument is called before every batch, and may raise what ends the validation.
    """
    if config.task == "classify":
        classify_step = make_classify_step(network, mesh)

        def validate(
            weights: Tree, before_batch: Callable[[], None]
        ) -> tuple[str, dict[str, float | None]]:
            images = score_images(config, "validation", classify_step, weights, mesh, before_batch)
            return network.heads[0], image_auc(images)

    else:
        predict_step = make_predict_step(network, mesh)

        def validate(
            weights: Tree, before_batch: Callable[[], None]
        ) -> tuple[str, dict[str, float | None]]:
            counts = score_split(config, "validation", predict_step, weights, mesh, before_batch)
            return best_predictor(counts, network)

    return validate


def predictor_names(network: Network | ImageNetwork) -> tuple[str, ...]:
    """The heads, then their mean where there are several: the rows of `make_predict_step`."""
    return network.heads if len(network.heads) == 1 else (*network.heads, "mean")


def score_split(
    config: ml_collections.ConfigDict,
    split: str,
    predict_step: PredictStep,
    weights: Tree,
    mesh: Mesh,
    before_batch: Callable[[], None] = lambda: None,
) -> np.ndarray:
    """(predictors, images, classes - 1, 3) overlap counts of every scan of a split."""

    def overlaps() -> Iterator[tuple[int, jax.Array]]:
        for batch in scan_batches(config, split, mesh):
            before_batch()
            arrays = batch.arrays
            probabilities = predict_step(weights, arrays["image"], arrays["reference"])
            yield len(batch.records), overlap_counts(probabilities, arrays["mask"])

    return np.concatenate([to_host(found)[:, :real] for real, found in one_ahead(overlaps())], 1)


def one_ahead(results: Iterable[Result]) -> Iterator[Result]:
    """The same results, each when the next has been queued: the device never waits for the host."""
    results = iter(results)
    waiting = list(itertools.islice(results, 1))
    for result in results:
        yield waiting.pop()
        waiting.append(result)
    yield from waiting


def pooled_dice(counts: np.ndarray) -> dict[str, float | None]:
    """{"dice_abnormal", "dice_normal"} over all pixels of (images, classes - 1, 3) counts."""
    scores = segmentation_scores(counts)
    return {f"dice_{name}": scores[name]["dice_pooled"] for name in CLASSES[1:]}


def best_predictor(counts: np.ndarray, network: Network) -> tuple[str, dict[str, float | None]]:
    """The predictor with the best mean Dice of both classes, and its pooled Dice.

    Args:
        counts: (predictors, images, classes - 1, 3) of the validation split.
        network: whose predictors they are.
    """
    dice = [pooled_dice(each) for each in counts]
    # Where a class is nowhere and nowhere predicted, it tells nothing.
    means = [np.mean([value or 0.0 for value in each.values()]) for each in dice]
    best = len(means) - 1 - int(np.argmax(means[::-1]))  # of equals the mean of the heads
    return predictor_names(network)[best], dice[best]


def resolve_predictor(workdir: Path, predictor: str, checkpoint: str = "newest") -> str:
    """A predictor's name; `best` is the one that did best on the validation split in training.

    Raises:
        InputError: `best` was asked for and training never validated.
    """
    if predictor != "best":
        return predictor
    if checkpoint == "best":
        return find_step(workdir, checkpoint)[1]["predictor"]
    path = workdir / "evaluation" / BEST

    def read() -> str:
        try:
            return json.loads(path.read_text())["predictor"]
        except (OSError, ValueError, KeyError) as error:
            raise InputError(
                f"{path}: does not name the best predictor ({error}); give --predictor=mean"
            ) from error

    return from_primary(read)


def predictor_row(network: Network | ImageNetwork, predictor: str) -> int:
    """The row of `make_predict_step`'s result that holds a predictor.

    Raises:
        InputError: the network has no such predictor.
    """
    names = predictor_names(network)
    if predictor == "mean":
        return len(names) - 1  # also of a network with a single head
    if predictor not in names:
        raise InputError(f"--predictor is {predictor!r}, expected one of {', '.join(names)}")
    return names.index(predictor)


def evaluate(
    workdir: Path, split: str, predictor: str, checkpoint: str = "newest"
) -> dict[str, Any]:
    """Scores the run in a workdir on a split and writes workdir/evaluation/<split>.json.

    Args:
        workdir: of a training run.
        split: train, validation or test.
        predictor: whose scores are the headline: "mean" of the heads, one, as "head_2", or "best".
        checkpoint: "newest", or "best" in validation.

    Returns:
        The headline scores; of masks beside those of the threshold detector.

    Raises:
        InputError: workdir, data or predictor cannot be used.
    """
    config = read_config(workdir)
    mesh = make_mesh(config)
    network, weights, step = load_network(config, workdir, mesh, checkpoint)
    predictor = resolve_predictor(workdir, predictor, checkpoint)
    row = predictor_row(network, predictor)
    if config.task == "classify":
        scores, details = _evaluate_classification(config, split, network, weights, mesh)
    else:
        scores, details = _evaluate_segmentation(config, split, network, weights, mesh, row)
    summary = {"split": split, "step": step, "selected": predictor, **scores}
    summary["workdir"] = str(workdir)
    write_json(workdir / "evaluation" / f"{split}.json", summary | details)
    return summary


def _evaluate_segmentation(
    config: ml_collections.ConfigDict,
    split: str,
    network: Network,
    weights: Tree,
    mesh: Mesh,
    row: int,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Headline scores of the predictor in this row, and all details.

    Every head, their mean and the threshold detector are scored side by side, because the mean of
    the heads is not always the best of them (arXiv 1912.05074).
    """
    scans = _score_scans(config, split, make_predict_step(network, mesh), weights, mesh, row)
    threshold = segmentation_scores(_threshold_counts(config, split))

    names = predictor_names(network)
    predictors = {name: segmentation_scores(scans.counts[i]) for i, name in enumerate(names)}
    auc = roc_auc(np.array(scans.image_scores), np.array(scans.image_labels, bool))
    scores = {
        "num_images": int(scans.counts.shape[1]),
        **pooled_dice(scans.counts[row]),
        **{f"dice_threshold_{name}": threshold[name]["dice_pooled"] for name in CLASSES[1:]},
        "images_per_second": scans.images_per_second,
    }
    details = {
        "predictors": predictors | {"threshold": threshold},
        "detection": scans.detection(),
        "image_auc": auc and auc._asdict(),
        "overlap_counts": scans.counts[row].tolist(),  # image, class; found, invented, missed
    }
    return scores, details


def _evaluate_classification(
    config: ml_collections.ConfigDict, split: str, network: ImageNetwork, weights: Tree, mesh: Mesh
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Headline scores, and the score of every image."""
    images = score_images(config, split, make_classify_step(network, mesh), weights, mesh)
    scores = {"num_images": len(images), **image_auc(images)}
    return scores, {
        "image_auc": {name.removeprefix("auc_"): scores[name] for name in image_auc(images)},
        "images": images,
    }


def score_images(
    config: ml_collections.ConfigDict,
    split: str,
    classify_step: Callable[[Tree, jax.Array, jax.Array, jax.Array], jax.Array],
    weights: Tree,
    mesh: Mesh,
    before_batch: Callable[[], None] = lambda: None,
) -> list[dict[str, Any]]:
    """Patient, region (if it has one), view, label and score of every image of a split.

    Of a network of both views, an image is an example of the two, abnormal if one of them is.
    """
    images = []
    for batch in scan_batches(config, split, mesh):
        before_batch()
        arrays = (batch.arrays[name] for name in ("image", "mask", "reference"))
        probabilities = to_host(classify_step(weights, *arrays))
        views = views_per_example(config)
        for number, probability in zip(
            range(0, len(batch.records), views), probabilities, strict=False
        ):
            records = batch.records[number : number + views]
            region = {"region": REGIONS[records[0]["region"]]} if "region" in records[0] else {}
            images.append(
                {
                    "patient": int(records[0]["patient"]),
                    **region,
                    "view": " and ".join(VIEWS[record["view"]] for record in records),
                    "abnormal": any(bool(record["abnormal"]) for record in records),
                    "score": float(probability),
                }
            )
    return images


def image_auc(images: list[dict[str, Any]]) -> dict[str, float | None]:
    """{"auc", "auc_low", "auc_high"} of `score_images`; None where all are of one class."""
    auc = roc_auc(
        np.array([image["score"] for image in images]),
        np.array([image["abnormal"] for image in images], bool),
    )
    values = auc or (None, None, None)
    return dict(zip(("auc", "auc_low", "auc_high"), values, strict=True))


class _ScanScores:
    """What is collected over the scans of a split."""

    def __init__(self) -> None:
        self.counts = np.zeros(0)
        self.boxes: list[list[ScoredBox]] = []
        self.truths: list[np.ndarray] = []
        self.image_scores: list[float] = []
        self.image_labels: list[int] = []
        self.images_per_second: float | None = None

    def detection(self) -> dict[str, Any]:
        """FROC figures of each foreground class."""
        figures = {}
        for label, name in enumerate(CLASSES[1:], start=1):
            predictions, truths = [], []
            for boxes, truth in zip(self.boxes, self.truths, strict=True):
                of_class = [box for box in boxes if box.label == label]
                predictions.append(
                    ScoredBoxes(
                        np.array([box[:4] for box in of_class]).reshape(-1, 4),
                        np.array([box.score for box in of_class]),
                    )
                )
                truths.append(truth[truth[:, 4] == label, :4])
            figures[name] = detection_scores(predictions, truths)
        return figures


def _score_scans(
    config: ml_collections.ConfigDict,
    split: str,
    predict_step: PredictStep,
    weights: Tree,
    mesh: Mesh,
    selected: int,
) -> _ScanScores:
    """Overlap counts of every predictor; boxes and image scores of the selected one."""
    scores, counts = _ScanScores(), []
    total = len(example_records(config, split)) * views_per_example(config)
    with Progress(f"evaluate {split}", total, shown=is_primary()) as progress:
        started, timed = None, 0
        batches = (
            (batch, predict_step(weights, batch.arrays["image"], batch.arrays["reference"]))
            for batch in scan_batches(config, split, mesh)
        )
        for batch, probabilities in one_ahead(batches):
            arrays, real = batch.arrays, len(batch.records)
            if started is None:
                jax.block_until_ready(probabilities)
                started = time.monotonic()  # the first batch compiles
            else:
                timed += real
            counts.append(to_host(overlap_counts(probabilities, arrays["mask"]))[:, :real])
            for record, scan in zip(
                batch.records, views_of(to_host(probabilities[selected]))[:real], strict=True
            ):
                scores.boxes.append(
                    mask_to_boxes(most_probable_mask(scan), scan, min_area=config.evaluate.min_area)
                )
                scores.truths.append(record["boxes"])
                scores.image_scores.append(float(scan[..., ABNORMAL].max()))
                scores.image_labels.append(record["abnormal"])
            if timed:
                scores.images_per_second = round(timed / (time.monotonic() - started), 3)
            progress.advance(real)
    scores.counts = np.concatenate(counts, axis=1)
    return scores


def _threshold_counts(config: ml_collections.ConfigDict, split: str) -> np.ndarray:
    """Overlap counts on a split of the threshold detector fitted to the training scans."""
    baseline = ThresholdBaseline(limit=BRIGHTEST, num_bins=5000)
    for record in view_records(config, "train"):
        example = decode(record, config.data.mask)
        intensity = example["image"] / example["reference"]
        baseline.accumulate(intensity[None], example["mask"][None])
    thresholds = baseline.best_thresholds()
    counts = []
    for record in view_records(config, split):
        example = decode(record, config.data.mask)
        intensity = example["image"] / example["reference"]
        counts.append(threshold_overlap_counts(intensity[None], example["mask"][None], thresholds))
    return np.concatenate(counts)
