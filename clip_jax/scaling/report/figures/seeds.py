"""Measure the scatter of frontier points over seeds, and name the points as the table names its rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from clip_jax.scaling.analysis.frontier_fit import BUDGET

if TYPE_CHECKING:
    import pandas as pd

    from clip_jax.scaling.analysis.analyze import Analysis


def standard_errors(rows: pd.DataFrame, points: pd.DataFrame) -> np.ndarray:
    """Compute the standard error of each frontier point over its seeds, NaN where it has one.

    Args:
      rows: of the table, with budget, params and seed.
      points: columns of `frontier.by_size`.
    """
    seeds = rows.groupby(["budget", "params"])["seed"].nunique()
    repeated = np.array([seeds.get(cell, 1) > 1 for cell in zip(points["budget"], points["params"], strict=True)])
    sd = points["sd"].to_numpy(float) / np.sqrt(points["seeds"].to_numpy(float))
    return np.where(repeated, sd, np.nan)


def point_names(analysis: Analysis, points: pd.DataFrame) -> list[str]:
    """Name frontier points as the table does: by the budget where budgets were planned, else by the run."""
    if BUDGET in analysis.frontiers:
        return [f"budget {b:.3g}" for b in points["budget"]]
    runs = analysis.rows.drop_duplicates(["budget", "params"]).set_index(["budget", "params"])["run_id"]
    return [str(runs[cell]) for cell in zip(points["budget"], points["params"], strict=True)]
