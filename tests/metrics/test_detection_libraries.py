"""FROC and average precision from probabilities on, against PI-CAI's evaluation and COCO's."""

import contextlib
import io
from random import Random

import numpy as np
import picai_eval
import pytest
from faster_coco_eval import COCO, COCOeval_faster
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from bonescan_jax.metrics import weighted
from bonescan_jax.metrics.candidates import MOST, view_findings
from bonescan_jax.metrics.detection import (
    FALSE_POSITIVES,
    IOUS,
    Events,
    events,
    froc,
    sensitivity_at,
)
from bonescan_jax.metrics.rows import Box, ViewRow
from bonescan_jax.scans import ABNORMAL
from bonescan_jax.scans.masks import boxes_to_mask

# A view is a grid of cells. Each holds one lesion at most and a candidate in each half at most. No
# two of either touch, so that no program takes them for one.
CELL_HEIGHT, CELL_WIDTH, ROWS, COLUMNS = 10, 16, 2, 3
MIDDLE = CELL_WIDTH // 2


def rectangles(left: int, right: int) -> st.SearchStrategy[Box]:
    """Within these columns of a cell; the first column and row stay free."""
    rows = st.tuples(st.integers(1, 5), st.integers(2, 5))
    columns = st.tuples(st.integers(left + 1, right - 2), st.integers(2, right))
    return st.tuples(columns, rows).map(
        lambda places: (
            places[0][0],
            places[1][0],
            min(places[0][0] + places[0][1], right),
            min(places[1][0] + places[1][1], CELL_HEIGHT),
        )
    )


SCORES = st.integers(2, 20).map(lambda twentieths: twentieths / 20)  # many are equal
CELLS = st.tuples(
    st.none() | rectangles(0, CELL_WIDTH),
    st.none() | st.tuples(rectangles(0, MIDDLE), SCORES),
    st.none() | st.tuples(rectangles(MIDDLE, CELL_WIDTH), SCORES),
)
VIEWS = st.lists(
    st.lists(CELLS, min_size=ROWS * COLUMNS, max_size=ROWS * COLUMNS), min_size=1, max_size=4
)


def draw(cells: list) -> tuple[np.ndarray, np.ndarray]:
    """(H, W) probability of a hot spot, and (N, 5) true boxes."""
    hot = np.zeros((ROWS * CELL_HEIGHT + 1, COLUMNS * CELL_WIDTH + 1))
    boxes = []
    for number, (lesion, *candidates) in enumerate(cells):
        y, x = np.array(divmod(number, COLUMNS)) * (CELL_HEIGHT, CELL_WIDTH)
        if lesion:
            xmin, ymin, xmax, ymax = lesion
            boxes.append([x + xmin, y + ymin, x + xmax, y + ymax, ABNORMAL])
        for (xmin, ymin, xmax, ymax), score in filter(None, candidates):
            hot[y + ymin : y + ymax, x + xmin : x + xmax] = score
    return hot, np.array(boxes, int).reshape(-1, 5)


def row(patient: int, hot: np.ndarray, boxes: np.ndarray) -> ViewRow:
    found = view_findings(np.stack([1 - hot, hot, 0 * hot], -1), boxes, "box")
    return ViewRow(patient, "anterior", None, True, 0.5, None, False, {}, *found)


def tied(scan: ViewRow, iou: float) -> bool:
    """Two candidates overlap a lesion equally well: either may be its hit."""
    pairs = [pair for each in scan.candidates for pair in each.overlaps if pair[1] >= iou]
    return len(set(pairs)) < len(pairs)


def average_precision(found: Events) -> float:
    statistic = weighted.average_precision(*found.of_candidates(), lesions=found.lesions)
    return float(statistic.of_weights(np.ones((1, len(found.lesions))))[0])


