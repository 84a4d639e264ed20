"""Fit a law to a frontier, with profile intervals, forecasts with bands, and the influence of each point.

Intervals are profile likelihoods, which keep their coverage where a bootstrap of a handful of points does not. Where
the frontier was selected from many runs without planned budgets, its points are extremes: then the selection is
repeated in resamples of 70 % of the runs as well, and each end of an interval is the wider of the two
(`benchmarks/RESULTS_scaling.md` has both coverages).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from clip_jax.errors import UserError
from clip_jax.scaling.data.chance import fitted_rows, left_out_above
from clip_jax.scaling.data.records import FitRecord, InfluenceRecord, RunForecast, Sides
from clip_jax.scaling.fit.result import Fit
from clip_jax.scaling.fit.solver import MANY_ROWS
from clip_jax.scaling.fit_law import fit_once
from clip_jax.scaling.frontier.frontier import binned, hull, octaves, pareto
from clip_jax.scaling.laws import Law, with_ceiling
from clip_jax.scaling.laws.base import Array
from clip_jax.scaling.profile.noise import NO_NOISE, Noise
from clip_jax.scaling.profile.prediction import Interval, Prediction, student_cdf, unconverged_warnings
from clip_jax.scaling.profile.profile_likelihood import (
    flat_sides,
    open_unidentified,
    parameter_interval,
    prediction_profile,
    scatter,
)
from clip_jax.scaling.profile.statistic import interval_method
from clip_jax.scaling.uncertainty.bootstrap import Ensemble, bootstrap_frontier
from clip_jax.scaling.uncertainty.diagnostics import influence, residual_checks
from clip_jax.scaling.uncertainty.interval_format import ends_data

if TYPE_CHECKING:
    import pandas as pd

MIN_POINTS_TO_FIT = 3
RESELECT_FROM = 20  # candidates; fewer leave too many resamples without a frontier
RESELECT_SHARE = 0.7
RESELECT_REPLICAS, MIN_RESELECT_REPLICAS = 300, 40
MAX_RESELECT_CANDIDATES = 1_500_000  # candidates in all resamples together
SELECTION_MATTERS = 0.2  # of a point's scatter: a bias below it changes no interval that could be seen
BUDGET, PARETO, BINNED, HULL = "budget", "pareto", "binned", "hull"
FRONTIER_RULES = {
    BUDGET: "best size of each budget",
    PARETO: "runs that no cheaper run beats",
    BINNED: "best of each doubling of FLOPs",
    HULL: "lower convex hull in log-log",
}
SELECT: dict[str, Callable[[Array, Array], Array]] = {
    PARETO: pareto,
    BINNED: lambda x, y: binned(x, y, octaves(x, x.min())),
    HULL: hull,
}
NOT_RESELECTED = "intervals do not include the selection of the frontier"
NOT_PROFILED = f"no intervals: of more than {MANY_ROWS:,} runs the reported frontier alone has them"
REACH = (0.5, 1.0, 2.0, 4.0, 10.0, 30.0, 100.0)  # times the smallest and the largest FLOPs: where bands are computed


class TooFewPoints(UserError):
    """A frontier holds fewer points than a law needs."""


@dataclass(frozen=True)
class FrontierFit:
    """A law fitted to a frontier.

    noise: the scatter of a point, estimated from seeds. reselected: fits of frontiers selected again in resamples of
    the runs. unselected: the fit of the points corrected for the winner's curse (`selection`). profiled: False gives
    the curve alone, without intervals and bands. selection: why the selection of a cloud's frontier was not repeated;
    empty where it was, or where budgets were planned. ceiling: the error of guessing, which no curve exceeds, whatever
    its form; a run may by its noise.
    """

    fit: Fit
    noise: Noise = NO_NOISE
    reselected: Ensemble | None = None
    unselected: Fit | None = None
    profiled: bool = True
    selection: str = ""
    ceiling: float = np.inf

    @property
    def key(self) -> str:
        """The law's key."""
        return self.fit.law.key

    @cached_property
    def checked(self) -> Fit:
        """The fit, with the parameters whose profile is flat on a side."""
        if not self.profiled:
            return self.fit
        return replace(self.fit, flat=flat_sides(self.fit), profiled=True)

    @property
    def scatter(self) -> float:
        """The standard deviation of a point of the frontier, in ln(error)."""
        return scatter(self.fit, self.noise)

    @cached_property
    def intervals(self) -> dict[str, Interval]:
        """95 % intervals of every free parameter, in the table's units."""
        free = [n for n, is_free in zip(self.fit.law.names, self.fit.free_mask, strict=True) if is_free]
        if not self.profiled:
            return {n: Interval(self.fit.values[n], -np.inf, np.inf, 0.95, True, True) for n in free}
        each = {n: self._wider(parameter_interval(self.fit, n, noise=self.noise), n) for n in free}
        return {n: open_unidentified(self.checked, n, interval) for n, interval in each.items()}

    def _wider(self, interval: Interval, name: str) -> Interval:
        if self.reselected is not None:
            interval = _union(interval, *self.reselected.interval(name))
        if self.unselected is not None:
            other = parameter_interval(self.unselected, name, noise=self.noise)
            interval = _union(interval, other.low, other.high)
            interval = replace(
                interval, open_low=interval.open_low or other.open_low, open_high=interval.open_high or other.open_high
            )
        return interval

    def prediction_at(self, flops: float) -> Prediction:
        """Return the distribution of the curve at a compute."""
        at = float(flops)
        if at not in self._predictions:
            prediction = prediction_profile(self.fit, at, noise=self.noise)
            if self.unselected is not None:
                other = prediction_profile(self.unselected, at, noise=self.noise)
                prediction = prediction.widened(lambda root: other.position(root)[0])
            if self.reselected is not None:
                drawn = np.sort(np.log(np.maximum(self.reselected.curves(np.array([at]))[:, 0], 1e-12)))
                prediction = prediction.widened(lambda root: np.quantile(drawn, student_cdf(root, prediction.degrees)))
            self._predictions[at] = prediction
        return self._predictions[at]

    @cached_property
    def _predictions(self) -> dict[float, Prediction]:
        return {}

    def unconverged_at(self, flops: float, where: str) -> list[str]:
        """Return a warning for each side of the curve's band, at a compute and ``where`` in words, whose constrained
        fits did not converge.
        """
        return unconverged_warnings(self.fit.law.name, where, self.prediction_at(flops), self.ceiling)

    def curve(self, flops: Array) -> Array:
        """Return the curve at FLOPs [n]."""
        return np.minimum(self.fit.predict(flops), self.ceiling)

    def curve_at(self, flops: float) -> Interval:
        """Return the 95 % interval of the curve at a compute."""
        return self.prediction_at(flops).interval().at_most(self.ceiling)

    def run_at(self, flops: float, extra: float = 0.0) -> Interval:
        """Return the 95 % prediction interval of a new frontier point at a compute; ``extra``: independent scatter."""
        scattered = self.prediction_at(flops).scattered(float(np.hypot(self.scatter, extra)))
        return scattered.interval().around_at_most(self.ceiling)

    @cached_property
    def _knots(self) -> tuple[Array, list[Interval], list[Interval]]:
        knot_flops = knots(self.fit.data.columns["flops"])
        return knot_flops, [self.curve_at(p) for p in knot_flops], [self.run_at(p) for p in knot_flops]

    def bands(self, grid: Array) -> dict[str, Array]:
        """Return {y, low, high, run_low, run_high} over a grid of FLOPs [n]: bands of the law and of a new run.

        Between the profiled FLOPs the width of the band (in ln y) is interpolated; NaN where the data do not bound it,
        and everywhere without a profile.
        """
        if not self.profiled:
            unknown = np.full(len(grid), np.nan)
            return {"y": self.curve(grid)} | dict.fromkeys(("low", "high", "run_low", "run_high"), unknown)
        knot_flops, curve, run = self._knots
        y, at_knots = self.fit.predict(grid), self.fit.predict(knot_flops)
        of_curve = {"y": y, **interpolated(grid, y, knot_flops, at_knots, curve, "")}
        return {
            **{name: np.minimum(value, self.ceiling) for name, value in of_curve.items()},
            **interpolated(grid, y, knot_flops, at_knots, run, "run_"),
        }

    def leave_one_out(self) -> list[InfluenceRecord]:
        """Return the effect of leaving each point out: {flops, parameter, shift (standard errors), exponent}, by
        rising FLOPs.
        """
        c, name = self.fit.data.columns["flops"], self.fit.law.exponent_name
        influences = sorted(influence(self.fit), key=lambda r: r.row)
        return [
            {"flops": float(c[r.row]), "parameter": r.parameter, "with": r.value, "without": r.without,
             "shift": -r.shift, "exponent": r.all[name]}
            for r in influences
        ]  # fmt: skip

    def warnings(self) -> list[str]:
        """Return the warnings about this fit, in words; points are named by their FLOPs."""
        messages = [f"not identified: the profile of {f.split()[0]} is flat {f.split()[1]}" for f in self.checked.flat]
        if not self.profiled:
            messages.append(NOT_PROFILED)
        names = [f"{c:.3g} FLOPs" for c in self.fit.data.columns["flops"]]
        return [*self.fit.notes, *messages, *residual_checks(self.fit, names)["warnings"]]

    def as_data(self) -> FitRecord:
        """Return the fit as plain data, in full precision."""
        fit, name = self.checked, self.fit.law.exponent_name
        names = zip(fit.law.names, fit.free_mask, strict=True)
        return {
            "form": fit.law.name, "law": fit.law.key, "formula": fit.law.formula, "latex": fit.law.latex,
            "values": fit.values, "fixed": [n for n, free in names if not free],
            "intervals": {n: interval_sides(i) for n, i in self.intervals.items()},
            "exponent": {"name": name, "value": fit.values[name], **interval_sides(self.intervals.get(name))},
            "interval_kind": (interval_method(fit) if self.profiled else NOT_PROFILED)
            + (", or the frontier selected again where that is wider" if self.reselected else "")
            + (f"; {self.selection}" if self.selection else ""),
            "status": fit.status, "screened": fit.screened, "starts": fit.starts, "agree": fit.agree,
            "share_of_starts": fit.agree / fit.starts, "objective": fit.objective,
            "loss": [fit.loss.kind, fit.loss.space, fit.loss.delta], "condition": fit.condition,
            "identified": fit.identified, "flat": list(fit.flat), "points": fit.points,
            "residual_sd": fit.residual_sd, "seed_floor": self.noise.sd, "notes": list(fit.notes),
            "warnings": self.warnings(),
        }  # fmt: skip

    def forecast(self, flops: float) -> RunForecast:
        """Return {form, flops, predicted, low, high (of a new run), curve_low, curve_high}; an open end is infinite."""
        curve, run = self.curve_at(flops), self.run_at(flops)
        low, high = run.bounded_ends
        curve_low, curve_high = curve.bounded_ends
        return {
            "form": self.fit.law.name, "flops": float(flops), "predicted": curve.value, "low": low, "high": high,
            "curve_low": curve_low, "curve_high": curve_high,
        }  # fmt: skip


