"""Estimate the winner's curse of a frontier: the bias from selecting the best of several noisy runs.

The lowest of several noisy means lies below the lowest of the true ones. The bias is simulated: the cells of a budget
(sizes) are drawn again around their own smooth valley with the scatter of their seeds, the best is selected by the same
rule, and its mean distance below the lowest true cell is the bias.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from clip_jax.scaling.frontier.frontier import by_size
from clip_jax.scaling.laws.base import Array

if TYPE_CHECKING:
    import pandas as pd

BIAS_DRAWS = 2000
CELLS_OF_VALLEY = 5  # nearest to the best size; sizes 30 to 100 times apart are no parabola
SIZES_FOR_VALLEY = 4  # for a parabola and one degree of freedom


def _valleys(df: pd.DataFrame, metric: str) -> dict[float, tuple[pd.DataFrame, Array, Array, bool]]:
    """Fit each budget's cells with a parabola whose curvature all budgets share.

    Returns:
      Budget -> (cells, ln(error) [k], its smooth value [k], whether the budget has enough sizes for a parabola; else
      the smooth value is the measured one).
    """
    groups = {float(b): _nearest(cells) for b, cells in by_size(df, metric).groupby("budget")}  # type: ignore[arg-type]
    parts = {}
    numerator = denominator = 0.0
    for budget, cells in groups.items():
        x, y = np.log(cells["params"].to_numpy(float)), np.log(cells["error"].to_numpy(float))
        x = x - x.mean()
        bent = x**2 - np.polyval(np.polyfit(x, x**2, 1), x) if len(x) >= SIZES_FOR_VALLEY else np.zeros(len(x))
        numerator, denominator = numerator + float(bent @ y), denominator + float(bent @ bent)
        parts[budget] = (cells, x, y, bent)
    curvature = numerator / denominator if denominator else 0.0
    out = {}
    for budget, (cells, x, y, bent) in parts.items():
        enough = len(x) >= SIZES_FOR_VALLEY
        smooth = curvature * bent + np.polyval(np.polyfit(x, y - curvature * bent, 1), x) if enough else y
        out[budget] = (cells, y, smooth, enough)
    return out


def _nearest(cells: pd.DataFrame) -> pd.DataFrame:
    """Return the cells whose sizes are nearest to the best one: over a wide range of sizes no valley is a parabola."""
    logs = np.log(cells["params"].to_numpy(float))
    away = np.abs(logs - logs[int(np.argmin(cells["error"].to_numpy(float)))])
    return cells.iloc[np.sort(np.argsort(away, kind="stable")[:CELLS_OF_VALLEY])]


def valley_scatter(df: pd.DataFrame, metric: str) -> tuple[float, int]:
    """Return (standard deviation of ln(error) of a cell around the parabola of its budget, degrees of freedom).

    It is the only estimate of scatter in single-seed sweeps, and includes the misfit of the parabola; 0 degrees where
    no budget has at least `SIZES_FOR_VALLEY` sizes.
    """
    total, degrees = 0.0, -1  # the shared curvature takes one
    for _, y, smooth, enough in _valleys(df, metric).values():
        if enough:
            total += float(((y - smooth) ** 2).sum())
            degrees += len(y) - 2
    return (float(np.sqrt(total / degrees)), degrees) if degrees > 0 else (0.0, 0)


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
    for budget, (cells, _, truth, _) in _valleys(df, metric).items():
        drawn = truth + sd / np.sqrt(cells["seeds"].to_numpy(float)) * rng.standard_normal((BIAS_DRAWS, len(truth)))
        out[budget] = float(min(drawn.min(axis=1).mean() - truth.min(), 0.0))
    return out
