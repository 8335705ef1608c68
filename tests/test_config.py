"""Settings: durations in any unit, and a clear word about what cannot be."""

import math
from pathlib import Path

import pytest

from bonescan_jax.config import _CHOICES, _RANGES, default_config, resolve_steps
from bonescan_jax.errors import InputError
from bonescan_jax.runs.workdir import flatten, read_config
from bonescan_jax.tasks import validate


def durations(**given: float):
    train = default_config().train
    train.update({"batch_size": 16, "num_steps": 0} | given)
    return train


def test_durations_in_any_unit():
    assert resolve_steps(durations(num_steps=7), "num", 100) == 7
    assert resolve_steps(durations(num_epochs=2.5), "num", 160) == 25
    assert resolve_steps(durations(num_examples=330), "num", 160) == 21
    assert resolve_steps(durations(warmup_steps=0), "warmup", 160) == 0


@pytest.mark.parametrize("given", [{}, {"num_steps": 3, "num_epochs": 1.0}])
def test_a_length_is_given_once(given: dict):
    with pytest.raises(InputError, match="expected exactly one of train.num_steps"):
        resolve_steps(durations(**given), "num", 100)


def test_a_misspelt_key_is_an_error():
    with pytest.raises(AttributeError, match="learning_rat"):
        default_config().train.learning_rat = 1.0


@pytest.mark.parametrize(
    ("section", "key", "value", "message"),
    [
        ("data", "views", "left", "data.views is 'left', expected one of anterior"),
        ("data", "crop_height", 100, "data.crop_height is 100, expected a multiple of 16"),
        ("data", "crop_width", 512, "data.crop_width is 512, .* from 1 to 256"),
        ("model", "levels", 5, "model.filters has 5 widths, expected 6"),
        ("train", "accumulate_steps", 3, "train.batch_size is 16, expected a multiple of"),
    ],
)
def test_what_cannot_be_is_named(section: str, key: str, value: object, message: str):
    config = default_config()
    config[section][key] = value
    with pytest.raises(InputError, match=message):
        validate(config)


def test_every_number_has_a_range():
    numbers = {
        name
        for name, value in flatten(default_config().to_dict()).items()
        for number in (value if isinstance(value, tuple) else (value,))
        if isinstance(number, int | float) and not isinstance(number, bool)
    }
    assert sorted(name for name, *_ in _RANGES) == sorted(numbers - _CHOICES.keys())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("seed", -1),
        ("seed", 10**20),
        ("data.num_folds", 0),
        ("data.abnormal_examples", 1.5),
        ("data.abnormal_examples", -0.5),
        ("data.num_workers", -1),
        ("augment.flip", 2.0),
        ("augment.scale", 2.0),
        ("augment.thinning", 1.0),
        ("model.levels", 0),
        ("model.levels", -1),
        ("model.filters", (32, 4.5, 128, 256, 512)),
        ("model.filters", (32, -4, 128, 256, 512)),
        ("model.filters", (32, 0, 128, 256, 512)),
        ("loss.class_weights", (1.0, 1.0)),
        ("loss.class_weights", (1.0, -1.0, 1.0)),
        ("train.batch_size", 0),
        ("train.batch_size", -4),
        ("train.accumulate_steps", 0),
        ("train.accumulate_steps", -1),
        ("train.log_every_steps", 0),
        ("train.keep_checkpoints", 0),
        ("train.keep_checkpoints", -1),
        ("train.learning_rate", -1.0),
        ("train.learning_rate", math.nan),
        ("train.learning_rate", math.inf),
        ("train.ema_decay", 1.5),
        ("train.stall_minutes", -1.0),
        ("train.num_epochs", -1.0),
        ("evaluate.batch_size", 0),
        ("mesh.data", 0),
        ("mesh.spatial", 0),
    ],
)
def test_a_number_out_of_range_is_named(name: str, value: object):
    config = default_config()
    config.update_from_flattened_dict({name: value})
    with pytest.raises(InputError, match=rf"^config: {name} (is|has|holds) .*, expected "):
        validate(config)


@pytest.mark.parametrize("name", ["highest", "lowest"])
def test_the_ends_of_a_range_are_in_it(name: str):
    config = default_config()
    ends = {
        "seed": (0, 2**32 - 1),
        "data.hot_spot_crops": (0.0, 1.0),
        "train.ema_decay": (0.0, 1.0),
    }
    config.update_from_flattened_dict({key: end[name == "highest"] for key, end in ends.items()})
    validate(config)


@pytest.mark.parametrize(
    ("found", "put", "sentence"),
    [
        ('"batch_size": 16', '"batch_size": 0', "train.batch_size is 0, expected a whole number"),
        ('"learning_rate": 0.001', '"learning_rate": null', "train.learning_rate is None"),
        ('"norm": "batch"', '"norm": "no"', "model.norm is 'no', expected one of"),
    ],
)
def test_a_stored_config_is_checked_as_a_new_one(
    tmp_path: Path, found: str, put: str, sentence: str
):
    text = default_config().to_json()
    assert found in text
    (tmp_path / "config.json").write_text(text.replace(found, put))
    with pytest.raises(InputError, match=f"config.json: {sentence}"):
        read_config(tmp_path)
