"""What is counted of a training step: multiplications, and bytes saved for the backward pass."""

import pytest

from bonescan_jax.aot.arithmetic import saved_bytes, training_flops
from bonescan_jax.config import default_config


def test_flops_of_the_whole_net_are_those_of_the_paper():
    """119.0 G multiply-adds forward for 2^18 pixels and one class, and twice that backward."""
    assert training_flops(default_config()) == pytest.approx(3 * 2 * 119.0e9, rel=2e-3)


def plain_convolutions(pixels: int, width: int, channels: int) -> float:
    """Operations of a node of two 3×3 convolutions, and the two products backward of each."""
    return 3 * 2 * pixels * 9 * (width * channels + channels**2)


def test_flops_count_the_plain_net_once_however_it_is_computed():
    config = default_config()
    config.data.crop_height, config.data.crop_width = 64, 32
    config.model.filters, config.model.levels = (4, 8), 1
    pixels, classes = 64 * 32, 3
    expected = (
        plain_convolutions(pixels, 1, 4)
        - 2 * pixels * 9 * 4  # nothing asks for the gradient of the image
        + plain_convolutions(pixels // 4, 4, 8)
        + 3 * 2 * (pixels // 4) * 8 * 4 * 4  # up
        + plain_convolutions(pixels, 8, 4)
        + 3 * 2 * pixels * 4 * classes  # head
    )
    assert training_flops(config) == expected
    config.train.accumulate_steps, config.model.packed = 2, "on"
    assert training_flops(config) == expected


def test_saved_is_what_convolutions_give_and_with_remat_hardly_more():
    config = default_config()
    config.data.crop_height, config.data.crop_width = 64, 32
    config.model.filters, config.model.levels = (4, 8), 1
    config.model.dtype = "float32"

    def saved_per_example(remat: str) -> float:
        config.model.remat, sizes = remat, []
        for config.train.batch_size in (1, 2):
            sizes.append(saved_bytes(config))
        return sizes[1] - sizes[0]  # without weights

    pixels = 64 * 32
    convolutions = 4 * (4 * pixels * 4 + 2 * (pixels // 4) * 8)  # two of each of three nodes
    losses = 4 * pixels * 3 * 8  # logits, probabilities and what the losses make of them, at most
    assert convolutions < saved_per_example("activations") < convolutions + losses
    assert saved_per_example("none") > 2 * convolutions
