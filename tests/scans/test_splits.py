"""Splits: by patient, exact, and the same everywhere."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bonescan_jax.errors import InputError
from bonescan_jax.scans.bs80k import KNOWN_DUPLICATES
from bonescan_jax.scans.splits import SPLITS, fold_splits, folds, split_patients

DUPLICATES = KNOWN_DUPLICATES


def test_golden_value():
    assert split_patients(range(1, 13), seed=0, fractions=(0.5, 0.25, 0.25)) == {
        "train": (1, 2, 5, 6, 11, 12),
        "validation": (3, 8, 10),
        "test": (4, 7, 9),
    }


def test_counts_are_exact_and_duplicates_are_together():
    patients = range(1, 3248)
    splits = split_patients(patients, seed=3, fractions=(0.7, 0.1, 0.2), duplicates=DUPLICATES)
    assert [len(splits[split]) for split in SPLITS] == [2273, 325, 649]
    for group in DUPLICATES:
        assert set(group) <= set(splits["train"])


def test_order_of_ids_does_not_matter_but_the_seed_does():
    patients = list(range(100))
    assert split_patients(patients, 1) == split_patients(patients[::-1], 1)
    assert split_patients(patients, 1) != split_patients(patients, 2)


@given(
    patients=st.sets(st.integers(1, 4000), min_size=3, max_size=60),
    seed=st.integers(0, 2**32),
    weights=st.tuples(*[st.integers(1, 50)] * 3),
    pairs=st.booleans(),
)
def test_every_patient_is_in_exactly_one_split(patients, seed, weights, pairs):
    ordered = sorted(patients)
    duplicates = [ordered[i : i + 2] for i in range(0, len(ordered), 2)] if pairs else []
    if pairs and len(duplicates) < 3:
        return
    fractions = tuple(weight / sum(weights) for weight in weights)
    splits = split_patients(patients, seed, fractions, duplicates=duplicates)
    assert sorted(patient for split in SPLITS for patient in splits[split]) == ordered
    assert all(splits[split] for split in SPLITS)
    for group in duplicates:
        assert sum(bool(set(group) & set(splits[split])) for split in SPLITS) == 1


@pytest.mark.parametrize("fractions", [(0.8, 0.2, 0.0), (0.8, 0.1, 0.2), (1.2, -0.1, -0.1)])
def test_fractions_that_are_no_split_are_refused(fractions):
    with pytest.raises(InputError, match="add up to 1"):
        split_patients(range(10), 0, fractions)


def test_too_few_patients_are_refused():
    with pytest.raises(InputError, match="found 2, expected at least 3"):
        split_patients([1, 2, 3], 0, duplicates=[(2, 3)])


def test_golden_value_of_folds():
    assert folds(range(1, 13), k=3, seed=0) == ((2, 5, 7, 10), (3, 4, 11, 12), (1, 6, 8, 9))


@given(
    patients=st.sets(st.integers(1, 4000), min_size=8, max_size=60),
    k=st.integers(2, 4),
    seed=st.integers(0, 2**32),
    validation=st.floats(0.01, 0.5),
    num_pairs=st.integers(0, 4),
)
def test_every_patient_is_tested_once_and_never_seen_before(
    patients, k, seed, validation, num_pairs
):
    ordered = sorted(patients)
    duplicates = [ordered[i : i + 2] for i in range(0, 2 * num_pairs, 2)]
    if len(patients) - num_pairs < 2 * k:
        return
    folded = folds(patients, k, seed, duplicates=duplicates)
    assert sorted(patient for fold in folded for patient in fold) == ordered
    assert max(map(len, folded)) - min(map(len, folded)) <= 1 + num_pairs
    for fold in range(k):
        splits = fold_splits(folded, fold, seed, validation, duplicates=duplicates)
        assert splits["test"] == folded[fold]
        assert sorted(patient for split in SPLITS for patient in splits[split]) == ordered
        assert all(splits[split] for split in SPLITS)
        for pair in duplicates:
            assert sum(bool(set(pair) & set(splits[split])) for split in SPLITS) == 1


def test_validation_in_a_fold_has_its_share():
    folded = folds(range(1, 3248), k=5, seed=3, duplicates=DUPLICATES)
    splits = fold_splits(folded, 2, 3, 0.1, duplicates=DUPLICATES)
    assert [len(splits[split]) for split in SPLITS] == [2272, 325, 650]


def test_every_fold_is_validated_on_other_patients():
    folded = folds(range(100), k=5, seed=0)
    chosen = [set(fold_splits(folded, fold, 0, 0.1)["validation"]) for fold in range(5)]
    assert [len(patients) for patients in chosen] == [10] * 5
    assert len(set.union(*chosen)) == 50
    few = [set(fold_splits(folded, fold, 0, 0.3)["validation"]) for fold in range(5)]
    assert [len(patients) for patients in few] == [30] * 5  # more than one fold has


def test_folds_of_too_few_patients_are_refused():
    with pytest.raises(InputError, match="found 5 for 9 patients"):
        folds(range(9), 5, 0)
