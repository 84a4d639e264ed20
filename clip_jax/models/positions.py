"""Resizing learned position embeddings to another resolution or context length."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np


def resize_image_positions(table: np.ndarray, shape: tuple[int, int], first: int) -> np.ndarray:
    """Resize image positions bicubically with antialiasing, as open_clip does.

    Args:
      table: [first + n², D].
      shape: target grid (H, W).
      first: number of leading rows that are kept (the class token's).

    Returns:
      [first + H·W, D].

    Raises:
      ValueError: the rows after ``first`` form no square grid.
    """
    kept, grid = table[:first], table[first:]
    old = round(len(grid) ** 0.5)
    if old * old != len(grid):
        raise ValueError(f"{len(grid)} positions form no square grid")
    if shape == (old, old):
        return table
    square = jnp.asarray(grid).reshape(old, old, -1)
    resized = jax.image.resize(square, (*shape, square.shape[-1]), "cubic", antialias=True)
    return np.concatenate([kept, np.asarray(resized).reshape(shape[0] * shape[1], -1)])


def resize_text_positions(table: np.ndarray, length: int) -> np.ndarray:
    """Resize text positions [T, D] -> [length, D] linearly without antialiasing, as open_clip does."""
    if len(table) == length:
        return table
    return np.asarray(jax.image.resize(jnp.asarray(table), (length, table.shape[1]), "linear", antialias=False))
