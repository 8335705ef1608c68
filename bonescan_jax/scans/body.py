"""Draws one patient: size, pose, soft tissue, organs, uptake of every bone, and the hot spots.

Works in the millimetre frame of `anatomy`; the camera in `phantom` turns the result into counts.
"""

from dataclasses import dataclass

import numpy as np

from . import ABNORMAL, HEIGHT, NORMAL, WIDTH
from .anatomy import (
    ANKLE, ELBOW, HIP, KNEE, NECK, SHOULDER, STATURE, WRIST, Skeleton, ellipsoid, skeleton,
)  # fmt: skip

PIXEL_MM = 2.26  # NM1, and BS-80K by the stature of its patients
_ARM = ("humerus", "radius", "ulna", "hand")

# Malignant foci: share of foci by bone; spine, ribs and pelvis hold 70 %.
_MALIGNANT = (
    (0.13, ("T",)), (0.12, ("L",)), (0.03, ("sacrum",)), (0.21, ("rib",)), (0.15, ("ilium",)),
    (0.06, ("ischium", "pubis")), (0.09, ("femur",)), (0.05, ("humerus",)), (0.03, ("scapula",)),
    (0.08, ("sternum", "manubrium")), (0.03, ("skull",)), (0.02, ("clavicle",)),
)  # fmt: skip
# Benign foci: share, bone, place on the left side (mm), scatter (mm), FWHM (mm), in pairs how often.
_BENIGN = (
    (0.10, "humerus", (156, 292, 80), 8, 15, 0.5), (0.07, "scapula", (164, 282, 78), 6, 13, 0.5),
    (0.10, "clavicle", (27, 308, 166), 3, 13, 0.6), (0.05, "ulna", (152, 590, 55), 6, 14, 0.3),
    (0.06, "hand", (158, 842, 62), 8, 14, 0.3), (0.04, "hand", (140, 885, 64), 12, 9, 0.2),
    (0.05, "femur", (108, 868, 92), 12, 15, 0.3), (0.11, "femur", (66, 1248, 64), 7, 15, 0.5),
    (0.06, "tibia", (106, 1276, 62), 7, 14, 0.3), (0.12, "patella", (86, 1236, 108), 5, 17, 0.6),
    (0.06, "foot", (80, 1650, 70), 12, 15, 0.4), (0.05, "foot", (55, 1690, 138), 4, 11, 0.4),
    (0.04, "tibia", (78, 1610, 58), 6, 14, 0.4), (0.04, "ilium", (46, 775, 44), 9, 14, 0.4),
    (0.06, "face", (19, 150, 164), 7, 12, 0.2), (0.06, "mandible", (34, 190, 135), 10, 11, 0.0),
    (0.07, "L", (22, 690, 85), 26, 15, 0.0), (0.05, "L", (17, 720, 60), 8, 12, 0.3),
    (0.04, "T", (16, 480, 62), 55, 13, 0.0), (0.05, "C", (9, 205, 92), 22, 12, 0.0),
    (0.10, "rib", (0, 0, 0), 0, 9, 0.0),
)  # fmt: skip
# Regions whose uptake varies together from patient to patient (log-normal).
_GROUPS = (
    ("skull",), ("face", "mandible"), ("C", "T", "L", "sacrum", "coccyx"), ("rib", "clavicle"),
    ("sternum", "manubrium"), ("scapula",), _ARM, ("ilium", "ischium", "pubis"), ("femur",),
    ("patella",), ("tibia", "fibula"), ("foot",),
)  # fmt: skip
# Soft tissue: a stack of ellipses; y, half width x, thickness z, height of the middle z (mm).
_TRUNK = (
    (205, 56, 105, 90), (232, 58, 105, 85), (256, 82, 115, 80), (276, 138, 130, 78), (300, 172, 160, 82),
    (340, 174, 195, 98), (420, 162, 215, 108), (500, 152, 218, 109), (600, 144, 205, 103), (680, 144, 198, 99),
    (760, 164, 205, 103), (850, 180, 205, 103), (910, 178, 185, 98), (948, 168, 60, 95), (956, 160, 5, 95),
)  # fmt: skip
_HEAD = ((-5, 10, 20, 96), (2, 34, 80, 96), (25, 62, 145, 96), (80, 79, 192, 98), (140, 74, 190, 100),
         (180, 62, 165, 105), (205, 50, 120, 100), (218, 30, 60, 95))  # fmt: skip
