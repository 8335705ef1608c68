"""The auxiliary head for bones: there in training, packed and plain, and gone afterwards."""

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

from bonescan_jax.config import default_config
from bonescan_jax.datasets.decode import decode_bones_of
from bonescan_jax.errors import InputError
from bonescan_jax.input_pipeline import host_batches
from bonescan_jax.losses import bones_loss
from bonescan_jax.models import cells
from bonescan_jax.models.build import Network, Tree
from bonescan_jax.scans.bones import BONES
from bonescan_jax.tasks import build_network, initial_weights


def settings(weight: float, name: str = "unetpp") -> ml_collections.ConfigDict:
    config = default_config()
    config.data.name, config.data.views = "phantom", "both"
    config.model.name, config.model.filters, config.model.levels = name, (4, 8, 16), 2
    config.model.patch, config.model.dtype, config.loss.bones_weight = 2, "float32", weight
    return config


def network_of(config: ml_collections.ConfigDict) -> Network:
    network = build_network(config)
    assert isinstance(network, Network)
    return network


IMAGE = jax.random.uniform(jax.random.key(1), (2, 32, 16, 2))
MAP = jax.random.randint(jax.random.key(2), IMAGE.shape, 0, len(BONES)).astype(jnp.uint8)


def test_packed_and_plain_agree_on_the_loss_and_its_gradients(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(cells, "LANES", 16)
    config = settings(0.2)
    params, stats = initial_weights(config, 0)

    def loss(params: Tree, packed: str) -> jax.Array:
        network = network_of(config)._replace(packed=packed)
        logits, _ = network.class_logits(params, stats, IMAGE, True)
        assert [len(head) for head in logits.bones] == [len(BONES)] * 2
        bones = logits.lay_bones(MAP)
        return sum(
            (bones_loss(head, bones) for head in logits.bones),
            start=sum(jnp.square(head).mean() for head in logits.classes),
        )

    found = {packed: jax.value_and_grad(loss)(params, packed) for packed in ("off", "on")}
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-4), *found.values())
    assert np.abs(found["on"][1]["bones"]["1"]["kernel"]).max() > 1e-4


def test_the_loss_is_the_cross_entropy():
    logits = jax.random.normal(jax.random.key(0), (len(BONES), 50))
    bones = jax.random.randint(jax.random.key(1), (50,), 0, len(BONES))
    expected = -jax.nn.log_softmax(logits, axis=0)[bones, jnp.arange(50)].mean()
    np.testing.assert_allclose(bones_loss(logits, bones), expected, rtol=1e-6)


@pytest.mark.parametrize("name", ["unetpp", "unet"])
def test_predictions_need_no_bones(name: str):
    config = settings(0.2, name)
    params, stats = initial_weights(config, 0)
    with_bones, _ = network_of(config).apply(params, stats, IMAGE, False)
    less = {part: weights for part, weights in params.items() if part != "bones"}
    without, _ = network_of(settings(0.0, name)).apply(less, stats, IMAGE, False)
    jax.tree.map(np.testing.assert_array_equal, with_bones, without)
    trained, _ = network_of(config).class_logits(params, stats, IMAGE, True)
    assert trained.bones[0].shape == (len(BONES), 2, 2, 16, 8)


def test_pruning_takes_the_bones_away():
    config = settings(0.2)
    params, stats = initial_weights(config, 0)
    network, kept = network_of(config).prune({"params": params, "stats": stats}, "head_1")
    assert "bones" not in kept["params"]
    whole, _ = network_of(config).apply(params, stats, IMAGE, False)
    pruned, _ = network.apply(kept["params"], kept["stats"], IMAGE, False)
    np.testing.assert_allclose(pruned[0], whole[0], atol=1e-5)


def test_only_simulated_scans_know_their_bones():
    config = settings(0.2)
    assert "bones" in initial_weights(config, 0)[0]
    config.data.name = "bs80k"
    assert "bones" not in initial_weights(config, 0)[0]


def test_training_examples_bring_the_bones_with_the_classes(
    small_config: ml_collections.ConfigDict,
):
    rows = np.arange(4)
    plain = next(host_batches(small_config, rows, 0, 1))
    small_config.loss.bones_weight = 0.2
    batch = next(host_batches(small_config, rows, 0, 1))
    np.testing.assert_array_equal(batch["mask"] & 3, plain["mask"])
    bones = batch["mask"] >> 2
    assert len(np.unique(bones)) > 3 and bones.max() < len(BONES)


def test_a_record_without_bones_is_named():
    whole = (slice(0, 1024), slice(0, 256))
    with pytest.raises(InputError, match="patient 7: map of bones is no picture.*bones_weight"):
        decode_bones_of({"patient": 7}, whole)
