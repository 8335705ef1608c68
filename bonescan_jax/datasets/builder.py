"""What writes a checked source of any kind as a TFDS data set in ArrayRecord.

No TensorFlow: TFDS does without it if images are the encoded bytes they came as.
"""

import abc
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import tensorflow_datasets as tfds

from bonescan_jax.scans import VIEWS
from bonescan_jax.scans.export import has_export_sum, sum_doubt
from bonescan_jax.scans.findings import NOTED, Finding
from bonescan_jax.scans.overflow import Overflow


class LocalInfo(tfds.core.DatasetInfo):
    """Does not ask Google's storage for a data set of this name, nor leave a folder in /tmp."""

    def initialize_from_bucket(self) -> None:
        """Does nothing."""


class CheckedSource(Protocol):
    """What the source of every kind tells."""

    @property
    def patients(self) -> tuple[int, ...]:
        """Who is usable, sorted."""

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What the checks found."""

    @property
    def duplicates(self) -> tuple[tuple[int, ...], ...]:
        """Groups of patients who are one person."""

    @property
    def fingerprint(self) -> str:
        """The sha256 over every file that counts."""


# Features that the records of every kind have.
COMMON = {
    "patient": np.int64,
    "view": tfds.features.ClassLabel(names=VIEWS),
    "abnormal": tfds.features.ClassLabel(names=("normal", "abnormal")),
    "gain": np.float32,  # grey per count
    "reference": np.float32,  # brightness of bone, in grey values
    # flat index of a pixel, its grey value unwrapped; see bonescan_jax.scans.overflow
    "overflow": tfds.features.Tensor(shape=(None, 2), dtype=np.int32),
}

SourceT = TypeVar("SourceT", bound=CheckedSource)


class ScanBuilder(tfds.core.GeneratorBasedBuilder, Generic[SourceT]):
    """Writes a checked source; `bonescan_jax.datasets.bs80k.prepare` is the way to call it.

    A builder says with `features` and `_generate_examples` what its records are.
    """

    def __init__(
        self,
        *,
        data_dir: Path,
        name: str,
        source: SourceT,
        splits: dict[str, tuple[int, ...]],
        workers: Executor,
        on_scan: Callable[[int], None],
    ) -> None:
        self.name = name  # of the folder; TFDS takes it from the class otherwise
        self._source = source
        self._splits = splits
        self._workers = workers
        self._on_scan = on_scan  # called with the number of scans written
        self._num_written = 0
        self._doubts: list[Finding] = []  # about grey values unwrapped while writing
        self._sums: list[tuple[str, float]] = []  # of the grey values of whole-body views
        super().__init__(data_dir=data_dir, file_format="array_record")

    @staticmethod
    @abc.abstractmethod
    def open_source(*args: Any, **kwargs: Any) -> SourceT:  # noqa: ANN401 - kinds have options
        """Opens and checks a source: path, strict and on_file, and what this kind takes besides."""

    @staticmethod
    @abc.abstractmethod
    def num_images(source: SourceT) -> int:
        """How many records the source makes."""

    @classmethod
    @abc.abstractmethod
    def numbers(cls, checked: SourceT, used: SourceT) -> dict[str, int]:
        """What was found and what of it is used, for the result of `prepare`."""

    @staticmethod
    def leave_out(source: SourceT, keep: bool) -> tuple[SourceT, list[Finding]]:
        """Leaves out what is known to be wrong or of another kind, unless all is to be kept.

        Returns:
            What is used, and a finding for each image or patient that this is about.
        """
        del keep
        return source, []

    @staticmethod
    def index(source: SourceT, splits: dict[str, tuple[int, ...]]) -> dict[str, Any]:
        """The index stored beside the records, apart from the patients of each split."""
        del source, splits
        return {}

    @staticmethod
    @abc.abstractmethod
    def features() -> dict[str, Any]:
        """What a record holds besides `COMMON`."""

    def _info(self) -> tfds.core.DatasetInfo:
        return LocalInfo(
            builder=self,
            description=self.DESCRIPTION,
            features=tfds.features.FeaturesDict(COMMON | self.features()),
            citation=self.CITATION,
            disable_shuffling=True,  # records keep the order in which they are made
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator]:
        del dl_manager  # nothing is downloaded
        return {
            split: self._generate_examples(patients) for split, patients in self._splits.items()
        }

    def _written(self, image: str, overflow: Overflow) -> None:
        """Keeps account of an image whose record was made."""
        self._doubts += [
            Finding(NOTED, "overflow in doubt", f"{image}: {doubt}.") for doubt in overflow.doubts
        ]
        if overflow.scan_doubt:
            self._doubts.append(Finding(NOTED, "no bone scan", f"{image}: {overflow.scan_doubt}."))
        if overflow.whole_sum is not None:
            self._sums.append((image, overflow.whole_sum))
        self._count()

    def doubts(self) -> list[Finding]:
        """What is in doubt about the images whose records were made.

        The sum of grey says something only where it is a constant of the export.
        """
        doubts = list(self._doubts)
        if has_export_sum([grey_sum for _, grey_sum in self._sums]):
            doubts += [
                Finding(NOTED, "sum of grey", f"{image}: {doubt}.")
                for image, grey_sum in self._sums
                if (doubt := sum_doubt(grey_sum))
            ]
        return doubts

    def _count(self) -> None:
        """Tells that one more record was made."""
        self._num_written += 1
        self._on_scan(self._num_written)

    # TFDS prints these to standard output, which belongs to the result of the command.
    def _log_download_bytes(self) -> None: ...

    def _log_download_done(self) -> None: ...
