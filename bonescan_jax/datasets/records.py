"""Records of a prepared data set, by split or fold; read and parsed without TensorFlow."""

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow_datasets as tfds
from google.protobuf.message import DecodeError
from tensorflow_datasets.proto import tf_example_pb2

from bonescan_jax.errors import InputError
from bonescan_jax.scans.findings import printable
from bonescan_jax.scans.splits import SPLITS

# One image: what the builder's features say, image as the encoded bytes it came as.
Record = dict[str, Any]

ALL = "all"  # all splits together, as of a data set that nothing was trained on
SETTINGS_FILE = "splits.json"  # beside the version's folder
# What to do where a data set stands in the way of another.
OTHER_PLACE = "choose another folder with --data_dir or --config.data.dir, or remove that one"
_AGAIN = "copy the data set again, or remove it and run `bonescan prepare`"
_SHARDS = "*.array_record-*"
_COLUMNS = {"boxes": 5, "overflow": 2}  # of the features that are tables


def parse_record(serialized: bytes) -> Record:
    """One record from a tf.train.Example of single values and int32 tables.

    TFDS's own parser knows many more kinds of features and takes 0.09 ms, ten times as long.
    """
    record = {}
    for name, feature in tf_example_pb2.Example.FromString(serialized).features.feature.items():
        values = getattr(feature, feature.WhichOneof("kind")).value
        if name in _COLUMNS:
            record[name] = np.array(values, np.int32).reshape(-1, _COLUMNS[name])
        else:
            (record[name],) = values
    return record


class SplitRecords(Sequence[Record]):
    """The records of a fixed split in the order they were written."""

    def __init__(self, builder: tfds.core.DatasetBuilder, split: str) -> None:
        self._name = f"{builder.data_path}: record {{}} of {split}"
        self._serialized = builder.as_data_source(
            split, deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES
        )

    def __len__(self) -> int:
        return len(self._serialized)

    def __getitem__(self, index: int) -> Record:  # type: ignore[override]  # no slices
        if not 0 <= index < len(self):
            raise IndexError(f"record {index} of {len(self)}")  # also what ends a loop over them
        try:
            return parse_record(self._serialized[index])
        except (OSError, RuntimeError, ValueError, DecodeError) as error:
            raise InputError(
                f"{self._name.format(index)}: cannot be read ({_reason(error)}), expected it as "
                f"`bonescan prepare` wrote it; {_AGAIN}."
            ) from error


class ChosenRecords(Sequence[Record]):
    """Records out of all fixed splits, in an order of their own.

    One is read when it is asked for; threads may share them, and they can be pickled.
    """

    def __init__(
        self, splits: Sequence[Sequence[Record]], places: Sequence[tuple[int, int]]
    ) -> None:
        self._splits = splits
        self._places = tuple(places)  # which split, which record in it

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> Record:  # type: ignore[override]  # no slices
        split, record = self._places[index]
        return self._splits[split][record]


class Prepared(NamedTuple):
    """A prepared data set, opened."""

    settings: dict[str, Any]  # what it was prepared with and what was found then
    records: tuple[SplitRecords, ...]  # of each of `SPLITS`, the fixed ones
    patients: tuple[int, ...]  # of the split and fold that were asked for, sorted


