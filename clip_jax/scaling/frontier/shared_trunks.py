"""How alike points of a frontier scatter whose runs took their first steps from the same trunks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from clip_jax.scaling.laws.base import Array

if TYPE_CHECKING:
    import pandas as pd

TRUNK_CORRELATION = 0.86  # of ln(error) between two budgets of one size over seeds; benchmarks/branches.py measures it


def point_correlations(rows: pd.DataFrame, points: pd.DataFrame) -> Array:
    """Return the correlations [n, n] of the scatter of points that are means over the runs of a cell.

    Two points share scatter as far as their runs share trunks: `TRUNK_CORRELATION` if all of them do.

    Args:
      rows: the runs, with the columns ``budget`` and ``params`` and, if some branched off a trunk, ``trunk``.
      points: [n] rows with ``budget`` and ``params``.
    """
    if "trunk" not in rows:
        return np.eye(len(points))
    cells = rows.groupby(["budget", "params"])["trunk"].agg(list)
    trunks = [cells.loc[(p["budget"], p["params"])] for p in points.to_dict("records")]
    known = [{name for name in of_cell if isinstance(name, str) and name} for of_cell in trunks]
    counts = np.array([len(of_cell) for of_cell in trunks])
    shared = np.array([[len(a & b) for b in known] for a in known])
    correlations = TRUNK_CORRELATION * shared / np.sqrt(np.outer(counts, counts))
    np.fill_diagonal(correlations, 1.0)
    return correlations


def inflation(correlations: Array) -> float:
    """Return the factor on the variance of a mean of points with these correlations, 1 for independent ones."""
    return float(correlations.sum() / len(correlations))


def effective_degrees(degrees: int, correlations: Array) -> int:
    """Return the degrees of freedom of a variance pooled over cells with these correlations, at least 1."""
    return max(1, round(degrees * len(correlations) / float((correlations**2).sum()))) if degrees else 0


def shared_text(factor: float) -> str:
    """Return a sentence on what an `inflation` above 1 does to a report's intervals."""
    return (
        f"points of the frontier share trunks, so they scatter together (correlation {TRUNK_CORRELATION:g} at one size "
        f"and seed): intervals of the curve are {np.sqrt(factor):.2f} times as wide as those of separate runs"
    )
