"""AUC against pair counting, its interval against the bootstrap."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bonescan_jax.metrics.classification import roc_auc


def auc_by_pairs(scores, labels):
    differences = scores[labels][:, None] - scores[~labels][None, :]
    return np.mean((differences > 0) + 0.5 * (differences == 0))


@given(st.lists(st.tuples(st.integers(0, 4), st.booleans()), min_size=1, max_size=30))
@settings(max_examples=100, deadline=None)
def test_auc_counts_pairs_with_ties_half(images):
    scores, labels = (np.array(column) for column in zip(*images, strict=True))
    result = roc_auc(scores, labels)
    if labels.all() or not labels.any():
        assert result is None
        return
    assert result.auc == pytest.approx(auc_by_pairs(scores, labels))
    if min(labels.sum(), (~labels).sum()) > 1:
        assert 0 <= result.low <= result.auc + 1e-12
        assert result.auc - 1e-12 <= result.high <= 1


def test_variance_follows_delong_definition():
    # The structural components V10, V01 of the paper, written out.
    rng = np.random.default_rng(1)
    labels = np.arange(40) % 3 == 0
    scores = rng.integers(0, 10, 40) + 3 * labels
    psi = (scores[labels][:, None] > scores[~labels]) + 0.5 * (
        scores[labels][:, None] == scores[~labels]
    )
    variance = psi.mean(1).var(ddof=1) / len(psi) + psi.mean(0).var(ddof=1) / psi.shape[1]
    result = roc_auc(scores, labels)
    assert result.high - result.auc == pytest.approx(1.959964 * np.sqrt(variance))
    assert result.auc - result.low == pytest.approx(1.959964 * np.sqrt(variance))


def test_interval_agrees_with_bootstrap():
    rng = np.random.default_rng(0)
    labels = np.arange(300) < 120
    scores = rng.normal(size=300) + 1.2 * labels
    result = roc_auc(scores, labels)
    positive, negative = scores[labels], scores[~labels]
    truth = np.repeat([True, False], [120, 180])
    resampled = [
        auc_by_pairs(np.concatenate([rng.choice(positive, 120), rng.choice(negative, 180)]), truth)
        for _ in range(1000)
    ]
    low, high = np.percentile(resampled, [2.5, 97.5])
    assert result.low == pytest.approx(low, abs=0.01)
    assert result.high == pytest.approx(high, abs=0.01)


def test_separated_single_and_undefined():
    assert roc_auc([1, 2, 3, 4], [False, False, True, True]) == (1.0, 1.0, 1.0)
    assert roc_auc([1, 2, 3], [False, True, False]) == (0.5, None, None)
    assert roc_auc([1, 2], [True, True]) is None
    with pytest.raises(ValueError, match="finite"):
        roc_auc([1, np.nan], [True, False])
