"""Choose which of very many runs a figure and the page show; all of them are fitted."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

    from clip_jax.scaling.analysis.analyze import Analysis

MAX_RUNS_DRAWN = 2000  # runs; a vector figure or a page of more is slow to open


def drawn_rows(analysis: Analysis) -> pd.DataFrame:
    """Return the rows to draw: all, or of more than `MAX_RUNS_DRAWN` every k-th by FLOPs and those on the frontier."""
    rows = analysis.rows
    if len(rows) <= MAX_RUNS_DRAWN:
        return rows
    order = np.argsort(rows["flops"].to_numpy(float), kind="stable")
    keep = np.zeros(len(rows), bool)
    keep[order[np.unique(np.linspace(0, len(rows) - 1, MAX_RUNS_DRAWN).round().astype(int))]] = True
    points = analysis.frontier.points
    fitted = set(zip(points["budget"], points["params"], strict=True))
    keep |= rows["budget"].isin(points["budget"]).to_numpy() & np.array(
        [cell in fitted for cell in zip(rows["budget"], rows["params"], strict=True)]
    )
    return rows[keep]


def drawn_text(analysis: Analysis) -> str:
    """Return how many of the runs are drawn, in words; empty where all are."""
    shown = len(drawn_rows(analysis))
    return "" if shown == len(analysis.rows) else f"{shown:,} of {len(analysis.rows):,} runs drawn"
