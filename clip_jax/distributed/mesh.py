"""The device mesh, the rules that map logical axes to mesh axes, and the compilation cache.

Models name the logical axes of their parameters; only this module says which mesh axis each one is sharded over.
"""

from __future__ import annotations

import logging
import math
import os
from collections import deque
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

from clip_jax.config import MeshConfig
from clip_jax.distributed.cluster import COMPILE_CACHE
from clip_jax.errors import ConfigError
from clip_jax.storage.paths import as_path, cache_folder, is_remote, mkdir
from clip_jax.types import PyTree

if TYPE_CHECKING:
    from jax import Array, Device
    from jax.sharding import Mesh, NamedSharding

logger = logging.getLogger(__name__)

AXES = ("slice", "data", "fsdp", "tensor")
BATCH_AXES = AXES[:3]  # a batch is sharded over these; devices along ``tensor`` hold the same rows and shard widths
# Logical axis -> mesh axis, for parameters and activations. All sharding follows from this table.
SHARDING_RULES = (
    ("batch", BATCH_AXES),
    ("embed", "fsdp"),  # of parameters; the width of activations is not sharded
    ("heads", "tensor"),
    ("qkv", "tensor"),  # the heads of queries, keys and values side by side
    ("mlp", "tensor"),
    ("layers", None),
    ("vocab", None),
    ("position", None),
    ("pixels", None),
    ("joint", None),
)
# Logical axes of a parameter, ``layers`` aside -> which of them are the inputs and the outputs of a hidden matrix, for
# optimizers of matrices (Muon); None: no hidden matrix. Every parameter of a model that they train must be listed.
MATRIX_AXES: dict[tuple[str | None, ...], tuple[int, int] | None] = {
    ("embed", "qkv"): (0, 1),
    ("embed", "heads"): (0, 1),
    ("heads", "embed"): (0, 1),
    ("embed", "mlp"): (0, 1),
    ("mlp", "embed"): (0, 1),
    (None, None, "pixels", "embed"): None,  # patch embedding
    ("vocab", "embed"): None,  # token embedding
    ("position", "embed"): None,
    (None, "embed"): None,  # learned queries
    ("joint", None, "embed"): None,  # prefix of the caption model
    ("embed", "joint"): None,  # projections to embeddings and to logits: the output layers
    ("embed", "vocab"): None,
    ("vocab",): None,
    (None,): None,  # gains and biases
    (): None,  # temperature
}
SIDE_BY_SIDE = {"qkv": 3}  # matrices along an axis, each of which is a matrix of its own


