"""Open the engine that a config names."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from clip_jax.config.sweep import Resources
from clip_jax.sweep.launch.base import Engine


class Launched(Protocol):
    """What a config says of where its runs are trained."""

    @property
    def engine(self) -> str: ...
    @property
    def resources(self) -> Resources: ...
    @property
    def slots(self) -> int: ...


def open_engine(config: Launched, sweep_dir: Path) -> Engine:
    """The engine that the config names. Raises UserError where its programs are missing."""
    if config.engine == "local":
        from clip_jax.sweep.launch.local import Local

        return Local(sweep_dir, config.slots, config.resources)
    if config.engine == "slurm":
        from clip_jax.sweep.launch.slurm import Slurm

        return Slurm(sweep_dir, config.slots, config.resources)
    from clip_jax.sweep.launch.jobset import JobSets

    return JobSets(sweep_dir, config.slots, config.resources)
