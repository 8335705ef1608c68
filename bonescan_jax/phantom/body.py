"""Draws one patient: size, pose, soft tissue, and tracer uptake.

Works in the millimetre frame of `anatomy`; `camera` and `patient` turn the result into counts.
"""

from dataclasses import dataclass

import numpy as np

from bonescan_jax.phantom.anatomy import (
    ANKLE,
    ELBOW,
    HIP,
    KNEE,
    NECK,
    SHOULDER,
    STATURE,
    WRIST,
    Skeleton,
    skeleton,
)
from bonescan_jax.phantom.ordinary import bone_uptake, growth_plates
from bonescan_jax.phantom.shapes import turn
from bonescan_jax.phantom.uptake import (
    HotSpot,
    benign,
    diffuse,
    joints,
    malignant,
    organs,
)
from bonescan_jax.scans import HEIGHT, NORMAL, WIDTH

# BS-80K's files do not say how large pixels are, but two cameras can be told apart: chest crops of
# patients up to number 700 are 156 pixels high and those from 800 on 175, and as much wider and, at
# the same sum of grey, dimmer. Adults of 1.62 m are 690 pixels long with the first.
PIXELS_MM = (2.4, 2.14)
SECOND_CAMERA = 0.35  # its share of patients; of BS-80K's it is three quarters
PIXEL_MM = PIXELS_MM[0]
_ARM = ("humerus", "radius", "ulna", "hand")

# Soft tissue: a stack of ellipses; y, half width x, thickness z, height of the middle z (mm).
# fmt: off
_TRUNK = (
    (205, 56, 105, 90), (222, 78, 110, 85), (240, 125, 120, 80), (260, 160, 150, 80),
    (296, 174, 176, 86), (340, 174, 195, 98), (420, 162, 215, 108), (500, 152, 218, 109),
    (600, 144, 205, 103), (680, 144, 198, 99), (760, 164, 205, 103), (850, 180, 205, 103),
    (910, 178, 185, 98), (948, 168, 60, 95), (956, 160, 5, 95),
)
_HEAD = (
    (-5, 10, 20, 96), (2, 34, 80, 96), (25, 62, 145, 96), (80, 79, 192, 98),
    (140, 74, 190, 100), (180, 62, 165, 105), (205, 50, 120, 100), (218, 30, 60, 95),
)
_UPPER_ARM = (
    (280, 22, 36, 70), (310, 52, 62, 66), (420, 52, 62, 62), (560, 44, 54, 58),
    (592, 44, 50, 56),
)
_FOREARM = (
    (592, 44, 50, 56), (660, 45, 48, 56), (800, 32, 36, 60), (832, 31, 34, 62),
)
_HAND = (
    (832, 30, 40, 62), (880, 38, 34, 62), (930, 36, 26, 62), (985, 26, 18, 50),
    (1012, 8, 8, 46),
)
_THIGH = (
    (840, 44, 80, 90), (880, 78, 130, 88), (940, 95, 165, 86), (1050, 90, 150, 82),
    (1180, 70, 124, 70), (1262, 55, 118, 64),
)
_SHANK = (
    (1262, 55, 118, 64), (1320, 51, 112, 60), (1380, 53, 114, 58), (1520, 39, 80, 54),
    (1600, 36, 78, 54), (1625, 40, 84, 54),
)
_FOOT = (
    (1605, 38, 80, 52), (1650, 42, 110, 62), (1685, 42, 90, 90), (1712, 34, 40, 140),
    (1724, 14, 10, 150),
)
# fmt: on


