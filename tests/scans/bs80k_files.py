"""What tests of BS-80K's layout look for and write: defects, and the files of patient 3."""

import numpy as np
import pytest

from bonescan_jax.errors import InputError
from bonescan_jax.scans.bs80k import open_bs80k
from tests.layout import PATIENTS, jpeg

ANT, POST, XML = "wholeBodyANT/3.jpg", "wholeBodyPOST/3.jpg", "wholeBodyPOST/post/3.xml"
LABELS = "wholeBodyANT/wholeBodyANT.txt"
ALL, WITHOUT_3 = PATIENTS, tuple(patient for patient in PATIENTS if patient != 3)


def defects_of(source) -> list[str]:
    with pytest.raises(InputError) as error:
        open_bs80k(source, strict=True)
    return str(error.value).splitlines()


def good_jpeg(**size) -> bytes:
    return jpeg(np.random.default_rng(1), **size)


def label_lines(**changed: str) -> str:
    """Correct lines of the anterior views, those of patients p1, p2, … changed."""
    lines = {f"p{patient}": f"{patient}.jpg\t{int(patient != 2)}\n" for patient in PATIENTS}
    return "".join((lines | changed).values())
