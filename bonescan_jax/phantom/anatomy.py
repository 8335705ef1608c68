"""The phantom's skeleton: every bone of a 1.70 m adult as a cloud of weighted points. NumPy only.

Coordinates are millimetres in the patient: x to the patient's left, y from the vertex to the feet,
z up from the table on which the patient lies on the back. A point's weight is the bone volume it
stands for (mm³) times the uptake relative to soft tissue water (SUV-like), so that a projection of
the points is an activity integral along the line of sight. Lengths follow the proportions of five
BS-80K patients and textbook anatomy; uptakes start from published SUVs (ribs 0.85–1.2, spine and
pelvis 2.9–3.65, …) and were then tuned, here
and in `uptake`, to what BS-80K's whole-body views show.
"""

from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np

from bonescan_jax.phantom.shapes import ellipsoid, plate, shell, sunflower, tube

STATURE = 1700.0  # mm, vertex to heel of the canonical adult

# Joints of the patient's left side, about which limbs are posed (x, y, z in mm).
SHOULDER, ELBOW, WRIST = (158.0, 304.0, 75.0), (158.0, 578.0, 60.0), (158.0, 838.0, 62.0)
HIP, KNEE, ANKLE = (90.0, 868.0, 95.0), (86.0, 1262.0, 66.0), (80.0, 1622.0, 58.0)
NECK = (0.0, 235.0, 80.0)  # the head turns and tilts about it
VERTEBRAE = tuple(f"{k}{i}" for k, n in (("C", 7), ("T", 12), ("L", 5)) for i in range(1, n + 1))
_VERTEBRA_Y = np.concatenate(
    [np.linspace(150, 243, 7), 262 + np.cumsum(np.linspace(0, 4.5, 12) + 24.4) - 24.4,
     np.linspace(586, 725, 5)]
)  # fmt: skip
# Height of the vertebral bodies above the table: neck lordosis, kyphosis, lumbar lordosis, sacrum.
_SPINE_Y = (140.0, 200.0, 262.0, 400.0, 520.0, 600.0, 680.0, 740.0, 800.0, 850.0, 890.0)
_SPINE_Z = (106.0, 103.0, 86.0, 61.0, 62.0, 78.0, 92.0, 82.0, 52.0, 38.0, 48.0)

# Rib: half width of the cage, then the bone-cartilage junction (x, y, z); 11 and 12 float.
_RIBS = (
    (58, 40, 316, 146), (84, 56, 348, 164), (103, 70, 388, 176), (116, 80, 428, 184),
    (124, 88, 466, 188), (130, 97, 504, 189), (134, 106, 540, 184), (137, 116, 570, 172),
    (138, 124, 594, 154), (136, 130, 614, 130), (128, 125, 622, 84), (92, 92, 622, 46),
)  # fmt: skip


@dataclass(frozen=True)
class Skeleton:
    """All bones as one cloud; `names[bone[i]]` is the bone of point i, e.g. `rib7L`, `L4`."""

    points: np.ndarray  # (n, 3) float32, mm
    weight: np.ndarray  # (n,) float32, mm³ × relative uptake
    bone: np.ndarray  # (n,) int16
    names: tuple[str, ...]
    _found: dict[tuple[str, ...], np.ndarray] = field(default_factory=dict, repr=False)

    def indices(self, *prefixes: str) -> np.ndarray:
        """Return the indices of the points of every bone whose name starts with a prefix."""
        if prefixes not in self._found:
            chosen = np.array([name.startswith(prefixes) for name in self.names])
            self._found[prefixes] = np.flatnonzero(chosen[self.bone])
        return self._found[prefixes]


@dataclass
class _Builder:
    points: list[np.ndarray] = field(default_factory=list)
    weight: list[np.ndarray] = field(default_factory=list)
    bone: list[np.ndarray] = field(default_factory=list)
    names: list[str] = field(default_factory=list)

    def add(
        self, name: str, cloud: tuple[np.ndarray, np.ndarray], uptake: float | np.ndarray
    ) -> None:
        if name not in self.names:
            self.names.append(name)
        points, volume = cloud
        self.points.append(points)
        self.weight.append(volume * uptake)
        self.bone.append(np.full(len(points), self.names.index(name)))

    def add_pair(
        self, name: str, cloud: tuple[np.ndarray, np.ndarray], uptake: float | np.ndarray
    ) -> None:
        """Add a bone of the left side and its mirror image."""
        self.add(name + "L", cloud, uptake)
        self.add(name + "R", (cloud[0] * (-1, 1, 1), cloud[1]), uptake)

    def build(self) -> Skeleton:
        return Skeleton(
            np.concatenate(self.points).astype(np.float32),
            np.concatenate(self.weight).astype(np.float32),
            np.concatenate(self.bone).astype(np.int16),
            tuple(self.names),
        )