_UPPER_ARM = ((280, 20, 40, 70), (310, 48, 85, 66), (420, 48, 88, 62), (560, 40, 74, 58), (592, 42, 70, 56))
_FOREARM = ((592, 42, 70, 56), (660, 44, 66, 56), (800, 30, 44, 60), (832, 30, 40, 62))
_HAND = ((832, 30, 40, 62), (880, 38, 34, 62), (930, 36, 26, 62), (985, 26, 18, 50), (1012, 8, 8, 46))
_THIGH = ((840, 40, 80, 90), (880, 68, 130, 88), (940, 82, 165, 86), (1050, 76, 155, 82), (1180, 61, 128, 70), (1262, 55, 118, 64))
_SHANK = ((1262, 55, 118, 64), (1320, 51, 112, 60), (1380, 53, 114, 58), (1520, 39, 80, 54), (1600, 36, 78, 54), (1625, 40, 84, 54))
_FOOT = ((1605, 38, 80, 52), (1650, 42, 110, 62), (1685, 42, 90, 90), (1712, 34, 40, 140), (1724, 14, 10, 150))


@dataclass(frozen=True)
class HotSpot:
    """Extra activity over the patient's ordinary uptake, on some of the patient's points."""

    kind: str  # malignant, benign, kidney, bladder, injection, urine
    label: int  # ABNORMAL or NORMAL, if it can be seen
    where: str  # bone or organ
    index: np.ndarray  # (k,) points of Patient.points that carry it
    excess: np.ndarray  # (k,) float32, mm³ × relative uptake over the ordinary


@dataclass(frozen=True)
class Body:
    """A patient on the table; all arrays in the frame of the anterior view (patient's left at right)."""

    points: np.ndarray  # (n, 3) float32: column, row (pixels), height above the table (mm)
    weight: np.ndarray  # (n,) float32: mm³ × relative uptake, without the hot spots
    hot_spots: tuple[HotSpot, ...]
    thickness: np.ndarray  # (1024, 256) float32, soft tissue in mm
    middle: np.ndarray  # (1024, 256) float32, height of the tissue's middle above the table, mm
    lung: np.ndarray  # (1024, 256) float32, 0 … 1
    tissue: np.ndarray  # (1024, 256) float32, uptake of soft tissue; the brain takes up next to none
    field: tuple[int, int, int, int]  # scanned rows and columns: top, bottom, left, right
    stature: float  # mm
    child: bool


@dataclass(frozen=True)
class _Pose:
    """Everything that turns the canonical skeleton into this patient's."""

    stretch_y: tuple[float, ...]  # canonical landmarks → patient mm
    stretch_x: tuple[float, ...]
    depth: float
    head: float
    scoliosis: tuple[float, float]
    head_tilt: float
    tilt: float
    shift: tuple[float, float]  # mm
    arm: float  # scale of the limb
    arms: tuple[tuple[float, float, float], tuple[float, float, float]]  # left, right: radians
    shoulder_lift: tuple[float, float]
    legs: tuple[tuple[float, float, float, float], tuple[float, float, float, float]]


_LANDMARKS_Y = (-50.0, 0.0, 230.0, 560.0, 745.0, 868.0, 1262.0, 1622.0, 1800.0)
_LANDMARKS_X = (0.0, 215.0, 285.0, 450.0, 600.0, 735.0, 870.0, 1262.0, 1800.0)


