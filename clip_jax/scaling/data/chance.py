"""Read the error of guessing from evaluations: the ceiling of every law that has one."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from clip_jax.errors import UserError
from clip_jax.scaling.laws.base import Array, Law
from clip_jax.storage.paths import exists, read_text

if TYPE_CHECKING:
    import pandas as pd

# metric of runs.csv -> metric of evals.csv whose chance is that of the metric itself
CHANCE_METRICS = {"error_mean": "error", "val_loss": "loss", "val_loss_refit": "loss_refit"}
TASK = "error/"  # a metric of one task, beside that task's accuracy


def chance_of(evals: pd.DataFrame, metric: str) -> float | None:
    """Return the value of a metric for guessing: an error, or for a loss ln(number of negatives).

    Args:
      evals: columns task, metric, chance; as ``evals.csv``.
      metric: ``error_mean``, ``error/TASK``, ``val_loss`` or ``val_loss_refit``; the result is None for any other, and
        for a table without these columns.

    Raises:
      UserError: runs with different values, whose metrics are not on one scale.
    """
    if not {"task", "metric", "chance"} <= set(evals.columns):
        return None
    if metric in CHANCE_METRICS:
        chances = evals.loc[evals["metric"] == CHANCE_METRICS[metric], "chance"]
    elif metric.startswith(TASK):
        rows = (evals["task"] == metric.removeprefix(TASK)) & (evals["metric"] == "top1")
        chances = 1 - evals.loc[rows, "chance"]
    else:
        return None
    values = chances.dropna().to_numpy(float)
    if not len(values):
        return None
    if np.ptp(values) > 1e-9:
        reason = f"the error of guessing differs among runs, {values.min():.6g} to {values.max():.6g}"
        raise UserError(source="evals", field=metric, reason=reason, hint="fit them apart")  # fmt: skip
    return float(values[0])


def chance_of_table(df: pd.DataFrame, metric: str, folder: Path, stated: float | None = None) -> float | None:
    """Return the error of guessing of a table: ``stated`` if given, else `chance_beside` the table.

    Raises:
      UserError: a stated value that is not above 0 and finite, or lies below every row, where no law can be determined.
    """
    if stated is None:
        return chance_beside(folder, metric)
    if not 0 < stated < np.inf:
        raise UserError(field="--chance", value=stated, reason="must be above 0 and finite")
    import pandas as pd

    if metric in df.columns and pd.to_numeric(df[metric], errors="coerce").min() > stated:
        raise UserError(field="--chance", value=stated, reason=f"every {metric} lies above it")
    return stated


def fitted_rows(law: Law, y: Array, chance: float | None) -> Array:
    """Return which rows y [n] a law is fitted to, bool [n]: a law with a ceiling takes all, others those not above
    ``chance``.
    """
    return np.ones(len(y), bool) if chance is None or law.has_ceiling else np.asarray(y) <= chance


def left_out_above(count: int, kind: str, chance: float | None) -> str:
    """Return the note of a fit that leaves out ``count`` points or runs whose error is that of guessing or more."""
    return f"{count} {kind} above guessing, {chance:.4g}, are left out"


def chance_beside(folder: Path, metric: str) -> float | None:
    """Return `chance_of` the ``evals.csv`` in a folder (or bucket), or None without that file."""
    import pandas as pd

    path = folder / "evals.csv"
    if not exists(path):
        return None
    return chance_of(pd.read_csv(io.StringIO(read_text(path))), metric)
