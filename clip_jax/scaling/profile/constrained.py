"""Fit a law whose curve is held at a value: the constrained fits behind the profile of a prediction.

Enforcing the constraint by a heavy row fails on a curved constraint: every damped step along the valley seems to make
the fit worse, and the solver stops far from the optimum. So the constraint is eliminated: `Law.through` computes one
parameter (an amplitude, or the position of a bend) from the others, and the rest is fitted without a constraint. Where
that parameter is fixed, the weight of a row that holds the curve is raised in steps, each fit starting from the last
one's end.

Every value has several starts: the unconstrained optimum, the optimum moved along the constraint's normal, the best of
the law's own starts, and the ends of the neighboring values.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from clip_jax.scaling.data.observations import Columns
from clip_jax.scaling.fit.loss import space_of
from clip_jax.scaling.fit.result import Fit
from clip_jax.scaling.fit.solver import MANY_ROWS, Solved, few_rows, solve, through
from clip_jax.scaling.laws.base import Array

SCREENED = 200_000  # residuals computed to choose among the law's own starts, per batch of values
CHOSEN = 2  # of them
HOLD_WEIGHTS = 10.0 ** np.arange(8)  # of the row that holds the curve, times the number of rows
FIRST_ITERATIONS, LAST_ITERATIONS = 40, 120  # of each start, and of the last fits
MAX_REFITS = 3  # of last fits, at most; only those that have not settled are fitted again
ASYMPTOTE_MARGIN = 1e-9  # relative distance kept from a parameter that the curve may not touch
SETTLED_FALL = 1e-3  # relative fall of the objective in a last fit, above which a constrained fit has not converged


class Held(NamedTuple):
    """Constrained fits of K values: theta [K, p], objective [K] (infinite: no such curve), converged bool [K]."""

    theta: Array
    objective: Array
    converged: Array


def held_fits(fit: Fit, at: Columns, normal: Array) -> Callable[[Array], Held]:
    """Return a function that fits curves held at given values at one point.

    Args:
      fit: the unconstrained optimum.
      at: the point, a dict of columns or a number.
      normal: float [p], how theta moves, to first order, per unit of the curve at the point (in the loss's space).

    Returns:
      values [K], sorted, in the unit of y -> `Held`.
    """
    point = {c: float(np.ravel(v)[0]) for c, v in fit.centered(at).items()}
    law = fit.law
    eliminates = bool(law.replaced) and all(fit.free_mask[law.index(n)] for n in (law.amplitudes or (law.replaced,)))
    solver = _eliminated if eliminates else _weighted
    center = float(law.predict(fit.theta, {c: np.array([v]) for c, v in point.items()})[0])
    space = fit.loss.space

    def fits(values: Array) -> Held:
        moved = np.asarray(space_of(values, space, np)) - space_of(np.array(center), space, np)
        ridge = fit.theta + np.clip(moved[:, None] * normal, -30, 30)
        if fit.points > MANY_ROWS or (fit.points > few_rows() and fit.identified):  # nearly quadratic
            return _best_of(solver, fit, point, values, [ridge], LAST_ITERATIONS)
        few = fit.points <= few_rows()  # more points leave one valley: no other starts, and no doubt where one ends
        starts = [np.tile(fit.theta, (len(values), 1)), ridge]
        starts += _screened(fit, point, values, eliminates) if few else []
        best = _best_of(solver, fit, point, values, starts, FIRST_ITERATIONS)
        moving = np.full(len(values), few) | ~best.converged
        for _ in range(MAX_REFITS):
            if not moving.any():
                break
            best, moving = _again(solver, fit, point, values, best, moving)
        return best

    return fits


def _best_of(
    solver: Callable[..., Held],
    fit: Fit,
    point: Mapping[str, float],
    values: Array,
    starts: list[Array],
    iterations: int,
) -> Held:
    """Return the lowest end of several starts, each [K, p], for each value."""
    count = len(starts)
    held = solver(fit, point, np.tile(values, count), np.concatenate(starts), iterations)
    return lowest_of(held, count)


def lowest_of(ends: Held | Solved, starts: int) -> Held:
    """Return for each of K values the lowest of its ends; they lie by start, [starts · K]."""
    count = len(ends.objective) // starts
    first = ends.objective.reshape(starts, -1).argmin(axis=0) * count + np.arange(count)
    return Held(ends.theta[first], ends.objective[first], ends.converged[first])


def _again(
    solver: Callable[..., Held], fit: Fit, point: Mapping[str, float], values: Array, best: Held, moving: Array
) -> tuple[Held, Array]:
    """Refit the values ``moving`` bool [K] from their ends and their neighbors'; return the fits and which still move.

    A fit whose objective hardly falls any more has converged, whatever its solver reports.
    """
    neighbors = [np.concatenate([best.theta[:1], best.theta[:-1]]), np.concatenate([best.theta[1:], best.theta[-1:]])]
    starts = [theta[moving] for theta in (best.theta, *neighbors)]
    last = _best_of(solver, fit, point, values[moving], starts, LAST_ITERATIONS)
    theta, objective, converged = (a.copy() for a in best)
    before = objective[moving]
    lower = last.objective < before
    settled = last.objective >= before * (1 - SETTLED_FALL)
    theta[moving] = np.where(lower[:, None], last.theta, theta[moving])
    objective[moving] = np.minimum(last.objective, before)
    converged[moving] = np.where(lower, last.converged, converged[moving]) | settled
    return Held(theta, objective, converged), ~converged


def _limits(fit: Fit, values: Array) -> tuple[Array, Array]:
    """Return bounds of theta [K, p] that leave room for the curve: asymptote below each value, ceiling above it."""
    law, count = fit.law, len(values)
    low, high = (np.tile(b, (count, 1)).astype(float) for b in (fit.low, fit.high))
    for name in law.amplitudes:  # multiplied by one factor: limits of centered values do not apply
        low[:, law.index(name)], high[:, law.index(name)] = -700.0, 700.0
    if law.below:
        i = law.index(law.below)
        high[:, i] = np.maximum(np.minimum(high[:, i], values - ASYMPTOTE_MARGIN * np.abs(values)), low[:, i])
    if law.above:
        i = law.index(law.above)
        low[:, i] = np.minimum(np.maximum(low[:, i], values + ASYMPTOTE_MARGIN * np.abs(values)), high[:, i])
    return low, high


def _eliminated(fit: Fit, point: Mapping[str, float], values: Array, begin: Array, iterations: int) -> Held:
    low, high = _limits(fit, values)
    free = fit.free_mask.copy()
    free[fit.law.index(fit.law.replaced)] = False
    begin = np.where(np.isfinite(begin), begin, fit.theta)
    solved = solve(
        fit.law, fit.logs, fit.data.y, begin, low, high, fit.loss, weights=fit.data.weights,
        free=np.tile(free, (len(values), 1)), at=point, value=values, iterations=iterations,
    )  # fmt: skip
    bad = ~np.isfinite(solved.theta).all(axis=1)
    objective = np.where(bad | ~np.isfinite(solved.objective), np.inf, solved.objective)
    return Held(np.where(np.isfinite(solved.theta), solved.theta, begin), objective, solved.converged & ~bad)


def _weighted(fit: Fit, point: Mapping[str, float], values: Array, begin: Array, iterations: int) -> Held:
    """Fit with a row at the point whose weight rises: the twin of `_eliminated` for fits that cannot eliminate."""
    x = {c: np.append(v, point[c]) for c, v in fit.logs.items()}
    count, n = len(values), fit.points
    y = np.concatenate([np.tile(fit.data.y, (count, 1)), values[:, None]], axis=1)
    theta, converged = begin, np.zeros(count, bool)
    for weight in HOLD_WEIGHTS:
        w = np.append(fit.data.weights, weight * n)
        solved = solve(
            fit.law, x, y, theta, fit.low, fit.high, fit.loss, weights=w, free=fit.free_mask, iterations=iterations
        )
        theta, converged = solved.theta, solved.converged
    r = fit.loss.residuals(fit.law.predict(theta, x), y)
    off = np.abs(r[:, -1]) > 1e-4 + 0.01 * np.abs(r[:, :-1]).max(axis=1)  # the law cannot pass there
    objective = (fit.data.weights * fit.loss.values(r[:, :-1])).sum(axis=1)
    return Held(theta, np.where(off, np.inf, objective), converged)


def _screened(fit: Fit, point: Mapping[str, float], values: Array, eliminates: bool) -> list[Array]:
    """Return the law's own starts closest to the data that pass through each value: `CHOSEN` of [K, p]."""
    law, count, n = fit.law, len(values), fit.points
    shown = np.maximum(fit.data.y, 1e-3 * np.max(np.abs(fit.data.y)))
    grid = np.where(fit.free_mask, law.starts(fit.logs, shown), fit.theta)
    most = max(100, SCREENED // (n * count))
    if len(grid) > most:
        grid = grid[np.random.default_rng(0).choice(len(grid), most, replace=False)]
    low, high = _limits(fit, values)
    theta = np.where(fit.free_mask, np.clip(grid[None], low[:, None], high[:, None]), fit.theta)  # [K, S, p]
    flat = theta.reshape(-1, theta.shape[-1])
    with np.errstate(all="ignore"):
        if eliminates:
            flat = through(law, flat, point, np.repeat(values, len(grid)))
        r = fit.loss.residuals(law.predict(flat, fit.logs), fit.data.y)
        cost = (fit.data.weights * fit.loss.values(np.nan_to_num(r, nan=1e6, posinf=1e6, neginf=-1e6))).sum(axis=1)
    order = np.argsort(cost.reshape(count, -1), axis=1, kind="stable")[:, :CHOSEN]
    rows = np.arange(count)
    return [theta[rows, order[:, k]] for k in range(order.shape[1])]
