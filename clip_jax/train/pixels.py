"""Pixel normalization and resizing of a run: resolved at its first start, recorded, and fixed from then on."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from pathlib import Path

from clip_jax.config import PixelConfig, RunConfig
from clip_jax.config.io import from_dict, to_dict
from clip_jax.distributed.processes import broadcast_from_process_zero, run_on_process_zero
from clip_jax.storage.json_files import read_json, write_json
from clip_jax.storage.paths import exists

logger = logging.getLogger(__name__)

FILE = "preprocess.json"


def resolve_pixels(config: RunConfig, run_dir: Path, of_source: Callable[[], PixelConfig | None]) -> RunConfig:
    """Return the run's config with its pixel settings; write them to ``preprocess.json`` at the first start.

    They are those of ``init_from``'s source if its image tower is taken and ``pixels`` is left at its default, else the
    config's. A run that began without this file keeps the config's.

    Args:
      config: the run.
      run_dir: its directory.
      of_source: returns the source's pixels; called by every process, at the first start only.
    """
    path = run_dir / FILE
    # tokenizer.json is written next, so a run with only that file began before pixels were recorded
    if not broadcast_from_process_zero(exists(path) or exists(run_dir / "tokenizer.json")):
        # on every process, since reading a run's checkpoint is a collective operation
        inherited = of_source() if config.pixels == PixelConfig() else None
        run_on_process_zero(lambda: write_json(path, to_dict(inherited or config.pixels)))
    return with_pixels(config, run_dir)


def with_pixels(config: RunConfig, run_dir: Path) -> RunConfig:
    """Return the run's config with the recorded pixel settings.

    Raises:
      UserError: ``preprocess.json`` is invalid.
    """
    values = read_json(run_dir / FILE)
    if values is None:
        return config
    return dataclasses.replace(config, pixels=from_dict(PixelConfig, values, f"{run_dir / FILE}: "))


def warn_without_pixels(config: RunConfig, run_dir: Path) -> None:
    """Log that a run took over an image tower without the pixel settings it was trained with."""
    if config.init_from.source and config.init_from.towers != "text" and not exists(run_dir / FILE):
        logger.warning(
            "%s: began before init_from carried the source's pixel normalization and resizing; it is measured as it "
            "was trained, with mean %s and resize_mode=%s",
            run_dir,
            config.pixels.mean,
            config.pixels.resize_mode,
        )
