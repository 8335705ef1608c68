"""A compiled training step as a file: written without an accelerator, loaded where it runs.

The file has a line that identifies the format, a line of JSON that describes the program, and XLA's
serialised executable. It contains no pickle. It is loaded only if this machine traces exactly the
same program. It is executable code all the same: load only files that you trust.
"""

import hashlib
import importlib.metadata
import json
import os
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from bonescan_jax.errors import InputError
from bonescan_jax.hyperparameters import Hyperparameters
from bonescan_jax.train_step import Batch, TrainState

# Of a step, or their shapes and shardings.
Arguments = tuple[TrainState, Batch | dict[str, jax.ShapeDtypeStruct], Hyperparameters]
Step = Callable[[TrainState, Batch, Hyperparameters], tuple[TrainState, dict[str, Any]]]

_FIRST_LINE = b"bonescan-jax executable 1"


def write_executable(
    path: Path,
    about: dict[str, Any],
    lowered: jax.stages.Lowered,
    compiled: jax.stages.Compiled,
    mesh: Mesh,
) -> int:
    """Writes a compiled step atomically; returns the number of bytes written.

    Args:
        path: of the file.
        about: further information for the file's second line.
        lowered: the program that was compiled, to recognise it by.
        compiled: for the devices of the mesh.
        mesh: of the step.
    """
    executable = compiled.runtime_executable()
    assert executable is not None  # of a jitted function
    payload = executable.serialize()
    checksum = hashlib.sha256(payload).hexdigest()
    header = {**_origin(lowered, mesh), "sha256": checksum, "about": about}
    partial = path.with_name(path.name + ".partial")
    path.parent.mkdir(parents=True, exist_ok=True)
    with partial.open("wb") as file:
        file.write(
            b"\n".join([_FIRST_LINE, json.dumps(header).encode(), zlib.compress(payload, 1)])
        )
    os.replace(partial, path)
    return path.stat().st_size


def load_executable(
    path: Path,
    step: jax.stages.Wrapped,
    arguments: Arguments,
    mesh: Mesh,
) -> Step:
    """A function like the jitted `step` that runs the file's executable, without compiling.

    Args:
        path: what `write_executable` wrote.
        step: the jitted step of `make_train_step`.
        arguments: of the step.
        mesh: of the step.

    Raises:
        InputError: the file is incomplete, or holds another program, or was compiled by other
            versions or for other devices.
    """
    header, payload = _read(path)
    lowered = step.lower(*arguments)
    for name, here in _origin(lowered, mesh).items():
        if header.get(name) != here:
            raise InputError(
                f"{path}: was compiled for {name} {header.get(name)}, expected {here}; "
                "compile it again or leave --executable out"
            )
    devices = list(mesh.devices.flat)
    executable = devices[0].client.deserialize_executable(payload, devices)
    results = jax.tree.leaves(lowered.out_info)

    def run(*arguments: Any) -> tuple[TrainState, dict[str, Any]]:  # noqa: ANN401
        parts = executable.execute_sharded(jax.tree.leaves(arguments))
        arrays = [
            jax.make_array_from_single_device_arrays(result.shape, result.sharding, shards)
            for result, shards in zip(
                results, parts.disassemble_into_single_device_arrays(), strict=True
            )
        ]
        return jax.tree.unflatten(lowered.out_tree, arrays)

    return run


def _read(path: Path) -> tuple[dict[str, Any], bytes]:
    try:
        first, header, payload = path.read_bytes().split(b"\n", 2)
        if first != _FIRST_LINE:
            raise ValueError("its first line is another")
        header, payload = json.loads(header), zlib.decompress(payload)
        if hashlib.sha256(payload).hexdigest() != header["sha256"]:
            raise ValueError("its checksum is another")
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}, expected what --out wrote") from error
    except (ValueError, KeyError, zlib.error) as error:
        raise InputError(
            f"{path}: {error}, expected the whole of what `bonescan compile --out` wrote"
        ) from error
    return header, payload


def _origin(lowered: jax.stages.Lowered, mesh: Mesh) -> dict[str, Any]:
    """What an executable depends on, in a form that can be compared."""
    devices = list(mesh.devices.flat)
    libraries = ["jax", "jaxlib"] + (["libtpu"] if devices[0].platform == "tpu" else [])
    return {
        "libraries": {name: importlib.metadata.version(name) for name in libraries},
        "chip": devices[0].device_kind,
        "devices": [device.id for device in devices],
        # Depends on the code and on what of the config is not among the hyperparameters.
        "program": hashlib.sha256(lowered.as_text().encode()).hexdigest()[:16],
    }