def _draw_pose(rng: np.random.Generator, stature: float, child: bool) -> _Pose:
    scale = stature / STATURE
    big_head = 0.45 * (1 - scale) * scale if child else 0.0  # a child's head is nearly grown
    head = scale ** (0.35 if child else 0.7) * rng.normal(1, 0.025)
    trunk, thigh, shank = scale * rng.normal(1, 0.02, 3)
    lengths = np.diff(_LANDMARKS_Y) * (head, head, trunk, trunk, trunk, thigh, shank, scale)
    y = np.r_[0, np.cumsum(lengths)] - 50 * head
    wide = scale ** 0.8 * rng.normal(1, 0.04)
    shoulder, chest, waist, hip = wide * rng.normal(1, 0.035, 4)
    x = (head, head, shoulder, chest, chest, waist, hip, scale * rng.normal(1, 0.08), scale)
    spread = rng.normal(0, 2.0)  # legs apart, degrees
    arm_out, bend = rng.normal(8.5, 2), rng.normal(8, 4)
    arms, legs = [], []
    for _ in range(2):
        arms.append(np.deg2rad([arm_out + rng.normal(0, 2), -bend + rng.normal(0, 4), rng.normal(-3, 7)]))
        legs.append(np.deg2rad([spread + rng.normal(0, 1), rng.normal(1, 1.2), rng.normal(22, 14), rng.normal(0, 8)]))
    return _Pose(
        tuple(y), tuple(x), scale ** 0.8 * rng.normal(1, 0.05) - 0.3 * big_head, head,
        (rng.normal(0, 5) * (3 if rng.random() < 0.1 else 1), rng.uniform(0, 2 * np.pi)),
        np.deg2rad(rng.normal(0, 3)), np.deg2rad(rng.normal(0, 0.7)), (rng.normal(0, 6), 0.0),
        scale * rng.normal(1, 0.02), (tuple(arms[0]), tuple(arms[1])), tuple(rng.normal(0, 7, 2)),
        (tuple(legs[0]), tuple(legs[1])),
    )  # fmt: skip


def _turn(points: np.ndarray, pivot: np.ndarray, angle: float | np.ndarray, axes: tuple[int, int] = (0, 1)) -> None:
    """Rotate points (n, 3) in place about a pivot in the plane of two axes."""
    a, b = axes
    cos, sin = np.cos(angle, dtype=np.float32), np.sin(angle, dtype=np.float32)
    u, v = points[:, a] - pivot[a], points[:, b] - pivot[b]
    points[:, a], points[:, b] = pivot[a] + cos * u + sin * v, pivot[b] - sin * u + cos * v


def _stretch(points: np.ndarray, pose: _Pose) -> np.ndarray:
    """Size of trunk, head and legs; scoliosis; head tilt."""
    out = np.empty_like(points, dtype=np.float32)
    y = points[:, 1]
    out[:, 0] = points[:, 0] * np.interp(y, _LANDMARKS_X, pose.stretch_x)
    out[:, 1] = np.interp(y, _LANDMARKS_Y, pose.stretch_y)
    out[:, 2] = points[:, 2] * np.where(y < 230, pose.head, pose.depth)
    along = np.clip((y - 240) / 600, 0, 1)
    out[:, 0] += pose.scoliosis[0] * np.sin(np.pi * along) * np.sin(4 * along + pose.scoliosis[1])
    neck = np.array([[0, np.interp(NECK[1], _LANDMARKS_Y, pose.stretch_y), NECK[2]]], np.float32)[0]
    high = np.flatnonzero(y < 250)
    head = out[high]
    _turn(head, neck, pose.head_tilt * np.clip((250 - y[high]) / 90, 0, 1))
    out[high] = head
    return out


