"""Draws a patient's uptake: regional differences, foci, kidneys, bladder, injection site."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from bonescan_jax.phantom.anatomy import ANKLE, HIP, KNEE, SHOULDER, WRIST, Skeleton
from bonescan_jax.phantom.shapes import ellipsoid, turn
from bonescan_jax.scans import ABNORMAL, NORMAL

# Malignant foci: share of foci by bone; spine, ribs and pelvis hold 70 %.
_MALIGNANT = (
    (0.10, ("T",)), (0.10, ("L",)), (0.03, ("sacrum",)), (0.21, ("rib",)), (0.15, ("ilium",)),
    (0.11, ("ischium", "pubis")), (0.09, ("femur",)), (0.05, ("humerus",)), (0.01, ("scapula",)),
    (0.10, ("sternum", "manubrium")), (0.03, ("skull",)), (0.02, ("clavicle",)),
)  # fmt: skip
# Benign foci: share, bone, place on the left side, scatter, FWHM (mm), how often in pairs.
_BENIGN = (
    (0.07, "humerus", (156, 292, 80), 8, 15, 0.5), (0.05, "scapula", (164, 282, 78), 6, 13, 0.5),
    (0.12, "clavicle", (27, 308, 166), 3, 13, 0.6), (0.03, "ulna", (152, 590, 55), 6, 14, 0.3),
    (0.02, "hand", (158, 842, 62), 8, 14, 0.3), (0.04, "hand", (140, 885, 64), 12, 9, 0.2),
    (0.04, "femur", (108, 868, 92), 12, 15, 0.3), (0.08, "femur", (66, 1248, 64), 7, 15, 0.5),
    (0.06, "tibia", (106, 1276, 62), 7, 14, 0.3), (0.19, "patella", (86, 1236, 108), 5, 17, 0.6),
    (0.06, "foot", (80, 1650, 70), 12, 15, 0.4), (0.05, "foot", (55, 1690, 138), 4, 11, 0.4),
    (0.04, "tibia", (78, 1610, 58), 6, 14, 0.4), (0.04, "ilium", (46, 775, 44), 9, 14, 0.4),
    (0.08, "face", (19, 150, 164), 7, 14, 0.2), (0.07, "mandible", (34, 190, 135), 10, 14, 0.0),
    (0.07, "L", (22, 690, 85), 26, 18, 0.0), (0.05, "L", (17, 720, 60), 8, 15, 0.3),
    (0.04, "T", (16, 480, 62), 55, 17, 0.0), (0.05, "C", (9, 205, 92), 22, 15, 0.0),
    (0.10, "rib", (0, 0, 0), 0, 14, 0.0),
)  # fmt: skip
# Callus of a break and the new bone of a metastasis make a rib thicker: bone volume over before.
_RIB_GROWTH = 1.5
# Regions whose uptake varies together from patient to patient (log-normal).
_GROUPS = (
    ("skull",), ("face", "mandible"), ("C", "T", "L", "sacrum", "coccyx"), ("rib", "clavicle"),
    ("sternum", "manubrium"), ("scapula",), ("humerus", "radius", "ulna", "hand"),
    ("ilium", "ischium", "pubis"), ("femur",),
    ("patella",), ("tibia", "fibula"), ("foot",),
)  # fmt: skip
# Over the published uptakes of `anatomy`: what brings the region means of an anterior view near
# those of NM1, a real count image. Joints as hot as lesions would be boxed.
_CALIBRATION = {
    "skull": 0.75, "face": 0.55, "mandible": 0.45, "C": 0.7, "T": 0.8, "L": 0.75, "sacrum": 0.75,
    "rib": 0.5, "sternum": 0.7, "manubrium": 0.7, "clavicle": 0.75, "scapula": 0.8,
    "humerus": 0.85, "ilium": 0.7, "patella": 0.45, "tibia": 0.65, "foot": 0.8,
}  # fmt: skip


@dataclass(frozen=True)
class HotSpot:
    """Extra activity over the patient's ordinary uptake, on some of the patient's points."""

    kind: str  # malignant, benign, kidney, bladder, injection, urine
    label: int  # ABNORMAL or NORMAL, if it can be seen
    where: str  # bone or organ
    index: np.ndarray  # (k,) which of Body.points carry it
    excess: np.ndarray  # (k,) float32, mm³ × relative uptake over the ordinary


def bone_uptake(rng: np.random.Generator, bones: Skeleton) -> np.ndarray:
    """Return a factor per point: regions and bones differ, and no bone is even inside."""
    factor = np.exp(rng.normal(0, 0.06, len(bones.names)))
    for stem, times in _CALIBRATION.items():
        factor[[name.startswith(stem) for name in bones.names]] *= times
    for group in _GROUPS:
        spread = 0.3 if group[0] in ("skull", "foot", "face", "sternum") else 0.14
        factor[[name.startswith(group) for name in bones.names]] *= np.exp(rng.normal(0, spread))
    waves = rng.normal(0, 1, (5, 3)) * (2 * np.pi / rng.uniform(25, 90, (5, 1))) / np.sqrt(3)
    phase = rng.uniform(0, 2 * np.pi, 5)
    x, y, z = bones.points.T
    texture = np.zeros(len(x), np.float32)
    for (a, b, c), shift in zip(waves.astype(np.float32), phase.astype(np.float32), strict=True):
        texture += np.sin(a * x + b * y + c * z + shift)  # no BLAS: it may differ by machine
    return (factor[bones.bone] * (1 + 0.07 * texture)).astype(np.float32)


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
    """Metastases: 1–30 foci, ×2–10 (median 4.5) over the bone that holds them, FWHM 6–25 mm."""
    spots = []
    count = int(np.clip(np.round(np.exp(rng.normal(1.0, 0.95))), 1, 30))
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
        blobs = int(rng.geometric(0.35) if rng.random() < 0.4 else rng.integers(10, 80))
        if blobs > 5:  # has grown into its neighbours
            index = bones.indices(*_MALIGNANT[region][1])
        # Mostly near the upper end: the median box is 20 × 23 mm.
        fwhm = float(np.clip(np.exp(rng.normal(np.log(26), 0.4)), 6, 25))
        times = float(np.clip(np.exp(rng.normal(np.log(4.5), 0.45)), 2, 10))
        times *= _RIB_GROWTH if name.startswith("rib") else 1.0
        focus = _focus(rng, bones, index, centre, fwhm, times, weight, blobs)
        spots.append(HotSpot("malignant", ABNORMAL, name, *focus))
    return spots


def _benign_site(
    rng: np.random.Generator, bones: Skeleton, site: int, side: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the points of the bone that a benign focus lies in, and its centre (3,) mm."""
    _, stem, place, scatter, _, _ = _BENIGN[site]
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