def _skull(body: _Builder) -> None:
    """Vault and base: a bright rim around a dark window, a line at the brow."""
    points, volume = shell((0, 88, 96), (75, 86, 92), 7.0)
    volume = volume * (1 - 0.28 * np.abs(points[:, 2] - 96) / 92)  # thin at forehead and occiput
    # The vault is open below, thicker over the base of the occiput and the brow.
    keep = (points[:, 1] < 164) & ~((points[:, 1] > 108) & (points[:, 2] > 120))
    body.add("skull", (points[keep], volume[keep]), 0.8)
    body.add(
        "skull",
        plate(
            [
                [[-50, 104, 152], [0, 112, 158], [50, 104, 152]],
                [[-64, 134, 95], [0, 128, 100], [64, 134, 95]],
                [[-42, 146, 34], [0, 156, 38], [42, 146, 34]],
            ],
            [[4, 5, 4], [3.5, 8, 3.5], [3, 8, 3]],
        ),
        0.7,
    )
    body.add_pair("skull", ellipsoid((55, 136, 84), (12, 17, 15)), 0.45)  # petrous bone, mastoid
    body.add("skull", tube([(0, 6, 90), (0, 12, 150), (0, 45, 184), (0, 85, 186)], 3.0), 0.8)
    body.add("skull", tube([(-54, 110, 150), (0, 104, 182), (54, 110, 150)], (4, 5, 4)), 2.0)
    body.add("skull", tube([(-58, 128, 48), (0, 118, 4), (58, 128, 48)], 3.0), 1.2)  # its sinuses
    body.add("skull", tube([(0, 60, 8), (0, 118, 4)], 2.5), 1.2)
    body.add("skull", ellipsoid((0, 120, 6), (6, 6, 4)), 1.5)


def _face(body: _Builder) -> None:
    """Nose, orbits, cheekbones and both rows of teeth: islands with gaps between them.

    Each is a bone of its own, so that faces differ.
    """
    for side in (-1, 1):
        orbit = np.linspace(0, 2 * np.pi, 13)[:, None]
        ring = (side * 31, 118, 168) + np.c_[19 * np.cos(orbit), 15 * np.sin(orbit), 0 * orbit]
        body.add("faceOrbits", tube(ring, 3.2), 1.2)
        nose = [(side * 4, 108, 182), (side * 9, 132, 180), (side * 17, 156, 172)]
        body.add("faceNose", tube(nose, 5.0), 1.9)
        cheek = [(side * 34, 146, 160), (side * 52, 136, 146), (side * 64, 132, 100)]
        body.add("faceCheeks", tube(cheek, (5, 5, 3)), 0.8)
        body.add("faceCheeks", ellipsoid((side * 44, 140, 154), (6, 7, 7)), 1.3)
        body.add("faceTeeth", tube([(side * 26, 142, 164), (side * 24, 160, 160)], 4.0), 1.2)
    body.add("faceSinuses", ellipsoid((0, 140, 154), (26, 24, 24)), 0.8)
    body.add("faceNose", ellipsoid((0, 112, 180), (10, 8, 10)), 1.9)
    upper = [(-27, 160, 140), (-21, 165, 164), (0, 167, 178), (21, 165, 164), (27, 160, 140)]
    body.add("faceTeeth", tube(upper, 5.0), 2.1)
    lower = [(-25, 181, 138), (-20, 185, 160), (0, 188, 176), (20, 185, 160), (25, 181, 138)]
    body.add("mandibleTeeth", tube(lower, 4.0), 1.6)
    jaw = ((51, 138, 92), (46, 165, 102), (33, 190, 132), (18, 204, 160), (0, 207, 172))
    for side in (-1, 1):
        body.add("mandible", tube([(side * x, y, z) for x, y, z in jaw], 6.0), 1.3)