def _pose_arm(points: np.ndarray, part: str, side: int, pose: _Pose) -> np.ndarray:
    """Swing an arm's points about wrist, elbow and shoulder, then hang them on the trunk."""
    out = points.astype(np.float32)
    mirror = 1 if side == 0 else -1
    shoulder, elbow, wrist = ((np.array(j, np.float32) * (mirror, 1, 1)) for j in (SHOULDER, ELBOW, WRIST))
    out[:, :] = shoulder + (out - shoulder) * pose.arm
    elbow, wrist = shoulder + (elbow - shoulder) * pose.arm, shoulder + (wrist - shoulder) * pose.arm
    outward, bend, hand = pose.arms[side]
    if part == "hand":
        _turn(out, wrist, mirror * hand)
    if part in ("hand", "radius", "ulna"):
        _turn(out, elbow, mirror * bend)
    _turn(out, shoulder, mirror * outward)
    hung = _stretch(shoulder[None], pose)[0]
    return out + (hung - shoulder) + np.array([0, pose.shoulder_lift[side], 0], np.float32)


def _pose_leg(points: np.ndarray, part: str, side: int, pose: _Pose) -> np.ndarray:
    out = _stretch(points, pose)
    mirror = 1 if side == 0 else -1
    joints = np.array([HIP, KNEE, ANKLE], np.float32) * (mirror, 1, 1)
    hip, knee, ankle = _stretch(joints, pose)
    apart, bow, foot, point = pose.legs[side]
    if part == "foot":
        _turn(out, ankle, mirror * foot, (0, 2))
        _turn(out, ankle, point, (2, 1))
    if part in ("foot", "tibia", "fibula"):
        _turn(out, knee, -mirror * bow)
    _turn(out, hip, mirror * apart * 0.5)
    return out


def _place(points: np.ndarray, part: str, pose: _Pose, side: int | None = None) -> np.ndarray:
    """Pose the points (n, 3) of one part; side 0 is the left, 1 the right."""
    if part in _ARM and side is not None:
        out = _pose_arm(points, part, side, pose)
    elif part in ("femur", "tibia", "fibula", "patella", "foot") and side is not None:
        out = _pose_leg(points, part, side, pose)
    else:
        out = _stretch(points, pose)
        if part in ("scapula", "clavicle") and side is not None:  # follow the shoulder
            out[:, 1] += pose.shoulder_lift[side] * np.clip(np.abs(points[:, 0]) / 158, 0, 1)
    _turn(out, np.array([0, 800, 0], np.float32), pose.tilt)
    return out


def _place_skeleton(bones: Skeleton, pose: _Pose) -> np.ndarray:
    """Pose all bones; the parts that share a joint go together."""
    out = np.empty_like(bones.points)
    code = _part_codes(bones)
    for (part, side), number in _part_numbers(bones).items():
        chosen = np.flatnonzero(code == number)
        out[chosen] = _place(bones.points[chosen], part, pose, side)
    return out


def _part_of(name: str) -> tuple[str, int | None]:
    """Return the posed part and side of a bone: trunk bones are one part."""
    stem = name[:-1]
    if stem in (*_ARM, "femur", "tibia", "fibula", "patella", "foot", "scapula", "clavicle"):
        return stem, 0 if name[-1] == "L" else 1
    return "trunk", None


def _part_numbers(bones: Skeleton) -> dict[tuple[str, int | None], int]:
    parts = sorted({_part_of(name) for name in bones.names}, key=str)
    return {part: number for number, part in enumerate(parts)}


def _part_codes(bones: Skeleton) -> np.ndarray:
    numbers = _part_numbers(bones)
    return np.array([numbers[_part_of(name)] for name in bones.names])[bones.bone]


# ---------------------------------------------------------------------------------- soft tissue


