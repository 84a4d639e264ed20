"""Peak performance and memory of accelerator devices, from the vendors' data sheets. Loads no jax."""

from __future__ import annotations

from dataclasses import dataclass

GIB = 2**30


@dataclass(frozen=True)
class Device:
    """Specification of one device: dense peaks in FLOP/s, memory in bytes, bandwidths in bytes/s; None if unknown.

    ``single`` of NVIDIA devices is TF32, which XLA uses for float32 products at default precision. ``link`` is the
    bandwidth from one device to its neighbors (all links, one way); ``slow_link`` is its share of the network between
    slices or hosts.
    """

    name: str
    kind: str  # substring of JAX's ``device_kind``, lower case
    half: float
    single: float | None = None
    memory: float | None = None
    bandwidth: float | None = None
    link: float | None = None
    slow_link: float | None = None
    capability: float | None = None  # CUDA compute capability


# The first entry whose kind is a substring of the device's kind is used, so longer names come before their prefixes.
DEVICES = (
    Device("b200", "b200", 2250e12, 1100e12, 180e9, 8.0e12, 900e9, 50e9, 10.0),
    Device("h200", "h200", 989e12, 494e12, 141e9, 4.8e12, 450e9, 50e9, 9.0),
    Device("h100", "h100", 989e12, 494e12, 80e9, 3.35e12, 450e9, 50e9, 9.0),
    Device("a100", "a100", 312e12, 156e12, 80e9, 2.0e12, 300e9, 25e9, 8.0),
    Device("l40s", "l40s", 362e12, 183e12, 48e9, 0.86e12, 32e9, 12.5e9, 8.9),
    Device("v100", "v100", 125e12, 15.7e12, 32e9, 0.9e12, 150e9, 12.5e9, 7.0),
    Device("v6e", "tpu v6 lite", 918e12, None, 31.25 * GIB, 1.64e12, 400e9, 12.5e9),
    Device("v5p", "tpu v5p", 459e12, None, 95.74 * GIB, 2.77e12, 600e9, 6.25e9),
    Device("v5e", "tpu v5 lite", 197e12, None, 15.75 * GIB, 0.82e12, 200e9, 3.1e9),
    Device("v5e", "tpu v5e", 197e12, None, 15.75 * GIB, 0.82e12, 200e9, 3.1e9),
    Device("v5p", "tpu v5", 459e12, None, 95.74 * GIB, 2.77e12, 600e9, 6.25e9),  # how JAX names it
    Device("v4", "tpu v4", 275e12, None, 31.25 * GIB, 1.23e12, 300e9, 6.25e9),
    Device("v3", "tpu v3", 61.5e12, None, 15.48 * GIB, 0.45e12, 80e9, None),  # one of the chip's two cores
)


def device_of(kind: str) -> Device | None:
    """Return the entry for JAX's ``device_kind``; None if it is unknown (a CPU, a new device)."""
    kind = kind.lower()
    return next((d for d in DEVICES if d.kind in kind), None)


def peak_flops(kind: str, dtype: str) -> float | None:
    """Return the peak FLOP/s of one device for a compute dtype; None if unknown, never zero."""
    device = device_of(kind)
    if device is None:
        return None
    return device.single if dtype == "float32" else device.half