def make_mesh(config: MeshConfig, devices: list[Device] | None = None) -> Mesh:
    """Build the (slice, data, fsdp, tensor) mesh over ``devices`` (by default all devices).

    Slices are connected by the slow network, so only gradients and the ring of the loss cross them. Devices that have a
    slice index (TPU multi-slice) are grouped by it, others by their order. Raises ConfigError if the axis sizes do not
    multiply to the number of devices, or if slices have unequal sizes.
    """
    import jax
    import numpy as np
    from jax.experimental.mesh_utils import create_device_mesh
    from jax.sharding import AxisType, Mesh

    devices = jax.devices() if devices is None else devices
    count = len(devices)
    shape = {axis: getattr(config, "slices" if axis == "slice" else axis) for axis in AXES}
    fixed = math.prod(size for size in shape.values() if size != -1)
    shape = {axis: max(count // fixed, 1) if size == -1 else size for axis, size in shape.items()}
    if math.prod(shape.values()) != count:
        sizes = " × ".join(f"{axis}={size}" for axis, size in shape.items())
        reason = f"{sizes} does not equal the {count} devices available"
        raise ConfigError(field="mesh", reason=reason, hint="set one axis to -1 to use the remaining devices")
    within = tuple(shape[axis] for axis in AXES[1:])
    grid = np.stack([create_device_mesh(within, group) for group in _slices(devices, shape["slice"])])
    return Mesh(grid, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def _slices(devices: list[Device], count: int) -> list[list[Device]]:
    each = len(devices) // count
    of = {getattr(d, "slice_index", 0) for d in devices}
    if count == 1 or len(of) == 1:
        return [devices[i * each : (i + 1) * each] for i in range(count)]
    groups = [[d for d in devices if d.slice_index == index] for index in sorted(of)]
    if len(groups) != count or {len(g) for g in groups} != {each}:
        sizes = ", ".join(str(len(g)) for g in groups)
        reason = f"the devices form {len(groups)} slices of {sizes} devices"
        raise ConfigError(field="mesh.slices", value=count, reason=reason)
    return groups


def batch_shards(mesh: Mesh) -> int:
    """Return the number of shards that a batch is split into."""
    return math.prod(mesh.shape[axis] for axis in BATCH_AXES)


def constrain(x: Array, *names: str | None) -> Array:
    """Constrain the sharding of ``x`` by `SHARDING_RULES`, given one logical name per axis.

    Outside `on_mesh`, and on a mesh with other axis names, which its owner lays out, ``x`` is returned unchanged.
    """
    import jax
    from jax.sharding import PartitionSpec

    if jax.sharding.get_abstract_mesh().axis_names != AXES:
        return x
    rules = dict(SHARDING_RULES)
    spec = PartitionSpec(*(rules[name] if name else None for name in names))
    return jax.lax.with_sharding_constraint(x, spec)


def on_mesh(mesh: Mesh) -> AbstractContextManager[object]:
    """Return a context manager, for use while tracing, in which `constrain` takes effect."""
    import jax

    return jax.sharding.use_abstract_mesh(mesh.abstract_mesh)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Return the sharding of a batch: its first axis over `BATCH_AXES`."""
    from jax.sharding import NamedSharding, PartitionSpec

    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def replicated(mesh: Mesh) -> NamedSharding:
    """Return the sharding of a value that every device holds whole."""
    from jax.sharding import NamedSharding, PartitionSpec

    return NamedSharding(mesh, PartitionSpec())


def check_batch(batch_size: int, mesh: Mesh) -> None:
    """Check that ``batch_size`` divides evenly over the mesh and its rows over the processes.

    Raises:
      ConfigError: they do not. Where devices of several processes hold the same rows, each would read others.
    """
    import jax

    if (processes := jax.process_count()) > 1:
        held = batch_sharding(mesh).addressable_devices_indices_map((batch_shards(mesh),)).values()
        if len({str(rows) for rows in held}) * processes != batch_shards(mesh):
            reason = f"spans several of the {processes} processes, which read different rows of a batch"
            hint = "use at most the devices of one process, or mesh.fsdp"
            raise ConfigError(field="mesh.tensor", value=mesh.shape["tensor"], reason=reason, hint=hint)
    if batch_size % mesh.size:
        sizes = " × ".join(f"{axis}={size}" for axis, size in mesh.shape.items() if size > 1)
        reason = f"must be a multiple of the {mesh.size} devices of the mesh ({sizes})"
        raise ConfigError(field="batch_size", value=batch_size, reason=reason)


class InFlight:
    """A bound on the number of dispatched but unfinished calls of compiled functions.

    JAX dispatches asynchronously. On several CPU devices, about a hundred calls with collectives in flight occupy every
    thread and wait for others that have none, and XLA aborts the process after a minute. On an accelerator, the inputs
    of calls far ahead fill its memory. Two calls in flight keep a device busy.
    """

    def __init__(self, most: int = 2) -> None:
        self.most = most
        self._waiting: deque[PyTree] = deque()

    def add(self, outputs: PyTree) -> list[PyTree]:
        """Add the outputs of a call (which must not be donated) and wait for the call made ``most`` calls earlier.

        Returns that earlier call's outputs in a list, which is empty for the first ``most`` calls.
        """
        import jax

        self._waiting.append(outputs)
        return [jax.block_until_ready(self._waiting.popleft())] if len(self._waiting) > self.most else []

    def rest(self) -> list[PyTree]:
        """Wait for the remaining calls and return their outputs."""
        import jax

        rest, self._waiting = list(self._waiting), deque()
        return jax.block_until_ready(rest)


def log_devices(devices: Sequence[Device] = ()) -> None:
    """Log number and kind of the devices that are used (default: all), and the number of processes if above 1."""
    import jax

    devices = devices or jax.devices()
    processes = f", in {jax.process_count()} processes" if jax.process_count() > 1 else ""
    logger.info("devices: %d × %s%s", len(devices), devices[0].device_kind, processes)


def enable_compile_cache() -> Path:
    """Cache compiled programs, so that runs of one shape compile once, and return the cache folder.

    The folder is ``$CLIP_JAX_COMPILE_CACHE``, which may lie in a bucket, or the `storage.paths.cache_folder` ``xla``.
    """
    import jax

    path = as_path(os.environ.get(COMPILE_CACHE) or cache_folder("xla"))
    try:
        mkdir(path)
    except OSError:  # training works without a cache
        return path
    if is_remote(path):  # of the kernels' timings XLA keeps files of its own, on a disk only; the programs hold them
        jax.config.update("jax_persistent_cache_enable_xla_caches", "none")
    jax.config.update("jax_compilation_cache_dir", str(path))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    return path
