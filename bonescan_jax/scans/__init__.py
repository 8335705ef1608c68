"""What a bone scan is: its size, views, classes and boxes. Knows no JAX and no Grain."""

from typing import NamedTuple

HEIGHT, WIDTH = 1024, 256  # pixels of a whole-body view, head at row 0
VIEWS = ("anterior", "posterior")
CLASSES = ("background", "abnormal", "normal")
BACKGROUND, ABNORMAL, NORMAL = range(3)


class Box(NamedTuple):
    """A boxed hot spot: columns xmin … xmax - 1 and rows ymin … ymax - 1, in pixels."""

    xmin: int
    ymin: int
    xmax: int
    ymax: int
    label: int  # ABNORMAL or NORMAL


class Scan(NamedTuple):
    """One view of one patient as it came: the encoded image and what was annotated on it."""

    patient: int
    view: str  # one of VIEWS
    image: bytes  # encoded file, JPEG as BS-80K has it
    boxes: tuple[Box, ...]  # empty: the view has no hot spots
    abnormal: bool  # the image-level label of <folder>.txt
    bones: bytes = b""  # of simulated scans: `bones.encode_bones`
