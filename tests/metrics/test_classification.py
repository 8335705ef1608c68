"""AUC against pair counting, intervals against definitions, curves against scikit-learn."""

import numpy as np
import pytest
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import logit
from scipy.stats import t
from statsmodels.stats.proportion import proportion_confint

from bonescan_jax.metrics import bootstrap, weighted
from bonescan_jax.metrics.classification import (
    best_threshold,
    patient_scores,
    precision_recall_curve,
    rates_at,
    roc_auc,
    roc_curve,
)


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
    assert error_of(result, 14) == pytest.approx(np.sqrt(variance))


def error_of(result, rarest):
    """The standard error that an interval was made with, of so many patients of the rarer class."""
    low, value, high = logit([result.low, result.auc, result.high])
    assert high - value == pytest.approx(value - low)
    return (high - value) / t.ppf(0.975, rarest - 1) * result.auc * (1 - result.auc)


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


def obuchowski(scores, labels, patients):
    """The variance of section 3 of the paper, with its sums over patients and images."""
    names = sorted(set(patients))
    abnormal = [scores[(patients == name) & labels] for name in names]
    normal = [scores[(patients == name) & ~labels] for name in names]
    all_abnormal, all_normal = scores[labels], scores[~labels]

    def above(x, y):
        return float(x > y) + 0.5 * float(x == y)

    auc = auc_by_pairs(scores, labels)
    m, n = len(all_abnormal), len(all_normal)
    v10 = [sum(np.mean([above(x, y) for y in all_normal]) for x in xs) for xs in abnormal]
    v01 = [sum(np.mean([above(x, y) for x in all_abnormal]) for y in ys) for ys in normal]
    i10, i01 = sum(len(xs) > 0 for xs in abnormal), sum(len(ys) > 0 for ys in normal)
    s10 = s01 = s11 = 0
    for i in range(len(names)):
        s10 += (v10[i] - len(abnormal[i]) * auc) ** 2
        s01 += (v01[i] - len(normal[i]) * auc) ** 2
        s11 += (v10[i] - len(abnormal[i]) * auc) * (v01[i] - len(normal[i]) * auc)
    s10 *= i10 / ((i10 - 1) * m)
    s01 *= i01 / ((i01 - 1) * n)
    s11 *= len(names) / (len(names) - 1)
    return s10 / m + s01 / n + 2 * s11 / (m * n)


def clustered(seed, num_patients=30, images=90):
    """Images of patients whose scores lie near each other, both classes in one patient."""
    rng = np.random.default_rng(seed)
    patients = rng.integers(0, num_patients, images)
    labels = rng.random(images) < 0.4
    scores = rng.normal(size=num_patients)[patients] + rng.normal(size=images) + labels
    return scores.round(1), labels, patients


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_clustered_variance_follows_obuchowskis_definition(seed):
    scores, labels, patients = clustered(seed)
    result = roc_auc(scores, labels, clusters=patients)
    assert result.auc == pytest.approx(auc_by_pairs(scores, labels))
    rarest = min(len(set(patients[labels])), len(set(patients[~labels])))
    expected = np.sqrt(obuchowski(scores, labels, patients))
    assert error_of(result, rarest) == pytest.approx(expected)


def test_clusters_of_one_image_are_delongs():
    scores, labels, _ = clustered(0)
    names = np.random.default_rng(0).permutation(len(scores)) + 1000
    assert roc_auc(scores, labels, clusters=names) == pytest.approx(roc_auc(scores, labels))


def test_copies_of_images_narrow_delongs_interval_and_not_the_clustered():
    scores, labels, _ = clustered(1)
    patients = np.arange(len(scores))
    once = roc_auc(scores, labels)
    copied, copied_labels, owners = (np.tile(each, 13) for each in (scores, labels, patients))
    assert roc_auc(copied, copied_labels, clusters=owners) == pytest.approx(once)
    naive = roc_auc(copied, copied_labels)
    assert naive.high - naive.low < 0.3 * (once.high - once.low)  # by about √13


def test_clustered_interval_agrees_with_resampled_patients():
    scores, labels, patients = clustered(3, 200, 1000)
    found = roc_auc(scores, labels, clusters=patients)
    drawn = bootstrap.estimate(
        weighted.auc(scores, labels, patients, 200), bootstrap.draw_weights(200)
    )
    assert (found.low, found.high) == pytest.approx((drawn.low, drawn.high), abs=0.006)


