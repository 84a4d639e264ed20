"""Scenes as a folder of pictures with captions, to try what needs pictures."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from PIL import Image

from clip_jax.config import ScenesConfig
from clip_jax.data.scenes.scenes import ScenesSource
from clip_jax.errors import UserError, between
from clip_jax.storage.paths import disk_errors, mkdir

SIZE = 64  # pixels per side


def write_pictures(folder: Path, count: int) -> None:
    """Write the first training scenes of the default world as pictures, and their captions to ``captions.csv``.

    Args:
      folder: where to write; created if missing. `data.sources.folder.CaptionedFolder` reads it.
      count: number of pictures, 1 to 1,000,000.

    Raises:
      UserError: the folder has a ``captions.csv``, or cannot be written.
    """
    between("--count", count, 1, 1_000_000)
    table = folder / "captions.csv"
    if table.exists():
        raise UserError(field=table, reason="exists already", hint="name another folder")
    images, captions = ScenesSource(ScenesConfig(), "train", SIZE).batch(np.arange(count))
    with disk_errors(folder):
        mkdir(folder)
        for number, image in enumerate(images):
            Image.fromarray(image).save(folder / f"{number:06d}.png")
        with table.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(("filename", "caption"))
            writer.writerows((f"{number:06d}.png", caption) for number, caption in enumerate(captions))