@dataclass(frozen=True)
class Body:
    """A patient on the table, in the frame of the anterior view (patient's left at right)."""

    points: np.ndarray  # (n, 3) float32: column, row (pixels), height above the table (mm)
    weight: np.ndarray  # (n,) float32: mm³ × relative uptake, without the hot spots
    hot_spots: tuple[HotSpot, ...]
    thickness: np.ndarray  # (1024, 256) float32, soft tissue in mm
    middle: np.ndarray  # (1024, 256) float32, height of the tissue's middle above the table, mm
    lung: np.ndarray  # (1024, 256) float32, 0 … 1
    tissue: (
        np.ndarray
    )  # (1024, 256) float32, uptake of soft tissue; the brain takes up next to none
    field: tuple[int, int, int, int]  # scanned rows and columns: top, bottom, left, right
    stature: float  # mm
    child: bool
    gap: float  # mm from the skin to the detector in front; behind there is the table, too
    pixel: float  # mm
    pose: "_Pose"
    vertex: float  # row of the top of the head

    def locate(self, points: np.ndarray, part: str, side: int | None = None) -> np.ndarray:
        """Return where points of the canonical frame lie in this patient.

        Args:
          points: (n, 3) mm in the frame of `anatomy`, on the right side with x < 0.
          part: what they move with: "trunk" or a bone of a limb, such as "femur".
          side: 0 left, 1 right; None for the trunk.

        Returns:
          (n, 3) column, row (pixels of the anterior view), height above the table (mm).
        """
        return _to_pixels(_place(points, part, self.pose, side), self.pose, self.vertex)


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
    pixel: float  # mm
    roll: float  # radians: the trunk turned about its long axis
    head_turn: float


_LANDMARKS_Y = (-50.0, 0.0, 230.0, 560.0, 700.0, 930.0, 1262.0, 1622.0, 1800.0)
# Lengths between them in BS-80K over the canonical ones: it shows the pelvis, which is tilted,
# foreshortened.
_LENGTHS = (1.0, 1.0, 0.975, 0.84, 0.81, 1.09, 1.065, 1.08)
_LANDMARKS_X = (0.0, 215.0, 285.0, 450.0, 600.0, 735.0, 870.0, 1262.0, 1800.0)


def _draw_pose(rng: np.random.Generator, stature: float, child: bool, pixel: float) -> _Pose:
    scale = stature / STATURE
    big_head = 0.45 * (1 - scale) * scale if child else 0.0  # a child's head is nearly grown
    head = scale ** (0.35 if child else 0.7) * rng.normal(1.02, 0.04)
    trunk, thigh, shank = scale * rng.normal(1, 0.02, 3)
    lengths = np.diff(_LANDMARKS_Y) * _LENGTHS
    lengths *= (head, head, trunk, trunk, trunk, thigh, shank, scale)
    y = np.r_[0, np.cumsum(lengths)] - 50 * head
    wide = scale**0.8 * rng.normal(1, 0.04)
    shoulder, chest, waist, hip = wide * rng.normal(1, 0.035, 4)
    x = (head, head, shoulder, chest, chest, waist, hip, scale * rng.normal(1, 0.08), scale)
    spread = rng.normal(0, 2.0)  # legs apart, degrees
    arm_out, bend = rng.normal(11, 2.2), rng.normal(12.5, 4.5)
    arms, legs = [], []
    for _ in range(2):
        arms.append(
            np.deg2rad([arm_out + rng.normal(0, 2), -bend + rng.normal(0, 4), rng.normal(-3, 7)])
        )
        legs.append(
            np.deg2rad(
                [
                    spread + rng.normal(0, 1),
                    rng.normal(1, 1.2),
                    rng.normal(22, 14),
                    rng.normal(0, 8),
                ]
            )
        )
    if rng.random() < 0.12:  # one arm lies otherwise: away, or bent over the belly
        odd = int(rng.integers(2))
        away = rng.uniform(0, 18) if rng.random() < 0.5 else 0.0
        arms[odd] = arms[odd] + np.deg2rad([away, 0 if away else -rng.uniform(10, 45), 0])
    careless = 3.0 if rng.random() < 0.08 else 1.0  # how askew the patient lies
    return _Pose(
        tuple(y), tuple(x), scale ** 0.8 * rng.normal(1, 0.05) - 0.3 * big_head, head,
        (rng.normal(0, 4) * (3 if rng.random() < 0.1 else 1), rng.uniform(0, 2 * np.pi)),
        np.deg2rad(rng.normal(0, 3)), np.deg2rad(careless * rng.normal(0, 0.9)),
        (rng.normal(0, 6), 0.0),
        0.93 * scale * rng.normal(1, 0.02), (tuple(arms[0]), tuple(arms[1])),
        tuple(rng.normal(-22, 9) + rng.normal(0, 7, 2)),
        (tuple(legs[0]), tuple(legs[1])), pixel, np.deg2rad(careless * rng.normal(0, 1.8)),
        np.deg2rad(rng.normal(0, 6) * (2.2 if rng.random() < 0.15 else 1)),
    )  # fmt: skip


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
    turn(head, neck, pose.head_tilt * np.clip((250 - y[high]) / 90, 0, 1))
    out[high] = head
    return out


