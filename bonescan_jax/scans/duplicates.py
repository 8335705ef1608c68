"""Patients who share an image are one person under several ids, whatever the ids say."""

import hashlib
from collections.abc import Iterable

import numpy as np


def image_digest(grey: np.ndarray) -> str:
    """Identifies an image by its pixels; "" for one of a single grey value, which is nobody's.

    Args:
        grey: (H, W) uint8.
    """
    if grey.min() == grey.max():
        return ""
    return hashlib.sha256(repr(grey.shape).encode() + grey.tobytes()).hexdigest()


def same_person(images: Iterable[tuple[int, str]]) -> tuple[tuple[int, ...], ...]:
    """Joins patients who share any image, also through others (union-find).

    Args:
        images: patient and `image_digest` of each.

    Returns:
        Sorted groups of two ids or more, the ids of each sorted.
    """
    parent: dict[int, int] = {}

    def find(patient: int) -> int:
        while parent[patient] != patient:
            parent[patient] = parent[parent[patient]]
            patient = parent[patient]
        return patient

    owner: dict[str, int] = {}
    for patient, digest in images:
        parent.setdefault(patient, patient)
        if digest:
            one, other = find(patient), find(owner.setdefault(digest, patient))
            parent[max(one, other)] = min(one, other)
    groups: dict[int, list[int]] = {}
    for patient in sorted(parent):
        groups.setdefault(find(patient), []).append(patient)
    return tuple(tuple(group) for group in groups.values() if len(group) > 1)
