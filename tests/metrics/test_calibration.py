"""Calibration against scikit-learn, the guarantee against simulated patients."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit
from sklearn.calibration import calibration_curve
from sklearn.linear_model import LogisticRegression

from bonescan_jax.metrics.calibration import (
    apply_temperature,
    control_missed_lesions,
    equal_mass_bins,
    fit_temperature,
    reliability,
)

ITEMS = st.lists(st.tuples(st.integers(0, 20), st.booleans()), min_size=2, max_size=60)


@given(ITEMS)
@settings(max_examples=100, deadline=None)
def test_reliability_is_that_of_scikit_learn(items):
    scores, labels = (np.array(column) for column in zip(*items, strict=True))
    scores = scores / 20
    points = reliability(scores, labels)
    share, score = calibration_curve(
        labels.astype(int), scores, n_bins=10, strategy="quantile", pos_label=1
    )
    np.testing.assert_allclose([each.share for each in points], share)
    np.testing.assert_allclose([each.score for each in points], score)
    assert sum(each.number for each in points) == len(scores)


def test_bins_hold_equally_many_however_skewed_the_scores():
    scores = np.random.default_rng(0).beta(0.05, 1, 1000)
    np.testing.assert_array_equal(np.bincount(equal_mass_bins(scores)), 100)


def test_nothing_has_no_calibration():
    nothing = np.zeros(0)
    assert reliability(nothing, nothing) == []
    assert fit_temperature(np.array([0.2, 0.9]), np.array([True, True])) is None


@pytest.mark.parametrize("sharpness", [0.4, 1, 2])
def test_temperature_is_that_of_logistic_regression_without_intercept(sharpness):
    rng = np.random.default_rng(0)
    logits = rng.normal(-1, 1.5, 500)
    labels = rng.random(500) < expit(logits)
    scores = expit(sharpness * logits)
    temperature = fit_temperature(scores, labels)
    model = LogisticRegression(C=np.inf, fit_intercept=False, tol=1e-10)
    model.fit(sharpness * logits[:, None], labels)
    assert temperature == pytest.approx(1 / model.coef_[0, 0], rel=1e-4)
    calibrated = apply_temperature(scores, temperature)
    np.testing.assert_allclose(calibrated, model.predict_proba(sharpness * logits[:, None])[:, 1],
                               atol=1e-4)  # fmt: skip


def test_temperature_of_certain_scores_is_finite():
    scores = np.array([0.0, 1.0, 1.0, 0.0])
    temperature = fit_temperature(scores, np.array([False, True, False, False]))
    assert 1 < temperature <= 100
    assert np.isfinite(apply_temperature(scores, temperature)).all()


def simulated(rng, num_patients, detected=0.95):
    """Candidates of patients with one to four lesions; of a patient all are easy or all hard."""
    lesions = rng.integers(0, 5, num_patients)
    patients = np.repeat(np.arange(num_patients), lesions)
    skill = rng.normal(0, 1, num_patients)[patients]
    hit = rng.random(len(patients)) < detected
    scores = expit(skill + rng.normal(0, 1, len(patients)))
    return scores, hit, patients, lesions


def missed_shares(threshold, scores, hit, patients, lesions):
    """Of the patients with a lesion, one by one."""
    return np.array([
        1 - hit[(patients == each) & (scores >= threshold)].sum() / lesions[each]
        for each in np.flatnonzero(lesions)
    ])  # fmt: skip


@given(st.integers(0, 10**6), st.integers(4, 40), st.sampled_from([0.1, 0.2, 0.5]))
@settings(max_examples=100, deadline=None)
def test_controlled_threshold_is_the_highest_that_the_bound_allows(seed, num_patients, allowed):
    study = simulated(np.random.default_rng(seed), num_patients)
    found = control_missed_lesions(*study, allowed)
    number = np.count_nonzero(study[3])
    good = [
        threshold
        for threshold in study[0][study[1]]
        if (missed_shares(threshold, *study).sum() + 1) / (number + 1) <= allowed + 1e-9
    ]
    assert found.threshold == max(good, default=None)
    assert found.num_patients == number
    if good:
        assert found.missed == pytest.approx(missed_shares(found.threshold, *study).mean())
        assert str(number) in found.guarantee
    else:
        assert found.reason


def test_new_patients_lose_no_more_lesions_than_promised():
    rng = np.random.default_rng(0)
    missed = []
    for _ in range(400):
        found = control_missed_lesions(*simulated(rng, 25))
        if found.threshold is not None:
            missed.append(missed_shares(found.threshold, *simulated(rng, 25)).mean())
    assert len(missed) > 350
    # And it is not far below, which a threshold of 0 would be too.
    assert 0.1 < np.mean(missed) <= 0.2 + 2 * np.std(missed) / np.sqrt(len(missed))


def test_no_threshold_where_patients_are_too_few_or_lesions_are_not_found():
    few = control_missed_lesions(np.ones(3), np.ones(3, bool), np.arange(3), np.ones(3, int))
    assert few.threshold is None
    assert few.reason == "3 patients with a lesion, a miss rate of 0.2 needs 4"
    enough = control_missed_lesions(np.ones(4), np.ones(4, bool), np.arange(4), np.ones(4, int))
    assert (enough.threshold, enough.missed) == (1.0, 0.0)
    lost = control_missed_lesions(np.ones(9), np.arange(9) < 5, np.arange(9), np.ones(9, int))
    assert lost.threshold is None
    assert lost.reason == "with all candidates kept, a mean share of 0.444 is missed"
