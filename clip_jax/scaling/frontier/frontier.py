"""Select the compute-optimal frontier of a table of runs, or of a cloud of points, by several rules."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pandas as pd


def by_size(df: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Average over seeds: one row per (budget, params); columns budget params flops samples_seen error sd seeds."""
    grouped = df.groupby(["budget", "params"], sort=True)
    return grouped.agg(
        flops=("flops", "mean"),
        samples_seen=("samples_seen", "mean"),
        error=(metric, "mean"),
        sd=(metric, "std"),
        seeds=(metric, "size"),
    ).reset_index()


def compute_optimal(df: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Select the best size of each budget, by its mean error over seeds.

    Returns the columns of `by_size`, plus ``sizes`` (number tried at this budget) and ``bracketed`` (the best is
    neither the smallest nor the largest of at least three).
    """
    sizes = by_size(df, metric)
    best = sizes.loc[sizes.groupby("budget")["error"].idxmin()].sort_values("budget").reset_index(drop=True)
    tried = sizes.groupby("budget")["params"].agg(["size", "min", "max"]).loc[best["budget"]]
    params = best["params"].to_numpy()
    best["sizes"] = tried["size"].to_numpy()
    between = (tried["min"].to_numpy() < params) & (params < tried["max"].to_numpy())
    best["bracketed"] = (best["sizes"].to_numpy() >= 3) & between
    return best


def unbeaten(best: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of `compute_optimal` that no cheaper row equals or beats: the frontier if no budgets were
    planned.
    """
    return best[best["error"] < best["error"].cummin().shift(fill_value=np.inf)].reset_index(drop=True)


def seed_noise(df: pd.DataFrame, metric: str) -> tuple[float, int]:
    """Return (pooled standard deviation of ln(error) between seeds of a cell, its degrees of freedom, 0 if unknown)."""
    cell = ["budget", "params"]
    several = df[df.groupby(cell)["seed"].transform("nunique") > 1]  # equal cells of one seed differ in something else
    if several.empty:
        return 0.0, 0
    logs = several[metric].astype(float).map(np.log)
    cells = logs.groupby([several[c] for c in cell])
    degrees = int(len(several) - cells.ngroups)
    total = float(((logs - cells.transform("mean")) ** 2).sum())
    return float(np.sqrt(total / degrees)), degrees


def pareto(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return indices of the strict Pareto frontier, by rising x: points that no other equals or beats at no more x."""
    order = np.lexsort((y, x))
    lowest = np.minimum.accumulate(y[order])
    return order[y[order] < np.append(np.inf, lowest[:-1])]


def binned(x: np.ndarray, y: np.ndarray, edges: np.ndarray, *, improving: bool = True) -> np.ndarray:
    """Return the indices of the lowest y of each bin [edges[i], edges[i+1]) by rising x, and of the point with the
    largest x.

    The point with the largest x is a bin of its own. improving: only points that improve on every cheaper one.
    """
    bins = np.searchsorted(edges, x, side="right") - 1
    inside = [np.flatnonzero(bins == b) for b in range(len(edges) - 1)]
    best = [int(rows[np.argmin(y[rows])]) for rows in (*inside, np.flatnonzero(x == x.max())) if len(rows)]
    chosen = np.array(sorted(set(best), key=lambda i: x[i]), int)
    return chosen[pareto(x[chosen], y[chosen])] if improving else chosen


def binned_centers(x: np.ndarray, y: np.ndarray, bins: int = 5, beyond: float = 0.1) -> tuple[np.ndarray, np.ndarray]:
    """Return (bin centers, lowest y in each): Cherti et al.'s frontier (2023), over [min, max + beyond] of log10 x.

    A bin's point lies at the bin's center, not at its run's x; empty bins are left out.
    """
    logs = np.log10(x)
    edges = np.linspace(logs.min(), logs.max() + beyond, bins + 1)
    centers, lowest = [], []
    for low, high in pairwise(edges):
        inside = (logs >= low) & (logs < high)
        if inside.any():
            centers.append(10 ** ((low + high) / 2))
            lowest.append(float(y[inside].min()))
    return np.array(centers), np.array(lowest)


def octaves(x: np.ndarray, least: float = 1500.0) -> np.ndarray:
    """Return edges for `binned`, geometric: int(log2(max(x) / least)) of them, at least 2 (a published analysis's
    choice).
    """
    return np.geomspace(x.min(), x.max(), max(int(np.log2(x.max() / least)), 2))


def hull(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the indices of the falling lower convex hull in log-log, by rising x: no mix of two powers beats its
    points.
    """
    front = pareto(x, y)
    logs = np.log(np.stack([x, y], axis=1)[front])
    kept: list[int] = []
    for i in range(len(front)):
        while len(kept) > 1:
            (ax, ay), (bx, by), (cx, cy) = logs[kept[-2]], logs[kept[-1]], logs[i]
            if (by - ay) * (cx - ax) < (cy - ay) * (bx - ax):
                break
            kept.pop()
        kept.append(i)
    return front[kept]
