"""Which pixel normalization and resizing a run has: settled at its start, in its record, and kept from then on."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path

from clip_jax.config import PixelConfig, RunConfig
from clip_jax.config.io import from_dict, to_dict
from clip_jax.distributed.processes import broadcast_from_process_zero, run_on_process_zero
from clip_jax.storage.json_files import read_json, write_json
from clip_jax.storage.paths import exists

FILE = "preprocess.json"


def settle(config: RunConfig, run_dir: Path, of_source: Callable[[], PixelConfig | None]) -> RunConfig:
    """The run's config with the pixels it has, written to ``preprocess.json`` at its first start.

    They are those of ``init_from``'s source (``of_source``, called by every process at that start only) where its
    image tower is taken and ``pixels`` is left at its default, else the config's. A run that began without this file
    keeps the config's.
    """
    path = run_dir / FILE
    # tokenizer.json is written next: a run that has it without pixels began without
    if not broadcast_from_process_zero(exists(path) or exists(run_dir / "tokenizer.json")):
        # on every process, since reading a run's checkpoint is a collective operation
        theirs = of_source() if config.pixels == PixelConfig() else None
        run_on_process_zero(lambda: write_json(path, to_dict(theirs or config.pixels)))
    return with_pixels(config, run_dir)


def with_pixels(config: RunConfig, run_dir: Path) -> RunConfig:
    """The run's config with the pixels of its record. Raises UserError for a record that is none."""
    values = read_json(run_dir / FILE)
    if values is None:
        return config
    return dataclasses.replace(config, pixels=from_dict(PixelConfig, values, f"{run_dir / FILE}: "))


def tell_old(config: RunConfig, run_dir: Path) -> None:
    """Say on stderr that a run took an image tower over without the pixels it was trained on."""
    if config.init_from.source and config.init_from.tower != "text" and not exists(run_dir / FILE):
        print(
            f"clip-jax: {run_dir}: began before init_from carried the source's pixel normalization and resizing; it is "
            f"measured as it was trained, with mean {config.pixels.mean} and resize_mode={config.pixels.resize_mode}",
            file=sys.stderr,
        )
