"""Scaling-law experiments with CLIP in JAX. Public names are resolved on first use, so importing is cheap."""

import sys
from importlib import import_module
from typing import Any

from clip_jax._moved import MovedModules

_PUBLIC = {
    "CLIP": "clip_jax.models.clip",
    "ImageTowerConfig": "clip_jax.config",
    "ModelConfig": "clip_jax.config",
    "RunConfig": "clip_jax.config",
    "SweepConfig": "clip_jax.config.sweep",
    "TextTowerConfig": "clip_jax.config",
    "UserError": "clip_jax.errors",
    "load_model": "clip_jax.inference",
    "preset": "clip_jax.config.presets",
    "ladder": "clip_jax.config.presets",
    "flops_per_sample": "clip_jax.flops",
    "train_run": "clip_jax.training",
    "run_sweep": "clip_jax.sweep.driver",
    "write_report": "clip_jax.scaling.report.write",
}
__all__ = sorted(_PUBLIC)
sys.meta_path.append(MovedModules())  # last: only where no module of that name is found
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    if name == "train":  # was a function; the package says so when it is called, whatever was imported before
        return import_module("clip_jax.train")
    raise AttributeError(f"clip_jax has no public name {name!r}; it has {', '.join(__all__)}")