def test_one_patient_of_a_class_has_no_clustered_interval():
    result = roc_auc([1, 2, 3, 4], [True, True, False, False], clusters=[0, 0, 1, 2])
    assert result == (0.0, None, None)


IMAGES = st.lists(st.tuples(st.integers(0, 6), st.booleans()), min_size=1, max_size=30)


@given(IMAGES)
@settings(max_examples=100, deadline=None)
def test_curves_are_those_of_scikit_learn(images):
    scores, labels = (np.array(column) for column in zip(*images, strict=True))
    roc, precision_recall = roc_curve(scores, labels), precision_recall_curve(scores, labels)
    if not labels.any():
        assert precision_recall is None
    else:
        precision, recall, thresholds = sklearn.metrics.precision_recall_curve(labels, scores)
        # Theirs ascends and ends with a point at a precision of 1 that nothing gives.
        np.testing.assert_allclose(precision_recall.precision[::-1], precision[:-1])
        np.testing.assert_allclose(precision_recall.recall[::-1], recall[:-1])
        np.testing.assert_allclose(precision_recall.thresholds[::-1], thresholds)
    if labels.all() or not labels.any():
        assert roc is None
        assert best_threshold(scores, labels) is None
    else:
        expected = sklearn.metrics.roc_curve(labels, scores, drop_intermediate=False)
        np.testing.assert_allclose(roc.false_positive_rate, expected[0])
        np.testing.assert_allclose(roc.sensitivity, expected[1])
        np.testing.assert_allclose(roc.thresholds, expected[2])


@given(IMAGES)
@settings(max_examples=100, deadline=None)
def test_best_threshold_beats_all_others(images):
    scores, labels = (np.array(column) for column in zip(*images, strict=True))
    threshold = best_threshold(scores, labels)
    if threshold is None:
        return

    def balanced(at):
        return sklearn.metrics.balanced_accuracy_score(labels, scores >= at)

    best = max(map(balanced, scores))
    assert balanced(threshold) == pytest.approx(best)
    assert all(balanced(higher) < best - 1e-12 for higher in scores[scores > threshold])


def test_rates_have_wilsons_intervals():
    scores, labels, _ = clustered(0)
    rates = rates_at(scores, labels, 0.5)
    called = scores >= 0.5
    for rate, right in (
        ("sensitivity", called[labels]),
        ("specificity", ~called[~labels]),
        ("accuracy", called == labels),
    ):
        low, high = proportion_confint(right.sum(), len(right), method="wilson")
        assert rates[rate] == (
            pytest.approx(right.mean()),
            pytest.approx(low),
            pytest.approx(high),
            None,
        )
    certain = rates_at(np.arange(20), np.arange(20) >= 10, 10)
    assert certain["sensitivity"].high == 1
    assert certain["sensitivity"].low == pytest.approx(0.7225, abs=1e-4)
    assert rates_at([1.0], [True], 0)["specificity"].value is None


def test_rates_of_several_images_a_patient_resample_patients():
    scores, labels, patients = clustered(0)
    owners = np.tile(patients, 5)
    once = rates_at(scores, labels, 0.5, clusters=patients)
    copies = rates_at(np.tile(scores, 5), np.tile(labels, 5), 0.5, clusters=owners)
    images = rates_at(np.tile(scores, 5), np.tile(labels, 5), 0.5)
    for rate in ("sensitivity", "specificity", "accuracy"):
        assert copies[rate] == pytest.approx(once[rate])
        narrow = images[rate].high - images[rate].low
        assert copies[rate].high - copies[rate].low > 1.5 * narrow


def test_a_patient_is_abnormal_with_one_abnormal_view_and_scores_as_the_highest():
    found = patient_scores(
        np.array([0.2, 0.9, 0.4, 0.1, 0.3]),
        np.array([False, False, True, False, False]),
        np.array([7, 3, 7, 5, 5]),
    )
    np.testing.assert_array_equal(found.patients, [3, 5, 7])
    np.testing.assert_array_equal(found.scores, [0.9, 0.3, 0.4])
    np.testing.assert_array_equal(found.labels, [False, False, True])
