"""Labeled image sets for zero-shot classification, with class names and prompt templates, held in memory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from clip_jax.config import PixelConfig
from clip_jax.data.images.train_transforms import DEFAULT_PIXELS, decode
from clip_jax.data.labeled.open import CLASS_NAMES, TEMPLATES, open_labeled
from clip_jax.data.sources.base import evenly_spaced
from clip_jax.errors import UserError


@dataclass(frozen=True)
class ClassificationSet:
    """Images uint8 [N, H, W, 3], labels int32 [N], one name per class, templates with ``{c}`` for the name."""

    name: str
    images: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...]
    templates: tuple[str, ...]


def load_classification_set(
    path: str | Path, image_size: int, limit: int, split: str = "test", pixels: PixelConfig = DEFAULT_PIXELS
) -> ClassificationSet:
    """Read one split of a labeled set (`open_labeled`) that has class names and prompt templates.

    Args:
      path: the folder; its name becomes the task's name.
      image_size: pixels per side of the images returned.
      limit: maximum number of examples, evenly spaced over the set; 0 takes all.
      split: which of the set's splits.
      pixels: how images are resized.

    Raises:
      UserError: no class names or templates, a template without ``{c}``, several labels per image, a label outside the
        classes, an image that does not decode. The first broken record of an evaluation set is an error: skipping it
        would change the result.
    """
    data = open_labeled(path)
    for file, lines in ((CLASS_NAMES, data.class_names), (TEMPLATES, data.templates)):
        if not any(lines):
            reason = "is empty" if (data.path / file).is_file() else "no such file, and a classification set needs it"
            raise UserError(field=data.path / file, reason=reason)
    part = data.split(split)
    if part.labels.ndim > 1:
        raise UserError(field=path, reason="is multi-label, and zero-shot tasks have one label per image")
    rows = evenly_spaced(len(part.labels), limit)
    images = part.pixels(lambda picture: decode(picture, image_size, pixels=pixels), rows)
    return ClassificationSet(data.path.name, images, part.labels[rows], data.class_names, data.templates)
