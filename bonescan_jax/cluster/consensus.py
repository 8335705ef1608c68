"""Agreement of all processes of a job on whether to go on, save or stop at a step."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from bonescan_jax.cluster.mesh import replicated

# Requests of a process, by rising priority.
GO_ON, SAVE, STOP = range(3)


class Consensus:
    """The greatest wish of all processes, without waiting for any of them.

    A process alone has its wish at once. Of several, each call asks a question and answers the one
    before: the devices compare the wishes in their own time, between two steps. All processes must
    call it equally often, and in the same order with whatever else they compute together.
    """

    def __init__(self, mesh: Mesh) -> None:
        self.alone = jax.process_count() == 1
        self.sharding = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
        self.devices = len(self.sharding.addressable_devices)
        self.greatest = jax.jit(jnp.max, out_shardings=replicated(mesh))
        self.asked: jax.Array | None = None

    def __call__(self, wish: int) -> int:
        """What all do now: GO_ON, SAVE or STOP."""
        if self.alone:
            return wish
        answer = GO_ON if self.asked is None else int(self.asked)
        wishes = np.full(self.devices, wish, np.int32)
        self.asked = self.greatest(
            jax.make_array_from_process_local_data(
                self.sharding, wishes, (self.sharding.mesh.size,)
            )
        )
        return answer
