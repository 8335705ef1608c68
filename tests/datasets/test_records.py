"""Records: parsed as TFDS parses them, damage is a sentence, and a data set is recognised."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds

from bonescan_jax.datasets.bs80k import BS80K, open_split, prepare
from bonescan_jax.datasets.records import data_fingerprint
from bonescan_jax.errors import InputError
from tests.layout import write_layout


def test_records_are_what_tfds_reads(data_dir: Path):
    folder = data_dir / "phantom" / str(BS80K.VERSION)
    encoded = dict.fromkeys(("image", "bones"), tfds.decode.SkipDecoding())
    expected = tfds.builder_from_directory(str(folder)).as_data_source("train", decoders=encoded)
    records = open_split(data_dir, "phantom", "train")
    assert len(records) == len(expected) == 12
    for record, other in zip(records, expected, strict=True):
        assert record.keys() == other.keys()
        for name, value in other.items():
            np.testing.assert_array_equal(record[name], value)
            assert np.asarray(record[name]).ndim == np.asarray(value).ndim
    assert {len(record["boxes"]) for record in records} == {0, 3}


SHARD = "set-train.array_record-00000-of-00001"


def prepare_small(data_dir: Path, seed: int = 0) -> Path:
    source = data_dir / "source"
    if not source.exists():
        write_layout(source)
    settings = {"split_seed": seed, "split_fractions": (0.6, 0.2, 0.2)}
    prepare(source, data_dir / f"{seed}", name="set", **settings)
    return data_dir / f"{seed}" / "set"


def as_prepared_before_checksums(prepared: Path) -> None:
    settings = json.loads((prepared / "splits.json").read_text())
    left = {field: value for field, value in settings.items() if not field.startswith("records_")}
    (prepared / "splits.json").write_text(json.dumps(left))


def cut(shard: Path) -> None:
    shard.write_bytes(shard.read_bytes()[:-1000])


def change(shard: Path) -> None:
    data = bytearray(shard.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 100] = bytes(100)
    shard.write_bytes(data)


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("damage", [cut, change, Path.unlink])
def test_a_damaged_shard_is_one_sentence(tmp_path: Path, damage: Callable, old: bool):
    prepared = prepare_small(tmp_path)
    if old:
        as_prepared_before_checksums(prepared)
    damage(prepared / str(BS80K.VERSION) / SHARD)
    with pytest.raises(InputError, match=r"set.* expected .*bonescan prepare") as caught:
        list(open_split(prepared.parent, "set", "train"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["{}", '{"splits": {"train": [1]}}', '{"splits": 3}', "[]", "{"])
def test_settings_that_are_none_are_one_sentence(tmp_path: Path, text: str):
    prepared = prepare_small(tmp_path)
    (prepared / "splits.json").write_text(text)
    with pytest.raises(InputError, match=r"splits\.json: cannot be read"):
        open_split(prepared.parent, "set", "train")


def test_the_fingerprint_is_that_of_the_data(tmp_path: Path):
    prepared = prepare_small(tmp_path)
    first = data_fingerprint(prepared.parent, "set")
    shutil.copytree(prepared, tmp_path / "copy" / "set")
    assert data_fingerprint(tmp_path / "copy", "set") == first
    again = tmp_path / "again"
    again.mkdir()
    assert data_fingerprint(prepare_small(again).parent, "set") == first  # from the same scans
    other = prepare_small(tmp_path, seed=1)
    assert data_fingerprint(other.parent, "set") != first
    as_prepared_before_checksums(other)
    assert len(data_fingerprint(other.parent, "set")) == 16
    assert len(open_split(other.parent, "set", "train")) == 6
    cut(prepared / str(BS80K.VERSION) / SHARD)
    assert data_fingerprint(prepared.parent, "set") != first
