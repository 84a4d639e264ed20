"""Scaling-law experiments with CLIP in JAX. Public names are resolved on first use, so importing is cheap."""

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

from clip_jax._moved import MovedModules

if TYPE_CHECKING:  # what type checkers and editors see; a test compares it with _PUBLIC
    from clip_jax.config import ImageTowerConfig as ImageTowerConfig
    from clip_jax.config import ModelConfig as ModelConfig
    from clip_jax.config import RunConfig as RunConfig
    from clip_jax.config import TextTowerConfig as TextTowerConfig
    from clip_jax.config.presets import ladder as ladder
    from clip_jax.config.presets import preset as preset
    from clip_jax.config.sweep import SweepConfig as SweepConfig
    from clip_jax.errors import UserError as UserError
    from clip_jax.flops import flops_per_sample as flops_per_sample
    from clip_jax.inference import load_model as load_model
    from clip_jax.models.clip import CLIP as CLIP
    from clip_jax.scaling.report.write import write_report as write_report
    from clip_jax.sweep.driver import run_sweep as run_sweep
    from clip_jax.training import train_run as train_run

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


def __dir__() -> list[str]:
    names = {k for k, v in globals().items() if k[0] == "_" or getattr(v, "__name__", "").startswith("clip_jax.")}
    return sorted(names | _PUBLIC.keys())


if not TYPE_CHECKING:  # else every name that does not exist would have a type

    def __getattr__(name: str) -> Any:
        if name in _PUBLIC:
            return getattr(import_module(_PUBLIC[name]), name)
        if name == "train":  # was a function; the package says so when it is called, whatever was imported before
            return import_module("clip_jax.train")
        raise AttributeError(f"clip_jax has no public name {name!r}; it has {', '.join(__all__)}")