def interval_sides(interval: Interval | None) -> Sides:
    """Return {low, high (null where open), open: sides that the data do not bound}; empty for a fixed parameter."""
    if interval is None:
        return {"low": None, "high": None, "open": []}
    sides = [s for s, is_open in (("below", interval.open_low), ("above", interval.open_high)) if is_open]
    low, high = ends_data(interval)
    return {"low": low, "high": high, "open": sides}


def _union(interval: Interval, low: float, high: float) -> Interval:
    return replace(interval, low=min(interval.low, float(low)), high=max(interval.high, float(high)))


def reselect(fit: Fit, x: Array, y: Array, rule: str) -> tuple[Ensemble | None, str]:
    """Repeat the selection of the frontier and the fit in resamples of a cloud; return the fits, or None and the
    reason.

    Args:
      fit: of the frontier.
      x, y: of all candidates, [n].
      rule: key of `SELECT`.
    """
    if len(y) < RESELECT_FROM:
        return None, f"{len(y)} runs are fewer than {RESELECT_FROM}"
    held = {n: fit.values[n] for n, free in zip(fit.law.names, fit.free_mask, strict=True) if not free}
    count = int(np.clip(MAX_RESELECT_CANDIDATES // len(y), MIN_RESELECT_REPLICAS, RESELECT_REPLICAS))
    again = bootstrap_frontier(
        fit.law, x, y, SELECT[rule], replicas=count, share=RESELECT_SHARE, fixed=held, profile=False, loss=fit.loss
    )
    if len(again.replicas) <= count / 2:
        return None, f"only {len(again.replicas)} of {count} resamples could be fitted"
    return again, ""


def knots(flops: Array) -> Array:
    """Return the FLOPs at which bands are profiled, from those of the points."""
    low, high = float(flops.min()), float(flops.max())
    return np.unique([0.5 * low, low, np.sqrt(low * high), *(high * r for r in REACH[1:])])


def interpolated(
    grid: Array, y: Array, knot_flops: Array, at_knots: Array, intervals: Sequence[Interval], prefix: str
) -> dict[str, Array]:
    """Return {prefix + low, prefix + high} over a grid [n] of FLOPs; the distance from y, in ln, is interpolated.

    NaN where the data do not bound an end.
    """
    out = {}
    for end in ("low", "high"):
        ends = np.array([getattr(i, end) for i in intervals])
        ends[[getattr(i, f"open_{end}") for i in intervals]] = np.nan
        off = np.log(np.maximum(ends, 1e-300) / at_knots)
        out[prefix + end] = y * np.exp(np.interp(np.log(grid), np.log(knot_flops), off))
    return out


def fit_frontier(
    law: Law, points: pd.DataFrame, candidates: pd.DataFrame, *, rule: str, noise: Noise, planned: bool,
    chance: float | None = None, bias: Mapping[float, float] | None = None, profiled: bool = True,
) -> FrontierFit:  # fmt: skip
    """Fit a law to the points (flops, error) that a rule selected from candidates with the same columns.

    Args:
      law: the form.
      points: the frontier. Points above ``chance`` are noise for a law with a ceiling and left out for the others.
      candidates: all points that the frontier was selected from.
      rule: the rule of that selection.
      noise: the scatter of a point.
      planned: whether budgets were planned; if not, the selection is repeated in resamples.
      chance: the error of guessing, held as the law's top.
      bias: of planned points, by budget: `selection.selection_bias`.
      profiled: False fits the curve alone, without intervals and resamples.

    Raises:
      TooFewPoints: fewer points than the law has parameters.
      UserError: as `fit_law`.
    """
    law, known = with_ceiling(law, chance)
    kept = fitted_rows(law, points["error"].to_numpy(float), chance)
    above, points = int((~kept).sum()), points[kept]
    least = max(MIN_POINTS_TO_FIT, len(law.parameters) - len(known))
    if len(points) < least:
        beyond = f" ({above} above guessing, {chance:g}, are left out)" if above else ""
        reason = f"{len(points)} points, {law.name} needs {least}{beyond}"
        raise TooFewPoints(field="frontier", reason=reason)
    x, y = points["flops"].to_numpy(float), points["error"].to_numpy(float)
    fit = fit_once(law, x, y, fixed=known)
    if above:
        fit = replace(fit, notes=(*fit.notes, left_out_above(above, "points", chance)))
    again, unselected, reason = None, None, ""
    if profiled and not planned:
        again, reason = reselect(fit, candidates["flops"].to_numpy(float), candidates["error"].to_numpy(float), rule)
    if bias:
        shift = np.array([bias.get(float(b), 0.0) for b in points["budget"]])
        if (shift < -SELECTION_MATTERS * max(noise.sd, fit.residual_sd)).any():
            unselected = fit_once(law, x, y * np.exp(-shift), fixed=known)
    selection, ceiling = f"{NOT_RESELECTED}: {reason}" if reason else "", np.inf if chance is None else chance
    return FrontierFit(fit, noise, again, unselected, profiled, selection, ceiling)


def select(rule: str, candidates: pd.DataFrame) -> pd.DataFrame:
    """Return the frontier of candidates (flops, error) by a rule other than ``budget``, by rising FLOPs."""
    x, y = (candidates[c].to_numpy(float) for c in ("flops", "error"))
    return candidates.iloc[SELECT[rule](x, y)].sort_values("flops").reset_index(drop=True)


def rules_for(planned: bool) -> Sequence[str]:
    """Return the rules that apply; the first one is reported."""
    return tuple(FRONTIER_RULES) if planned else tuple(r for r in FRONTIER_RULES if r != BUDGET)
