"""The engine that a config names."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol, cast

from clip_jax.config.sweep import Resources
from clip_jax.plugins import load
from clip_jax.sweep.launch.base import Engine


class LaunchConfig(Protocol):
    """Part of a config that says where its runs are trained."""

    @property
    def engine(self) -> str: ...
    @property
    def resources(self) -> Resources: ...
    @property
    def max_concurrent_runs(self) -> int: ...


def open_engine(config: LaunchConfig, sweep_dir: Path) -> Engine:
    """Return the engine that the config names.

    Raises:
      UserError: the engine cannot be used here.
    """
    if config.engine == "local":
        from clip_jax.sweep.launch.local import Local

        return Local(sweep_dir, config.max_concurrent_runs, config.resources)
    if config.engine == "slurm":
        from clip_jax.sweep.launch.slurm import Slurm

        return Slurm(sweep_dir, config.max_concurrent_runs, config.resources)
    if config.engine == "jobset":
        from clip_jax.sweep.launch.jobset import JobSets

        return JobSets(sweep_dir, config.max_concurrent_runs, config.resources)
    engine = load("engine", config.engine, "engines")
    return cast(Engine, engine(sweep_dir, config.max_concurrent_runs, config.resources))