def _rows_of(stack: tuple[tuple[float, ...], ...], part: str, pose: _Pose, side: int | None, axis_x: tuple[float, float]) -> np.ndarray:
    """Pose a stack of ellipses: (k, 5) of y, x, half width, thickness, middle."""
    table = np.array(stack, float)
    mirror = 1 if side in (0, None) else -1
    x = np.interp(table[:, 0], table[[0, -1], 0], axis_x) * mirror
    posed = _place(np.c_[x, table[:, 0], table[:, 3]], part, pose, side)
    return np.c_[posed[:, 1], posed[:, 0], table[:, 1], table[:, 2], posed[:, 2]]


def _soft_tissue(pose: _Pose, top: float, girth: float, flesh: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return thickness and middle height of the soft tissue on the anterior pixel grid, mm.

    Args:
      pose: the patient's pose.
      top: row of the vertex.
      girth: thickness of trunk and limbs relative to the skeleton's size.
      flesh: (3,) further factors for trunk, arms and legs.
    """
    trunk, arm, leg = girth ** np.array((1.0, 0.6, 0.8)) * flesh
    size = pose.stretch_x[3]
    stacks = [(_rows_of(_TRUNK, "trunk", pose, None, (0, 0)), trunk, 2.6), (_rows_of(_HEAD, "trunk", pose, None, (0, 0)), pose.head / size, 2.2)]
    for side in range(2):
        stacks += [
            (_rows_of(_UPPER_ARM, "humerus", pose, side, (158, 158)), arm, 2.0),
            (_rows_of(_FOREARM, "radius", pose, side, (158, 158)), arm, 2.0),
            (_rows_of(_HAND, "hand", pose, side, (158, 158)), arm**0.3, 2.0),
            (_rows_of(_THIGH, "femur", pose, side, (98, 86)), leg, 2.0),
            (_rows_of(_SHANK, "tibia", pose, side, (88, 82)), leg**0.8, 2.0),
            (_rows_of(_FOOT, "foot", pose, side, (80, 80)), 1.0, 2.0),
        ]
    thickness = np.zeros((HEIGHT, WIDTH), np.float32)
    middle = np.full((HEIGHT, WIDTH), 90, np.float32)
    x = ((np.arange(WIDTH) - (WIDTH - 1) / 2) * PIXEL_MM).astype(np.float32)
    for table, fat, power in stacks:
        table = table[np.argsort(table[:, 0])]
        first, last = np.clip(np.array([table[0, 0], table[-1, 0]]) / PIXEL_MM + top, 0, HEIGHT).astype(int)
        y = (np.arange(first, last) - top) * PIXEL_MM
        centre, half, deep, mid = (np.interp(y, table[:, 0], table[:, k])[:, None].astype(np.float32) for k in range(1, 5))
        half, deep = half * size * fat, deep * size * (0.4 + 0.6 * fat)
        u = np.abs(x - centre) / half
        t = deep * np.sqrt(np.clip(1 - u**power, 0, 1))
        new = t > thickness[first:last]
        np.copyto(thickness[first:last], t, where=new)
        np.copyto(middle[first:last], np.broadcast_to(np.maximum(mid, deep / 2 * 0.95), t.shape), where=new)
    return thickness, middle


def _brainless(pose: _Pose, top: float) -> np.ndarray:
    """Return the uptake of soft tissue relative to muscle: 1, in the cranium 0.25."""
    x, y, _ = (_place(np.array([[0, 78, 96]], np.float32), "trunk", pose)[0] / PIXEL_MM).tolist()
    rows, columns = np.ogrid[:HEIGHT, :WIDTH]
    x, y, size = x + (WIDTH - 1) / 2, y + top, pose.head / PIXEL_MM
    far = ((columns - x) / (68 * size)) ** 2 + ((rows - y) / (74 * size)) ** 2
    return (1 - 0.75 * np.clip(3 * (1 - far), 0, 1)).astype(np.float32)


def _lungs(pose: _Pose, top: float) -> np.ndarray:
    """Return how much of the path is lung (it attenuates a third of soft tissue), 0 … 1."""
    y = (np.arange(HEIGHT) - top) * PIXEL_MM
    first, last = np.interp((285, 545), _LANDMARKS_Y, pose.stretch_y)
    along = np.clip(np.minimum((y - first) / 60, (last - y) / 40), 0, 1)[:, None]
    x = (np.arange(WIDTH) - (WIDTH - 1) / 2) * PIXEL_MM / pose.stretch_x[3]
    across = np.clip(np.minimum((np.abs(x) - 18) / 25, (132 - np.abs(x)) / 25), 0, 1)
    return (along * across * np.where(x > 0, 0.75, 1.0)).astype(np.float32)  # the heart lies left


# ---------------------------------------------------------------------------------- uptake


def _bone_uptake(rng: np.random.Generator, bones: Skeleton) -> np.ndarray:
    """Return a factor per point: regions and bones differ, and no bone is even inside."""
    factor = np.exp(rng.normal(0, 0.06, len(bones.names)))
    for group in _GROUPS:
        spread = 0.3 if group[0] in ("skull", "patella", "foot", "face", "sternum") else 0.14
        factor[[name.startswith(group) for name in bones.names]] *= np.exp(rng.normal(0, spread))
    waves = rng.normal(0, 1, (5, 3)) * (2 * np.pi / rng.uniform(25, 90, (5, 1))) / np.sqrt(3)
    phase = rng.uniform(0, 2 * np.pi, 5)
    texture = np.sin(bones.points @ waves.T.astype(np.float32) + phase.astype(np.float32)).sum(1)
    return (factor[bones.bone] * (1 + 0.07 * texture)).astype(np.float32)


def _growth_plates(bones: Skeleton) -> np.ndarray:
    """Return ×4 at the growth plates of a child's long bones (BS-80K's id 1240), 1 elsewhere."""
    plates = (("femur", HIP[1] + 12), ("femur", KNEE[1] - 42), ("tibia", KNEE[1] + 28), ("tibia", ANKLE[1] - 22),
              ("humerus", SHOULDER[1] + 20), ("radius", WRIST[1] - 18), ("ulna", WRIST[1] - 18), ("fibula", KNEE[1] + 45))  # fmt: skip
    factor = np.ones(len(bones.points), np.float32)
    for bone, y in plates:
        index = bones.indices(bone)
        factor[index] += 3 * np.exp(-0.5 * ((bones.points[index, 1] - y) / 4.5) ** 2)
    return factor


def _focus(rng: np.random.Generator, bones: Skeleton, index: np.ndarray, centre: np.ndarray, fwhm: float, times: float, weight: np.ndarray, blobs: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the points of a focus and their excess: a few overlapping lopsided blobs within one bone."""
    away = bones.points[index] - centre
    near = np.linalg.norm(away, axis=1) < (1.6 + 0.8 * np.sqrt(blobs)) * fwhm
    index, away = index[near], away[near]
    field = np.zeros(len(index), np.float32)
    for blob in range(blobs):
        sigma = fwhm / 2.355 * np.exp(rng.normal(0, 0.25, 3)) * (1.0 if blob == 0 else 0.7)
        offset = 0 if blob == 0 else rng.normal(0, 0.4 * fwhm * np.sqrt(blob), 3)
        field = np.maximum(field, np.exp(-0.5 * (((away - offset) / sigma) ** 2).sum(1)))
    return index, ((times - 1) * field * weight[index]).astype(np.float32)


