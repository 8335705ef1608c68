"""Rows of patients that nobody has: boxes, candidates and pixels at random."""

import numpy as np

from bonescan_jax.metrics.rows import Candidate, Lesion, ViewRow
from bonescan_jax.scans import VIEWS


def random_rows(num_patients: int, seed: int = 0, noise: float = 0.3) -> list[ViewRow]:
    """Both views of each patient; a candidate on most lesions, and some beside them.

    Args:
        num_patients: how many.
        seed: of the patients and their lesions.
        noise: how far scores are from the truth; also seeds what the network says.
    """
    truth = np.random.default_rng(seed)
    said = np.random.default_rng([seed, int(1000 * noise)])
    return [
        _row(patient, view, truth, said, noise) for patient in range(num_patients) for view in VIEWS
    ]


def _row(
    patient: int, view: str, truth: np.random.Generator, said: np.random.Generator, noise: float
) -> ViewRow:
    lesions, candidates = [], []
    for number in range(truth.poisson(1.5)):
        x, y = 20 * int(truth.integers(12)), 40 * number
        box = (x, y, x + 9, y + 10)
        label = int(truth.integers(1, 3))
        found = said.random() < 0.9
        quality = float(said.uniform(0.5, 1)) if found else 0.0
        lesions.append(Lesion(label, box, 68, quality, quality, 1 - quality if found else None))
        if found:
            score = float(np.clip(0.8 + noise * said.normal(), 0.05, 1))
            overlap = ((number, quality / (2 - quality)),)
            candidates.append(Candidate(label, score, box, 68, overlap))
    for number in range(said.poisson(1.0)):
        box = (5, 900 + 20 * number, 12, 908 + 20 * number)
        score = float(np.clip(0.3 + noise * said.normal(), 0.05, 1))
        candidates.append(Candidate(int(said.integers(1, 3)), score, box, 50, ()))
    pixels = [
        [sum(round(68 * each.dice) for each in lesions if each.label == label), 20, 10]
        for label in (1, 2)
    ]
    return ViewRow(
        patient=patient,
        view=view,
        region=None,
        abnormal=any(each.label == 1 for each in lesions),
        score=max((each.score for each in candidates if each.label == 1), default=0.01),
        counts=float(truth.uniform(0.3e6, 3e6)),
        overflow=bool(truth.random() < 0.2),
        pixels={"mean": pixels, "threshold": pixels},
        candidates=tuple(candidates),
        lesions=tuple(lesions),
    )
