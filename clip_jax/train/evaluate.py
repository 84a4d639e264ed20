"""Evaluation of a trained run from its directory."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path

from clip_jax.data.open import open_source
from clip_jax.distributed.mesh import enable_compile_cache, make_mesh
from clip_jax.errors import UserError
from clip_jax.models.clip import build
from clip_jax.models.execution import on_any_device
from clip_jax.storage.paths import as_path
from clip_jax.storage.records import Measurement
from clip_jax.train.checkpoint import load_params
from clip_jax.train.inputs import DATA, describe, describe_change, read_tokenizer
from clip_jax.train.loop import EvaluatorFactory
from clip_jax.train.pixels import warn_without_pixels, with_pixels
from clip_jax.train.run_directory import read_config, read_records

logger = logging.getLogger(__name__)


def evaluate_run(run_dir: str | Path, make_evaluator: EvaluatorFactory) -> list[Measurement]:
    """Return the rows of the run's own evaluation at its last checkpoint; write nothing.

    A warning in the log reports held-out data that differs from the data the run began with.

    Raises:
      UserError: the directory holds no run, no checkpoint can be read, or the run's files were changed.
    """
    root = as_path(run_dir)
    config = read_config(root)
    if config is None:
        raise UserError(field=root, reason="holds no run (no config.json)")
    config = with_pixels(config, root)
    warn_without_pixels(config, root)
    config = dataclasses.replace(config, model=on_any_device(config.model))
    mesh = make_mesh(config.mesh)
    enable_compile_cache()
    built = build(config.model, mesh)
    tokenizer = read_tokenizer(root, config.model)
    held_out = open_source(config.data, "val", config.model.image.image_size)
    if (reason := describe_change(read_records(root).get(DATA), {"val": describe(held_out)}, "val")) is not None:
        logger.warning("%s: %s", root, reason)
    _, params = load_params(root, built)
    return make_evaluator(config, built, mesh, held_out, tokenizer)(params)
