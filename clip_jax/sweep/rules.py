"""Rules for settings, fitted to records: how the best learning rate (batch, decay, …) goes with width or budget.

Every cell of a sweep, one model at one budget, at which at least three values of the setting were tried gives one best
value, where the lowest lies between others; a power law through them is the rule, for `sweep_rules`. Where records do
not allow it, the rule says why instead of a number.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from clip_jax.config import UserError

if TYPE_CHECKING:
    import pandas as pd

VALUES_FOR_BEST = 3  # of the setting, in one cell
PLACES_FOR_RULE = 3  # distinct widths or budgets
WIDEST = 1.0  # half of the interval of a power that says anything
OTHERS = ("width", "budget", "batch_size")  # what a rule in one column silently mixes up, when it varies too


@dataclass(frozen=True)
class Best:
    """The best value of a setting in one cell, at ``x``; ``value`` is None where ``status`` says why."""

    x: float
    status: str
    value: float | None = None


@dataclass(frozen=True)
class Rule:
    """setting ≈ value · (x / reference)**power, with an interval of the power; or, in ``status``, why there is none."""

    setting: str
    x: str
    status: str  # identified | not identified: why
    bests: tuple[Best, ...]
    power: float | None = None
    low: float | None = None
    high: float | None = None
    reference: float | None = None  # geometric mean of x
    value: float | None = None  # of the setting there
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        said = f"{self.setting} over {self.x}: {self.status}"
        if self.power is not None:
            said = (
                f"{self.setting} ≈ {self.value:.4g} · ({self.x} / {self.reference:.4g})^{self.power:.3f}, "
                f"95 % interval of the power [{self.low:.3f}, {self.high:.3f}]"
            )
        return "; ".join([said, *self.notes])


def best_value(cell: pd.DataFrame, setting: str, x: str, metric: str) -> Best:
    """The best value of ``setting`` in a cell: the vertex of the parabola, over its logarithm, of the lowest mean over
    seeds and up to two values on either side. Only seeds that every value has are compared, if there are any."""
    at = float(cell[x].iloc[0])
    seeds = set.intersection(*(set(part["seed"]) for _, part in cell.groupby(setting)))
    fair = cell[cell["seed"].isin(seeds)] if seeds else cell
    means = fair.groupby(setting)[metric].mean()
    if len(means) < VALUES_FOR_BEST:
        return Best(at, f"{len(means)} values tried, {VALUES_FOR_BEST} are needed")
    values, errors = np.log(means.index.to_numpy(float)), means.to_numpy(float)
    k = int(np.argmin(errors))
    if k in (0, len(values) - 1):
        return Best(at, "the best is at the edge of what was tried")
    near = slice(max(k - 2, 0), k + 3)
    a, b, _ = np.polyfit(values[near] - values[k], errors[near], 2)
    vertex = values[k] - b / (2 * a) if a > 0 else values[k]
    return Best(at, "found", float(np.exp(np.clip(vertex, values[k - 1], values[k + 1]))))


def fit_rule(
    df: pd.DataFrame, *, setting: str = "peak_lr", x: str = "width", metric: str = "error_mean", level: float = 0.95
) -> Rule:
    """Fit ``setting`` as a power of ``x`` to a table of runs (`collect`'s, or any with these columns, budget, params
    and seed): least squares in logarithms and Student's interval, for bests are few. Rows that are not final, and cells
    where nothing but the usual value was tried, tell nothing.

    Raises UserError when the table lacks a column.
    """
    from scipy.stats import linregress, t

    for column in (setting, x, metric, "budget", "params", "seed"):
        if column not in df.columns:
            raise UserError(f"the table lacks the column {column}; it has {', '.join(map(str, df.columns))}")
    done = df[df["final"].astype(bool)] if "final" in df.columns else df
    cells = [part for _, part in done.groupby(["budget", "params"]) if part[setting].nunique() > 1]
    bests = tuple(best_value(cell, setting, x, metric) for cell in cells)
    found = [(cell, b.x, b.value) for cell, b in zip(cells, bests, strict=True) if b.value is not None]
    places = np.array([at for _, at, _ in found])
    if len(np.unique(places)) < PLACES_FOR_RULE:
        left = sum(b.value is None for b in bests)
        status = f"not identified: a best {setting} is known at {len(np.unique(places))} values of {x}, "
        status += f"{PLACES_FOR_RULE} are needed ({left} of {len(bests)} cells have none)"
        return Rule(setting, x, status, bests)
    varying = [
        c for c in OTHERS if c not in (x, setting) and len({cell[c].iloc[0] for cell, *_ in found if c in cell}) > 1
    ]
    notes = tuple(f"{c} varies too, and this power holds its part" for c in varying)
    middle = float(np.log(places).mean())
    line = linregress(np.log(places) - middle, np.log([value for *_, value in found]))
    half = float(t.ppf((1 + level) / 2, len(found) - 2)) * float(line.stderr)
    power, value = float(line.slope), float(np.exp(line.intercept))
    if half > WIDEST:
        status = f"not identified: the power is {power:.2f} ± {half:.2f}, known no better than to {WIDEST:g}"
        return Rule(setting, x, status, bests, notes=notes)
    return Rule(setting, x, "identified", bests, power, power - half, power + half, float(np.exp(middle)), value, notes)
