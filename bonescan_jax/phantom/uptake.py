"""Draws a patient's hot spots: foci in bone, kidneys, bladder, injection site."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from bonescan_jax.phantom.anatomy import Skeleton
from bonescan_jax.phantom.shapes import ellipsoid, tube, turn
from bonescan_jax.scans import ABNORMAL, NORMAL

# Malignant foci: share of foci by bone; spine, ribs and pelvis hold 70 %.
_MALIGNANT = (
    (0.10, ("T",)), (0.10, ("L",)), (0.03, ("sacrum",)), (0.21, ("rib",)), (0.15, ("ilium",)),
    (0.11, ("ischium", "pubis")), (0.09, ("femur",)), (0.05, ("humerus",)), (0.01, ("scapula",)),
    (0.10, ("sternum", "manubrium")), (0.03, ("skull",)), (0.02, ("clavicle",)),
)  # fmt: skip
# Joints that many people show: share, bone, place on the left side, scatter, FWHM (mm), how often
# in pairs. Wear, sinuses and teeth, muscle insertions: physiological or of no concern.
_JOINTS = (
    (0.09, "humerus", (156, 300, 80), 8, 15, 0.7), (0.08, "scapula", (162, 272, 82), 6, 13, 0.7),
    (0.12, "clavicle", (27, 312, 166), 3, 13, 0.7), (0.03, "ulna", (152, 578, 55), 6, 14, 0.4),
    (0.03, "hand", (158, 850, 62), 8, 14, 0.4), (0.03, "hand", (140, 890, 64), 12, 9, 0.2),
    (0.04, "femur", (108, 868, 92), 12, 15, 0.4), (0.08, "femur", (66, 1244, 64), 7, 15, 0.6),
    (0.06, "tibia", (106, 1280, 62), 7, 14, 0.4), (0.20, "patella", (86, 1230, 108), 5, 17, 0.7),
    (0.06, "foot", (80, 1650, 70), 12, 15, 0.5), (0.05, "foot", (55, 1690, 138), 4, 11, 0.5),
    (0.04, "tibia", (78, 1610, 58), 6, 14, 0.5), (0.10, "ilium", (49, 772, 38), 5, 32, 0.9),
    (0.06, "face", (10, 140, 176), 7, 14, 0.2), (0.06, "mandible", (24, 190, 135), 10, 14, 0.0),
)  # fmt: skip
# Benign foci proper: facets, spurs and collapses of vertebrae, healed ribs, one-sided joints.
_BENIGN = (
    (0.22, "L", (22, 690, 85), 26, 18, 0.0), (0.12, "L", (17, 720, 60), 8, 15, 0.3),
    (0.12, "T", (16, 480, 62), 55, 17, 0.0), (0.08, "C", (9, 205, 92), 22, 15, 0.0),
    (0.30, "rib", (0, 0, 0), 0, 14, 0.0), (0.04, "femur", (90, 868, 92), 14, 18, 0.0),
    (0.05, "patella", (86, 1230, 108), 5, 20, 0.0), (0.03, "foot", (80, 1650, 70), 14, 18, 0.0),
    (0.04, "humerus", (156, 300, 80), 8, 18, 0.0),
)  # fmt: skip
# Callus of a break and the new bone of a metastasis make a rib thicker: bone volume over before.
_RIB_GROWTH = 1.5


@dataclass(frozen=True)
class HotSpot:
    """Extra activity over the patient's ordinary uptake, on some of the patient's points."""

    kind: str  # malignant, diffuse, benign, joint, kidney, bladder, injection, urine, bag
    label: int  # ABNORMAL or NORMAL, if it can be seen
    where: str  # bone or organ
    index: np.ndarray  # (k,) which of Body.points carry it
    excess: np.ndarray  # (k,) float32, mm³ × relative uptake over the ordinary


# Kinds of hot spots that are Abnormal, by rule. BS-80K's authors made Abnormal of what their
# readers called benign, uncertain or malignant, and Normal of physiological uptake and artefacts.
CLASS_RULES = {
    "bs80k": ("malignant", "diffuse", "benign"),
    "malignant": ("malignant", "diffuse"),
}


def label_of(kind: str, rule: str) -> int:
    """Return the class of a kind of hot spot.

    Args:
      kind: HotSpot.kind.
      rule: one of CLASS_RULES.
    """
    return ABNORMAL if kind in CLASS_RULES[rule] else NORMAL


def _focus(
    rng: np.random.Generator,
    bones: Skeleton,
    index: np.ndarray,
    centre: np.ndarray,
    fwhm: float,
    times: float,
    weight: np.ndarray,
    blobs: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the points of a focus and their excess: overlapping lopsided blobs within bone.

    A blob takes up evenly and falls off at its rim: exp(-ln 2 (2 r / FWHM)⁴).
    """
    away = bones.points[index] - centre
    near = np.linalg.norm(away, axis=1) < (1.6 + 0.8 * np.sqrt(blobs)) * fwhm
    index, away = index[near], away[near]
    field = np.zeros(len(index), np.float32)
    for blob in range(blobs):
        radius = fwhm / 2 * np.exp(rng.normal(0, 0.25, 3)) * (1.0 if blob == 0 else 0.85)
        offset = 0 if blob == 0 else rng.normal(0, 0.5 * fwhm * np.sqrt(blob), 3)
        distance = (((away - offset) / radius) ** 2).sum(1)
        field = np.maximum(field, np.exp(-np.log(2) * distance**2))
    return index, ((times - 1) * field * weight[index]).astype(np.float32)


