"""Draws a patient's ordinary uptake of bone, which no reader boxes: regions, bones, joints."""

import functools

import numpy as np

from bonescan_jax.phantom.anatomy import ANKLE, HIP, KNEE, SHOULDER, WRIST, Skeleton, skeleton

# Regions whose uptake varies together from patient to patient (log-normal).
_GROUPS = (
    ("skull",), ("face", "mandible"), ("C", "T", "L", "sacrum", "coccyx"), ("rib", "clavicle"),
    ("sternum", "manubrium"), ("scapula",), ("humerus", "radius", "ulna", "hand"),
    ("ilium", "ischium", "pubis"), ("femur",),
    ("patella",), ("tibia", "fibula"), ("foot",),
)  # fmt: skip
# Log-normal spread between patients where it is not 0.19, to BS-80K's 10th to 90th percentiles.
_SPREADS = {"skull": 0.38, "face": 0.38, "sternum": 0.3, "patella": 0.38, "foot": 0.38, "C": 0.14}
# Over the published uptakes of `anatomy`: what brings height bands and textures near
# those of BS-80K's whole-body views (docs/phantom.md).
_CALIBRATION = {
    "skull": 0.8, "face": 0.7, "mandible": 0.65, "C": 0.6, "T": 0.75, "L": 0.65, "sacrum": 0.8,
    "rib": 0.78, "sternum": 0.75, "manubrium": 0.8, "clavicle": 0.68, "scapula": 0.63,
    "humerus": 0.5, "ilium": 0.62, "patella": 0.42, "tibia": 0.42, "femur": 0.82, "foot": 0.45,
    "fibula": 0.22, "radius": 0.55, "ulna": 0.65, "hand": 0.6, "pubis": 0.8, "ischium": 0.8,
}  # fmt: skip
# Where ordinary uptake differs from patient to patient, and a little from side to side, without
# being a hot spot: load, wear and marrow. Bones, places along the left side (mm), how far it
# reaches (mm), log-normal spread.
_SITES = (
    (("ilium", "sacrum"), ((52, 735, 39), (50, 762, 38), (46, 790, 38)), 15, 0.22),
    (("ilium", "sacrum"), ((44, 800, 38), (42, 815, 40)), 12, 0.28),
    (("pubis",), ((8, 908, 142), (14, 915, 138)), 15, 0.3),
    (("pubis",), ((45, 888, 134), (70, 875, 120)), 14, 0.2),
    (("ischium",), ((72, 868, 62), (58, 930, 48)), 18, 0.2),
    (("ilium",), ((116, 730, 136), (122, 754, 158)), 16, 0.25),
    (("ilium",), ((83, 702, 72), (110, 715, 110)), 20, 0.2),
    (("ilium", "femur"), ((92, 868, 95),), 26, 0.2),
    (("femur",), ((138, 880, 75),), 22, 0.22),
    (("scapula",), ((91, 421, 23), (88, 400, 25)), 16, 0.25),
    (("scapula",), ((135, 310, 72),), 18, 0.22),
    (("scapula", "clavicle"), ((152, 268, 90), (162, 272, 82)), 14, 0.32),
    (("scapula",), ((128, 296, 100), (140, 306, 116)), 13, 0.3),
    (("humerus",), ((160, 300, 80),), 22, 0.26),
    (("clavicle", "manubrium"), ((24, 318, 166),), 14, 0.25),
    (("manubrium", "sternum"), ((0, 350, 176),), 16, 0.32),
    (("sternum",), ((0, 420, 192), (0, 470, 196)), 20, 0.2),
    (("femur", "tibia"), ((62, 1246, 66), (62, 1272, 66)), 22, 0.28),
    (("femur", "tibia"), ((108, 1246, 66), (106, 1272, 64)), 22, 0.28),
    (("L",), ((22, 690, 85), (22, 720, 75)), 16, 0.2),
    (("L", "sacrum"), ((0, 740, 60),), 26, 0.15),
)  # fmt: skip
# Uptake of the ends of ribs over the rib, log-normal.
_BEAD, _BEAD_SPREAD = np.log(0.3), 0.8
# Anywhere in these bones: how many on average, how far they reach (mm), spread.
_PATCHES = (
    (("skull",), 3, (14, 45), 0.22), (("rib",), 12, (8, 20), 0.26), (("T", "L"), 6, (7, 22), 0.17),
    (("ilium",), 2, (12, 30), 0.15), (("femur", "tibia"), 2, (12, 40), 0.2),
    (("scapula",), 1, (10, 20), 0.2),
)  # fmt: skip