def _vertebra(body: _Builder, name: str, y: float, height: float) -> None:
    """Body with bright end plates, pedicles, transverse and spinous processes, facet joints.

    All of it stays clear of the discs, so that vertebrae can be counted from behind.
    """
    kind, level = name[0], int(name[1:])
    z = float(np.interp(y, _SPINE_Y, _SPINE_Z))
    wide = {"C": 13.0, "T": 13.5 + 0.5 * level, "L": 19.5 + 0.9 * level}[kind]
    deep = {"C": 9.0, "T": 11.0 + 0.4 * level, "L": 16.0}[kind]
    uptake = {"C": min(2.5, 1.3 + 0.35 * level), "T": 2.1 + 0.045 * level, "L": 2.5}[kind]
    arch = {"C": 1.6, "T": 1.3, "L": 1.9}[kind] * uptake  # lamina, facets and processes
    disc, layers = sunflower(40), np.linspace(-0.5, 0.5, 7)
    xz = disc[None] * (wide, deep) * (0.92 + 0.08 * (2 * layers[:, None, None]) ** 2)
    tall = height * {"C": 0.80, "T": 0.80, "L": 0.70}[kind]
    points = np.stack(
        [xz[..., 0], np.broadcast_to(y + layers[:, None] * tall, xz.shape[:2]), z + xz[..., 1]], -1
    )
    ends = np.where(np.abs(layers) > 0.45, 2.2, 0.6)[:, None]
    rim = np.where(np.linalg.norm(disc, axis=1) > 0.75, 1.3, 0.8)
    weight = np.pi * wide * deep * tall / 280 * ends * rim
    body.add(name, (points.reshape(-1, 3), weight.ravel()), uptake)
    reach = {"C": 22.0, "T": 33.0 - 0.8 * level, "L": 30.0 + 4 * (level == 3)}[kind]
    back = z - deep - 13
    apart = {"C": 11, "T": 12, "L": 17}[kind]
    for side in (-1, 1):
        body.add(name, tube([(side * 9, y - 2, z - deep), (side * apart, y - 1, back)], 5.5), arch)
        body.add(
            name, tube([(side * 12, y - 1, back), (side * reach, y - 3, back - 3)], 4.0), arch * 0.6
        )
        body.add(
            name,
            ellipsoid((side * apart, y + height * 0.3, back), (6, 0.42 * height, 5)),
            arch * 1.0,
        )
    tip = 20 if kind != "C" else 14
    body.add(
        name, tube([(0, y, back - 2), (0, y + 0.45 * height, back - tip)], (5, 4.5)), arch * 1.1
    )


def _spine(body: _Builder) -> None:
    heights = np.gradient(_VERTEBRA_Y)
    for name, y, height in zip(VERTEBRAE, _VERTEBRA_Y, heights, strict=True):
        _vertebra(body, name, float(y), float(height))
    rows = ((742, 54, 62), (765, 52, 54), (795, 42, 44), (825, 28, 38), (850, 15, 40))
    grid = [
        [(f * wide, y, z + 8 * (1 - abs(f))) for f in (-1, -0.5, 0, 0.5, 1)] for y, wide, z in rows
    ]
    body.add("sacrum", plate(grid, [[20, 14, 16, 14, 20]] * 2 + [[13, 9, 12, 9, 13]] * 3), 2.5)
    for y, z in ((750, 34), (775, 27), (800, 24), (825, 24)):  # its crest, segment by segment
        body.add("sacrum", ellipsoid((0, y, z), (6, 8, 5)), 2.2)
    body.add("coccyx", tube([(0, 850, 38), (0, 872, 42), (0, 890, 52)], (7, 5, 4)), 1.0)


def _ribs(body: _Builder) -> None:
    """Twelve pairs: back from the spine, round the flank, down and forward to the cartilage."""
    for number, (wide, end_x, end_y, end_z) in enumerate(_RIBS, start=1):
        y = float(_VERTEBRA_Y[6 + number]) - 8
        drop = end_y - y
        floating = number > 10
        path = [
            (16.0, y, 60.0),
            (38.0, y + 0.01 * drop, 37.0),
            (0.62 * wide, y + 0.20 * drop, 22.0 if number > 2 else 38.0),
        ]
        if floating:
            path += [(0.92 * wide, y + 0.62 * drop, 40), (end_x, end_y, end_z)]
        else:
            path += [
                (0.90 * wide, y + 0.47 * drop, 48),
                (wide, y + 0.70 * drop, 92),
                (0.5 * end_x + 0.48 * wide, y + 0.88 * drop, 0.3 * 92 + 0.7 * end_z),
                (end_x, end_y, end_z),
            ]
        points, volume = tube(path, 5.5 if number < 4 else 4.5)
        along = np.linspace(0, 1, len(points))
        body.add_pair(
            f"rib{number}",
            (points, volume),
            (1.45 if number < 5 else 1.25)
            + 0.35 * np.exp(-(((along - 1) / 0.05) ** 2))
            + 1.0 * np.exp(-((along / 0.06) ** 2)),
        )


