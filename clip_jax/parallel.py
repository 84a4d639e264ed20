"""The mesh, the rules from logical to mesh axes, and process start-up.

Models name the logical axes of their parameters; this module alone says where those axes lie.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clip_jax.config import ConfigError, MeshConfig

if TYPE_CHECKING:
    from jax.sharding import Mesh, NamedSharding

AXES = ("data", "fsdp")
BATCH_AXES = AXES  # a batch is split over every device; parameters over ``fsdp`` only
RULES = (
    ("embed", "fsdp"),
    ("heads", None),
    ("mlp", None),
    ("layers", None),
    ("vocab", None),
    ("position", None),
    ("pixels", None),
    ("joint", None),
)


def make_mesh(config: MeshConfig, devices: list[Any] | None = None) -> Mesh:
    """The (data, fsdp) mesh over ``devices`` (all of them by default).

    Raises ConfigError when the axes do not multiply to the number of devices.
    """
    import jax
    from jax.sharding import AxisType

    devices = jax.devices() if devices is None else devices
    count = len(devices)
    data, fsdp = config.data, config.fsdp
    if data == -1:
        data = max(count // fsdp, 1)
    if fsdp == -1:
        fsdp = max(count // data, 1)
    if data * fsdp != count:
        raise ConfigError(f"mesh: data={data} × fsdp={fsdp} does not equal the {count} devices there are")
    return jax.make_mesh((data, fsdp), AXES, axis_types=(AxisType.Auto,) * 2, devices=devices)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The first axis over all devices."""
    from jax.sharding import NamedSharding, PartitionSpec

    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def replicated(mesh: Mesh) -> NamedSharding:
    """A copy on every device."""
    from jax.sharding import NamedSharding, PartitionSpec

    return NamedSharding(mesh, PartitionSpec())


def check_batch(batch_size: int, mesh: Mesh) -> None:
    """Raises ConfigError when ``batch_size`` does not divide evenly over the mesh."""
    if batch_size % mesh.size:
        raise ConfigError(
            f"batch_size={batch_size}: must be a multiple of the {mesh.size} devices of the mesh "
            f"(data={mesh.shape['data']} × fsdp={mesh.shape['fsdp']})"
        )


def enable_compile_cache() -> Path:
    """Keep compiled programs on disk, so that runs of one shape compile once.

    The folder is ``$CLIP_JAX_CACHE``, or ``clip_jax/xla`` in the user's cache folder. Returns it.
    """
    import jax

    base = os.environ.get("CLIP_JAX_CACHE")
    home = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    path = Path(base) if base else Path(home) / "clip_jax" / "xla"
    path.mkdir(parents=True, exist_ok=True)
    jax.config.update("jax_compilation_cache_dir", str(path))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    return path