def _malignant(rng: np.random.Generator, bones: Skeleton, weight: np.ndarray) -> list[HotSpot]:
    """Metastases: 1–30 foci, ×2–10 (median 4.5) over the bone that holds them, FWHM 6–25 mm."""
    spots = []
    count = int(np.clip(np.round(np.exp(rng.normal(1.4, 0.9))), 1, 30))
    shares = np.array([share for share, _ in _MALIGNANT])
    for region in rng.choice(len(shares), count, p=shares / shares.sum()):
        names = [n for n in bones.names if n.startswith(_MALIGNANT[region][1])]
        name = names[rng.integers(len(names))]
        index = np.flatnonzero(bones.bone == bones.names.index(name))
        centre = bones.points[index[rng.integers(len(index))]]
        if name[1:].isdigit():  # a vertebra: rather in the body than at the tip of a process
            centre = 0.5 * (centre + bones.points[index].mean(0))
        blobs = int(np.clip(rng.geometric(0.2), 1, 18))  # the larger, the more irregular
        if blobs > 5:  # has grown into its neighbours
            index = bones.indices(*_MALIGNANT[region][1])
        fwhm = float(np.clip(np.exp(rng.normal(np.log(20), 0.4)), 6, 25))
        times = float(np.clip(np.exp(rng.normal(np.log(4.5), 0.45)), 2, 10))
        spots.append(HotSpot("malignant", ABNORMAL, name, *_focus(rng, bones, index, centre, fwhm, times, weight, blobs)))
    return spots


