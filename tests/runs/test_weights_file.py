"""Files of weights: read as written, and refused with one sentence where they are not."""

import hashlib
import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest

from bonescan_jax.config import default_config
from bonescan_jax.errors import InputError
from bonescan_jax.runs import weights_file
from bonescan_jax.runs.weights_file import read_weights_file, write_weights_file

ARRAYS = {
    "params/nodes/0_0/conv1/kernel": np.random.default_rng(0).normal(size=(3, 3, 1, 4)),
    "params/nodes/0_0/norm1/scale": np.linspace(1, 2, 4),
    "stats/nodes/0_0/norm1/variance": np.array([1e5, 1e-9, 1, 2]),
}
RUN = {"step": 7, "checkpoint": "newest", "predictor": "head_1", "data_fingerprint": "f"}
CARD = {"data": {"name": "phantom"}, "limits": ["none ≤ some"]}
ARRAY = "params/nodes/0_0/conv1/kernel.npy"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    config = default_config()
    config.model.levels = 3
    write_weights_file(tmp_path / "a.npz", config, ARRAYS, RUN, CARD)
    return tmp_path / "a.npz"


def rewrite(path: Path, changes: dict[str, bytes | None], whole: bool = True) -> None:
    """Changes members; with a checksum that fits if `whole`, as an attacker would write it."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    members = {n: c for n, c in (members | changes).items() if c is not None}
    if whole:
        about = json.loads(members.pop("format.json"))
        digest = hashlib.sha256()
        for name, content in sorted(members.items()):
            digest.update(f"{name}\n{len(content)}\n".encode() + content)
        members["format.json"] = json.dumps(about | {"sha256": digest.hexdigest()}).encode()
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def saved(array: np.ndarray, **options: bool) -> bytes:
    file = io.BytesIO()
    np.save(file, array, **options)
    return file.getvalue()


def test_what_is_read_is_what_was_written(path: Path):
    found = read_weights_file(path)
    assert found.config.model.levels == 3
    assert (found.run, found.card) == (RUN, CARD)
    assert found.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert set(found.arrays) == set(ARRAYS)
    for name, array in ARRAYS.items():
        assert found.arrays[name].dtype == np.float32
        np.testing.assert_array_equal(found.arrays[name], array.astype(np.float32))
    with np.load(path, allow_pickle=False) as by_numpy:
        np.testing.assert_array_equal(by_numpy[ARRAY[:-4]], found.arrays[ARRAY[:-4]])


def test_the_same_weights_are_the_same_file(path: Path, tmp_path: Path):
    config = default_config()
    config.model.levels = 3
    again = write_weights_file(tmp_path / "b.npz", config, ARRAYS, RUN, CARD)
    assert (tmp_path / "b.npz").read_bytes() == path.read_bytes()
    assert again == read_weights_file(path).sha256


def test_float16_rounds_kernels_only_and_never_to_infinity(tmp_path: Path):
    path = tmp_path / "half.npz"
    large = np.full((2, 2), 7e4)
    arrays = ARRAYS | {"params/heads/1/kernel": large}
    write_weights_file(path, default_config(), arrays, RUN, CARD, half=True)
    found = read_weights_file(path).arrays
    name = ARRAY[:-4]
    np.testing.assert_array_equal(found[name], ARRAYS[name].astype(np.float16).astype(np.float32))
    np.testing.assert_array_equal(found["params/heads/1/kernel"], large)
    for vector in set(ARRAYS) - {name}:
        np.testing.assert_array_equal(found[vector], ARRAYS[vector].astype(np.float32))


def test_every_flipped_byte_is_noticed(path: Path, tmp_path: Path):
    """But for those of the zip that say nothing, such as dates: then all is as written."""
    content, before = path.read_bytes(), read_weights_file(path)
    damaged = tmp_path / "damaged.npz"
    refused, places = 0, range(0, len(content), 7)
    for place in places:
        damaged.write_bytes(content[:place] + bytes([content[place] ^ 0x41]) + content[place + 1 :])
        try:
            found = read_weights_file(damaged)
        except InputError as error:
            assert str(error).startswith(f"{damaged}: ")
            refused += 1
        else:
            for name, array in before.arrays.items():
                np.testing.assert_array_equal(found.arrays[name], array)
            assert found[2:4] == before[2:4]
    assert refused > 0.8 * len(places)
    for length in (0, 100, len(content) // 2, len(content) - 1):
        damaged.write_bytes(content[:length])
        with pytest.raises(InputError, match="expected a file of bonescan export"):
            read_weights_file(damaged)


FORMAT = {"format": "bonescan_jax weights", "version": 2, "sha256": ""}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format.json": json.dumps(FORMAT).encode()}, "format.json: version is 2, expected 1"),
        ({"format.json": b"{}"}, "format.json: format is None, expected 'bonescan_jax weights'"),
        ({ARRAY: saved(np.array([print], object), allow_pickle=True)}, "kernel.npy: holds Python"),
        ({ARRAY: saved(np.ones(3))}, "kernel.npy: holds float64, expected float32 or float16"),
        ({ARRAY: saved(np.ones(3, np.float32))[:-1]}, "kernel.npy: holds 11 bytes, expected 12"),
        ({ARRAY: b"\x93NUMPY\x01\x00\x05\x00(((("}, "kernel.npy: is no array of numbers"),
        ({"config.json": b'{"model": {"levels": 99}}'}, "config.json: model.levels is 99"),
        ({"config.json": b'{"model": {"lvls": 3}}'}, "config.json: .*lvls"),
        ({"config.json": None}, "holds no config.json"),
        ({"run.json": b"[]"}, r"run.json: holds \[\], expected names and values"),
        ({"run.json": b"{}"}, "run.json: step is None, expected a whole number"),
        ({"card.json": b"\xff"}, "card.json: cannot be read as JSON"),
    ],
)
def test_what_cannot_be_used_is_named(path: Path, changes: dict, message: str):
    rewrite(path, changes, whole="format.json" not in changes)
    with pytest.raises(InputError, match=f"^{path}: (params/.*/)?{message}"):
        read_weights_file(path)


def test_another_member_than_was_written_is_damage(path: Path):
    rewrite(path, {"card.json": b"{}"}, whole=False)
    with pytest.raises(InputError, match="is damaged: format.json: sha256 is"):
        read_weights_file(path)


def test_files_of_other_kinds_are_refused(path: Path, tmp_path: Path):
    np.savez(tmp_path / "plain.npz", **ARRAYS)
    with pytest.raises(InputError, match="plain.npz: holds no format.json"):
        read_weights_file(tmp_path / "plain.npz")
    np.savez_compressed(tmp_path / "small.npz", a=np.zeros(10**6))
    with pytest.raises(InputError, match="'a.npy' is compressed, expected a stored member"):
        read_weights_file(tmp_path / "small.npz")
    with pytest.raises(InputError, match="nowhere.npz: cannot be read"):
        read_weights_file(tmp_path / "nowhere.npz")


def test_the_last_released_file_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(weights_file, "RELEASED", tmp_path)
    with pytest.raises(InputError, match="comes without released weights"):
        weights_file.released_weights()
    for name in ("b.npz", "a.npz", "README.md"):
        (tmp_path / name).touch()
    assert weights_file.released_weights() == tmp_path / "b.npz"
