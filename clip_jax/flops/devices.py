"""Peak performance and memory of accelerator devices, from the vendors' data sheets. Loads no jax."""

from __future__ import annotations

from dataclasses import dataclass

GIB = 2**30


@dataclass(frozen=True)
class Chip:
    """Figures of a GPU that XLA's compiler asks for; ``memory`` in bytes, as the driver counts it."""

    description: str  # JAX's ``device_kind``
    cores: int  # streaming multiprocessors
    lanes: int  # float32 units of a core
    shared: int  # bytes of shared memory of a core
    shared_block: int  # the most that one block may ask for
    cache: int  # bytes of L2
    clock_ghz: float
    memory: int
    bandwidth: int  # bytes/s
    accelerated: bool  # whether the compiler may use the features of this architecture alone


@dataclass(frozen=True)
class Device:
    """Specification of one device: dense peaks in FLOP/s, memory in bytes, bandwidths in bytes/s; None if unknown.

    ``single`` of NVIDIA devices is TF32, which XLA uses for float32 products at default precision. ``link`` is the
    bandwidth from one device to its neighbors (all links, one way); ``slow_link`` is its share of the network between
    slices or hosts. ``clock`` is of TPUs, in Hz. ``chip`` is there for the GPUs that programs can be compiled for
    without having one.
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
    clock: float | None = None
    chip: Chip | None = None


# NVIDIA's data sheets and tuning guides of the architecture (cores, lanes, shared memory, cache, clock, bandwidth);
# memory is what the driver reports, as in the target configurations of openxla/xla
_H100 = Chip("NVIDIA H100 80GB HBM3", 132, 128, 233472, 232448, 52428800, 1.98, 84942979072, 3352320000000, True)
_H200 = Chip("NVIDIA H200", 132, 128, 233472, 232448, 52428800, 1.98, 151397597184, 4800000000000, True)
_A100 = Chip("NVIDIA A100-SXM4-80GB", 108, 64, 167936, 166912, 41943040, 1.41, 85100068864, 2039040000000, False)
_B200 = Chip("NVIDIA B200", 148, 128, 233472, 232448, 132644864, 1.965, 191514411008, 7672320000000, True)

# The first entry whose kind is a substring of the device's kind is used, so longer names come before their prefixes.
# Clocks of TPUs are the peak over the products a cycle of the arrays that jax lists (jax._src.pallas.mosaic.tpu_info);
# for v6e and TPU7x that contradicts XLA's own cycles, so theirs are unknown.
DEVICES = (
    Device("b200", "b200", 2250e12, 1100e12, 180e9, 8.0e12, 900e9, 50e9, 10.0, chip=_B200),
    Device("h200", "h200", 989e12, 494e12, 141e9, 4.8e12, 450e9, 50e9, 9.0, chip=_H200),
    Device("h100", "h100", 989e12, 494e12, 80e9, 3.35e12, 450e9, 50e9, 9.0, chip=_H100),
    Device("a100", "a100", 312e12, 156e12, 80e9, 2.0e12, 300e9, 25e9, 8.0, chip=_A100),
    Device("l40s", "l40s", 362e12, 183e12, 48e9, 0.86e12, 32e9, 12.5e9, 8.9),
    Device("v100", "v100", 125e12, 15.7e12, 32e9, 0.9e12, 150e9, 12.5e9, 7.0),
    Device("tpu7x", "tpu7x", 1155e12, None, 95.9 * GIB, 3.7e12, 600e9, None),  # one of the chip's two cores
    Device("v6e", "tpu v6 lite", 918e12, None, 31.25 * GIB, 1.64e12, 400e9, 12.5e9),
    Device("v5p", "tpu v5p", 459e12, None, 95.74 * GIB, 2.77e12, 600e9, 6.25e9, clock=1.75e9),
    Device("v5e", "tpu v5 lite", 197e12, None, 15.75 * GIB, 0.82e12, 200e9, 3.1e9, clock=1.5e9),
    Device("v5e", "tpu v5e", 197e12, None, 15.75 * GIB, 0.82e12, 200e9, 3.1e9, clock=1.5e9),
    # how JAX names it
    Device("v5p", "tpu v5", 459e12, None, 95.74 * GIB, 2.77e12, 600e9, 6.25e9, clock=1.75e9),
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
