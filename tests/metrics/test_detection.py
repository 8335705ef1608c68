"""FROC against curves worked out by hand and against matching at every threshold anew."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bonescan_jax.metrics.detection import (
    Events,
    best_f1_threshold,
    events,
    froc,
    operating_point,
    sensitivity_at,
)
from bonescan_jax.metrics.rows import Candidate, Lesion, ViewRow
from bonescan_jax.scans import ABNORMAL, NORMAL


def around(x: int, y: int, half: int = 3) -> tuple[int, int, int, int]:
    """A box with its centre at (x, y)."""
    return x - half, y - half, x + half, y + half


def candidate(x: int, y: int, score: float, *overlaps: tuple[int, float]) -> Candidate:
    return Candidate(ABNORMAL, score, around(x, y), 36, overlaps)


def lesion(box: tuple[int, int, int, int], label: int = ABNORMAL, area: int = 36) -> Lesion:
    return Lesion(label, box, area, 0.0, 0.0, None)


def row(
    lesions: list[Lesion], candidates: list[Candidate], patient: int = 1, view: str = "anterior"
) -> ViewRow:
    return ViewRow(
        patient, view, None, True, 0.5, None, False, {}, tuple(candidates), tuple(lesions)
    )


def by_centre(*rows: ViewRow) -> Events:
    return events(rows, ABNORMAL, "centre")


def test_worked_example():
    rows = [
        row(
            [lesion(around(10, 10)), lesion(around(50, 50))],
            [
                *(candidate(11, 11, 0.9), candidate(90, 90, 0.8)),
                *(candidate(10, 9, 0.7), candidate(50, 52, 0.4)),
            ],
        ),
        row(
            [lesion(around(20, 20))],
            [candidate(80, 80, 0.6), candidate(20, 20, 0.6), candidate(5, 90, 0.1)],
            patient=2,
        ),
    ]
    found = by_centre(*rows)
    curve = froc(found, 2)
    # 0.9 hit · 0.8 false · 0.7 again on the first lesion, ignored · 0.6 one hit and one false
    # together · 0.4 hit · 0.1 false; 3 lesions, 2 scans.
    np.testing.assert_allclose(curve.scores, [0.9, 0.8, 0.7, 0.6, 0.4, 0.1])
    np.testing.assert_allclose(curve.false_positives, [0, 0.5, 0.5, 1, 1, 1.5])
    np.testing.assert_allclose(curve.sensitivity, np.array([1, 1, 1, 2, 3, 3]) / 3)
    assert [sensitivity_at(curve, rate).sensitivity for rate in (0.3, 0.5, 0.9, 1.0)] == [
        *([pytest.approx(1 / 3)] * 3),
        1.0,
    ]
    np.testing.assert_array_equal(found.lesions, [2, 1])
    # 2 hits and 2 false positives are kept.
    values = {name: each.value() for name, each in operating_point(found, 0.6).items()}
    assert values == pytest.approx({"precision": 0.5, "recall": 2 / 3, "f1": 4 / 7})
    assert best_f1_threshold(found) == 0.4  # 3 hits, 2 false: 6/8; at 0.9 2/4


def test_a_curve_that_ends_early_gives_what_it_reached():
    pair = [lesion(around(10, 10)), lesion(around(50, 50))]
    found = by_centre(
        row(pair, [candidate(10, 10, 0.9), candidate(90, 90, 0.8)]), row(pair, [], patient=2)
    )
    curve = froc(found, 2)
    assert sensitivity_at(curve, 0.5) == (0.25, True)
    assert sensitivity_at(curve, 1.0) == (0.25, False)


def test_perfect_and_empty_predictions():
    pair = [lesion(around(10, 10)), lesion(around(50, 50))]
    perfect = by_centre(row(pair, [candidate(10, 10, 0.9), candidate(50, 50, 0.8)]))
    assert sensitivity_at(froc(perfect, 1), 1.0) == (1.0, True)
    nothing = by_centre(row(pair, []))
    assert sensitivity_at(froc(nothing, 1), 0.3) == (0.0, False)
    assert best_f1_threshold(nothing) is None
    assert np.isnan(operating_point(nothing, 0.5)["precision"].value())
    assert operating_point(nothing, 0.5)["f1"].value() == 0
    with pytest.raises(ValueError, match="at least one lesion"):
        froc(by_centre(row([], [candidate(10, 10, 0.9)])), 1)


def test_a_hit_needs_the_centre_inside():
    for box, hit in (
        ((8, 8, 13, 13), True),  # centre 10.5
        ((7, 8, 12, 13), False),  # centre x 9.5: overlaps, but points beside the lesion
        ((0, 0, 30, 30), True),  # much too large, yet centred on it
        ((18, 12, 22, 16), False),  # centre x 20 lies outside: xmax is exclusive
    ):
        found = by_centre(row([lesion((10, 10, 20, 20))], [Candidate(ABNORMAL, 1.0, box, 36, ())]))
        assert found.hit.tolist() == [hit]
        assert found.false_positive.tolist() == [not hit]


def test_overlapping_lesions_are_found_by_one_candidate_each():
    pair = [lesion((0, 0, 20, 20)), lesion((10, 10, 30, 30))]
    found = by_centre(row(pair, [candidate(19, 19, 0.9), candidate(18, 18, 0.8)]))
    np.testing.assert_allclose(froc(found, 1).sensitivity, [0.5, 1.0])
    # In both but nearer to the second, which leaves the first to a candidate on it alone.
    found = by_centre(row(pair, [candidate(18, 18, 0.9), candidate(2, 2, 0.8)]))
    np.testing.assert_allclose(froc(found, 1).sensitivity, [0.5, 1.0])


def test_a_class_and_a_view_have_their_own_lesions():
    normal = lesion(around(10, 10), NORMAL)
    found = by_centre(row([normal], [candidate(10, 10, 0.9)]))
    assert (found.false_positive.tolist(), found.lesions.tolist()) == ([True], [0])
    found = by_centre(
        row([lesion(around(10, 10))], []),
        row([], [candidate(10, 10, 0.9)], view="posterior"),
    )
    assert found.false_positive.tolist() == [True]


def test_hits_on_lesions_that_do_not_count_are_ignored():
    pair = [lesion(around(10, 10), area=20), lesion(around(50, 50), area=200)]
    found = events(
        [row(pair, [candidate(10, 10, 0.9), candidate(50, 50, 0.8)])],
        ABNORMAL,
        "centre",
        counted=lambda each: each.area > 100,
    )
    assert found.lesions.tolist() == [1]
    assert found.hit.tolist() == [False, True]
    assert not found.false_positive.any()


# Lesions on a grid, apart, so that "the lesions whose boxes hold some centre" is the whole truth.
PLACES = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=8)
SCORES = st.lists(st.integers(1, 5), min_size=8, max_size=8)


@given(st.lists(st.tuples(PLACES, PLACES, SCORES), min_size=1, max_size=3))
@settings(max_examples=50, deadline=None)
def test_every_point_is_what_its_threshold_alone_would_give(scans: list):
    rows = [
        row(
            [lesion(around(10 * x, 10 * y)) for x, y in sorted(set(lesions))],
            [
                candidate(10 * x, 10 * y, score / 5)
                for (x, y), score in zip(places, scores, strict=False)
            ],
            patient=number,
        )
        for number, (lesions, places, scores) in enumerate(scans)
    ]
    found = by_centre(*rows)
    num_lesions = found.lesions.sum()
    if not num_lesions:
        return
    curve = froc(found, len(scans))
    assert set(curve.scores) == set(found.scores)
    for score, false_positives, sensitivity in zip(*curve, strict=True):
        hits = alarms = 0
        for lesions, places, scores in scans:
            kept = [p for p, s in zip(places, scores, strict=False) if s / 5 >= score]
            hits += len(set(lesions) & set(kept))
            alarms += sum(place not in lesions for place in kept)
        assert false_positives == pytest.approx(alarms / len(scans))
        assert sensitivity == pytest.approx(hits / num_lesions)


IOU_TABLES = st.integers(0, 4).flatmap(
    lambda rows: st.lists(
        st.lists(st.sampled_from([0.0, 0.05, 0.1, 0.2, 0.5, 0.7]), min_size=3, max_size=3),
        min_size=rows,
        max_size=rows,
    )
)


@given(IOU_TABLES)
@settings(max_examples=100, deadline=None)
def test_overlap_pairs_most_and_of_these_best(table: list[list[float]]):
    """Against every way to pair candidates and lesions."""
    candidates = [
        candidate(9, 9, 0.9 - 0.1 * number, *((i, iou) for i, iou in enumerate(ious) if iou))
        for number, ious in enumerate(table)
    ]
    found = events([row([lesion(around(9, 9))] * 3, candidates)], ABNORMAL, "overlap")
    possible = []
    for chosen in itertools.product(range(-1, 3), repeat=len(table)):
        used = [lesion for lesion in chosen if lesion >= 0]
        ious = [table[i][lesion] for i, lesion in enumerate(chosen) if lesion >= 0]
        if len(set(used)) == len(used) and all(iou >= 0.1 for iou in ious):
            possible.append((len(used), round(sum(ious), 6), [each >= 0 for each in chosen]))
    best = max(possible, key=lambda each: each[:2])
    assert found.hit.sum() == best[0]
    assert found.hit.tolist() in [hits for *rank, hits in possible if rank == [*best[:2]]]
    touches = [any(iou >= 0.1 for iou in ious) for ious in table]
    assert found.false_positive.tolist() == [not each for each in touches]
