"""What picking the best of several noisy runs adds: the winner's curse of a frontier.

The lowest of several noisy means lies below the lowest of the true ones. How far is simulated: the cells of a budget
(sizes) are drawn again around their own smooth valley with the scatter of their seeds, the best is picked as it was
picked, and its mean distance below the lowest true cell is the bias.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from clip_jax.scaling.frontier import by_size
from clip_jax.scaling.laws.base import Array

if TYPE_CHECKING:
    import pandas as pd

DRAWS = 2000
SIZES_FOR_VALLEY = 4  # for a parabola and one degree of freedom


def valley_scatter(df: pd.DataFrame, metric: str) -> tuple[float, int]:
    """Return (standard deviation of ln(error) of a cell around the parabola of its budget, degrees of freedom).

    It is all that single-seed sweeps tell of their scatter, and includes what the parabola misses; 0 degrees where no
    budget has at least `SIZES_FOR_VALLEY` sizes.
    """
    total, degrees = 0.0, 0
    for _, cells in by_size(df, metric).groupby("budget"):
        if len(cells) >= SIZES_FOR_VALLEY:
            y = np.log(cells["error"].to_numpy(float))
            total += float(((y - _parabola(cells, y)) ** 2).sum())
            degrees += len(cells) - 3
    return (float(np.sqrt(total / degrees)) if degrees else 0.0), degrees


def _parabola(cells: pd.DataFrame, y: Array) -> Array:
    x = np.log(cells["params"].to_numpy(float))
    x = x - x.mean()
    return np.polyval(np.polyfit(x, y, 2), x)


def selection_bias(df: pd.DataFrame, metric: str, sd: float, *, seed: int = 0) -> dict[float, float]:
    """Return how far each budget's best cell is expected to lie below the lowest true cell: {budget: ln(error) <= 0}.

    Args:
      df: rows that may enter a fit (columns budget, params, seed, and the metric).
      metric: the error.
      sd: standard deviation of ln(error) of one run.
      seed: of the draws.

    Budgets with one cell have none. A cell's truth is its budget's parabola where there are enough sizes, else its own
    mean.
    """
    rng, out = np.random.default_rng(seed), {}
    for budget, cells in by_size(df, metric).groupby("budget"):
        y = np.log(cells["error"].to_numpy(float))
        truth = _parabola(cells, y) if len(cells) >= SIZES_FOR_VALLEY else y
        drawn = truth + sd / np.sqrt(cells["seeds"].to_numpy(float)) * rng.standard_normal((DRAWS, len(cells)))
        out[float(budget)] = float(min(drawn.min(axis=1).mean() - truth.min(), 0.0))  # type: ignore[arg-type]
    return out