def _chest_front(body: _Builder) -> None:
    body.add(
        "manubrium",
        plate(
            [
                [[-30, 298, 160], [0, 303, 164], [30, 298, 160]],
                [[-26, 325, 168], [0, 325, 171], [26, 325, 168]],
                [[-14, 350, 176], [0, 350, 178], [14, 350, 176]],
            ],
            [[15, 12, 15], [11, 11, 11], [13, 13, 13]],
        ),
        1.8,
    )
    body.add(
        "sternum",
        plate(
            [
                [[-14, 350, 176], [0, 350, 178], [14, 350, 176]],
                [[-15, 410, 187], [0, 410, 189], [15, 410, 187]],
                [[-18, 455, 193], [0, 455, 195], [18, 455, 193]],
                [[-7, 488, 195], [0, 490, 196], [7, 488, 195]],
            ],
            [[12] * 3, [10] * 3, [10] * 3, [7] * 3],
        ),
        1.8,
    )
    body.add_pair(
        "clavicle",
        tube([(24, 312, 166), (60, 300, 164), (105, 284, 132), (148, 270, 92)], (7, 5, 4.5, 6)),
        1.0,
    )
    body.add_pair("clavicle", ellipsoid((25, 314, 167), (9, 10, 8)), 1.5)


def _shoulder(body: _Builder) -> None:
    """Blade with a bright lower tip and borders, its spine, acromion, coracoid and socket."""
    body.add_pair(
        "scapula",
        plate(
            [
                [[66, 286, 30], [92, 290, 40], [128, 296, 66]],
                [[72, 335, 18], [98, 338, 30], [136, 326, 60]],
                [[84, 385, 14], [100, 380, 22], [118, 372, 34]],
                [[96, 420, 14], [99, 420, 16], [102, 419, 18]],
            ],
            [[6, 2, 5], [6, 1.2, 8], [8, 2, 11], [24, 24, 24]],
        ),
        1.5,
    )
    body.add_pair(
        "scapula",
        tube([(74, 322, 16), (105, 306, 20), (140, 284, 44), (164, 276, 74)], (4, 5, 6, 6)),
        2.2,
    )
    body.add_pair(
        "scapula", tube([(138, 272, 90), (158, 268, 84), (178, 275, 78)], 5.0), 3.3
    )  # acromion
    body.add_pair(
        "scapula", tube([(126, 302, 70), (132, 292, 100), (140, 306, 116)], (5, 5, 6)), 1.8
    )  # coracoid
    body.add_pair("scapula", ellipsoid((135, 310, 72), (5, 13, 11)), 2.6)  # socket


def _arm(body: _Builder) -> None:
    x, y, z = SHOULDER
    body.add_pair("humerus", ellipsoid((x + 2, y + 5, z), (20, 18, 20)), 0.55)
    body.add_pair("humerus", shell((x + 3, y + 6, z), (25, 22, 22), 4.5), 1.3)  # its rim
    body.add_pair(
        "humerus",
        tube(
            [(x + 4, y + 14, z), (x + 2, y + 60, z - 4), (x, y + 190, z - 14), (x, y + 256, 60)],
            (17, 11.5, 10.5, 12),
            0.5,
        ),
        0.95,
    )
    body.add_pair("humerus", ellipsoid((x, y + 264, 60), (25, 11, 10)), 1.5)
    ex, ey, ez = ELBOW
    body.add_pair("ulna", ellipsoid((ex - 6, ey + 2, ez - 8), (12, 15, 10)), 1.3)
    body.add_pair(
        "ulna",
        tube(
            [(ex - 8, ey + 8, ez - 2), (ex - 12, ey + 120, ez - 2), (ex - 13, ey + 246, ez)],
            (9, 6.5, 6),
            0.4,
        ),
        0.95,
    )
    body.add_pair(
        "radius",
        tube(
            [
                (ex + 10, ey + 10, ez + 4),
                (ex + 13, ey + 60, ez + 6),
                (ex + 14, ey + 160, ez + 4),
                (ex + 10, ey + 250, ez + 2),
            ],
            (10, 7, 7, 11.5),
            0.4,
        ),
        0.95,
    )