def _benign(rng: np.random.Generator, bones: Skeleton, weight: np.ndarray, rate: float) -> list[HotSpot]:
    """Joints, facets, osteophytes, teeth, healed ribs: ×1.2–3, often on both sides."""
    spots = []
    shares = np.array([row[0] for row in _BENIGN])
    for site in rng.choice(len(shares), rng.poisson(rate), p=shares / shares.sum()):
        _, stem, place, scatter, size, paired = _BENIGN[site]
        sides = [0, 1] if rng.random() < paired else [int(rng.integers(2))]
        times = float(np.clip(np.exp(rng.normal(np.log(2.5), 0.35)), 1.2, 4.0))
        for side in sides:
            mirror = 1 - 2 * side
            if stem == "rib":
                name = f"rib{rng.integers(2, 12)}{'LR'[side]}"
                index = np.flatnonzero(bones.bone == bones.names.index(name))
                centre = bones.points[index[rng.integers(len(index))]]
            else:
                pool = bones.indices(stem)
                index = pool[bones.points[pool, 0] * mirror > -8]
                goal = (np.array(place) + rng.normal(0, scatter, 3) * (0.6, 1, 0.6)) * (mirror, 1, 1)
                centre = bones.points[index[((bones.points[index] - goal) ** 2).sum(1).argmin()]]
            fwhm = 1.06 * size * float(np.exp(rng.normal(0, 0.25)))
            strength = 1 + (times - 1) * float(np.exp(rng.normal(0, 0.25)))
            spots.append(HotSpot("benign", NORMAL, stem, *_focus(rng, bones, index, centre, fwhm, strength, weight, int(rng.integers(1, 3)))))
    return spots


