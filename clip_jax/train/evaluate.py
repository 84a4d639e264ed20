"""Evaluating a trained run again, from its directory alone."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

from clip_jax.data.open import open_source
from clip_jax.distributed.mesh import enable_compile_cache, make_mesh
from clip_jax.errors import UserError
from clip_jax.models.clip import build
from clip_jax.models.execution import on_any_device
from clip_jax.storage.paths import as_path
from clip_jax.train.checkpoint import load_params
from clip_jax.train.inputs import DATA, described, read_tokenizer, what_changed
from clip_jax.train.loop import EvaluatorFactory, Rows
from clip_jax.train.pixels import tell_old, with_pixels
from clip_jax.train.run_directory import noted, read_config


def evaluate_run(run_dir: str | Path, make_evaluator: EvaluatorFactory) -> Rows:
    """The rows of the run's own suite at its last checkpoint; writes nothing, and says where the held-out data
    is not what the run began with. Raises UserError when there is none, or its files were changed."""
    root = as_path(run_dir)
    config = read_config(root)
    if config is None:
        raise UserError(f"{root}: holds no run (no config.json)")
    config = with_pixels(config, root)
    tell_old(config, root)
    config = dataclasses.replace(config, model=on_any_device(config.model))
    mesh = make_mesh(config.mesh)
    enable_compile_cache()
    built = build(config.model, mesh)
    tokenizer = read_tokenizer(root, config.model)
    held_out = open_source(config.data, "val", config.model.image.image_size)
    if (reason := what_changed(noted(root).get(DATA), {"val": described(held_out)}, "val")) is not None:
        print(f"clip-jax: {root}: {reason}", file=sys.stderr)
    _, params = load_params(root, built)
    return make_evaluator(config, built, mesh, held_out, tokenizer)(params)