@given(VIEWS, st.sampled_from(IOUS))
@settings(max_examples=60, deadline=None)
def test_froc_and_average_precision_are_those_of_picai(views: list, iou: float):
    scans = [draw(cells) for cells in views]
    rows = [row(number, *scan) for number, scan in enumerate(scans)]
    found = events(rows, ABNORMAL, "overlap", iou=iou)
    counted = found.hit | found.false_positive
    # Where no lesion is missed, PI-CAI loses the last point of its curve.
    assume(counted.any() and found.hit.sum() < found.lesions.sum())
    assume(not any(tied(each, iou) for each in rows))
    truths = [boxes_to_mask(boxes, hot.shape, "box") for hot, boxes in scans]
    reference = picai_eval.evaluate(
        [hot[None] for hot, _ in scans],
        [truth[None] for truth in truths],
        min_overlap=iou,
        num_parallel_calls=1,
    )
    assert reference.num_lesions == found.lesions.sum()
    assert average_precision(found) == pytest.approx(reference.AP)
    # A candidate that is neither hit nor false positive has no point of its own in PI-CAI's curve.
    curve = froc(
        Events(*(each[counted] for each in found.of_candidates()), found.lesions), len(rows)
    )
    assert curve.sensitivity == pytest.approx(reference.lesion_TPR[:-1], rel=1e-6)
    assert curve.false_positives == pytest.approx(reference.lesion_FPR[:-1], rel=1e-6)
    for rate in FALSE_POSITIVES:
        at_rate = sensitivity_at(froc(found, len(rows)), rate).sensitivity
        assert at_rate == pytest.approx(reference.lesion_TPR_at_FPR(rate), rel=1e-6)


@given(VIEWS, st.sampled_from(IOUS), st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_precision_by_recall_is_that_of_coco(views: list, iou: float, random: Random):
    # COCO puts one threshold between equal scores, and takes a second candidate on a lesion for a
    # false positive: here scores differ, and a lesion has one candidate.
    views = [[(lesion, one, None) for lesion, one, _ in cells] for cells in views]
    scores = [0.1 + number / 100 for number in range(ROWS * COLUMNS * len(views))]
    random.shuffle(scores)
    views = [
        [(lesion, one and (one[0], scores.pop()), None) for lesion, one, _ in cells]
        for cells in views
    ]
    rows = [row(number, *draw(cells)) for number, cells in enumerate(views)]
    found = events(rows, ABNORMAL, "overlap", iou=iou)
    assume(len(found.scores) and found.lesions.sum())
    curve = froc(found, 1)
    precision = curve.sensitivity * found.lesions.sum()
    precision /= precision + curve.false_positives
    best = np.maximum.accumulate(precision[::-1])[::-1]  # COCO's at a recall, or at a higher one
    recalls = (np.arange(found.lesions.sum()) + 0.5) / found.lesions.sum()
    places = np.searchsorted(curve.sensitivity, recalls)
    expected = np.append(best, 0.0)[places]
    assert coco_precision(rows, iou, recalls) == pytest.approx(expected)


def coco_precision(rows: list[ViewRow], iou: float, recalls: np.ndarray) -> np.ndarray:
    """(recalls,) precision at each recall: at one IoU, of any number and size of candidates."""
    truth = [
        (number, each.box, {"iscrowd": 0, "area": each.area})
        for number, scan in enumerate(rows)
        for each in scan.lesions
    ]
    found = [
        (number, each.box, {"score": each.score})
        for number, scan in enumerate(rows)
        for each in scan.candidates
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        dataset = COCO(
            {
                "images": [{"id": number} for number in range(len(rows))],
                "categories": [{"id": 1, "name": "abnormal"}],
                "annotations": _annotations(truth),
            }
        )
        evaluation = COCOeval_faster(dataset, dataset.loadRes(_annotations(found)), "bbox")
        evaluation.params.iouThrs = np.array([iou])
        evaluation.params.recThrs = recalls
        evaluation.params.maxDets = [MOST]
        evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e10]], ["all"]
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation.eval["precision"].reshape(-1)


def _annotations(boxes: list[tuple[int, Box, dict]]) -> list[dict]:
    return [
        {
            "id": identity,
            "image_id": number,
            "category_id": 1,
            "bbox": [xmin, ymin, xmax - xmin, ymax - ymin],
            **more,
        }
        for identity, (number, (xmin, ymin, xmax, ymax), more) in enumerate(boxes, start=1)
    ]
