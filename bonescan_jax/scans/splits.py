"""Splits patients into train, validation and test; the same on every machine and Python."""

import hashlib
from collections.abc import Iterable, Sequence

from bonescan_jax.errors import InputError

SPLITS = ("train", "validation", "test")


def split_patients(
    patients: Iterable[int],
    seed: int,
    fractions: tuple[float, float, float] = (0.8, 0.1, 0.1),
    *,
    duplicates: Sequence[Sequence[int]] = (),
) -> dict[str, tuple[int, ...]]:
    """Splits by patient, so that both views of one patient stay together.

    Groups of ids are put in the order of sha256("<seed>:<smallest id>"), which depends on nothing
    but the seed and the ids. Test takes the first ones, validation the next, train the rest; the
    counts are the fractions of all patients, rounded. Groups of several ids (one patient under
    two ids) come last in that order and so land in train: no held-out patient counts twice, and
    the counts stay exact.

    Args:
        patients: ids, each once.
        seed: another seed, another split.
        fractions: of train, validation and test; each above 0, together 1.
        duplicates: groups of ids that are one patient; ids not in `patients` are ignored.

    Returns:
        The sorted ids of each of `SPLITS`, none empty.

    Raises:
        InputError: fractions that are no split, or fewer than three groups of patients.
    """
    if min(fractions) <= 0 or abs(sum(fractions) - 1) > 1e-6:
        raise InputError(
            f"split fractions: found {fractions}, expected three numbers above 0 that add up to 1."
        )
    patients = sorted(patients)
    groups = _group(patients, duplicates)
    if len(groups) < len(SPLITS):
        raise InputError(
            f"patients: found {len(groups)}, expected at least {len(SPLITS)}, "
            "one each for train, validation and test."
        )
    groups.sort(key=lambda group: (len(group), _digest(seed, group)))

    _, validation_fraction, test_fraction = fractions
    counts = {
        "test": max(1, round(test_fraction * len(patients))),
        "validation": max(1, round(validation_fraction * len(patients))),
    }
    splits = {}
    for still_empty, (split, count) in zip((2, 1), counts.items(), strict=True):
        chosen: list[int] = []
        while len(chosen) < count and (not chosen or len(groups) > still_empty):
            chosen += groups.pop(0)
        splits[split] = chosen
    splits["train"] = [patient for group in groups for patient in group]
    return {split: tuple(sorted(splits[split])) for split in SPLITS}


def folds(
    patients: Iterable[int], k: int, seed: int, *, duplicates: Sequence[Sequence[int]] = ()
) -> tuple[tuple[int, ...], ...]:
    """Deals patients into k folds for cross-validation, equal in size as far as groups allow.

    Groups of ids are dealt like cards in the order of `split_patients`, those of several ids first.

    Args:
        patients: ids, each once.
        k: how many folds.
        seed: another seed, other folds.
        duplicates: as in `split_patients`; such ids are in one fold.

    Returns:
        The sorted ids of each fold; every patient is in exactly one.

    Raises:
        InputError: fewer than two folds, or fewer than two groups of patients for each.
    """
    groups = _group(sorted(patients), duplicates)
    if k < 2 or len(groups) < 2 * k:
        raise InputError(
            f"folds: found {k} for {len(groups)} patients, expected at least 2 and at least "
            "two patients for each."
        )
    groups.sort(key=lambda group: (-len(group), _digest(seed, group)))
    return tuple(
        tuple(sorted(patient for group in groups[fold::k] for patient in group))
        for fold in range(k)
    )


def fold_splits(
    folded: Sequence[Sequence[int]],
    fold: int,
    seed: int,
    validation_fraction: float,
    *,
    duplicates: Sequence[Sequence[int]] = (),
) -> dict[str, tuple[int, ...]]:
    """The splits of one fold: it is the test split, validation is taken from the folds after it.

    So folds differ in what they are validated on too.

    Args:
        folded: what `folds` gave.
        fold: from 0.
        seed: the one of `folds`.
        validation_fraction: of all patients; what is left is for training.
        duplicates: as in `split_patients`; validation takes such ids of a fold last.

    Returns:
        The sorted ids of each of `SPLITS`, none empty.
    """
    distance = {  # of a patient's fold, going round
        patient: (number - fold) % len(folded)
        for number, ids in enumerate(folded)
        for patient in ids
    }
    rest = sorted(patient for patient in distance if distance[patient])
    groups = _group(rest, duplicates)
    groups.sort(key=lambda group: (distance[group[0]], len(group), _digest(seed, group)))
    wanted = max(1, round(validation_fraction * (len(rest) + len(folded[fold]))))
    validation: list[int] = []
    while len(validation) < wanted and len(groups) > 1:
        validation += groups.pop(0)
    return {
        "train": tuple(sorted(set(rest) - set(validation))),
        "validation": tuple(sorted(validation)),
        "test": tuple(sorted(folded[fold])),
    }


def _group(patients: list[int], duplicates: Sequence[Sequence[int]]) -> list[list[int]]:
    """One list for each person, its ids sorted."""
    group_of = {patient: tuple(sorted(group)) for group in duplicates for patient in group}
    groups: dict[tuple[int, ...], list[int]] = {}
    for patient in patients:
        groups.setdefault(group_of.get(patient, (patient,)), []).append(patient)
    return list(groups.values())


def _digest(seed: int, group: list[int]) -> str:
    return hashlib.sha256(f"{seed}:{group[0]}".encode()).hexdigest()
