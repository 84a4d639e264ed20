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
BATCH = 1000  # pictures drawn at once


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
    source, rows = ScenesSource(ScenesConfig(), "train", SIZE), [("filename", "caption")]
    with disk_errors(folder):
        mkdir(folder)
        for numbers in np.array_split(np.arange(count), -(-count // BATCH)):
            for number, image, caption in zip(numbers, *source.batch(numbers), strict=True):
                rows.append((f"{number:06d}.png", caption))
                Image.fromarray(image).save(folder / rows[-1][0])
        with table.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows(rows)
