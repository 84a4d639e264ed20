"""Profile likelihood: hold one quantity, fit the rest, and measure the rise of the objective.

Twice the rise of the objective over the residual scale is compared with Fisher's F(1, n - p), which for least squares
is exact on a line and holds where a percentile bootstrap covers far too little (few points, a curved law). For robust
losses the scale is Huber's (see `fit.result.scale_of`). A side on which the rise never reaches the threshold is open:
the data do not bound the quantity on that side, and the end is infinite (or the parameter's own limit).

With many rows the one-step form replaces the constrained fits where it is accurate: the objective is nearly quadratic,
which is checked along the first-order path of the constrained optima.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from clip_jax.errors import UserError
from clip_jax.scaling.data.observations import Columns, columns_of
from clip_jax.scaling.fit.loss import Loss
from clip_jax.scaling.fit.result import Fit, covariance
from clip_jax.scaling.fit.solver import MANY_ROWS, solve
from clip_jax.scaling.laws.base import Array
from clip_jax.scaling.profile.constrained import MAX_REFITS, Held, held_fits, lowest_of
from clip_jax.scaling.profile.noise import NO_NOISE, Noise
from clip_jax.scaling.profile.prediction import Interval, Prediction
from clip_jax.scaling.profile.statistic import (
    ONE_STEP_PROFILE,
    along_parameter,
    interval_method,
    is_quadratic,
    pooled_scale,
    scatter,
    statistic,
    threshold,
    wider_by,
)

STEPS, FEW_STEPS = 30, 8  # fits per side and round; the second for tables of many rows
OPEN_SIDE_ERRORS = 40.0  # standard errors at which a side is called open
PROFILED_LEVEL = 0.999  # to which a prediction is profiled: a mixture needs more than the ends of 95 %
MAX_ERROR = 5.0  # standard error of ln(y) above which the curve counts as unknown
REACHES = 14  # positions per side in the first round
TOO_FAR = 1e5  # signed root of a value that no curve reaches
POSITIONS_INSIDE = 8  # positions per side that lie within that level
REFINEMENTS = 4  # rounds of refinement


def parameter_statistic(fit: Fit, name: str, values: Array, *, noise: Noise = NO_NOISE) -> Array:
    """Return the statistic of a parameter held at each of ``values`` (table's units)."""
    fit = _own_unit(_smooth(fit), name)
    i = fit.law.index(name)
    held = np.asarray(values, float)
    return statistic(fit, _held(fit, i, np.log(held) if fit.law.parameters[i].log else held), noise)


def prediction_statistic(fit: Fit, at: Columns, values: Array, *, noise: Noise = NO_NOISE) -> Array:
    """Return the statistic of the curve held at each of ``values`` [K] at one point ``at`` (dict of columns, or a
    number).

    It is infinite where the law has no such curve.
    """
    fit = _smooth(fit)
    values = np.asarray(values, float)
    order = np.argsort(values)
    out = np.empty(len(values))
    normal, _ = normal_direction(fit, at)
    out[order] = statistic(fit, held_fits(fit, at, normal)(values[order]).objective, noise)
    return out


def parameter_interval(fit: Fit, name: str, *, level: float = 0.95, noise: Noise = NO_NOISE) -> Interval:
    """Return the profile interval of a parameter, in the table's units.

    Without a degree of freedom, and with an asymmetric loss (`Loss.under`), both sides are open. Raises UserError when
    the parameter was fixed.
    """
    i = fit.law.index(name)
    if not fit.free_mask[i]:
        raise UserError(field=name, reason="was fixed")
    value = fit.values[name]
    if fit.points <= fit.free or not fit.loss.symmetric:
        p = fit.law.parameters[i]
        limits = (0.0, np.inf) if p.log else (float(fit.low[i]), float(fit.high[i]))
        return Interval(value, *limits, level, True, True)
    fit = _own_unit(_smooth(fit), name)
    log = fit.law.parameters[i].log
    wanted, direction = threshold(fit, level, noise), along_parameter(fit, i, noise)
    if is_quadratic(fit, direction, float(np.sqrt(wanted)), noise):
        half = float(np.sqrt(wanted) * direction[i])
        interval = Interval(value, float(fit.theta[i]) - half, float(fit.theta[i]) + half, level)
    else:
        interval = _interval(
            lambda values: statistic(fit, _held(fit, i, values), noise), float(fit.theta[i]), _error(fit, i),
            (float(fit.low[i]), float(fit.high[i])), wanted, level, STEPS if fit.points <= MANY_ROWS else FEW_STEPS,
        )  # fmt: skip
    low, high = (float(np.exp(v)) if log else v for v in (interval.low, interval.high))
    return replace(interval, value=value, low=low, high=high)


def prediction_interval(
    fit: Fit, at: Columns, *, level: float = 0.95, noise: Noise = NO_NOISE, new_run: bool = False,
    extra: float = 0.0,
) -> Interval:  # fmt: skip
    """Return the interval of the curve at one point, or with ``new_run`` that of a new run.

    Args:
      fit: of `fit_law`.
      at: dict of columns, or a number.
      level: of the interval.
      noise: see `statistic`.
      new_run: add the scatter of one run in quadrature, in the loss's space.
      extra: a further, independent scatter of a new run.
    """
    prediction = prediction_profile(fit, at, noise=noise)
    if new_run:
        prediction = prediction.scattered(float(np.hypot(scatter(fit, noise), extra)))
    return prediction.interval(level)


def prediction_profile(fit: Fit, at: Columns, *, noise: Noise = NO_NOISE) -> Prediction:
    """Profile the curve at one point: hold it at many values on both sides, fit the rest (`constrained.held_fits`).

    Without a degree of freedom, and with an asymmetric loss (`Loss.under`), both sides are open.

    Args:
      fit: of `fit_law`.
      at: dict of columns, or a number.
      noise: see `statistic`.
    """
    value = float(np.ravel(fit.predict(at))[0])
    fit = _smooth(fit)
    log = fit.loss.space == "log"
    lowest, highest = (-np.inf, np.inf)
    if fit.law.above:
        top = fit.high[fit.law.index(fit.law.above)] if _is_free(fit, fit.law.above) else _theta_of(fit, fit.law.above)
        highest = float(np.log(top)) if log else float(top)
    if not log and fit.law.below:
        i = fit.law.index(fit.law.below)
        lowest = float(fit.low[i] if fit.free_mask[i] else fit.theta[i])
    nothing = Prediction(value, np.zeros(0), np.zeros(0), pooled_scale(fit, noise)[2], lowest, highest, log)
    if fit.points <= fit.free or not fit.loss.symmetric:
        return nothing
    center = nothing.center
    normal, error = normal_direction(fit, at)
    error = min(error, MAX_ERROR) if log else error
    wanted = float(np.sqrt(threshold(fit, PROFILED_LEVEL, noise)))
    wider = error * wider_by(fit, noise)
    if is_quadratic(fit, normal * wider, wanted, noise):
        root = wanted * np.linspace(-1, 1, 2 * POSITIONS_INSIDE + 1)
        return replace(nothing, z=center + wider * root, root=root)
    hold = held_fits(fit, at, normal)

    def roots(z: Array) -> tuple[Array, Array]:
        held = hold(np.exp(z) if log else z)
        return np.sqrt(np.minimum(statistic(fit, held.objective, noise), 1e12)), held.converged

    many = fit.points > MANY_ROWS
    reach = (
        np.geomspace(0.5, 8.0, FEW_STEPS // 2) * error
        if many
        else np.geomspace(0.25, OPEN_SIDE_ERRORS, REACHES) * error
    )
    ways = [(-1.0, lowest), (1.0, highest)]
    positions = np.concatenate([center + side * _toward(reach, abs(limit - center)) for side, limit in ways])
    known: dict[float, tuple[float, bool]] = {}
    for _ in range(1 if many else 1 + REFINEMENTS):
        positions = np.unique(positions)
        r, ok = roots(positions)
        known |= {float(z): (float(a), bool(b)) for z, a, b in zip(positions, r, ok, strict=True)}
        new = []
        for side, _ in ways:
            away = sorted((side * (z - center), a) for z, (a, _) in known.items() if side * (z - center) > 0)
            past = next((d for d, a in away if a >= wanted), np.inf)
            if np.isfinite(past) and sum(d < past for d, _ in away) < POSITIONS_INSIDE:
                new.append(center + side * past * (np.arange(POSITIONS_INSIDE) + 0.5) / POSITIONS_INSIDE)
        if not new:
            break
        positions = np.concatenate(new)
    ends, converged = [], []
    for side, _ in ways:
        z = np.array(sorted((z for z in known if side * (z - center) > 0), key=lambda z: side * z))
        r = np.maximum.accumulate([known[v][0] for v in z])
        used = int(np.searchsorted(r, wanted)) + 1
        keep = (r < TOO_FAR)[:used]
        converged.append(2 * sum(known[v][1] for v in z[:used]) > len(z[:used]))
        ends.append((z[:used][keep], side * r[:used][keep]))
    (z_low, r_low), (z_high, r_high) = ends
    return replace(
        nothing, z=np.concatenate([z_low[::-1], [center], z_high]),
        root=np.concatenate([r_low[::-1], [0.0], r_high]), converged=(converged[0], converged[1]),
    )  # fmt: skip


def _toward(reach: Array, span: float) -> Array:
    """Return distances that begin as ``reach`` and never reach ``span``."""
    return reach if np.isinf(span) else span * -np.expm1(-reach / max(span, 1e-12))


def curve_error(fit: Fit, at: Columns) -> float:
    """Return the standard error of the curve at one point, to first order, in the loss's space."""
    return min(normal_direction(fit, at)[1], MAX_ERROR)


def _is_free(fit: Fit, name: str) -> bool:
    return bool(fit.free_mask[fit.law.index(name)])


def _theta_of(fit: Fit, name: str) -> float:
    return float(fit.theta[fit.law.index(name)])


def normal_direction(fit: Fit, at: Columns) -> tuple[Array, float]:
    """Return the direction in which theta changes with the curve at a point, to first order.

    Args:
      fit: the fit.
      at: the point, a value per column.

    Returns:
      The change of theta per unit of the curve [p], and the curve's standard error, both in the loss's space.
    """
    point = {c: np.atleast_1d(v) for c, v in columns_of(fit.law, at).items()}
    slope, cov = fit.jacobian(columns=point)[0], covariance(fit)
    variance = float(max(slope @ cov @ slope, 1e-24))
    return cov @ slope / variance, float(np.sqrt(variance))


def flat_sides(fit: Fit) -> tuple[str, ...]:
    """Return the parameters that data do not bound on a side, as ``"E below"``.

    A profile that stays below the threshold up to the parameter's own limit, or to 40 standard errors, counts as flat.
    """
    if fit.points <= fit.free:
        return tuple(
            f"{n} {way}"
            for n, is_free in zip(fit.law.names, fit.free_mask, strict=True)
            if is_free
            for way in ("below", "above")
        )
    fit = _smooth(fit)
    if interval_method(fit) == ONE_STEP_PROFILE:
        return ()
    ways = [(int(i), side) for i in np.flatnonzero(fit.free_mask) for side in (-1, 1)]
    # of many rows only the furthest: a step on the way is a fit of all rows that cannot rise further
    reach = np.geomspace(OPEN_SIDE_ERRORS, 1, max(2, 60 // len(ways)) if fit.points <= MANY_ROWS else 1)
    held = [(i, fit.theta[i] + side * s * e) for i, side in ways for e in [_error(fit, i)] for s in reach]
    index = np.array([i for i, _ in held])
    values = np.clip([v for _, v in held], fit.low[index], fit.high[index])
    objectives = _held(fit, index, values)
    reached = statistic(fit, objectives).reshape(len(ways), -1).max(axis=1) >= threshold(fit, 0.95)
    return tuple(
        f"{fit.law.names[i]} {'below' if side < 0 else 'above'}"
        for (i, side), r in zip(ways, reached, strict=True)
        if not r
    )


def open_unidentified(fit: Fit, name: str, interval: Interval) -> Interval:
    """Open the sides of a parameter's interval on which its profile is flat or its estimate lies at a bound.

    Where a fit is not identified for another parameter's sake, both: no parameter of such a fit has two ends.
    """
    if fit.identified:
        return interval
    i = fit.law.index(name)
    hit = fit.free_mask[i] and fit.status.startswith("bound hit")
    below, above = (
        bool(f"{name} {side}" in fit.flat or (hit and np.isclose(fit.theta[i], bound[i], rtol=1e-6, atol=1e-6)))
        for side, bound in (("below", fit.low), ("above", fit.high))
    )
    if not (below or above or interval.open_low or interval.open_high):
        below = above = True
    return replace(interval, open_low=interval.open_low or below, open_high=interval.open_high or above)


def _smooth(fit: Fit) -> Fit:
    """Return a fit of absolute deviations as a Huber fit with a small delta, whose profile is the same and can be
    followed.
    """
    if fit.loss.kind != "absolute":
        return fit
    loss = Loss("huber", fit.loss.space, max(float(np.median(np.abs(fit.residuals))) / 10, 1e-9))
    solved = solve(
        fit.law, fit.logs, fit.data.y, fit.theta[None], fit.low, fit.high, loss,
        weights=fit.data.weights, free=fit.free_mask,
    )  # fmt: skip
    return replace(fit, loss=loss, theta=solved.theta[0], objective=float(solved.objective[0]))


def _error(fit: Fit, i: int) -> float:
    """Return the step of the search: a standard error, clipped to a usable range."""
    error = float(np.sqrt(max(covariance(fit)[i, i], 0.0)))
    return float(np.clip(error, 1e-9 * (1 + abs(fit.theta[i])), (fit.high[i] - fit.low[i]) / 8))


def _own_unit(fit: Fit, name: str) -> Fit:
    """Return the fit with columns not centered, if the parameter's unit depends on an exponent: it is held in its
    own unit.
    """
    p = fit.law.parameters[fit.law.index(name)]
    if not any(isinstance(power, str) and fit.references[c] != 1.0 for c, power in p.carries):
        return _in_units(fit, {c: 1.0 for c, _ in p.carries}) if p.carries else fit
    return _in_units(fit, {c: 1.0 for c in fit.references})


def _in_units(fit: Fit, references: dict[str, float]) -> Fit:
    new = {**fit.references, **references}
    theta = fit.law.theta(fit.values, new)
    # the limits are for centered values; parameters that change with the unit get the widest limits
    carried = np.array([bool(p.carries) for p in fit.law.parameters])
    low, high = np.where(carried, -700.0, fit.low), np.where(carried, 700.0, fit.high)
    return replace(fit, theta=theta, references=new, low=low, high=high)


def _held(fit: Fit, index: Array | int, values: Array) -> Array:
    """Return the lowest objective with theta[index[k]] held at values[k]: [K].

    Each fit begins at the optimum and at the optimum moved along the ridge. One that ends above a fit held further out,
    or that has not converged, begins again from the ends of its nearest neighbors that have.
    """
    count = len(values)
    index = np.broadcast_to(index, count)
    free = np.tile(fit.free_mask, (count, 1))
    free[np.arange(count), index] = False
    begin = np.tile(fit.theta, (count, 1))
    cov = covariance(fit)
    # along the ridge: how the others move with the one held, to first order
    share = cov[index] / np.maximum(cov[index, index], 1e-300)[:, None]
    move = (values - fit.theta[index])[:, None]
    ridge = begin + np.clip(share * move, -30, 30)

    def refit(which: Array, starts: Sequence[Array]) -> Held:
        """Return the lowest end of several starts [K, p] each, for the values ``which`` bool [K]."""
        at, each = np.flatnonzero(which), len(starts)
        start = np.concatenate([s[at] for s in starts])
        start[np.arange(len(start)), np.tile(index[at], each)] = np.tile(values[at], each)
        ends = solve(
            fit.law, fit.logs, fit.data.y, start, fit.low, fit.high, fit.loss,
            weights=fit.data.weights, free=np.tile(free[at], (each, 1)),
        )  # fmt: skip
        return lowest_of(ends, each)

    if fit.points > MANY_ROWS:
        return refit(np.ones(count, bool), [ridge]).objective
    theta, objective, converged = (np.copy(a) for a in refit(np.ones(count, bool), [begin, ridge]))
    for _ in range(MAX_REFITS):
        bad = ~converged | (objective > _lowest_beyond(objective, index, values - fit.theta[index]) * (1 + 1e-9))
        if not bad.any():
            break
        ends, lower, settled = refit(bad, [theta, *(theta[near] for near in _nearest_good(bad, index, values))])
        better = lower < objective[bad]
        converged[bad] = np.where(better, settled, True)  # one that does not fall any more has converged
        theta[bad] = np.where(better[:, None], ends, theta[bad])
        objective[bad] = np.minimum(lower, objective[bad])
    return objective


def _nearest_good(bad: Array, index: Array, values: Array) -> tuple[Array, Array]:
    """Return for each value the next one below and the next one above that is not ``bad``, [K] each; else itself."""
    order = np.lexsort((values, index))
    position = np.arange(len(order))
    good = ~bad[order]
    below = np.maximum.accumulate(np.where(good, position, -1))
    above = np.minimum.accumulate(np.where(good, position, len(order))[::-1])[::-1]
    out = np.empty((2, len(order)), int)
    out[:, order] = order[[np.where(below < 0, position, below), np.where(above == len(order), position, above)]]
    return out[0], out[1]


def _lowest_beyond(objective: Array, index: Array, move: Array) -> Array:
    """Return for each value the lowest objective of the same parameter held further out on the same side: [K]."""
    same = (
        (index[:, None] == index) & (np.sign(move)[:, None] == np.sign(move)) & (np.abs(move)[:, None] < np.abs(move))
    )
    return np.where(same, objective, np.inf).min(axis=1)


def _interval(
    stat: Callable[[Array], Array], value: float, error: float, limits: tuple[float, float], wanted: float,
    level: float, steps: int,
) -> Interval:  # fmt: skip
    """Find both ends: a coarse search on both sides at once, then a fine one in the step that passes the threshold."""
    reach = np.geomspace(0.2, OPEN_SIDE_ERRORS, steps) * error
    sides = [np.clip(value + side * reach, *limits) for side in (-1, 1)]
    root_values = np.sqrt(stat(np.concatenate(sides))).reshape(2, steps)
    ends, opened = [np.nan, np.nan], [False, False]
    spans: list[tuple[float, float, float, float] | None] = [None, None]
    for s in (0, 1):
        past = np.flatnonzero(root_values[s] >= np.sqrt(wanted))
        if not len(past):
            opened[s] = True
            ends[s] = limits[s] if np.isfinite(limits[s]) else (-np.inf, np.inf)[s]
        else:
            k = int(past[0])
            inner = (value, 0.0) if k == 0 else (float(sides[s][k - 1]), float(root_values[s][k - 1]))
            spans[s] = (*inner, float(sides[s][k]), float(root_values[s][k]))
    if any(spans):
        share = np.linspace(0, 1, steps + 2)[1:-1]
        close = np.concatenate([sp[0] + share * (sp[2] - sp[0]) for sp in spans if sp])
        roots = iter(np.sqrt(stat(close)).reshape(-1, steps))
        for s, sp in enumerate(spans):
            if sp:
                z = np.maximum.accumulate(
                    np.concatenate([[sp[1]], np.minimum(next(roots), 1e150), [min(sp[3], 1e150)]])
                )
                at = np.concatenate([[sp[0]], sp[0] + share * (sp[2] - sp[0]), [sp[2]]])
                k = int(np.searchsorted(z, np.sqrt(wanted)))
                k = min(max(k, 1), len(z) - 1)
                part = (np.sqrt(wanted) - z[k - 1]) / max(z[k] - z[k - 1], 1e-300)
                ends[s] = float(at[k - 1] + np.clip(part, 0, 1) * (at[k] - at[k - 1]))
    return Interval(value, ends[0], ends[1], level, *opened)
