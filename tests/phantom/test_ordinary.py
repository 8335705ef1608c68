"""Ordinary uptake of bone differs between patients where that of real ones does."""

import numpy as np

from bonescan_jax.phantom.anatomy import skeleton
from bonescan_jax.phantom.ordinary import bone_uptake


def test_ends_of_ribs_are_beads_in_some_patients_only():
    bones = skeleton()
    ribs = [bones.indices(f"rib{number}{side}") for number in range(3, 9) for side in "LR"]
    ratios = []
    for seed in range(30):
        uptake = bone_uptake(np.random.default_rng(seed), bones)
        ends = np.mean([uptake[index[-20:]].mean() for index in ribs])
        middles = np.mean([uptake[index[len(index) // 2 :][:300]].mean() for index in ribs])
        ratios.append(ends / middles)
    assert np.percentile(ratios, 10) < 1.25
    assert np.percentile(ratios, 90) > 1.45


def test_sites_are_alike_on_both_sides_but_not_equal():
    bones = skeleton()
    edges = {
        side: np.flatnonzero(
            (np.abs(bones.points - (122 * sign, 754, 158)) < 12).all(1)
            & np.isin(bones.bone, [bones.names.index(f"ilium{side}")])
        )
        for side, sign in (("L", 1), ("R", -1))
    }
    assert all(len(index) > 20 for index in edges.values())
    left, right = [], []
    for seed in range(60):
        uptake = np.log(bone_uptake(np.random.default_rng(seed), bones))
        left.append(uptake[edges["L"]].mean() - uptake[bones.indices("ilium")].mean())
        right.append(uptake[edges["R"]].mean() - uptake[bones.indices("ilium")].mean())
    assert 0.5 < np.corrcoef(left, right)[0, 1] < 0.995
    assert 0.1 < np.std(left) < 0.5