def _pose_arm(points: np.ndarray, part: str, side: int, pose: _Pose) -> np.ndarray:
    """Swing an arm's points about wrist, elbow and shoulder, then hang them on the trunk."""
    out = points.astype(np.float32)
    mirror = 1 if side == 0 else -1
    shoulder, elbow, wrist = (
        (np.array(j, np.float32) * (mirror, 1, 1)) for j in (SHOULDER, ELBOW, WRIST)
    )
    out[:, :] = shoulder + (out - shoulder) * pose.arm
    elbow, wrist = (
        shoulder + (elbow - shoulder) * pose.arm,
        shoulder + (wrist - shoulder) * pose.arm,
    )
    outward, bend, hand = pose.arms[side]
    if part == "hand":
        turn(out, wrist, mirror * hand)
    if part in ("hand", "radius", "ulna"):
        turn(out, elbow, mirror * bend)
    turn(out, shoulder, mirror * outward)
    hung = _stretch(shoulder[None], pose)[0]
    return out + (hung - shoulder) + np.array([0, pose.shoulder_lift[side], 0], np.float32)


def _pose_leg(points: np.ndarray, part: str, side: int, pose: _Pose) -> np.ndarray:
    out = _stretch(points, pose)
    mirror = 1 if side == 0 else -1
    joints = np.array([HIP, KNEE, ANKLE], np.float32) * (mirror, 1, 1)
    hip, knee, ankle = _stretch(joints, pose)
    apart, bow, foot, point = pose.legs[side]
    if part == "foot":
        turn(out, ankle, mirror * foot, (0, 2))
        turn(out, ankle, point, (2, 1))
    if part in ("foot", "tibia", "fibula"):
        turn(out, knee, -mirror * bow)
    turn(out, hip, mirror * apart * 0.5)
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
    if side is None or part in ("scapula", "clavicle"):
        axis = np.array([0, 0, 75], np.float32)
        turned = pose.roll + pose.head_turn * np.clip((250 - points[:, 1]) / 60, 0, 1)
        turn(out, axis, turned.astype(np.float32), (0, 2))
    turn(out, np.array([0, 800, 0], np.float32), pose.tilt)
    return out


def _to_pixels(points: np.ndarray, pose: _Pose, vertex: float) -> np.ndarray:
    """Turn posed points (n, 3) in mm into column, row (pixels) and height above the table (mm)."""
    return np.stack([
        (points[:, 0] + pose.shift[0]) / pose.pixel + (WIDTH - 1) / 2,
        points[:, 1] / pose.pixel + vertex,
        points[:, 2],
    ], 1).astype(np.float32)  # fmt: skip


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


def _rows_of(
    stack: tuple[tuple[float, ...], ...],
    part: str,
    pose: _Pose,
    side: int | None,
    axis_x: tuple[float, float],
) -> np.ndarray:
    """Pose a stack of ellipses: (k, 5) of y, x, half width, thickness, middle."""
    table = np.array(stack, float)
    mirror = 1 if side in (0, None) else -1
    x = np.interp(table[:, 0], table[[0, -1], 0], axis_x) * mirror
    posed = _place(np.c_[x, table[:, 0], table[:, 3]], part, pose, side)
    return np.c_[posed[:, 1], posed[:, 0], table[:, 1], table[:, 2], posed[:, 2]]