def open_prepared(data_dir: Path, name: str, version: str, split: str, fold: int) -> Prepared:
    """Opens a data set and looks up the patients of one of its splits.

    Args:
        data_dir: holds the data sets.
        name: of the data set.
        version: of the builder that wrote it.
        split: one of `bonescan_jax.scans.splits.SPLITS`, or `ALL` of them.
        fold: of cross-validation: this fold is the test split, and train and validation come from
            the others; -1: the fixed splits.

    Raises:
        InputError: there is no such data set, split or fold.
    """
    path = Path(data_dir) / name
    folder = path / version
    if not os.path.exists(folder / "dataset_info.json"):
        raise InputError(
            f"{folder}: holds no prepared data set; expected what `bonescan prepare` writes, "
            "so run that first."
        )
    if split not in (*SPLITS, ALL):
        raise InputError(
            f"{folder}: holds no split {split!r}, expected one of {', '.join((*SPLITS, ALL))}."
        )
    settings = read_settings(path)
    folds = {-1: settings["splits"]} | dict(enumerate(settings["folds"]))
    if fold not in folds:
        raise InputError(
            f"{path}: has no fold {fold}, expected -1 (the fixed splits) or one of its "
            f"{len(folds) - 1} folds, from 0; they are made by `bonescan prepare`."
        )
    _check_shards(folder, settings)
    try:
        builder = tfds.builder_from_directory(str(folder))
        records = tuple(SplitRecords(builder, fixed) for fixed in SPLITS)
    except (OSError, RuntimeError, ValueError, KeyError) as error:
        raise InputError(
            f"{folder}: cannot be opened ({_reason(error)}), expected records as `bonescan "
            f"prepare` writes them; {_AGAIN}."
        ) from error
    names = SPLITS if split == ALL else (split,)
    patients = sorted(patient for name in names for patient in folds[fold][name])
    return Prepared(settings, records, tuple(patients))


def describe_shards(folder: Path) -> dict[str, dict[str, Any]]:
    """What is stored to recognise the shards in a version's folder: size and sha256 by name."""
    shards = sorted(folder.glob(_SHARDS))
    return {
        "records_bytes": {shard.name: shard.stat().st_size for shard in shards},
        "records_sha256": {shard.name: _sha256(shard) for shard in shards},
    }


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check_shards(folder: Path, settings: dict[str, Any]) -> None:
    """Raises InputError where a shard lacks or has another size than was written.

    Bytes that changed are found when their record is read: ArrayRecord has checksums of its own.
    A data set of an earlier version has no sizes; opening it finds what lacks.
    """
    for name, expected in settings.get("records_bytes", {}).items():
        shard = folder / name
        try:
            found = f"holds {shard.stat().st_size} bytes"
        except OSError as error:
            found = f"cannot be read ({error.strerror})"
        if found != f"holds {expected} bytes":
            raise InputError(f"{shard}: {found}, expected {expected} bytes; {_AGAIN}.")


def _reason(error: Exception) -> str:
    """The first line of an error; those of ArrayRecord have many."""
    return printable((str(error).splitlines() or [type(error).__name__])[0])


def data_fingerprint(data_dir: Path, name: str) -> str:
    """Identifies a prepared data set: 16 hexadecimal digits.

    Made of version, patients of every split and fold, index of the records, checksums of source and
    records as `bonescan prepare` stored them, and the sizes of the records' files as they are now.
    It reads no record, so it is cheap. A data set prepared before there were checksums of records
    has a fingerprint too, made of what it holds.

    Args:
        data_dir: holds the data sets.
        name: of the data set.

    Raises:
        InputError: there is no such data set.
    """
    path = Path(data_dir) / name
    settings = read_settings(path)
    fields = ("version", "splits", "folds", "crops", "source_sha256", "records_sha256")
    identity = {field: settings.get(field) for field in fields}
    identity["bytes"] = {shard.name: shard.stat().st_size for shard in path.glob(f"*/{_SHARDS}")}
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]


def read_settings(path: Path) -> dict[str, Any]:
    """What the data set at <data_dir>/<name> was prepared with.

    Raises:
        InputError: nothing readable says so.
    """
    settings_path = path / SETTINGS_FILE
    try:
        settings = json.loads(settings_path.read_text())
        if not isinstance(settings, dict):
            raise ValueError("no settings in it")
        settings.setdefault("folds", [])
        settings.setdefault("findings", [])
        for splits in (settings["splits"], *settings["folds"]):
            if not all(isinstance(splits[split], list) for split in SPLITS):
                raise ValueError("a split is no list of patients")
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise InputError(
            f"{settings_path}: cannot be read ({error}), expected the settings {path} was "
            f"prepared with; {OTHER_PLACE}."
        ) from error
    return settings


def num_folds(data_dir: Path, name: str) -> int:
    """How many folds a prepared data set has: 0 if it has too few patients.

    Raises:
        InputError: there is no such data set.
    """
    path = Path(data_dir) / name
    if not os.path.exists(path):
        raise InputError(f"{path}: does not exist; run `bonescan prepare` first.")
    return len(read_settings(path)["folds"])
