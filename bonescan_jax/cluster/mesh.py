"""Mesh and shardings: which device holds which part of a batch and of the state."""

from collections.abc import Sequence
from typing import Any

import jax
import ml_collections
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from bonescan_jax.errors import InputError

Tree = Any  # nested containers of arrays

DATA, SPATIAL = "data", "spatial"


def make_mesh(
    config: ml_collections.ConfigDict, devices: Sequence[jax.Device] | None = None
) -> Mesh:
    """A mesh of `mesh.data` × `mesh.spatial` of the devices: all that JAX finds, or the given ones.

    Axes are Auto: the compiler spreads the shardings of batch and state through the step. (JAX's
    own default is Explicit.)

    Raises:
        InputError: there are not that many devices, or they do not divide the batch or the crop.
    """
    devices = jax.devices() if devices is None else devices
    count, spatial = len(devices), config.mesh.spatial
    data = count // spatial if config.mesh.data == -1 else config.mesh.data
    if data < 1 or spatial < 1 or data * spatial > count:
        raise InputError(
            f"config: mesh.data={config.mesh.data} × mesh.spatial={spatial} does not fit on the "
            f"{count} {devices[0].platform} devices found"
        )
    _check_divides(config, data, spatial)
    used = devices[: data * spatial]
    processes = {device.process_index for device in devices}
    idle = processes - {device.process_index for device in used}
    if idle:
        raise InputError(
            f"config: mesh.data={data} × mesh.spatial={spatial} leaves process {min(idle)} of "
            f"{len(processes)} without a device, expected one or more for each"
        )
    return jax.make_mesh(
        (data, spatial), (DATA, SPATIAL), axis_types=(AxisType.Auto,) * 2, devices=used
    )


def make_evaluation_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh of all devices along the batch, or of those given: each scan is scored by itself."""
    devices = jax.devices() if devices is None else devices
    return jax.make_mesh(
        (len(devices), 1), (DATA, SPATIAL), axis_types=(AxisType.Auto,) * 2, devices=devices
    )


def _check_divides(config: ml_collections.ConfigDict, data: int, spatial: int) -> None:
    parts = data * config.train.accumulate_steps
    multiple = config.model.patch * 2**config.model.levels
    for name, size, by in (
        ("train.batch_size", config.train.batch_size, parts),
        # Every row of the net must divide too, or shards would need padding.
        ("data.crop_height", config.data.crop_height, spatial * multiple),
    ):
        if size % by:
            raise InputError(
                f"config: {name} is {size}, expected a multiple of {by} on a mesh of "
                f"{data} (data) × {spatial} (spatial) devices"
            )


def batch_shardings(mesh: Mesh) -> dict[str, NamedSharding]:
    """Where each entry of a batch lies: samples over data, rows of pixels over spatial."""
    pixels = NamedSharding(mesh, PartitionSpec(DATA, SPATIAL))
    samples = NamedSharding(mesh, PartitionSpec(DATA))
    return {
        "image": pixels,
        "mask": pixels,
        "gain": samples,
        "reference": samples,
        "sample": samples,
    }


def replicated(mesh: Mesh) -> NamedSharding:
    """Every device holds the whole array."""
    return NamedSharding(mesh, PartitionSpec())


def state_shardings(state: Tree, mesh: Mesh, shard_parameters: bool) -> Tree:
    """Shardings for a tree of arrays or shapes: copied, or cut along their longest axis.

    An array is cut over `data` along the longest axis that the devices divide; one that none
    divides is copied. (Rajbhandari et al., ZeRO, arXiv 1910.02054, as shardings.)
    """
    devices = mesh.shape[DATA]

    def sharding(array: jax.ShapeDtypeStruct) -> NamedSharding:
        axes = [axis for axis, size in enumerate(array.shape) if size and size % devices == 0]
        if not shard_parameters or not axes:
            return replicated(mesh)
        longest = max(axes, key=lambda axis: array.shape[axis])
        spec: list[str | None] = [None] * len(array.shape)
        spec[longest] = DATA
        return NamedSharding(mesh, PartitionSpec(*spec))

    return jax.tree.map(sharding, state)


def local_rows(mesh: Mesh, global_batch: int) -> np.ndarray:
    """The rows of a global batch that this process must load, ascending.

    Derived from the sharding and not from the process index: processes that differ only along
    `spatial` hold different rows of pixels of the same samples, and so load the same ones.
    """
    sharding = NamedSharding(mesh, PartitionSpec(DATA))
    slices = sharding.addressable_devices_indices_map((global_batch,)).values()
    rows = [np.arange(global_batch)[index] for index in slices]
    return np.unique(np.concatenate(rows))


def to_mesh(batch: dict[str, np.ndarray], mesh: Mesh, global_batch: int) -> dict[str, jax.Array]:
    """Places this process's rows of a batch on its devices as one global array an entry."""
    shardings = batch_shardings(mesh)
    return {
        # The global shape tells that a process holds whole scans, also where it needs only a part.
        name: jax.make_array_from_process_local_data(
            shardings[name], array, (global_batch, *array.shape[1:])
        )
        for name, array in batch.items()
    }


def to_every_device(tree: Tree, mesh: Mesh) -> Tree:
    """A tree of arrays that are the same in every process, whole on every device."""
    sharding = replicated(mesh)

    def place(array: jax.Array) -> jax.Array:
        return jax.make_array_from_process_local_data(sharding, np.asarray(array), array.shape)

    return jax.tree.map(place, tree)


def to_host(array: jax.Array) -> np.ndarray:
    """The whole of a global array, on every process; each must ask for it."""
    if array.is_fully_addressable or array.is_fully_replicated:
        return np.asarray(array)
    return multihost_utils.process_allgather(array, tiled=True)
