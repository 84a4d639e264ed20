"""The mesh, the rules from logical to mesh axes, and process start-up.

Models name the logical axes of their parameters; this module alone says where those axes lie.
"""

from __future__ import annotations

import math
import os
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clip_jax.config import MeshConfig
from clip_jax.errors import ConfigError

if TYPE_CHECKING:
    from jax.sharding import Mesh, NamedSharding

AXES = ("slice", "data", "fsdp", "tensor")
BATCH_AXES = AXES[:3]  # a batch is split over these; devices along ``tensor`` share rows and split widths
# Logical axis -> mesh axis, for parameters and for activations. The only table of its kind.
RULES = (
    ("batch", BATCH_AXES),
    ("embed", "fsdp"),  # of a parameter; activations keep their width whole
    ("heads", "tensor"),
    ("mlp", "tensor"),
    ("layers", None),
    ("vocab", None),
    ("position", None),
    ("pixels", None),
    ("joint", None),
)


def make_mesh(config: MeshConfig, devices: list[Any] | None = None) -> Mesh:
    """The (slice, data, fsdp, tensor) mesh over ``devices`` (all of them by default).

    Slices are joined by the slow network, so only gradients and the ring of the loss cross them. Devices that know
    their slice (TPU multi-slice) are grouped by it, others by their order. Raises ConfigError when the axes do not
    multiply to the number of devices, or slices are unequal.
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
        raise ConfigError(f"mesh: {sizes} does not equal the {count} devices there are")
    within = tuple(shape[axis] for axis in AXES[1:])
    grid = np.stack([create_device_mesh(within, group) for group in _slices(devices, shape["slice"])])
    return Mesh(grid, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def _slices(devices: list[Any], count: int) -> list[list[Any]]:
    each = len(devices) // count
    of = {getattr(d, "slice_index", 0) for d in devices}
    if count == 1 or len(of) == 1:
        return [devices[i * each : (i + 1) * each] for i in range(count)]
    groups = [[d for d in devices if d.slice_index == index] for index in sorted(of)]
    if len(groups) != count or {len(g) for g in groups} != {each}:
        sizes = ", ".join(str(len(g)) for g in groups)
        raise ConfigError(f"mesh.slices={count}: the devices form {len(groups)} slices of {sizes} devices")
    return groups


def batch_shards(mesh: Mesh) -> int:
    """Into how many parts a batch is split."""
    return math.prod(mesh.shape[axis] for axis in BATCH_AXES)


def constrain(x: Any, *names: str | None) -> Any:
    """``x`` with its axes laid as `RULES` say, one logical name an axis; as it is outside `on_mesh`, and on a mesh
    with other axes than ours, which is another's to lay out."""
    import jax
    from jax.sharding import PartitionSpec

    if jax.sharding.get_abstract_mesh().axis_names != AXES:
        return x
    rules = dict(RULES)
    spec = PartitionSpec(*(rules[name] if name else None for name in names))
    return jax.lax.with_sharding_constraint(x, spec)


def on_mesh(mesh: Mesh) -> Any:
    """A context, for use while tracing, in which `constrain` acts."""
    import jax

    return jax.sharding.use_abstract_mesh(mesh.abstract_mesh)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The first axis over `BATCH_AXES`."""
    from jax.sharding import NamedSharding, PartitionSpec

    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def replicated(mesh: Mesh) -> NamedSharding:
    """A copy on every device."""
    from jax.sharding import NamedSharding, PartitionSpec

    return NamedSharding(mesh, PartitionSpec())


def check_batch(batch_size: int, mesh: Mesh) -> None:
    """Raises ConfigError when ``batch_size`` does not divide evenly over the mesh."""
    if batch_size % mesh.size:
        sizes = " × ".join(f"{axis}={size}" for axis, size in mesh.shape.items() if size > 1)
        raise ConfigError(
            f"batch_size={batch_size}: must be a multiple of the {mesh.size} devices of the mesh ({sizes})"
        )


class InFlight:
    """Bounds how many calls of compiled functions are under way on the devices.

    JAX returns before a call is done. On several CPU devices some hundred calls with collectives in flight take every
    thread, each waits for one that has none, and XLA ends the process after a minute; on an accelerator the inputs of
    calls far ahead fill its memory. Two calls ahead keep a device busy.
    """

    def __init__(self, most: int = 2) -> None:
        self.most = most
        self._waiting: deque[Any] = deque()

    def add(self, outputs: Any) -> list[Any]:
        """Take the outputs of a call (not to be donated), wait for the call ``most`` before it and return its outputs:
        a list of one, or of none at the beginning."""
        import jax

        self._waiting.append(outputs)
        return [jax.block_until_ready(self._waiting.popleft())] if len(self._waiting) > self.most else []

    def rest(self) -> list[Any]:
        """Wait for the calls that are left, and return their outputs."""
        import jax

        rest, self._waiting = list(self._waiting), deque()
        return jax.block_until_ready(rest)


def enable_compile_cache() -> Path:
    """Keep compiled programs on disk, so that runs of one shape compile once.

    The folder is ``$CLIP_JAX_CACHE``, or ``clip_jax/xla`` in the user's cache folder. Returns it.
    """
    import jax

    base = os.environ.get("CLIP_JAX_CACHE")
    home = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    path = Path(base) if base else Path(home) / "clip_jax" / "xla"
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError:  # a cache is no duty
        return path
    jax.config.update("jax_compilation_cache_dir", str(path))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    return path
