"""Fit error over size and samples of all runs (Hoffmann et al., 2022, approach 3), with the path of least error."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from clip_jax.errors import UserError
from clip_jax.scaling.data.chance import fitted_rows, left_out_above
from clip_jax.scaling.fit.result import Fit
from clip_jax.scaling.fit.solver import MANY_ROWS
from clip_jax.scaling.fit_law import fit_law
from clip_jax.scaling.laws import Chinchilla
from clip_jax.scaling.laws.base import Array
from clip_jax.scaling.profile.prediction import Interval
from clip_jax.scaling.profile.profile_likelihood import parameter_interval

if TYPE_CHECKING:
    import pandas as pd

MIN_RUNS_FOR_SURFACE = 8  # five parameters and three more
MIN_DISTINCT_VALUES = 3  # of sizes, and of samples
TESTED_ROWS = 60  # from which on the coverage of its intervals was simulated
SIZES_ON_PATH = 400  # tried along a budget


@dataclass(frozen=True)
class ParametricFit:
    """Chinchilla's law on a table.

    A run of N parameters and D samples costs ``cost``·N^``power``·D FLOPs, a line fitted in logarithms with standard
    deviation ``cost_sd`` (a transformer's is 6·N·D; small CLIP models spend FLOPs on patches too).
    """

    fit: Fit
    intervals: dict[str, Interval]
    cost: float
    power: float
    cost_sd: float

    def path(self, flops: Array) -> tuple[Array, Array, Array]:
        """Return (N*, D*, error) of the lowest error at each budget [n], among sizes 100 times beyond the runs' on each
        side.

        The optimum is found on a grid of sizes, refined by a parabola through the best three.
        """
        seen = self.fit.data.columns["params"]
        logs = np.linspace(np.log(seen.min() / 100), np.log(seen.max() * 100), SIZES_ON_PATH)
        c = np.log(np.asarray(flops, float))[:, None]

        def error(n: Array) -> Array:
            data = c - np.log(self.cost) - self.power * n
            return self.fit.predict({"params": np.exp(n), "samples_seen": np.exp(data)})

        y = error(np.broadcast_to(logs, (len(c), SIZES_ON_PATH)))
        k = np.clip(y.argmin(axis=1), 1, SIZES_ON_PATH - 2)
        rows, step = np.arange(len(c)), logs[1] - logs[0]
        left, middle, right = (y[rows, k + i] for i in (-1, 0, 1))
        curvature = left - 2 * middle + right
        shift = np.where(curvature > 0, (left - right) / np.where(curvature > 0, 2 * curvature, 1), 0)
        best = logs[k] + np.clip(shift, -1, 1) * step
        samples = np.exp(c[:, 0] - np.log(self.cost) - self.power * best)
        return np.exp(best), samples, error(best[:, None])[:, 0]


def _interval(fit: Fit, name: str) -> Interval:
    """Return the interval of a parameter; open where the law is not identified and its profile would take minutes."""
    if fit.points > MANY_ROWS and not fit.identified:
        return Interval(fit.values[name], -np.inf, np.inf, 0.95, True, True)
    return parameter_interval(fit, name)


def fit_parametric(rows: pd.DataFrame, metric: str, chance: float | None = None) -> ParametricFit:
    """Fit Chinchilla's law to all runs; those above ``chance`` are left out, for the law has no ceiling.

    Raises:
      UserError: too few rows, sizes or numbers of samples, or all on one line.
    """
    law = Chinchilla()
    kept = fitted_rows(law, rows[metric].to_numpy(float), chance)
    above, rows = int((~kept).sum()), rows[kept]
    for column, what in (("params", "sizes"), ("samples_seen", "numbers of samples")):
        if (distinct := rows[column].nunique()) < MIN_DISTINCT_VALUES:
            reason = f"{distinct} {what}, at least {MIN_DISTINCT_VALUES} are needed"
            raise UserError(field=column, reason=reason)
    if len(rows) < MIN_RUNS_FOR_SURFACE:
        reason = f"{len(rows)} runs, at least {MIN_RUNS_FOR_SURFACE} are needed"
        raise UserError(field="runs", reason=reason)
    columns = {c: rows[c].to_numpy(float) for c in ("params", "samples_seen")}
    fit = fit_law(law, columns, rows[metric].to_numpy(float))
    if above:
        fit = replace(fit, notes=(*fit.notes, left_out_above(above, "runs", chance)))
    if fit.status == "failed":
        raise UserError(field="status", value=fit.status, reason="the fit did not converge")
    n, per_sample = np.log(columns["params"]), np.log(rows["flops"].to_numpy(float) / columns["samples_seen"])
    power, constant = np.polyfit(n - n.mean(), per_sample, 1)
    cost = float(np.exp(constant - power * n.mean()))
    off = per_sample - np.log(cost) - power * n
    free = [name for name, is_free in zip(fit.law.names, fit.free_mask, strict=True) if is_free]
    return ParametricFit(fit, {name: _interval(fit, name) for name in free}, cost, float(power), float(off.std()))
