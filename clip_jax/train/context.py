"""Read-only resources of a run: devices, data sources, abstract model."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass

import jax
from jax.sharding import Mesh

from clip_jax import flops
from clip_jax.config import ModelConfig, RunConfig
from clip_jax.config.run import WARMUP_STEPS
from clip_jax.data.open import data_line, data_notes, open_splits
from clip_jax.data.sources.base import Source
from clip_jax.distributed.cluster import check_devices
from clip_jax.distributed.mesh import check_batch, enable_compile_cache, log_devices, make_mesh
from clip_jax.models.clip import AbstractModel, build
from clip_jax.reuse import reuse
from clip_jax.storage.records import Split
from clip_jax.train.determinism import model_to_build
from clip_jax.train.inputs import describe
from clip_jax.train.state import check_memory

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainContext:
    """Read-only resources of a run: mesh, data sources, abstract model."""

    mesh: Mesh
    built: AbstractModel
    source: Source
    held_out: Source
    notes: list[str]
    data: dict[str, Split]  # split -> what `inputs.describe` returns, for the run's records


def build_context(config: RunConfig, where: str = "", *, may_share: bool = False) -> TrainContext:
    """Open the devices, data and abstract model that a run needs, and log them, with notes on the data.

    Args:
      config: the run.
      where: a line on the run's directory, logged first, once it is known that the run fits the devices.
      may_share: see `data.open.open_splits`.

    Raises:
      UserError: the data is bad, JAX found other devices than were asked for, or the model does not fit on them.
    """
    check_devices(os.environ)
    mesh = make_mesh(config.mesh)
    check_batch(config.batch_size, mesh)
    check_memory(config, mesh)
    if where and jax.process_index() == 0:
        logger.info("%s", where)
    log_model(config.model, mesh)
    enable_compile_cache()
    source, held_out = open_splits(config.data, config.model.image.image_size, may_share=may_share)
    notes = data_notes(config.data, source, held_out)
    if jax.process_index() == 0:
        logger.info("%s", data_line(config, source, held_out))
        if (warmup := config.optim.warmup_of(config.steps)) < WARMUP_STEPS and config.optim.warmup_steps == -1:
            logger.info("optim.warmup_steps: %d of %d steps", warmup, config.steps)
        for note in notes:
            logger.warning("%s", note)
    data = {"train": describe(source), "val": describe(held_out)}
    model = model_to_build(config, mesh.devices.flat[0])
    built = reuse(("model", model, mesh), lambda: build(model, mesh))
    return TrainContext(mesh, built, source, held_out, notes, data)


def log_model(model: ModelConfig, mesh: Mesh) -> None:
    """Log, on process 0, the devices and the number of parameters."""
    if jax.process_index() == 0:
        log_devices(list(mesh.devices.flat))
        counts = flops.params(model)
        logger.info(
            "parameters: %s (image %s, text %s)", *(f"{n:,}" for n in (counts.total, counts.image, counts.text))
        )
