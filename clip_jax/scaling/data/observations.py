"""Check the observations of a fit before anything is fitted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias, cast

import numpy as np

from clip_jax.errors import UserError
from clip_jax.scaling.laws.base import Array, Law

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import ArrayLike

# a law's columns by name, or the only one
Columns: TypeAlias = "Mapping[str, ArrayLike] | pd.DataFrame | ArrayLike"

# neighbors in a sorted column that are further apart than this were likely written in two units (GFLOPs and FLOPs
# differ by 1e9, percent and fraction by 1e2)
UNIT_GAP = {"x": 1e5, "y": 30.0}
RISES, MIN_ROWS_TO_RISE = 0.8, 5  # rank correlation of an error with compute from which on it may be an accuracy
CONSTANT_LOG_SPREAD = 1e-9  # columns whose logarithms differ by less do not vary


@dataclass(frozen=True)
class Points:
    """Observations of a fit.

    columns: float64 [n] by name, above 0; y: float64 [n]; weights: float64 [n], how often a row counts.
    """

    columns: Mapping[str, Array]
    y: Array
    weights: Array

    def __len__(self) -> int:
        return len(self.y)

    def where(self, keep: Array) -> Points:
        """Return the rows of a mask or of indices."""
        return Points({c: v[keep] for c, v in self.columns.items()}, self.y[keep], self.weights[keep])


def columns_of(law: Law, columns: Columns) -> dict[str, Array]:
    """Return the law's columns from a dict, a DataFrame or (for a law of one column) an array or number; float64, one
    shape.

    Raises UserError naming a missing column.
    """
    if not isinstance(columns, Mapping) and not hasattr(columns, "columns"):
        if len(law.columns) != 1:
            reason = f"{law.name} needs {', '.join(law.columns)}, not one array"
            raise UserError(field="columns", reason=reason)
        return {law.columns[0]: np.asarray(columns, float)}
    named = cast("Mapping[str, ArrayLike]", columns)  # a DataFrame gives its columns in the same way
    missing = [c for c in law.columns if c not in named]
    if missing:
        hint = f"the columns are {', '.join(map(str, named))}"
        raise UserError(field=", ".join(missing), reason=f"missing, and {law.name} needs it", hint=hint)
    return dict(zip(law.columns, np.broadcast_arrays(*(np.asarray(named[c], float) for c in law.columns)), strict=True))


def check_points(
    law: Law, columns: Columns, y: ArrayLike, weights: ArrayLike | None = None, *, positive: bool = True
) -> Points:
    """Check the observations of a fit.

    Args:
      law: its columns are taken.
      columns: dict, DataFrame, or an array for a law of one column.
      y: the values to explain.
      weights: how much each row counts, above 0; 1 by default.
      positive: y must be above 0 (a loss in logarithms).

    Raises:
      UserError: lengths that differ; a number that is missing, infinite, or not above 0 (named by its row); a column
        that does not vary, columns that vary on one line only (a single budget), numbers that seem to be in two units.
        Values above a law's ceiling (the error of guessing) are noise, and stay.
    """
    checked = columns_of(law, columns)
    target = np.asarray(y, float)
    w = np.ones(len(target)) if weights is None else np.asarray(weights, float)
    for name, values in {**checked, "y": target, "weights": w}.items():
        if values.shape != target.shape or values.ndim != 1:
            reason = f"has shape {values.shape} and y {target.shape}, one number per row is needed"
            raise UserError(field=name, reason=reason)
        _finite(name, values, positive or name != "y")
    for name, values in checked.items():
        if len(values) and np.ptp(np.log(values)) < CONSTANT_LOG_SPREAD:
            reason = f"the same in all {len(values)} rows, and {law.name} needs rows that differ in it"
            raise UserError(field=name, value=float(values[0]), reason=reason)
    _not_on_one_line(law, checked)
    for name, values, kind in [*((c, v, "x") for c, v in checked.items()), ("y", target, "y")]:
        if (values > 0).all():
            _one_unit(name, values, UNIT_GAP[kind])
    return Points(checked, target, w)


def _finite(name: str, values: Array, positive: bool) -> None:
    bad = ~np.isfinite(values) | ((values <= 0) if positive else False)
    if bad.any():
        row = int(np.argmax(bad))
        reason = f"must be {'above 0 and finite' if positive else 'finite'} ({int(bad.sum())} such rows)"
        raise UserError(source=f"row {row}", field=name, value=float(values[row]), reason=reason)


def _not_on_one_line(law: Law, columns: Mapping[str, Array]) -> None:
    """Refuse size and samples of a single budget: they lie on one line in logarithms, which leaves the exponents
    undetermined.
    """
    logs = np.log(np.stack(list(columns.values())))
    if len(logs) < 2 or logs.shape[1] <= len(logs):
        return
    spread = np.linalg.svd(logs - logs.mean(axis=1, keepdims=True), compute_uv=False)
    if spread[-1] < 1e-6 * spread[0]:
        reason = f"lie on one line (a single budget or ratio), which {law.name} cannot be fitted to"
        raise UserError(field=", ".join(columns), reason=reason)


def _one_unit(name: str, values: Array, gap: float) -> None:
    order = np.sort(values)
    steps = order[1:] / order[:-1]
    if len(steps) and steps.max() > gap:
        at = int(np.argmax(steps))
        reason = f"the next lower one is {order[at]:g}, so the column seems to hold two units"
        raise UserError(field=name, value=float(order[at + 1]), reason=reason, hint="convert them first")


def count_duplicates(points: Points) -> int:
    """Count the rows equal to an earlier one in every column: they add weight but no information."""
    table = np.stack([*points.columns.values(), points.y], axis=1)
    return len(table) - len(np.unique(table, axis=0))


def noise_floor(errors: Array, examples: Array | int) -> Array:
    """Return the standard deviation of ln(error) due to a finite evaluation set alone: sqrt((1-e)/(e·n)), float64.

    Args:
      errors: fractions in (0, 1).
      examples: size of the evaluation set.

    Raises:
      UserError: errors that are no fractions, or examples not above 0.
    """
    e, n = np.asarray(errors, float), np.asarray(examples, float)
    if not (np.all(e > 0) and np.all(e < 1) and np.all(n > 0)):
        raise UserError(field="errors, examples", reason="errors must lie in (0, 1) and examples be above 0")
    return np.sqrt((1 - e) / (e * n))


def picture_scatter(ratio: float, pictures: Sequence[tuple[float, int]], *, same: bool) -> float:
    """Return the standard deviation of ln(mean error) due to a finite number of test pictures, at a forecast.

    Args:
      ratio: the forecast error over the error that ``pictures`` were measured at.
      pictures: (error, number of pictures) of each task.
      same: on the same pictures, only those that were still wrong can become right: of each task's n·e wrong ones a
        binomial share stays wrong. On new ones the count is binomial among all n.
    """
    if not pictures:
        return 0.0
    error, n = np.array([p[0] for p in pictures], float), np.array([p[1] for p in pictures], float)
    ahead = np.clip(error * ratio, 1e-9, 1.0)
    away = np.clip(1 - ahead / error, 0.0, 1.0) if same else 1 - ahead
    return float(np.sqrt(np.sum(ahead * away / n)) / ahead.sum())


def rising_correlation(x: Array, y: Array) -> float | None:
    """Return the rank correlation of x and y, [n] each, if y rises with x beyond doubt; else None, as for few rows."""
    from scipy.stats import spearmanr

    if len(y) < MIN_ROWS_TO_RISE or np.ptp(x) == 0 or np.ptp(y) == 0:
        return None
    correlation = spearmanr(x, y)
    return float(correlation.statistic) if correlation.statistic > RISES and correlation.pvalue < 0.01 else None
