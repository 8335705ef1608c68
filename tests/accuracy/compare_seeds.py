"""Compares two recipes, each trained with several seeds and evaluated on the same test patients.

    python -m tests.accuracy.compare_seeds --first RUN RUN RUN --second RUN RUN RUN
        [--predictors NAME NAME]

A score of a recipe is the mean over its seeds. The interval of a difference is over patients, drawn
for all runs at once; how far seeds lie apart is beside it. Views that only some runs were scored on
are left out. `--predictors` names what counts instead of what each run selected, such as head_3
and mean: by masks only, because candidates are kept of the selected one alone. Standard output gets
a line for each score.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bonescan_jax.metrics.bootstrap import draw_weights
from bonescan_jax.metrics.rows import ViewRow, read_rows
from bonescan_jax.metrics.summary import headline_statistics

DRAWS = 4000
MASKS = ("dice_abnormal", "dice_normal")
SCORES = (
    *MASKS,
    *("sensitivity_at_1_abnormal", "average_precision_abnormal", "image_auc"),
    "sensitivity_at_1_normal",
)


def read(run: Path) -> tuple[str, dict[tuple, ViewRow]]:
    """The predictor that a run selected, and its rows of the test split by view."""
    about, rows = read_rows(run / "evaluation" / "test.rows.jsonl")
    return about["selected"], {(row.patient, row.view, str(row.region)): row for row in rows}


def scores(
    rows: Sequence[ViewRow], predictor: str, weights: np.ndarray
) -> dict[str, tuple[float, np.ndarray]]:
    """By name each score, and its values in the resamples of patients."""
    found = headline_statistics(rows, predictor)
    return {name: (found[name].value(), found[name].of_weights(weights)) for name in SCORES}


def main() -> None:
    """Reads flags, compares and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--first", type=Path, required=True, nargs="+")
    parser.add_argument("--second", type=Path, required=True, nargs="+")
    parser.add_argument("--predictors", nargs=2, help="of the first and of the second recipe")
    arguments = parser.parse_args()
    recipes = [[read(run) for run in runs] for runs in (arguments.first, arguments.second)]
    common = set.intersection(*(set(rows) for runs in recipes for _, rows in runs))
    order = sorted(common, key=str)
    patients = len({patient for patient, *_ in order})
    weights = draw_weights(patients, DRAWS, 0)
    named = arguments.predictors or (None, None)
    results = [
        [
            scores([rows[name] for name in order], predictor or selected, weights)
            for selected, rows in runs
        ]
        for runs, predictor in zip(recipes, named, strict=True)
    ]
    print(f"{patients} patients, {len(order)} views")
    for name in MASKS if arguments.predictors else SCORES:
        each = [[run[name][0] for run in runs] for runs in results]
        drawn = [np.mean([run[name][1] for run in runs], axis=0) for runs in results]
        low, high = np.nanpercentile(drawn[0] - drawn[1], [2.5, 97.5])
        first, second = (float(np.mean(values)) for values in each)
        seeds = " and ".join("/".join(f"{value:.3f}" for value in values) for values in each)
        print(
            f"{name}: {first:.3f} less {second:.3f} is {first - second:+.3f} "
            f"({low:+.3f} to {high:+.3f}); seeds {seeds}"
        )


if __name__ == "__main__":
    main()