def _hand(body: _Builder) -> None:
    wx, wy, wz = WRIST
    body.add_pair("hand", ellipsoid((wx, wy + 14, wz), (22, 15, 10)), 1.5)
    for finger, (dx, length) in enumerate(((-24, 80), (-13, 112), (0, 116), (12, 110), (23, 92))):
        start = (wx + 0.6 * dx, wy + 26, wz)
        knuckle = (wx + 1.05 * dx, wy + 26 + 0.40 * length, wz + 4)
        middle = (wx + 1.1 * dx, wy + 26 + 0.72 * length, wz - 2)
        tip = (wx + 1.1 * dx - 3, wy + 26 + 0.95 * length, wz - 18)
        body.add_pair("hand", tube([start, knuckle, middle, tip], (5.5, 5.5, 4.5, 3.5)), 1.1)
        body.add_pair("hand", ellipsoid(knuckle, (6, 7, 6)), 1.2 + 0.1 * (finger == 0))


def _pelvis(body: _Builder) -> None:
    """Wings with thick crests and thin fossae, sacro-iliac joints, acetabula, rami."""
    crest = [(40, 750, 30), (58, 722, 42), (86, 708, 76), (112, 722, 122), (123, 752, 156)]
    upper = [(44, 772, 34), (62, 758, 46), (87, 752, 82), (109, 760, 124), (121, 774, 154)]
    lower = [(46, 798, 40), (62, 795, 54), (83, 796, 84), (100, 799, 120), (109, 802, 144)]
    brim = [(52, 822, 48), (70, 832, 62), (88, 838, 84), (98, 838, 110), (100, 836, 128)]
    thick = [
        [14.0, 13, 12, 12, 12],
        [14, 8, 5.5, 6, 9],
        [14.0, 10, 7, 6.5, 10],
        [12.0, 13, 9, 11, 10],
    ]
    body.add_pair("ilium", plate([crest, upper, lower, brim], thick), 1.5)
    body.add_pair(  # from the front spine to the socket
        "ilium",
        tube(
            [(116, 730, 136), (124, 754, 158), (119, 785, 154), (107, 814, 140), (97, 844, 124)],
            (6, 7, 8, 7, 7),
        ),
        2.2,
    )
    body.add_pair(  # rim of the inlet
        "ilium",
        tube([(52, 800, 56), (74, 835, 76), (84, 862, 108), (66, 882, 126)], (6, 6, 6, 5)),
        1.6,
    )
    body.add_pair(  # sacro-iliac joint
        "ilium",
        tube([(58, 732, 40), (53, 762, 38), (45, 796, 38), (40, 818, 40)], (14, 17, 14, 8)),
        1.15,
    )
    body.add_pair(  # the column that carries the trunk, down to the socket
        "ilium", tube([(44, 806, 42), (56, 838, 48), (68, 866, 58)], (10, 9, 9)), 1.5
    )
    body.add_pair(
        "ilium", tube([(57, 722, 42), (86, 706, 76), (113, 722, 122), (120, 738, 142)], 4.0), 1.2
    )
    points, volume = shell((92, 868, 95), (32, 32, 30), 4)
    keep = points[:, 0] < 108  # the socket is open to the side
    body.add_pair("ilium", (points[keep], volume[keep]), 0.9)
    body.add_pair(
        "ischium",
        tube([(72, 838, 58), (72, 868, 62), (62, 905, 54), (56, 935, 46)], (11, 13, 11, 12)),
        1.7,
    )
    body.add_pair("pubis", tube([(76, 872, 115), (45, 888, 134), (16, 908, 142)], (9, 7, 9)), 1.3)
    body.add_pair(
        "pubis",
        tube([(12, 906, 142), (14, 926, 136), (34, 942, 98), (54, 942, 58)], (9, 7, 6, 8)),
        0.9,
    )


