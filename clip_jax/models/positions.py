"""Learned positions of another resolution or context length."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np


def resize_image_positions(table: np.ndarray, shape: tuple[int, int], first: int) -> np.ndarray:
    """Positions [first + n², D] -> [first + H·W, D] for ``shape`` (H, W): bicubic with antialiasing, as open_clip does.

    ``first`` rows (the class token's) are kept. Raises ValueError when the others form no square.
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
    """Positions [T, D] -> [length, D]: linear, without antialiasing, as open_clip does."""
    if len(table) == length:
        return table
    return np.asarray(jax.image.resize(jnp.asarray(table), (length, table.shape[1]), "linear", antialias=False))