def bone_uptake(rng: np.random.Generator, bones: Skeleton) -> np.ndarray:
    """Return a factor per point: regions and bones differ, and no bone is even inside."""
    facial = np.array([name.startswith(("face", "mandible")) for name in bones.names])
    factor = np.exp(rng.normal(0, np.where(facial, 0.3, 0.06)))
    for stem, times in _CALIBRATION.items():
        factor[[name.startswith(stem) for name in bones.names]] *= times
    for group in _GROUPS:
        spread = _SPREADS.get(group[0], 0.19)
        factor[[name.startswith(group) for name in bones.names]] *= np.exp(rng.normal(0, spread))
    waves = rng.normal(0, 1, (5, 3)) * (2 * np.pi / rng.uniform(25, 90, (5, 1))) / np.sqrt(3)
    phase = rng.uniform(0, 2 * np.pi, 5)
    x, y, z = bones.points.T
    texture = np.zeros(len(x), np.float32)
    for (a, b, c), shift in zip(waves.astype(np.float32), phase.astype(np.float32), strict=True):
        texture += np.sin(a * x + b * y + c * z + shift)  # no BLAS: it may differ by machine
    uneven = _sites(rng, bones) * _patches(rng, bones) * _rib_ends(rng, bones)
    return (factor[bones.bone] * (1 + 0.055 * texture) * uneven).astype(np.float32)


def _sites(rng: np.random.Generator, bones: Skeleton) -> np.ndarray:
    """Return a factor per point: joints and edges take up more or less than their bones."""
    factor = np.ones(len(bones.points), np.float32)
    for number, (*_, spread) in enumerate(_SITES):
        both = rng.normal(0, spread)
        for side in range(2):
            own = np.float32(np.exp(both + rng.normal(0, 0.35 * spread)) - 1)
            index, share = _site_points(number, side)
            factor[index] *= 1 + own * share
    return factor


@functools.cache
def _site_points(number: int, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the points of a site, and how much each belongs to it, 0 to 1."""
    stems, path, reach, _ = _SITES[number]
    bones, places = skeleton(), np.array(path) * (1 - 2 * side, 1, 1)
    at = np.linspace(0, len(path) - 1, 3 * len(path) - 2)
    between = np.stack([np.interp(at, range(len(path)), column) for column in places.T], 1)
    index = bones.indices(*stems)
    away = np.min([((bones.points[index] - place) ** 2).sum(1) for place in between], axis=0)
    near = away < (2.5 * reach) ** 2
    share = np.exp(-np.log(2) * away[near] / reach**2)
    return index[near], share.astype(np.float32)


def _rib_ends(rng: np.random.Generator, bones: Skeleton) -> np.ndarray:
    """Return a factor per point: where bone of ribs turns to cartilage, some people show beads."""
    factor = np.ones(len(bones.points), np.float32)
    usual, reach = np.exp(rng.normal(_BEAD, _BEAD_SPREAD)), rng.uniform(5, 11)
    for number in range(1, 11):
        both = rng.normal(0, 0.5 if number == 1 else 0.25)
        for side in "LR":
            index = bones.indices(f"rib{number}{side}")
            own = usual * np.exp(both + rng.normal(0, 0.3)) * (1.5 if number == 1 else 1)
            away = ((bones.points[index] - bones.points[index[-1]]) ** 2).sum(1)
            factor[index] *= 1 + np.float32(min(own, 2)) * np.exp(-np.log(2) * away / reach**2)
    return factor


def _patches(rng: np.random.Generator, bones: Skeleton) -> np.ndarray:
    """Return a factor per point: patches anywhere take up more or less than what is around."""
    factor = np.ones(len(bones.points), np.float32)
    for stems, number, reaches, spread in _PATCHES:
        index = bones.indices(*stems)
        for _ in range(rng.poisson(number)):
            centre = bones.points[index[rng.integers(len(index))]]
            reach, own = rng.uniform(*reaches), np.float32(np.exp(rng.normal(0, spread)) - 1)
            away = ((bones.points[index] - centre) ** 2).sum(1)
            factor[index] *= 1 + own * np.exp(-np.log(2) * away / reach**2)
    return factor


def growth_plates(bones: Skeleton) -> np.ndarray:
    """Return ×4 at the growth plates of a child's long bones (BS-80K's id 1240), 1 elsewhere."""
    plates = (
        ("femur", HIP[1] + 12), ("femur", KNEE[1] - 42), ("fibula", KNEE[1] + 45),
        ("tibia", KNEE[1] + 28), ("tibia", ANKLE[1] - 22), ("humerus", SHOULDER[1] + 20),
        ("radius", WRIST[1] - 18), ("ulna", WRIST[1] - 18),
    )  # fmt: skip
    factor = np.ones(len(bones.points), np.float32)
    for bone, y in plates:
        index = bones.indices(bone)
        factor[index] += 3 * np.exp(-0.5 * ((bones.points[index, 1] - y) / 4.5) ** 2)
    return factor
