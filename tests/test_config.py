"""Settings: durations in any unit, and a clear word about what cannot be."""

import pytest

from bonescan_jax.config import default_config, resolve_steps
from bonescan_jax.errors import InputError
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
        ("data", "crop_width", 512, "data.crop_width is 512, .* up to 256"),
        ("model", "levels", 5, "model.filters has 5 widths, expected 6"),
        ("train", "accumulate_steps", 3, "train.batch_size is 16, expected a multiple of"),
    ],
)
def test_what_cannot_be_is_named(section: str, key: str, value: object, message: str):
    config = default_config()
    config[section][key] = value
    with pytest.raises(InputError, match=message):
        validate(config)