def _soft_tissue(
    pose: _Pose, top: float, girth: float, flesh: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return thickness and middle height of the soft tissue on the anterior pixel grid, mm.

    Args:
      pose: the patient's pose.
      top: row of the vertex.
      girth: thickness of trunk and limbs relative to the skeleton's size.
      flesh: (3,) further factors for trunk, arms and legs.
    """
    trunk, arm, leg = girth ** np.array((1.0, 0.6, 0.8)) * flesh * (0.99, 0.84, 0.94)
    size = pose.stretch_x[3]
    stacks = [
        (_rows_of(_TRUNK, "trunk", pose, None, (0, 0)), trunk, 2.0),
        (_rows_of(_HEAD, "trunk", pose, None, (0, 0)), pose.head / size, 2.2),
    ]
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
    x = ((np.arange(WIDTH) - (WIDTH - 1) / 2) * pose.pixel).astype(np.float32)
    for stack, fat, power in stacks:
        table = stack[np.argsort(stack[:, 0])]
        first, last = np.clip(
            np.array([table[0, 0], table[-1, 0]]) / pose.pixel + top, 0, HEIGHT
        ).astype(int)
        y = (np.arange(first, last) - top) * pose.pixel
        centre, half, deep, mid = (
            np.interp(y, table[:, 0], table[:, k])[:, None].astype(np.float32) for k in range(1, 5)
        )
        half, deep = half * size * fat, deep * size * (0.4 + 0.6 * fat)
        u = np.abs(x - centre) / half
        t = deep * np.sqrt(np.clip(1 - u**power, 0, 1))
        new = t > thickness[first:last]
        np.copyto(thickness[first:last], t, where=new)
        np.copyto(
            middle[first:last],
            np.broadcast_to(np.maximum(mid, deep / 2 * 0.95), t.shape),
            where=new,
        )
    return thickness, middle


def _brainless(pose: _Pose, top: float) -> np.ndarray:
    """Return the uptake of soft tissue relative to muscle: 1, in the cranium 0.25."""
    x, y, _ = (_place(np.array([[0, 78, 96]], np.float32), "trunk", pose)[0] / pose.pixel).tolist()
    rows, columns = np.ogrid[:HEIGHT, :WIDTH]
    x, y, size = x + (WIDTH - 1) / 2, y + top, pose.head / pose.pixel
    far = ((columns - x) / (68 * size)) ** 2 + ((rows - y) / (74 * size)) ** 2
    return (1 - 0.75 * np.clip(3 * (1 - far), 0, 1)).astype(np.float32)


def _viscera(pose: _Pose, top: float) -> np.ndarray:
    """Return the uptake relative to muscle of what lies around the spine: blood, liver, gut."""
    y = (np.arange(HEIGHT) - top) * pose.pixel
    first, last = np.interp((140, 740), _LANDMARKS_Y, pose.stretch_y)
    along = np.clip(np.minimum((y - first) / 80, (last - y) / 80), 0, 1)[:, None]
    x = (np.arange(WIDTH) - (WIDTH - 1) / 2) * pose.pixel / pose.stretch_x[3]
    across = np.clip((120 - np.abs(x)) / 50, 0, 1)
    return (1 + 0.5 * along * across).astype(np.float32)


def _lungs(pose: _Pose, top: float) -> np.ndarray:
    """Return how much of the path is lung (it attenuates a third of soft tissue), 0 … 1."""
    y = (np.arange(HEIGHT) - top) * pose.pixel
    first, last = np.interp((285, 545), _LANDMARKS_Y, pose.stretch_y)
    along = np.clip(np.minimum((y - first) / 60, (last - y) / 40), 0, 1)[:, None]
    x = (np.arange(WIDTH) - (WIDTH - 1) / 2) * pose.pixel / pose.stretch_x[3]
    across = np.clip(np.minimum((np.abs(x) - 18) / 25, (132 - np.abs(x)) / 25), 0, 1)
    return (along * across * np.where(x > 0, 0.75, 1.0)).astype(np.float32)  # the heart lies left


def _draw_foci(
    rng: np.random.Generator,
    bones: Skeleton,
    weight: np.ndarray,
    child: bool,
    quiet: bool,
    rule: str,
) -> tuple[list[HotSpot], float]:
    """Draw the patient's hot spots within bones; how often is BS-80K's (docs/phantom.md).

    Returns:
      Hot spots, and the share of the skeleton that is diseased marrow.
    """
    ill = rng.random()
    spots = diffuse(rng, bones, weight) if not child and ill < 0.012 else []
    superscan = len(spots) / 14
    if ill < (0.05 if child else 0.4):
        spots += malignant(rng, bones, weight)
    spots += joints(rng, bones, weight, 0.3 if quiet else rng.gamma(1.3, 4.6))
    if not quiet and rng.random() < 0.34:
        spots += benign(rng, bones, weight, rng.gamma(1.5, 1.9), rule)
    return spots, superscan


def draw_body(rng: np.random.Generator, rule: str = "bs80k") -> Body:
    """Draw one patient.

    Args:
      rng: the patient's own generator; the result is a function of its state and `rule` alone.
      rule: which hot spots are Abnormal, one of `uptake.CLASS_RULES`.
    """
    bones = skeleton()
    child = bool(rng.random() < 0.02)
    stature = float(rng.uniform(1000, 1500) if child else np.clip(rng.normal(1640, 95), 1400, 1930))
    pixel = PIXELS_MM[int(rng.random() < SECOND_CAMERA)]
    pose = _draw_pose(rng, stature, child, pixel)
    points = _place_skeleton(bones, pose)
    weight = bones.weight * bone_uptake(rng, bones)
    if child:
        weight = weight * growth_plates(bones)
    quiet = child or rng.random() < 0.29  # healthy joints: BS-80K has views without a hot spot
    spots, superscan = _draw_foci(rng, bones, weight, child, quiet, rule)
    posed, activity = [points], [weight]
    start = len(points)
    for organ in organs(rng, quiet):
        posed.append(_place(organ.points, organ.part, pose, organ.side))
        activity.append(np.zeros(len(organ.points), np.float32))  # all of it is in the hot spot
        index = np.arange(start, start + len(organ.points))
        start += len(organ.points)
        excess = organ.activity.astype(np.float32)
        if organ.kind == "kidney":
            excess *= np.float32(1 - 0.9 * superscan)
        spots.append(HotSpot(organ.kind, NORMAL, organ.kind, index, excess))
    top = rng.normal(22, 11) if rng.random() > 0.05 else rng.uniform(40, 110)
    top = float(np.clip(top, 10, max(10, HEIGHT - 60 - stature / pixel)))
    cloud = _to_pixels(np.concatenate(posed), pose, top)
    obese = rng.uniform(0.3, 1.25) if rng.random() < 0.07 else 0.0
    girth = float(np.clip(np.exp(rng.normal(0, 0.09)), 0.85, 1.3)) * (1 + 0.6 * obese)
    thickness, middle = _soft_tissue(pose, top, girth, np.exp(rng.normal(0, 0.05, 3)))
    gap = 25 + rng.gamma(1.5, 12.0) + 60 * obese
    # BS-80K: rows from 8, columns 8 to 239 of either view.
    field = (8, int(min(HEIGHT, cloud[:, 1].max() + rng.uniform(5, 50))), 8, 240)
    tissue = 0.0205 * float(np.exp(rng.normal(0, 0.25)))  # ±40 % from patient to patient
    tissue *= 1 + 1.3 * obese  # little bone for the tracer that is given by weight
    tissue *= 1 - 0.6 * superscan  # the bones have taken the tracer
    return Body(
        cloud,
        np.concatenate(activity),
        tuple(spots),
        thickness,
        middle,
        _lungs(pose, top),
        tissue * _brainless(pose, top) * _viscera(pose, top),
        field,
        stature,
        child,
        gap,
        pixel,
        pose,
        top,
    )
