"""Scaling-law experiments with CLIP in JAX. Public names are resolved on first use, so importing is cheap."""

from importlib import import_module
from typing import Any

_PUBLIC = {
    "CLIP": "clip_jax.models.clip",
    "ImageTowerConfig": "clip_jax.config",
    "ModelConfig": "clip_jax.config",
    "RunConfig": "clip_jax.config",
    "SweepConfig": "clip_jax.sweep_config",
    "TextTowerConfig": "clip_jax.config",
    "UserError": "clip_jax.config",
    "load_model": "clip_jax.loading",
    "preset": "clip_jax.presets",
    "ladder": "clip_jax.presets",
    "flops_per_sample": "clip_jax.flops",
    "train_run": "clip_jax.training",
    "run_sweep": "clip_jax.sweep.run",
    "write_report": "clip_jax.scaling.report",
}
__all__ = sorted(_PUBLIC)
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    if name == "train":  # was a function; the package says so when it is called, whatever was imported before
        return import_module("clip_jax.train")
    raise AttributeError(f"clip_jax has no public name {name!r}; it has {', '.join(__all__)}")
