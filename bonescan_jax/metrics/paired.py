"""Two runs on the same views: how much every headline figure differs, from their rows."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from bonescan_jax.errors import InputError
from bonescan_jax.metrics.bootstrap import draw_weights
from bonescan_jax.metrics.comparison import holm, mcnemar, paired_difference
from bonescan_jax.metrics.rows import FOREGROUND, Lesion, ViewRow
from bonescan_jax.metrics.summary import Thresholds, headline_statistics

# The smallest p-value of a family of a score for each of these draws is 2 / (draws + 1).
DRAWS = 10_000


def compare_runs(
    first: Sequence[ViewRow],
    second: Sequence[ViewRow],
    selected: tuple[str, str],
    thresholds: tuple[Thresholds, Thresholds],
    seed: int = 0,
) -> dict[str, Any]:
    """Compares two runs on the views of a split.

    Args:
        first: rows of the one run.
        second: rows of the other.
        selected: the predictor of each.
        thresholds: of each, chosen on validation.
        seed: of the resamples of patients.

    Returns:
        "differences": by score the values of both runs, first less second with its paired 95 %
        interval, its p-value and that after Holm over all of them; "lesions": by class McNemar's
        test of who finds which at the runs' own thresholds.

    Raises:
        InputError: the runs were not scored on the same views.
    """
    first, second = _same_order(first, second)
    weights = draw_weights(len({row.patient for row in first}), DRAWS, seed)
    ones, others = (
        headline_statistics(rows, name)
        for rows, name in zip((first, second), selected, strict=True)
    )
    differences = {
        name: paired_difference(ones[name], others[name], weights)._asdict()
        | {"first": _known(ones[name].value()), "second": _known(others[name].value())}
        for name in ones
    }
    tested = [name for name, each in differences.items() if each["p_value"] is not None]
    adjusted = holm([differences[name]["p_value"] for name in tested])
    for name, p_value in zip(tested, adjusted, strict=True):
        differences[name]["p_holm"] = float(p_value)
    return {
        "num_images": len(first),
        "num_patients": weights.shape[1],
        "draws": DRAWS,
        "differences": differences,
        "lesions": {
            name: _lesions(first, second, label, [each.candidates[name] for each in thresholds])
            for label, name in FOREGROUND
        },
    }


def _same_order(
    first: Sequence[ViewRow], second: Sequence[ViewRow]
) -> tuple[list[ViewRow], list[ViewRow]]:
    by_name = [
        {(row.patient, row.view, row.region): row for row in each} for each in (first, second)
    ]
    names = [set(each) for each in by_name]
    if names[0] != names[1]:
        raise InputError(
            f"--against: {len(names[0] - names[1])} views were scored by this run only and "
            f"{len(names[1] - names[0])} by the other only, expected the same views of both"
        )
    order = sorted(names[0], key=str)
    return [by_name[0][name] for name in order], [by_name[1][name] for name in order]


def _known(value: float) -> float | None:
    return None if np.isnan(value) else value


def _lesions(
    first: Sequence[ViewRow],
    second: Sequence[ViewRow],
    label: int,
    thresholds: Sequence[float | None],
) -> dict[str, Any] | None:
    """McNemar's test; None where a run has no threshold for the class."""
    if None in thresholds:
        return None
    found = [
        np.array(
            [
                _is_found(lesion, row, threshold)
                for row in rows
                for lesion in row.lesions
                if lesion.label == label
            ],
            bool,
        )
        for rows, threshold in zip((first, second), thresholds, strict=True)
    ]
    return mcnemar(*found)._asdict()


def _is_found(lesion: Lesion, row: ViewRow, threshold: float | None) -> bool:
    """Whether the centre of a candidate of at least this score lies in the lesion's box."""
    xmin, ymin, xmax, ymax = lesion.box
    return any(
        candidate.label == lesion.label
        and candidate.score >= (threshold or 0.0)
        and xmin <= (candidate.box[0] + candidate.box[2]) / 2 < xmax
        and ymin <= (candidate.box[1] + candidate.box[3]) / 2 < ymax
        for candidate in row.candidates
    )