def malignant(rng: np.random.Generator, bones: Skeleton, weight: np.ndarray) -> list[HotSpot]:
    """Metastases: 1–30 foci, ×2–25 (median 4.5) over the bone that holds them, FWHM 6–25 mm."""
    spots = []
    count = int(np.clip(np.round(np.exp(rng.normal(0.85, 0.9))), 1, 30))
    shares = np.array([share for share, _ in _MALIGNANT])
    for region in rng.choice(len(shares), count, p=shares / shares.sum()):
        names = [n for n in bones.names if n.startswith(_MALIGNANT[region][1])]
        name = names[rng.integers(len(names))]
        index = np.flatnonzero(bones.bone == bones.names.index(name))
        pool = index
        if name.startswith(("femur", "humerus")):  # in adults only their upper ends hold marrow
            y = bones.points[index, 1]
            pool = index[y < y.min() + 0.35 * np.ptp(y)]
        elif name[1:].isdigit():  # they settle in the body, less often in arch and processes
            z = bones.points[index, 2]
            pool = index[z > z.max() - 0.5 * np.ptp(z)]
        elif name.startswith("rib"):  # its points run from the spine to the cartilage: the front
            pool = index[len(index) // 2 :]  # half, as BS-80K boxes more from the front
        centre = bones.points[pool[rng.integers(len(pool))]]
        # Small and round, or large and irregular: BS-80K's boxes spread far beyond their median.
        blobs = int(rng.geometric(0.35) if rng.random() < 0.5 else rng.integers(10, 80))
        if blobs > 5:  # has grown into its neighbours
            index = bones.indices(*_MALIGNANT[region][1])
        # Mostly near the upper end: the median box is 20 × 23 mm.
        fwhm = float(np.clip(np.exp(rng.normal(np.log(26), 0.4)), 6, 25))
        times = float(np.clip(np.exp(rng.normal(np.log(4.5), 0.6)), 2, 25))
        times *= _RIB_GROWTH if name.startswith("rib") else 1.0
        focus = _focus(rng, bones, index, centre, fwhm, times, weight, blobs)
        spots.append(HotSpot("malignant", ABNORMAL, name, *focus))
    return spots


def diffuse(rng: np.random.Generator, bones: Skeleton, weight: np.ndarray) -> list[HotSpot]:
    """Marrow disease: whole regions of the skeleton ×1.8–4.5, evenly or in patches.

    All regions together make a superscan: the bones leave no tracer to soft tissue and kidneys.
    """
    regions = (
        ("T",), ("L",), ("sacrum", "coccyx"), ("iliumL", "ischiumL", "pubisL"),
        ("iliumR", "ischiumR", "pubisR"), ("sternum", "manubrium"), ("femurL",), ("femurR",),
        ("humerusL",), ("humerusR",), ("scapulaL", "clavicleL"), ("scapulaR", "clavicleR"),
        tuple(f"rib{i}L" for i in range(2, 12)), tuple(f"rib{i}R" for i in range(2, 12)),
    )  # fmt: skip
    spots = []
    share = rng.uniform(0.15, 1.0)
    times = float(np.clip(np.exp(rng.normal(np.log(3.0), 0.3)), 1.8, 4.5))
    patchy = rng.uniform(0.1, 1.0)
    for names in regions:
        if rng.random() > share:
            continue
        index = bones.indices(*names)
        x, y, z = bones.points[index].T
        if names[0].startswith(("femur", "humerus")):  # marrow: the upper third
            index = index[y < y.min() + 0.33 * np.ptp(y)]
            x, y, z = bones.points[index].T
        field = np.ones(len(index), np.float32)
        for _ in range(4):
            a, b, c = (rng.normal(0, 1, 3) * 2 * np.pi / rng.uniform(30, 80)).astype(np.float32)
            wave = np.sin(a * x + b * y + c * z + np.float32(rng.uniform(0, 2 * np.pi)))
            field += np.float32(0.5 * patchy) * wave
        own = (times - 1) * np.exp(rng.normal(0, 0.2)) * np.clip(field, 0, None) * weight[index]
        spots.append(HotSpot("diffuse", ABNORMAL, names[0], index, own.astype(np.float32)))
    return spots


def _site(
    rng: np.random.Generator, bones: Skeleton, row: tuple, side: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the points of the bone that a focus lies in, and its centre (3,) mm."""
    _, stem, place, scatter, _, _ = row
    if stem == "rib":  # a healed break: any rib, anywhere along it
        name = f"rib{rng.integers(2, 12)}{'LR'[side]}"
        index = np.flatnonzero(bones.bone == bones.names.index(name))
        return index, bones.points[index[rng.integers(len(index))]]
    mirror = 1 - 2 * side
    pool = bones.indices(stem)
    index = pool[bones.points[pool, 0] * mirror > -8]
    goal = np.array(place) + rng.normal(0, scatter, 3) * (0.6, 1, 0.6)
    goal[0] *= mirror
    return index, bones.points[index[((bones.points[index] - goal) ** 2).sum(1).argmin()]]


def _foci(
    rng: np.random.Generator, bones: Skeleton, weight: np.ndarray, table: tuple, rate: float,
    kind: str, label: int,
) -> list[HotSpot]:  # fmt: skip
    spots = []
    shares = np.array([row[0] for row in table])
    for chosen in rng.choice(len(shares), rng.poisson(rate), p=shares / shares.sum()):
        row = table[chosen]
        sides = [0, 1] if rng.random() < row[5] else [int(rng.integers(2))]
        usual = np.log(2.9) + rng.normal(0, 0.3)
        for side in sides:
            index, centre = _site(rng, bones, row, side)
            fwhm = (1.4 if kind == "joint" else 1.2) * row[4] * float(np.exp(rng.normal(0, 0.25)))
            times = float(np.clip(np.exp(usual + rng.normal(0, 0.15)), 1.2, 3.5))
            blobs = int(rng.integers(1, 3))
            times *= _RIB_GROWTH if row[1] == "rib" else 1.0
            focus = _focus(rng, bones, index, centre, fwhm, times, weight, blobs)
            spots.append(HotSpot(kind, label, row[1], *focus))
    return spots


def joints(
    rng: np.random.Generator, bones: Skeleton, weight: np.ndarray, rate: float
) -> list[HotSpot]:
    """Joints, sinuses, teeth that take up ×1.2–3.5 as much, mostly on both sides."""
    return _foci(rng, bones, weight, _JOINTS, rate, "joint", NORMAL)


def benign(
    rng: np.random.Generator, bones: Skeleton, weight: np.ndarray, rate: float, rule: str
) -> list[HotSpot]:
    """Facets, spurs, collapsed vertebrae, healed ribs, a worn joint of one side: ×1.2–3.5."""
    return _foci(rng, bones, weight, _BENIGN, rate, "benign", label_of("benign", rule))


class Organ(NamedTuple):
    """Activity outside the bones, in the canonical frame of `anatomy`."""

    kind: str  # kidney, bladder, urine, bag, injection
    part: str  # what it moves with: trunk or a bone of the arm
    side: int | None  # 0 left, 1 right
    points: np.ndarray  # (n, 3) mm
    activity: np.ndarray  # (n,) mm³ × relative uptake


def _kidneys(rng: np.random.Generator) -> list[Organ]:
    uptake = float(np.clip(np.exp(rng.normal(np.log(0.3), 0.5)), 0.08, 3.0))
    kidneys = []
    for side in (0, 1):
        tilt, grow = rng.normal(0.18, 0.08), rng.normal(1, 0.08)
        points, volume = ellipsoid((0, 0, 0), np.array((29, 54, 22)) * grow)
        turn(points, np.zeros(3), -tilt)
        hilum = np.exp(-((points[:, 0] + 14) ** 2 + points[:, 1] ** 2) / 14**2)
        points += (78, 586 + 12 * side + rng.normal(0, 10), 58)  # the right lies lower
        points[:, 0] *= 1 - 2 * side
        activity = volume * (1 - 0.35 * hilum) * uptake * np.exp(rng.normal(0, 0.15))
        kidneys.append(Organ("kidney", "trunk", None, points, activity))
    return kidneys


def _urine(rng: np.random.Generator, quiet: bool) -> list[Organ]:
    """Bladder, and at times the urethra or a drop on skin or clothes."""
    # Most have just voided: a flat rest behind the symphysis.
    full = not quiet and rng.random() < 0.42
    fill = float(np.exp(rng.normal(0.1, 0.25) if full else rng.normal(-0.1, 0.25)))
    centre = (rng.normal(0, 7), 886 - 16 * fill if full else rng.normal(884, 7), 122.0)
    shape = np.array((27, 21 if full else 9, 25)) * np.exp(rng.normal(0, 0.15, 3))
    points, volume = ellipsoid(centre, shape * fill)
    usual = np.log(2.6 if full else 0.8 if quiet else 1.3)
    uptake = float(np.clip(np.exp(rng.normal(usual, 1.0 if full else 0.6)), 0.3, 50))  # SUV to 50
    found = [Organ("bladder", "trunk", None, points, volume * uptake)]
    if rng.random() < (0.08 if quiet else 0.35):
        centre = (rng.normal(0, 9), rng.normal(962, 18), rng.normal(125, 15))
        points, volume = ellipsoid(centre, np.exp(rng.normal(np.log((6, 7, 5)), 0.3)))
        uptake = float(np.clip(np.exp(rng.normal(np.log(9), 0.9)), 2, 120))
        found.append(Organ("urine", "trunk", None, points, volume * uptake))
    return found


def _injection(rng: np.random.Generator) -> list[Organ]:
    """A trace of the dose left in a vein of elbow, wrist or hand, in two patients of five."""
    if rng.random() > 0.4:
        return []
    side = int(rng.integers(2))
    veins = (("radius", 600.0), ("radius", 780.0), ("hand", 870.0))
    part, y = veins[rng.choice(3, p=(0.5, 0.2, 0.3))]
    x = (158 + rng.normal(0, 12)) * (1 - 2 * side)
    centre = (x, y + rng.normal(0, 15), 85.0)
    points, volume = ellipsoid(centre, np.exp(rng.normal(np.log((5, 9, 4)), 0.35)))
    uptake = float(np.clip(np.exp(rng.normal(np.log(9), 1.2)), 1, 100))  # 0–100
    return [Organ("injection", part, side, points, volume * uptake)]


def _bag(rng: np.random.Generator) -> list[Organ]:
    """A urine bag beside a thigh or shank, with its tube, in one patient of forty."""
    if rng.random() > 0.025:
        return []
    side = int(rng.integers(2))
    mirror = 1 - 2 * side
    centre = np.array((rng.normal(150, 25), rng.uniform(1020, 1350), 60.0))
    points, volume = ellipsoid((0, 0, 0), (rng.uniform(30, 60), rng.uniform(50, 100), 18))
    turn(points, np.zeros(3), rng.normal(0, 0.3))
    path = np.array([(10, 960, 130), (70, 1000, 150), tuple(centre)], np.float64)
    line, length = tube(path, 3.0)
    uptake = float(np.exp(rng.normal(np.log(0.5), 0.8)))
    points = np.concatenate([points + centre, line]) * (mirror, 1, 1)
    return [Organ("bag", "trunk", None, points, np.concatenate([volume, length]) * uptake)]


def organs(rng: np.random.Generator, quiet: bool) -> list[Organ]:
    """Draw kidneys, bladder, urine drops and injection site.

    Args:
      rng: the patient's generator.
      quiet: the patient has just voided.
    """
    return [*_kidneys(rng), *_urine(rng, quiet), *_bag(rng), *_injection(rng)]
