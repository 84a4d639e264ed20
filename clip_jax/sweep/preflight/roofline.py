"""Roofline of a training step: the least time on a target, from FLOPs, bytes and messages over the data sheet's
peaks."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

from clip_jax import flops
from clip_jax.config import MeshConfig, RunConfig
from clip_jax.flops.devices import Device

if TYPE_CHECKING:
    import jax


@dataclass(frozen=True)
class Roofline:
    """Least time of one step by each limit, in seconds; None if the device's speed is not known."""

    compute: float | None
    memory: float | None = None
    network: float | None = None

    @property
    def seconds(self) -> float | None:
        """Largest of the three limits, as they overlap at best."""
        known = [t for t in (self.compute, self.memory, self.network) if t is not None]
        return max(known) if known else None

    @property
    def bound(self) -> str:
        """Name of the largest limit."""
        known = {name: t for name in ("compute", "memory", "network") if (t := getattr(self, name)) is not None}
        return max(known, key=lambda name: known[name]) if known else "unknown"


def roofline(
    config: RunConfig, devices: list[jax.Device], device: Device | None, flop_per_second: float | None = None
) -> Roofline:
    """Return the roofline of one device's share of the step over ``devices``, with recomputation and microbatches.

    The share is the step's own jaxpr at a device's rows of the batch. Bytes are the operands and results of every
    product and the optimizer's passes over its state. The network carries the sum of gradients over data-parallel
    copies, the parameters gathered over ``fsdp`` and the sums over ``tensor``. ``flop_per_second`` stands in for an
    unknown device's peak.
    """
    from clip_jax.distributed.mesh import make_mesh

    shape = dict(make_mesh(config.mesh, devices).shape)
    rows = config.batch_size * shape["tensor"] // len(devices)
    work = _share(config, rows, shape["tensor"])
    params = flops.params(config.model).total / (shape["fsdp"] * shape["tensor"])
    peak = flop_per_second
    if device is not None:
        peak = device.single if config.model.compute_dtype == "float32" else device.half
    compute = work.flops / peak if peak else None
    if device is None or device.bandwidth is None or device.link is None:
        return Roofline(compute)
    bytes_moved = work.bytes + params * 4 * 8  # gradient, parameter and both moments, read and written
    return Roofline(compute, bytes_moved / device.bandwidth, _network(config, device, shape, rows, params))


def _share(config: RunConfig, rows: int, tensor: int) -> flops.Work:
    """Return one device's work per step: ``rows`` of the batch, with their logits against the whole batch."""
    import jax

    from clip_jax.distributed.mesh import make_mesh
    from clip_jax.train.step import abstract_step

    piece = config.microbatch_size * rows // config.batch_size
    model = dataclasses.replace(config.model, attention="auto")  # the products inside a fused kernel cannot be counted
    alone = dataclasses.replace(config, model=model, batch_size=rows, microbatch_size=piece, mesh=MeshConfig())
    mesh = make_mesh(alone.mesh, jax.local_devices(backend="cpu")[:1])
    work = flops.jaxpr_work(*abstract_step(alone, mesh))
    others = 6 * rows * (config.batch_size - rows) * config.model.embed_dim
    if config.model.objective != "contrastive":
        others = 0
    return flops.Work(work.flops // tensor + others, work.bytes // tensor)


def _network(config: RunConfig, device: Device, shape: dict[str, int], rows: int, params: float) -> float:
    assert device.link is not None

    def ring(size: int, bytes_: float) -> float:  # bytes that each device sends in a reduce-scatter or all-gather
        return bytes_ * (size - 1) / size

    gradients = 4 * params
    sent = 2 * ring(shape["data"], gradients) + 3 * ring(shape["fsdp"], gradients * shape["fsdp"])
    if shape["tensor"] > 1:
        for tower in (config.model.image, config.model.text):
            activations = rows * tower.tokens * tower.width * 4
            sent += 4 * tower.depth * 2 * ring(shape["tensor"], activations)
    seconds = sent / device.link
    if shape["slice"] > 1:
        # each data-parallel copy in a slice transfers its part
        between = 2 * ring(shape["slice"], gradients) / shape["data"]
        seconds = max(seconds, between / (device.slow_link or device.link))
    return seconds
