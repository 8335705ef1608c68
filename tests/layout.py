"""Writes small sources in BS-80K's layout, for tests."""

import zipfile
from pathlib import Path

import cv2
import numpy as np

from bonescan_jax.scans import ABNORMAL, HEIGHT, NORMAL, WIDTH
from bonescan_jax.scans.bones import BONES, encode_bones

PATIENTS = (1, 2, 3, 10, 11)
FOLDERS = {"wholeBodyANT": "ant", "wholeBodyPOST": "post"}
# (xmin, ymin, xmax, ymax, label) of every annotated view; patient 2 has no XML file at all.
BOXES = ((0, 0, 9, 10, NORMAL), (120, 300, 131, 309, ABNORMAL), (250, 1000, 256, 1024, NORMAL))


def jpeg(rng: np.random.Generator, height: int = HEIGHT, width: int = WIDTH) -> bytes:
    """A grey image of Poisson noise; random content makes every file different."""
    image = rng.poisson(20, (height, width)).astype(np.uint8)
    return cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 100])[1].tobytes()


def voc(boxes: tuple = BOXES) -> str:
    """Pascal VOC as BS-80K has it."""
    names = {ABNORMAL: "Abnormal", NORMAL: "Normal"}
    objects = "".join(
        f"<object><name>{names[label]}</name><bndbox><xmin>{xmin}</xmin><ymin>{ymin}</ymin>"
        f"<xmax>{xmax}</xmax><ymax>{ymax}</ymax></bndbox></object>"
        for xmin, ymin, xmax, ymax, label in boxes
    )
    size = f"<size><width>{WIDTH}</width><height>{HEIGHT}</height><depth>1</depth></size>"
    return f"<annotation>{size}{objects}</annotation>"


def write_layout(root: Path, patients: tuple[int, ...] = PATIENTS) -> Path:
    """Writes both views of each patient; patient 2 is normal and has no XML file."""
    rng = np.random.default_rng(0)
    for folder, xml_folder in FOLDERS.items():
        (root / folder / xml_folder).mkdir(parents=True)
        lines = []
        for patient in patients:
            (root / folder / f"{patient}.jpg").write_bytes(jpeg(rng))
            if patient != 2:
                (root / folder / xml_folder / f"{patient}.xml").write_text(voc())
            lines.append(f"{patient}.jpg\t{int(patient != 2)}\n")
        (root / folder / f"{folder}.txt").write_text("".join(lines))
    return root


def write_bones(root: Path) -> None:
    """Writes a map of bones beside every image of a layout, as simulated scans have."""
    rng = np.random.default_rng(1)
    for folder in FOLDERS:
        (root / folder / "bones").mkdir()
        for image in (root / folder).glob("*.jpg"):
            bones = rng.integers(0, len(BONES), (HEIGHT // 64, WIDTH // 64)).astype(np.uint8)
            bones = cv2.resize(bones, (WIDTH // 2, HEIGHT // 2), interpolation=cv2.INTER_NEAREST)
            (root / folder / "bones" / f"{image.stem}.png").write_bytes(encode_bones(bones))


def zip_layout(root: Path, path: Path, prefix: str = "") -> Path:
    """Zips a layout; `prefix` is the folder in the zip file, as "temp/" in the real one."""
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(root.rglob("*")):
            archive.write(file, f"{prefix}{file.relative_to(root)}")
    return path
