"""Choose the next runs: those that shrink the forecast's interval most for a budget, or reach a precision at least
cost.

A run adds information J'J/sd² to the fit's, with J the derivative of its y by the parameters (D-optimal design's local
approximation; Chaloner and Verdinelli, 1995). The forecast's variance is g'(information)^-1 g. It is evaluated at the
fitted parameters, so the first plan for a law with wide intervals is itself uncertain: fit again after each run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from clip_jax.errors import UserError
from clip_jax.scaling.data.observations import Columns, columns_of
from clip_jax.scaling.fit.loss import TINY
from clip_jax.scaling.fit.result import Fit, normal_matrix, scale_of
from clip_jax.scaling.laws.base import Array

MAX_RUNS = 200


@dataclass(frozen=True)
class ChosenRun:
    """A candidate that was selected: its columns, how many runs of it, and their cost."""

    columns: dict[str, float]
    runs: int
    cost: float


@dataclass(frozen=True)
class RunSelection:
    """The selected runs and their effect on the forecast.

    runs: number of runs of each candidate, int [K]. cost: their sum. before, after: half of the forecast's 95 %
    interval, as a share of the forecast, before and after these runs.
    """

    runs: Array
    cost: float
    before: float
    after: float
    chosen: list[ChosenRun]


@dataclass(frozen=True)
class _Design:
    information: Array  # [f, f]
    forecast: Array  # [f], d ln(y) at the target by theta
    rows: Array  # [K, f], each candidate's J over sd
    degrees: int

    def half_width(self, runs: Array) -> float:
        from scipy.stats import t

        matrix = self.information + np.einsum("k,ki,kj->ij", runs, self.rows, self.rows)
        variance = float(self.forecast @ np.linalg.solve(matrix, self.forecast))
        return float(np.sqrt(max(variance, 0.0)) * t.ppf(0.975, self.degrees + int(runs.sum())))

    def gains(self, runs: Array) -> Array:
        """Return the reduction of the variance by one more run of each candidate (Sherman and Morrison): [K]."""
        matrix = self.information + np.einsum("k,ki,kj->ij", runs, self.rows, self.rows)
        solved = np.linalg.solve(matrix, np.column_stack([self.forecast, self.rows.T]))
        pull = self.rows @ solved[:, 0]
        return pull**2 / (1 + np.einsum("ki,ik->k", self.rows, solved[:, 1:]))


def _design(fit: Fit, target: Columns, candidates: Mapping[str, Array], floor: float, floors: Array | None) -> _Design:
    psi_squared, psi_prime = scale_of(fit)
    scale = max(np.sqrt(psi_squared) / max(psi_prime, 1e-12), 1e-9)
    sd = max(scale, floor)
    # a parameter lies inside its bounds: a weak prior, without which an unidentified law has no variance at all
    width = (fit.high - fit.low)[fit.free_mask]
    information = normal_matrix(fit) / sd**2 + np.diag(12 / width**2)
    point = {c: np.atleast_1d(v) for c, v in columns_of(fit.law, target).items()}
    forecast = fit.jacobian(columns=point)[0, fit.free_mask]
    y = max(float(fit.predict(point)[0]), TINY)
    forecast = forecast * {"log": 1.0, "linear": 1 / y, "log1p": (1 + y) / y}[fit.loss.space]  # of ln(y)
    if not np.abs(forecast).max() > 0:
        reason = "the curve is at the error of guessing there, whatever the parameters are"
        raise UserError(field="--at", reason=reason)
    of_runs = np.full((1, 1), sd) if floors is None else np.maximum(scale, floors)[:, None]
    return _Design(information, forecast, fit.jacobian(columns=candidates)[:, fit.free_mask] / of_runs, fit.degrees)


def _checked(fit: Fit, candidates: Columns, costs: Array) -> tuple[dict[str, Array], Array]:
    columns = {c: np.atleast_1d(v) for c, v in columns_of(fit.law, candidates).items()}
    costs = np.asarray(costs, float)
    if costs.shape != next(iter(columns.values())).shape or not (costs > 0).all():
        reason = "must hold a number above 0 for each candidate"
        raise UserError(field="costs", reason=reason)
    if fit.points <= fit.free:
        reason = f"{fit.points} rows for {fit.free} free parameters: no row is left to estimate the scatter"
        hint = "add rows, or hold parameters"
        raise UserError(field="fit", reason=reason, hint=hint)
    return columns, costs


def _plan(design: _Design, columns: Mapping[str, Array], costs: Array, runs: Array) -> RunSelection:
    chosen = [
        ChosenRun({c: float(v[k]) for c, v in columns.items()}, int(runs[k]), float(runs[k] * costs[k]))
        for k in np.flatnonzero(runs)
    ]
    none = np.zeros(len(costs), int)
    return RunSelection(runs, float(runs @ costs), design.half_width(none), design.half_width(runs), chosen)


def best_runs(
    fit: Fit,
    target: Columns,
    candidates: Columns,
    costs: Array,
    budget: float,
    *,
    floor: float = 0.0,
    floors: Array | None = None,
    repeats: int = MAX_RUNS,
) -> RunSelection:
    """Choose the runs that fit in the budget and shrink the interval at ``target`` most.

    Greedy by gain per cost and by gain alone, the better of both, then exchanges as long as they help; a candidate may
    be run several times (seeds).

    Args:
      fit: the fit so far; its loss's scale is the scatter of a run, at least ``floor``.
      floors: the least scatter of each candidate, [K]; None: ``floor``.
      target: dict of columns (or a number) of the forecast.
      candidates: dict of columns [K] (or an array).
      costs: [K], in the unit of the budget (FLOPs).
      repeats: the most runs of one candidate.

    Raises:
      UserError: costs that are not above 0, or a budget below the cheapest candidate.
    """
    columns, costs = _checked(fit, candidates, costs)
    if budget < costs.min():
        reason = f"must be at least {costs.min():.3g}, the cost of the cheapest candidate"
        raise UserError(field="budget", value=budget, reason=reason)
    design = _design(fit, target, columns, floor, floors)
    plans = []
    for power in (0.0, 0.5, 1.0):
        runs, left = np.zeros(len(costs), int), float(budget)
        while ((costs <= left) & (runs < repeats)).any() and runs.sum() < MAX_RUNS:
            worth = np.where((costs <= left) & (runs < repeats), design.gains(runs) / costs**power, -1.0)
            k = int(np.argmax(worth))
            runs[k] += 1
            left -= costs[k]
        plans.append(_exchange(design, costs, runs, budget, repeats))
    return _plan(design, columns, costs, min(plans, key=design.half_width))


def _exchange(design: _Design, costs: Array, runs: Array, budget: float, repeats: int) -> Array:
    now = design.half_width(runs)
    for _ in range(50):
        best, best_value = None, now * (1 - 1e-9)
        for out in np.flatnonzero(runs):
            without = runs.copy()
            without[out] -= 1
            room = budget - without @ costs
            gains = np.where((costs <= room) & (without < repeats), design.gains(without), -1.0)
            for k in np.argsort(-gains)[:3]:
                if gains[k] <= 0:
                    continue
                new = without.copy()
                more = max(1, min(int(room // costs[k]), 20)) if costs[k] < costs[out] else 1
                new[k] += min(more, repeats - new[k])
                value = design.half_width(new)
                if value < best_value:
                    best, best_value = new, value
        if best is None:
            return runs
        runs, now = best, best_value
    return runs


def cheapest_plan(
    fit: Fit, target: Columns, candidates: Columns, costs: Array, half_width: float, *, floor: float = 0.0,
    floors: Array | None = None, repeats: int = MAX_RUNS,
) -> RunSelection:  # fmt: skip
    """Find the least budget that brings the forecast to ``half_width`` (a share of it: 0.02 is ±2 %), by bisection.

    Each step calls `best_runs`. ``repeats`` is the most runs of one candidate. Raises UserError when 200 of the most
    expensive candidates would not suffice.
    """
    columns, costs = _checked(fit, candidates, costs)
    design = _design(fit, target, columns, floor, floors)

    def spend(budget: float) -> RunSelection:
        return best_runs(fit, target, candidates, costs, budget, floor=floor, floors=floors, repeats=repeats)

    if design.half_width(np.zeros(len(costs), int)) <= half_width:
        return _plan(design, columns, costs, np.zeros(len(costs), int))
    low, high = 0.0, float(costs.min())
    while spend(high).after > half_width:
        low, high = high, 2 * high
        if high > MAX_RUNS * costs.max():
            reason = f"no plan of up to {MAX_RUNS} runs reaches ±{half_width:.2%}"
            raise UserError(field="precision", value=half_width, reason=reason)
    for _ in range(20):
        middle = (low + high) / 2
        if middle < costs.min() or spend(middle).after > half_width:
            low = middle
        else:
            high = middle
        if high - low < 0.01 * high:
            break
    plan = spend(high)
    runs = plan.runs.copy()
    for k in np.argsort(-costs):  # drop what is not needed
        while runs[k] and design.half_width(runs - (np.arange(len(costs)) == k)) <= half_width:
            runs[k] -= 1
    return _plan(design, columns, costs, runs)