def _thigh(body: _Builder) -> None:
    x, y, z = HIP
    body.add_pair("femur", ellipsoid((x, y, z), (23, 23, 23)), 0.6)
    body.add_pair(
        "femur",
        tube([(x, y, z), (x + 24, y + 20, z - 8), (x + 36, y + 44, z - 12)], (15, 14, 17)),
        0.7,
    )
    body.add_pair(
        "femur", ellipsoid((x + 40, y + 14, z - 22), (14, 20, 15)), 0.9
    )  # greater trochanter
    body.add_pair(
        "femur", ellipsoid((x + 18, y + 62, z - 22), (9, 11, 9)), 1.1
    )  # lesser trochanter
    kx, ky, kz = KNEE
    body.add_pair(
        "femur",
        tube(
            [
                (x + 36, y + 40, z - 14),
                (x + 32, y + 110, z - 6),
                (x + 16, y + 230, z - 4),
                (kx + 2, ky - 60, kz + 10),
                (kx, ky - 32, kz + 4),
            ],
            (16, 13.5, 13, 16, 24),
            0.55,
        ),
        0.95,
    )
    # Condyles and plateau with denser rims, a gap between them, and the patella over it all.
    for side in (-1, 1):
        body.add_pair("femur", ellipsoid((kx + side * 20, ky - 22, kz + 3), (17, 18, 22)), 0.46)
        body.add_pair("femur", shell((kx + side * 20, ky - 22, kz + 3), (21, 24, 26), 4.0), 0.53)
        body.add_pair("tibia", ellipsoid((kx + side * 18, ky + 20, kz + 3), (22, 19, 22)), 0.8)
        body.add_pair(
            "tibia",
            tube(
                [
                    (kx + side * 10, ky + 6, kz - 20),
                    (kx + side * 36, ky + 8, kz),
                    (kx + side * 14, ky + 7, kz + 18),
                ],
                4.0,
            ),
            1.0,
        )
    body.add_pair("femur", ellipsoid((kx, ky - 26, kz + 2), (12, 14, 16)), 0.5)
    body.add_pair("tibia", ellipsoid((kx, ky + 6, kz), (12, 14, 16)), 1.2)  # eminence
    body.add_pair("patella", ellipsoid((kx + 5, ky - 34, kz + 42), (17, 19, 9)), 1.4)


def _shank(body: _Builder) -> None:
    """Shafts of tibia and fibula; the plateau belongs to the knee."""
    kx, ky, kz = KNEE
    ax, ay, az = ANKLE
    body.add_pair(
        "tibia",
        tube(
            [
                (kx - 2, ky + 26, kz),
                (kx - 4, ky + 60, kz + 12),
                (kx - 6, ky + 180, kz + 9),
                (ax - 2, ay - 60, az + 5),
                (ax - 2, ay - 3, az),
            ],
            (25, 16, 12.5, 12, 17),
            0.55,
        ),
        1.05,
    )
    body.add_pair(
        "fibula",
        tube(
            [
                (kx + 36, ky + 34, kz - 18),
                (kx + 32, ky + 150, kz - 16),
                (ax + 22, ay - 60, az - 10),
                (ax + 22, ay + 6, az - 8),
            ],
            (9, 5.5, 6, 9),
        ),
        0.9,
    )


def _foot(body: _Builder) -> None:
    ax, ay, az = ANKLE
    body.add_pair("foot", ellipsoid((ax, ay + 12, az + 2), (19, 17, 24)), 0.8)  # talus
    body.add_pair("foot", ellipsoid((ax - 2, ay + 44, az - 22), (16, 26, 18)), 0.75)  # heel
    body.add_pair("foot", ellipsoid((ax, ay + 34, az + 34), (24, 19, 20)), 0.75)  # tarsus
    for toe, dx in enumerate((-24, -12, -1, 10, 21)):
        body.add_pair(
            "foot",
            tube(
                [
                    (ax + 0.6 * dx, ay + 42, az + 44),
                    (ax + 1.05 * dx, ay + 66, az + 78),
                    (ax + 1.1 * dx, ay + 82, az + 104),
                ],
                (6.5, 6, 4) if toe == 0 else (5, 4.5, 3.5),
            ),
            1.0,
        )
    body.add_pair("foot", ellipsoid((ax - 25, ay + 67, az + 80), (8, 8, 8)), 1.3)  # big toe's base


@lru_cache(maxsize=1)
def skeleton() -> Skeleton:
    """Return the canonical skeleton; built once a process, never changed."""
    body = _Builder()
    for part in (
        _skull,
        _face,
        _spine,
        _ribs,
        _chest_front,
        _shoulder,
        _arm,
        _hand,
        _pelvis,
        _thigh,
        _shank,
        _foot,
    ):
        part(body)
    return body.build()
