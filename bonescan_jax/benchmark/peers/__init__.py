"""What others would use for the same work: MONAI and plain PyTorch, in `.venv-peers`.

This file needs neither: the process that compares imports it, and has none of them.
"""

from typing import NamedTuple

LOADERS = ("torch", "monai", "monai_augmented")
# Each network's variants; whoever compares takes the fastest.
VARIANTS = {
    "monai": ("instance norm", "batch norm, channels last"),
    "torch": ("channels last",),
}
# torch.compile's kernels, beside those: on a CPU they would need a C++ compiler.
COMPILED_VARIANTS = {
    "monai": ("batch norm, channels last, compiled",),
    "torch": ("channels last, compiled",),
}
MONAI_LEVELS = 4  # its network has no other depth


class Task(NamedTuple):
    """What both sides of a step compute."""

    batch_size: int
    height: int
    width: int
    channels: int  # of the input
    classes: int
    filters: tuple[int, ...]  # of rows 0 to levels
    learning_rate: float
    weight_decay: float


class ImagePair(NamedTuple):
    """An image and its class mask as files, the form in which these libraries take them.

    Names, for a pickled `Path` cannot be read by another version of Python.
    """

    image: str  # JPEG
    mask: str  # PNG
