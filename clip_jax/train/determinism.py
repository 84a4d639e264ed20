"""What ``deterministic`` sets, so that a GPU gives the same bits in every process."""

from __future__ import annotations

import dataclasses
import os
import sys
from typing import TYPE_CHECKING

from clip_jax.config import ModelConfig, RunConfig
from clip_jax.distributed.cluster import visible_gpus
from clip_jax.errors import UserError

if TYPE_CHECKING:
    from jax import Device

# refuses operations that add in any order, or writes them as sorts, and chooses kernels without timing them
DETERMINISTIC = "xla_gpu_deterministic_ops"
FLAG = f"--{DETERMINISTIC}=true"


def set_deterministic(config: RunConfig) -> None:
    """Put XLA's flag into ``XLA_FLAGS`` if the run is ``deterministic`` and there are GPUs.

    Call it before anything uses a device.

    Raises:
      UserError: JAX has started its devices without the flag, which it reads then and never again.
    """
    flags = os.environ.get("XLA_FLAGS", "").split()
    if not config.deterministic or FLAG in flags or not visible_gpus(os.environ):
        return
    if _started():
        reason = "JAX has already started its devices in this process"
        raise UserError(
            field="deterministic", value=True, reason=reason, hint=f"begin the process with XLA_FLAGS={FLAG}"
        )
    os.environ["XLA_FLAGS"] = " ".join([*flags, FLAG])


def _started() -> bool:
    if "jax" not in sys.modules:
        return False
    from jax._src import xla_bridge  # no public function tells without starting them

    return bool(xla_bridge.backends_are_initialized())


def model_to_build(config: RunConfig, device: Device) -> ModelConfig:
    """Return the model as it is built for devices like this one: without fused attention on a GPU if ``deterministic``.

    The gradient of cuDNN's kernel is summed in any order.
    """
    auto = config.model.attention == "auto" and config.model.compute_dtype != "float64"
    if not config.deterministic or not auto or device.platform not in ("gpu", "cuda"):
        return config.model
    return dataclasses.replace(config.model, attention="xla")
