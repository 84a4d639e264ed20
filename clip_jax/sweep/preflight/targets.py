"""The devices that `preflight` compiles for: those at hand, a TPU slice, or GPUs by their figures."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from clip_jax.distributed.cluster import MEMORY_SHARE
from clip_jax.errors import UserError
from clip_jax.flops.devices import DEVICES, Chip, Device, device_of

if TYPE_CHECKING:
    import jax

HERE = "here"
# libtpu queries the machine for its type; these answer for a machine that has no TPU
NO_TPU = {"TPU_SKIP_MDS_QUERY": "1", "TPU_ACCELERATOR_TYPE": "v5litepod-16", "TPU_WORKER_HOSTNAMES": "localhost"}
CUDA, CUDNN = (13, 0, 0), (9, 12, 0)  # versions that described GPUs are given
# Without a GPU nothing can be tuned, and XLA's Triton products need tuning to find their tiles: products are cuBLAS's.
UNTUNED: dict[str, bool | str] = {"xla_gpu_enable_triton_gemm": False}


@dataclass(frozen=True)
class Target:
    """Devices that a step is compiled for.

    ``memory`` is in bytes per device, ``host_devices`` the number of devices a host has. ``options`` are given to the
    compiler beside those of a real run, and ``described`` is whether the devices are GPUs that are not at hand.
    """

    name: str
    devices: list[jax.Device]
    device: Device | None
    memory: float
    host_devices: int = 0
    options: dict[str, bool | str] = field(default_factory=dict)
    described: bool = False


def find_target(name: str = HERE, slices: int = 1) -> Target:
    """Return the devices of ``here``, of a TPU topology, or of hosts with GPUs.

    Args:
      name: ``here``; GENERATION:SHAPE of one TPU slice (v5e:16x16, v5p:8x8x16); or GPU:DEVICES of one host (h100:8), or
        GPU:HOSTSxDEVICES (h100:4x8).
      slices: number of such slices, or of such groups of hosts.

    Raises:
      UserError: the target is not known, or what compiles for it is not installed.
    """
    import jax

    if name == HERE:
        devices: list[jax.Device] = jax.devices()
        stats = devices[0].memory_stats() or {} if devices[0].platform != "cpu" else {}
        memory = stats.get("bytes_limit") or os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / len(devices)
        return Target(name, devices, device_of(devices[0].device_kind), float(memory), jax.local_device_count())
    gpus = re.fullmatch(r"(?!v\d|tpu)(\w+):(?:(\d+)x)?(\d+)", name)
    if not gpus and not re.fullmatch(r"(?:v|tpu)\w+:\d+(x\d+)+", name):
        reason = f"must be {HERE}, a TPU topology such as v5e:16x16 or v5p:8x8x16, or GPUs such as h100:8 or h100:4x8"
        raise UserError(field="--target", value=name, reason=reason)
    jax.config.update("jax_platforms", "cpu")
    if gpus:
        return _gpus(name, gpus[1], slices, int(gpus[2] or 1), int(gpus[3]))
    return _tpus(name, slices)


def _tpus(name: str, slices: int) -> Target:
    from jax.experimental import topologies

    for variable, value in NO_TPU.items():
        os.environ.setdefault(variable, value)
    many = {"num_slices": slices} if slices > 1 else {}
    try:
        devices = list(topologies.get_topology_desc(platform="tpu", topology_name=name, **many).devices)
    except Exception as error:  # noqa: BLE001 - libtpu raises whatever it likes
        message = str(error).split("\n")[0]
        if "libtpu" in message and "not" in message.lower():
            hint = "pip install 'clip-jax-scaling[preflight]'"
            raise UserError(field="--target", value=name, reason="needs libtpu", hint=hint) from None
        raise UserError(field="--target", value=name, reason=message) from None
    kind = str(getattr(devices[0], "device_kind", ""))
    device = device_of(kind)
    if device is None or device.memory is None:
        reason = f"the memory of {kind!r} is not in clip_jax/flops/devices.py"
        raise UserError(field="--target", value=name, reason=reason)
    return Target(f"{slices} × {name}" if slices > 1 else name, devices, device, device.memory)


def _gpus(name: str, card: str, slices: int, hosts: int, count: int) -> Target:
    from jax.experimental import topologies

    known = {device.name: device for device in DEVICES if device.chip is not None}
    if card not in known:
        reason = f"the figures of {card!r} that a compiler needs are not in clip_jax/flops/devices.py"
        raise UserError(field="--target", value=name, reason=reason, hint=f"known: {', '.join(known)}")
    if not hosts or not count or not slices:
        raise UserError(field="--target", value=name, reason="needs at least one device")
    check_plugin(name)
    device = known[card]
    assert device.chip is not None
    assert device.capability is not None
    proto = target_config(device.chip, device.capability)
    try:
        topology = topologies.get_topology_desc(
            platform="cuda", target_config=proto, topology=f"{slices}x{hosts}x{count}"
        )
    except Exception as error:  # noqa: BLE001 - the plugin raises whatever it likes
        raise UserError(field="--target", value=name, reason=str(error).split("\n")[0]) from None
    devices, memory = list(topology.devices), device.chip.memory * MEMORY_SHARE
    label = f"{slices} × {name}" if slices > 1 else name
    return Target(label, devices, device, memory, count, UNTUNED, described=True)


def check_plugin(target: str) -> None:
    """Check that jax's CUDA plugin is of jaxlib's version; raise UserError, which names the ``target``, otherwise."""
    hint = "pip install 'clip-jax-scaling[gpu-preflight]'"
    versions = {}
    for package in ("jaxlib", "jax-cuda13-plugin", "jax-cuda13-pjrt"):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            raise UserError(field="--target", value=target, reason=f"needs {package}", hint=hint) from None
    if len(set(versions.values())) > 1:
        reason = f"versions differ: {', '.join(f'{name} {version}' for name, version in versions.items())}"
        hint = f"pip install --no-deps jax-cuda13-plugin=={versions['jaxlib']} jax-cuda13-pjrt=={versions['jaxlib']}"
        raise UserError(field="--target", value=target, reason=reason, hint=hint)


def target_config(chip: Chip, capability: float) -> str:
    """Return the description of a GPU that XLA compiles for, a GpuTargetConfigProto as text."""
    major, minor = str(capability).split(".")
    figures = {
        "threads_per_block_limit": 1024, "threads_per_warp": 32, "shared_memory_per_block": 49152,
        "shared_memory_per_core": chip.shared, "threads_per_core_limit": 2048, "core_count": chip.cores,
        "fpus_per_core": chip.lanes, "block_dim_limit_x": 2**31 - 1, "block_dim_limit_y": 65535,
        "block_dim_limit_z": 65535, "memory_bandwidth": chip.bandwidth, "l2_cache_size": chip.cache,
        "clock_rate_ghz": chip.clock_ghz, "device_memory_size": chip.memory,
        "shared_memory_per_block_optin": chip.shared_block, "registers_per_core_limit": 65536,
        "registers_per_block_limit": 65536, "thread_dim_limit_x": 1024, "thread_dim_limit_y": 1024,
        "thread_dim_limit_z": 64,
    }  # fmt: skip
    features = " feature_extension: ACCELERATED_FEATURES" if chip.accelerated else ""
    cuda, cudnn = (".".join(map(str, version)) for version in (CUDA, CUDNN))
    versions = {"runtime_version": cuda, "driver_version": cuda, "compile_time_toolkit_version": cuda}
    return "\n".join(
        [
            "gpu_device_info {",
            *(f"{key}: {value}" for key, value in figures.items()),
            f"cuda_compute_capability {{ major: {major} minor: {minor}{features} }}",
            *(f'{key}: "{value}"' for key, value in (versions | {"dnn_version": cudnn}).items()),
            "}",
            'platform_name: "CUDA"',
            "dnn_version_info {{ major: {} minor: {} patch: {} }}".format(*CUDNN),
            "runtime_version {{ major: {} minor: {} patch: {} }}".format(*CUDA),
            f'device_description_str: "{chip.description}"',
        ]
    )


@contextlib.contextmanager
def tracing_for(target: Target) -> Iterator[None]:
    """Answer JAX's question for the version of cuDNN by the target's, while a step is traced for described GPUs."""
    if not target.described:
        yield
        return
    from jax._src.cudnn import fused_attention_stablehlo as attention

    major, minor, patch = CUDNN
    asked = attention.check_cudnn_version
    attention.check_cudnn_version = lambda: 10000 * major + 100 * minor + patch
    try:
        yield
    finally:
        attention.check_cudnn_version = asked