def benign(
    rng: np.random.Generator, bones: Skeleton, weight: np.ndarray, rate: float
) -> list[HotSpot]:
    """Joints, facets, osteophytes, teeth, healed ribs: ×1.2–3, often on both sides."""
    spots = []
    shares = np.array([row[0] for row in _BENIGN])
    for site in rng.choice(len(shares), rng.poisson(rate), p=shares / shares.sum()):
        size, paired = _BENIGN[site][4:]
        sides = [0, 1] if rng.random() < paired else [int(rng.integers(2))]
        usual = np.log(2.9) + rng.normal(0, 0.3)
        for side in sides:
            index, centre = _benign_site(rng, bones, site, side)
            fwhm = 1.2 * size * float(np.exp(rng.normal(0, 0.25)))
            times = float(np.clip(np.exp(usual + rng.normal(0, 0.15)), 1.2, 3.5))
            blobs = int(rng.integers(1, 3))
            times *= _RIB_GROWTH if _BENIGN[site][1] == "rib" else 1.0
            focus = _focus(rng, bones, index, centre, fwhm, times, weight, blobs)
            spots.append(HotSpot("benign", NORMAL, _BENIGN[site][1], *focus))
    return spots


class Organ(NamedTuple):
    """Activity outside the bones, in the canonical frame of `anatomy`."""

    kind: str  # kidney, bladder, urine, injection
    part: str  # what it moves with: trunk or a bone of the arm
    side: int | None  # 0 left, 1 right
    points: np.ndarray  # (n, 3) mm
    activity: np.ndarray  # (n,) mm³ × relative uptake


def _kidneys(rng: np.random.Generator) -> list[Organ]:
    uptake = float(np.clip(np.exp(rng.normal(np.log(1.1), 0.5)), 0.3, 4.5))  # SUV 1–4
    kidneys = []
    for side in (0, 1):
        tilt, grow = rng.normal(0.18, 0.08), rng.normal(1, 0.08)
        points, volume = ellipsoid((0, 0, 0), np.array((23, 50, 20)) * grow)
        turn(points, np.zeros(3), -tilt)
        hilum = np.exp(-((points[:, 0] + 14) ** 2 + points[:, 1] ** 2) / 14**2)
        points += (64, 598 + 12 * side + rng.normal(0, 10), 58)  # the right lies lower
        points[:, 0] *= 1 - 2 * side
        activity = volume * (1 - 0.6 * hilum) * uptake * np.exp(rng.normal(0, 0.15))
        kidneys.append(Organ("kidney", "trunk", None, points, activity))
    return kidneys


def _urine(rng: np.random.Generator, quiet: bool) -> list[Organ]:
    """Bladder, and at times the urethra or a drop on skin or clothes."""
    fill = float(np.exp(rng.normal(0, 0.25))) * (0.55 if quiet else 1.0)
    centre = (rng.normal(0, 5), 882 - 10 * fill, 122.0)
    points, volume = ellipsoid(centre, np.array((27, 20, 25)) * fill)
    uptake = float(np.clip(np.exp(rng.normal(np.log(4.8), 1.0)), 1.0, 50))  # SUV 3–50
    uptake = min(uptake, 1.5) if quiet else uptake  # just voided
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


def organs(rng: np.random.Generator, quiet: bool) -> list[Organ]:
    """Draw kidneys, bladder, urine drops and injection site.

    Args:
      rng: the patient's generator.
      quiet: the patient has just voided.
    """
    return [*_kidneys(rng), *_urine(rng, quiet), *_injection(rng)]
