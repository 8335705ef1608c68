"""Items of patients that nobody has, for tests of scores under weights."""

from typing import NamedTuple

import numpy as np
from hypothesis import strategies as st


class Study(NamedTuple):
    """Items of a few patients, with scores many of which are equal."""

    scores: np.ndarray
    labels: np.ndarray
    patients: np.ndarray
    num_patients: int
    weights: np.ndarray  # (patients,) how often each is counted

    def repeated(self):
        """The numbers of the items, each as often as its patient is counted."""
        return np.repeat(np.arange(len(self.scores)), self.weights[self.patients])


@st.composite
def studies(draw):
    num_patients = draw(st.integers(1, 6))
    item = st.tuples(st.integers(0, 4), st.booleans(), st.integers(0, num_patients - 1))
    items = draw(st.lists(item, min_size=1, max_size=25))
    scores, labels, patients = (np.array(column) for column in zip(*items, strict=True))
    weights = np.array(
        draw(st.lists(st.integers(0, 3), min_size=num_patients, max_size=num_patients))
    )
    return Study(scores / 4, labels, patients, num_patients, weights)


def random_study(seed, num_patients=40):
    rng = np.random.default_rng(seed)
    patients = np.sort(rng.integers(0, num_patients, 3 * num_patients))
    labels = rng.random(len(patients)) < 0.4
    scores = np.clip(rng.normal(0.4 + 0.2 * labels, 0.2), 0, 1).round(2)
    return Study(scores, labels, patients, num_patients, np.ones(num_patients, int))
