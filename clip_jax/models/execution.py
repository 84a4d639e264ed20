"""The choice of attention implementation and rematerialization policy for given devices.

Both follow from the config and the mesh's devices, never from the process that traces. So a step that is compiled ahead
of time for absent devices is the step that will run on them.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from clip_jax.config import ModelConfig
from clip_jax.errors import ConfigError
from clip_jax.flops.devices import device_of

if TYPE_CHECKING:
    import jax

# compute capability of Hopper; older GPUs have cuDNN's kernels too, but this project has not measured them
FUSED_FROM = 9.0
LARGEST_HEAD = 128


def compute_capability(device: jax.Device) -> float | None:
    """Return the compute capability of an NVIDIA GPU, real or only described; None for any other device."""
    if device.platform not in ("gpu", "cuda"):
        return None
    try:
        return float(device.compute_capability)
    except (AttributeError, TypeError, ValueError):  # a description has none, and other vendors' is not a number
        known = device_of(str(device.device_kind))
        return known.capability if known else None


def no_fused_attention(config: ModelConfig, device: jax.Device) -> str:
    """Return why cuDNN's fused attention cannot run this model on this device; empty if it can."""
    capability = compute_capability(device)
    if capability is None or capability < FUSED_FROM:
        return f"needs an NVIDIA GPU of compute capability {FUSED_FROM} or more, and there is {device.device_kind}"
    if config.compute_dtype not in ("bfloat16", "float16"):
        return f"takes bfloat16 and float16, and model.compute_dtype is {config.compute_dtype}"
    towers: dict[str, Any] = {"decoder": config.decoder} if config.decoder.depth else {}
    if not config.image.stages:
        towers["image"] = config.image
    if config.objective != "bag_of_words" and config.text.encoder == "transformer":
        towers["text"] = config.text
    for name, tower in towers.items():
        size = tower.width // tower.heads
        if size % 8 or size > LARGEST_HEAD:
            return f"takes heads of a multiple of 8 up to {LARGEST_HEAD} wide, and those of model.{name} are {size}"
    return ""


def resolve(config: ModelConfig, device: jax.Device) -> ModelConfig:
    """Return the config with its ``auto`` execution settings decided for ``device``, one of those that will run it.

    ``attention`` stays ``auto``, which is `layers.attend`'s own implementation, on a CPU and in float64.
    Raises ConfigError if ``attention="cudnn"`` cannot run on ``device``.
    """
    attention, remat, policy = config.attention, config.remat, config.remat_policy
    accelerator = device.platform != "cpu"
    if attention != "xla":
        obstacle = no_fused_attention(config, device)
        if attention == "cudnn" and obstacle:
            raise ConfigError(field="model.attention", value="cudnn", reason=obstacle, hint="use auto")
        if accelerator and config.compute_dtype != "float64":
            attention = "xla" if obstacle else "cudnn"
    if policy == "auto":
        policy = "nothing"
        if accelerator and not remat and not config.image.stages:
            remat, policy = True, "dense"
    return dataclasses.replace(config, attention=attention, remat=remat, remat_policy=policy)


def on_any_device(config: ModelConfig) -> ModelConfig:
    """Return the config with ``attention="auto"``, so that a trained model can run on any device."""
    return dataclasses.replace(config, attention="auto")