def _organs(rng: np.random.Generator, quiet: bool) -> list[tuple[str, str, int | None, np.ndarray, np.ndarray]]:
    """Kidneys, bladder, injection site, urine drops: kind, part, side, points (mm), activity."""
    organs = []
    kidney = float(np.clip(np.exp(rng.normal(np.log(1.1), 0.5)), 0.3, 4.5))  # SUV 1–4
    for side, mirror in ((0, 1), (1, -1)):
        tilt, grow = rng.normal(0.18, 0.08), rng.normal(1, 0.08)
        points, volume = ellipsoid((0, 0, 0), np.array((23, 50, 20)) * grow)
        _turn(points, np.zeros(3), -tilt)
        hollow = 1 - 0.6 * np.exp(-((points[:, 0] + 14) ** 2 + points[:, 1] ** 2) / 14**2)  # the hilum
        points = (points + (64, 598 + 12 * side + rng.normal(0, 10), 58)) * (mirror, 1, 1)
        organs.append(("kidney", "trunk", None, points, volume * hollow * kidney * np.exp(rng.normal(0, 0.15))))
    fill = float(np.exp(rng.normal(0, 0.25)))
    points, volume = ellipsoid((rng.normal(0, 5), 882 - 10 * fill, 122), np.array((27, 20, 25)) * fill)
    urine = float(np.clip(np.exp(rng.normal(np.log(4.2), 1.0)), 1.0, 50))  # SUV 3–50, less just after voiding
    urine = min(urine, 3.0) if quiet else urine
    organs.append(("bladder", "trunk", None, points, volume * urine))
    if rng.random() < (0.08 if quiet else 0.35):  # urethra, or a drop on skin or clothes
        centre = (rng.normal(0, 9), rng.normal(962, 18), rng.normal(125, 15))
        points, volume = ellipsoid(centre, np.exp(rng.normal(np.log((6, 7, 5)), 0.3)))
        organs.append(("urine", "trunk", None, points, volume * np.clip(np.exp(rng.normal(np.log(9), 0.9)), 2, 120)))
    if rng.random() < 0.4:  # a trace of the dose left in a vein
        side = int(rng.integers(2))
        part, y = (("radius", 600.0), ("radius", 780.0), ("hand", 870.0))[rng.choice(3, p=(0.5, 0.2, 0.3))]
        centre = np.array((158 + rng.normal(0, 12), y + rng.normal(0, 15), 85.0)) * (1 - 2 * side, 1, 1)
        points, volume = ellipsoid(centre, np.exp(rng.normal(np.log((5, 9, 4)), 0.35)))
        organs.append(("injection", part, side, points, volume * np.clip(np.exp(rng.normal(np.log(9), 1.2)), 1, 100)))
    return organs


def draw_body(rng: np.random.Generator) -> Body:
    """Draw one patient.

    Args:
      rng: the patient's own generator; the result is a function of its state alone.
    """
    bones = skeleton()
    child = bool(rng.random() < 0.02)
    stature = float(rng.uniform(1000, 1500) if child else np.clip(rng.normal(1640, 95), 1400, 1930))
    pose = _draw_pose(rng, stature, child)
    points = _place_skeleton(bones, pose)
    weight = bones.weight * _bone_uptake(rng, bones)
    if child:
        weight = weight * _growth_plates(bones)
    spots: list[HotSpot] = []
    if rng.random() < (0.05 if child else 0.35):
        spots += _malignant(rng, bones, weight)
    quiet = child or rng.random() < 0.38  # young, just voided: every fifth posterior view has no spot
    spots += _benign(rng, bones, weight, 0.5 if quiet else rng.gamma(1.3, 7.0))
    posed, activity = [points], [weight]
    start = len(points)
    for kind, part, side, where, amount in _organs(rng, quiet):
        posed.append(_place(where, part, pose, side))
        activity.append(np.zeros(len(where), np.float32))
        index = np.arange(start, start + len(where))
        start += len(where)
        spots.append(HotSpot(kind, NORMAL, kind, index, amount.astype(np.float32)))
    cloud = np.concatenate(posed).astype(np.float32)
    height = stature / PIXEL_MM
    top = float(np.clip(rng.normal(52, 14), 22, max(24, HEIGHT - 60 - height)))
    cloud[:, 0] = (cloud[:, 0] + pose.shift[0]) / PIXEL_MM + (WIDTH - 1) / 2
    cloud[:, 1] = cloud[:, 1] / PIXEL_MM + top
    girth = float(np.clip(np.exp(rng.normal(0, 0.09)), 0.85, 1.3))
    thickness, middle = _soft_tissue(pose, top, girth, np.exp(rng.normal(0, 0.05, 3)))
    edge = int(rng.integers(0, 14))
    field = (int(max(0, top - rng.uniform(12, 40))), int(min(HEIGHT, cloud[:, 1].max() + rng.uniform(12, 60))), edge, WIDTH - edge)
    tissue = 0.088 * float(np.exp(rng.normal(0, 0.25)))  # ±40 % from patient to patient
    return Body(cloud, np.concatenate(activity), tuple(spots), thickness, middle, _lungs(pose, top), tissue * _brainless(pose, top), field, stature, child)
