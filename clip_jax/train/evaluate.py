"""Evaluating a trained run again, from its directory alone."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from clip_jax.config import RunConfig, UserError
from clip_jax.config_io import load
from clip_jax.data.sources import open_source
from clip_jax.data.tokenizers import load_tokenizer
from clip_jax.models.clip import build
from clip_jax.parallel import enable_compile_cache, make_mesh
from clip_jax.places import place
from clip_jax.train.checkpoint import load_params
from clip_jax.train.loop import EvaluatorFactory, Rows


def evaluate_run(run_dir: str | Path, make_evaluator: EvaluatorFactory) -> Rows:
    """The rows of the run's own suite at its last checkpoint; writes nothing. Raises UserError when there is none."""
    root = place(run_dir)
    if not (root / "config.json").exists():
        raise UserError(f"{root}: holds no run (no config.json)")
    config = load(RunConfig, root / "config.json")
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, attention="auto"))  # on any device
    mesh = make_mesh(config.mesh)
    enable_compile_cache()
    built = build(config.model, mesh)
    tokenizer = load_tokenizer(root / "tokenizer.json")
    held_out = open_source(config.data, "val", config.model.image.image_size)
    _, params = load_params(root, built)
    return make_evaluator(config, built, mesh, held_out, tokenizer)(params)
