"""Mesh and shardings on eight simulated devices."""

import jax
import ml_collections
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from bonescan_jax.cluster.mesh import local_rows, make_mesh, state_shardings, to_mesh
from bonescan_jax.errors import InputError


def test_axes_are_auto(small_config: ml_collections.ConfigDict):
    """JAX's default is Explicit, under which the step would not compile."""
    small_config.mesh.update({"data": 4, "spatial": 2})
    small_config.evaluate.batch_size = 4
    mesh = make_mesh(small_config)
    assert dict(mesh.shape) == {"data": 4, "spatial": 2}
    assert mesh.axis_types == (AxisType.Auto,) * 2


def test_all_devices_are_taken_by_default(small_config: ml_collections.ConfigDict):
    small_config.mesh.update({"data": -1, "spatial": 4})
    assert dict(make_mesh(small_config).shape) == {"data": 2, "spatial": 4}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mesh.data": 16}, "mesh.data=16 × mesh.spatial=1 does not fit on the 8 cpu devices"),
        ({"mesh.data": 8, "train.batch_size": 12}, "train.batch_size is 12, expected a multiple"),
        ({"mesh.spatial": 8, "data.crop_height": 48}, "data.crop_height is 48, expected a multi"),
    ],
)
def test_what_does_not_fit_is_named(
    two_level_config: ml_collections.ConfigDict, changes: dict[str, int], message: str
):
    two_level_config.update_from_flattened_dict(changes)
    with pytest.raises(InputError, match=message):
        make_mesh(two_level_config)


def test_a_batch_lies_where_it_should(small_config: ml_collections.ConfigDict):
    small_config.mesh.update({"data": 4, "spatial": 2})
    small_config.evaluate.batch_size = 4
    mesh = make_mesh(small_config)
    assert local_rows(mesh, 8).tolist() == list(range(8))
    image = np.arange(8 * 64 * 64).reshape(8, 64, 64).astype(np.int32)
    placed = to_mesh({"image": image}, mesh, 8)["image"]
    np.testing.assert_array_equal(placed, image)
    assert {shard.data.shape for shard in placed.addressable_shards} == {(2, 32, 64)}


def test_state_is_copied_or_cut_along_its_longest_axis(small_config: ml_collections.ConfigDict):
    small_config.mesh.data = 8
    small_config.evaluate.batch_size = 8
    mesh = make_mesh(small_config)
    shapes = {
        "kernel": jax.ShapeDtypeStruct((3, 3, 16, 64), np.float32),
        "odd": jax.ShapeDtypeStruct((3,), np.float32),
        "scalar": jax.ShapeDtypeStruct((), np.int32),
    }
    copied = state_shardings(shapes, mesh, shard_parameters=False)
    assert {sharding.spec for sharding in copied.values()} == {PartitionSpec()}
    cut = state_shardings(shapes, mesh, shard_parameters=True)
    assert cut["kernel"].spec == PartitionSpec(None, None, None, "data")
    assert cut["odd"].spec == cut["scalar"].spec == PartitionSpec()
