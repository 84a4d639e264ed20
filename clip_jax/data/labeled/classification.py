"""Labeled image sets for zero-shot classification, with class names and prompt templates, held in memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from clip_jax.config import PixelConfig
from clip_jax.data.images.train_transforms import DEFAULT_PIXELS, decode
from clip_jax.data.labeled.class_names import read_names, read_templates
from clip_jax.data.sources.base import BrokenRecord
from clip_jax.data.sources.shard_list import shards_of
from clip_jax.data.sources.webdataset import Shards
from clip_jax.errors import UserError


@dataclass(frozen=True)
class ClassificationSet:
    """Images uint8 [N, H, W, 3], labels int32 [N], one name per class, templates with ``{c}`` for the name."""

    name: str
    images: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...]
    templates: tuple[str, ...]


def _needed(path: Path, read: Callable[[Path], tuple[str, ...]]) -> tuple[str, ...]:
    if not path.is_file():
        raise UserError(field=path, reason="no such file, and a classification set needs it")
    lines = read(path)
    if not any(lines):
        raise UserError(field=path, reason="is empty")
    return lines


def load_classification_set(
    path: str | Path, image_size: int, limit: int, split: str = "test", pixels: PixelConfig = DEFAULT_PIXELS
) -> ClassificationSet:
    """Read PATH/SPLIT/*.tar (KEY.jpg, KEY.cls), PATH/classnames.txt, PATH/zeroshot_classification_templates.txt.

    Args:
      path: the folder; its name becomes the task's name.
      image_size: pixels per side of the images returned.
      limit: maximum number of examples, evenly spaced over the set; 0 takes all.
      split: which of the set's splits.
      pixels: how images are resized.

    Raises:
      UserError: a missing file, a template without ``{c}``, a label outside the classes, an image that does not
      decode. The first broken record of an evaluation set is an error: skipping it would change the result.
    """
    path = Path(path)
    names = _needed(path / "classnames.txt", read_names)
    templates = _needed(path / "zeroshot_classification_templates.txt", read_templates)
    shards = Shards(shards_of(path, split))
    count = len(shards)
    take = np.arange(count) if not limit or limit >= count else np.linspace(0, count - 1, limit).round().astype(int)
    images = np.empty((len(take), image_size, image_size, 3), np.uint8)
    labels = np.empty(len(take), np.int32)
    for row, i in enumerate(take.tolist()):
        try:
            images[row] = decode(shards.image(i), image_size, pixels=pixels)
            text = shards.member(i, "cls")
        except BrokenRecord as error:
            raise (error if error.field else error.at(shards.name(i))) from None
        text = text.strip()
        if not (text.isascii() and text.isdigit() and len(text) < 10) or int(text) >= len(names):
            raise UserError(source=shards.name(i), field="label", value=text, reason=f"must be 0 to {len(names) - 1}")
        labels[row] = int(text)
    return ClassificationSet(path.name, images, labels, names, templates)
