"""Profile likelihood: hold one quantity, fit the rest, see how much worse it gets.

Twice the rise of the objective over the residual scale is compared with Fisher's F(1, n - p), which for least squares
is exact on a line and holds where a percentile bootstrap covers far too little (few points, a bent law). For robust
losses the scale is Huber's (see `fit.scale_of`). A side on which the rise never reaches the threshold is open: the
data do not bound the quantity there, and the end is infinite (or the parameter's own limit).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from clip_jax.config import UserError
from clip_jax.scaling.fit import Fit, covariance, scale_of
from clip_jax.scaling.laws.base import Array
from clip_jax.scaling.loss import Loss, space_of
from clip_jax.scaling.solver import solve

STEPS = 30  # fits a side and round
FAR = 40.0  # standard errors at which a side is called open
HEAVY = 1e7  # weight of the row that holds a prediction


@dataclass(frozen=True)
class Interval:
    """low <= value <= high at ``level``; an open side was not bounded by the data."""

    value: float
    low: float
    high: float
    level: float
    open_low: bool = False
    open_high: bool = False

    @property
    def width(self) -> float:
        """high - low."""
        return self.high - self.low

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high


def threshold(fit: Fit, level: float) -> float:
    """F(1, n - p) at a level."""
    from scipy.stats import f

    return float(f.ppf(level, 1, fit.degrees))


def statistic(fit: Fit, objectives: Array, floor: float = 0.0) -> Array:
    """How much worse constrained fits are, as an F statistic.

    floor: a standard deviation of the residuals that is known (from seeds, or from the size of the evaluation set);
    the residual scale is not taken to be smaller.
    """
    square, bend = scale_of(fit)
    square = max(square, min(floor, fit.loss.deltas[-1]) ** 2)
    rise = np.maximum(np.asarray(objectives) - fit.objective, 0.0)
    tiny = 1e-12 * max(fit.objective, 1e-30) + 1e-22 * fit.points  # an exact fit has no scale
    return 2 * rise * bend / max(square, tiny)


def parameter_statistic(fit: Fit, name: str, values: Array, *, floor: float = 0.0) -> Array:
    """The statistic of a parameter held at each of ``values`` (table's units)."""
    fit = _own_unit(_smooth(fit), name)
    i = fit.law.index(name)
    held = np.asarray(values, float)
    return statistic(fit, _held(fit, i, np.log(held) if fit.law.parameters[i].log else held), floor)


def prediction_statistic(fit: Fit, at: Any, values: Array, *, floor: float = 0.0) -> Array:
    """The statistic of the curve held at each of ``values`` at one point ``at`` (dict of columns, or a number)."""
    fit = _smooth(fit)
    return statistic(fit, _through(fit, at)(np.asarray(values, float)), floor)


def parameter_interval(fit: Fit, name: str, *, level: float = 0.95, floor: float = 0.0) -> Interval:
    """Where a parameter may lie, in the table's units. Raises UserError when it was fixed."""
    i = fit.law.index(name)
    if not fit.free_mask[i]:
        raise UserError(f"profile: {name} was fixed")
    fit = _own_unit(_smooth(fit), name)
    log = fit.law.parameters[i].log
    found = _interval(
        lambda values: statistic(fit, _held(fit, i, values), floor), float(fit.theta[i]), _error(fit, i),
        (float(fit.low[i]), float(fit.high[i])), threshold(fit, level), level,
    )  # fmt: skip
    if not log:
        return found
    value, low, high = (float(np.exp(v)) for v in (found.value, found.low, found.high))
    return replace(found, value=value, low=low, high=high)


def prediction_interval(
    fit: Fit, at: Any, *, level: float = 0.95, floor: float = 0.0, new_run: bool = False
) -> Interval:
    """Where the curve lies at one point (dict of columns, or a number), or with ``new_run`` where a run will land.

    For a run, the scatter of one run is added to the curve's interval in quadrature, in the loss's space.
    """
    fit = _smooth(fit)
    value = float(np.ravel(fit.predict(at))[0])
    objective = _through(fit, at)
    space = fit.loss.space if fit.loss.space != "log1p" else "linear"
    forward, back = (np.log, np.exp) if space == "log" else (np.asarray, np.asarray)
    x = {c: np.atleast_1d(v) for c, v in fit.centred(at).items()}
    slopes = []
    for i in range(len(fit.theta)):
        step = np.zeros(len(fit.theta))
        step[i] = 1e-5 * (1 + abs(fit.theta[i]))
        up, down = (forward(fit.law.predict(fit.theta + s * step, x)[0]) for s in (1, -1))
        slopes.append((up - down) / (2 * step[i]))
    error = float(np.sqrt(max(np.array(slopes) @ covariance(fit) @ np.array(slopes), 1e-24)))
    found = _interval(
        lambda values: statistic(fit, objective(back(values)), floor), float(forward(value)), error,
        (-np.inf, np.inf), threshold(fit, level), level,
    )  # fmt: skip
    found = replace(found, value=value, low=float(back(found.low)), high=float(back(found.high)))
    return with_scatter(fit, found, floor) if new_run else found


def with_scatter(fit: Fit, curve: Interval, floor: float = 0.0) -> Interval:
    """Where a run will land, from the interval of the curve there: the scatter of one run added in quadrature."""
    from scipy.stats import t

    forward, back = (np.log, np.exp) if fit.loss.space == "log" else (np.asarray, np.asarray)
    spread = max(fit.residual_sd, floor) * float(t.ppf((1 + curve.level) / 2, fit.degrees))
    with np.errstate(divide="ignore"):
        value, low, high = (forward(v) for v in (curve.value, curve.low, curve.high))
    low, high = value - np.hypot(value - low, spread), value + np.hypot(high - value, spread)
    return replace(curve, low=float(back(low)), high=float(back(high)))


def flat_sides(fit: Fit) -> tuple[str, ...]:
    """Parameters that data do not bound on a side: ``"E below"`` (its own limit, or 40 standard errors, is as good)."""
    fit = _smooth(fit)
    ways = [(int(i), side) for i in np.flatnonzero(fit.free_mask) for side in (-1, 1)]
    reach = np.geomspace(1, FAR, max(2, 60 // len(ways)))
    held = [(i, fit.theta[i] + side * s * _error(fit, i)) for i, side in ways for s in reach]
    index = np.array([i for i, _ in held])
    values = np.clip([v for _, v in held], fit.low[index], fit.high[index])
    objectives = _held(fit, index, values)
    reached = statistic(fit, objectives).reshape(len(ways), -1).max(axis=1) >= threshold(fit, 0.95)
    return tuple(
        f"{fit.law.names[i]} {'below' if side < 0 else 'above'}"
        for (i, side), r in zip(ways, reached, strict=True)
        if not r
    )


def _smooth(fit: Fit) -> Fit:
    """A fit of absolute deviations as a Huber fit with a small delta, whose profile is the same and can be followed."""
    if fit.loss.kind != "absolute":
        return fit
    loss = Loss("huber", fit.loss.space, max(float(np.median(np.abs(fit.residuals))) / 10, 1e-9))
    found = solve(
        fit.law, fit.logs, fit.data.y, fit.theta[None], fit.low, fit.high, loss,
        weights=fit.data.weights, free=fit.free_mask,
    )  # fmt: skip
    return replace(fit, loss=loss, theta=found.theta[0], objective=float(found.objective[0]))


def _error(fit: Fit, i: int) -> float:
    """A step in which to look: a standard error, within reason."""
    error = float(np.sqrt(max(covariance(fit)[i, i], 0.0)))
    return float(np.clip(error, 1e-9 * (1 + abs(fit.theta[i])), (fit.high[i] - fit.low[i]) / 8))


def _own_unit(fit: Fit, name: str) -> Fit:
    """The same fit with columns not centred, if the parameter carries an exponent: it is held in its own unit."""
    p = fit.law.parameters[fit.law.index(name)]
    if not any(isinstance(power, str) and fit.references[c] != 1.0 for c, power in p.carries):
        return _in_units(fit, {c: 1.0 for c, _ in p.carries}) if p.carries else fit
    return _in_units(fit, {c: 1.0 for c in fit.references})


def _in_units(fit: Fit, references: dict[str, float]) -> Fit:
    new = {**fit.references, **references}
    theta = fit.law.theta(fit.values, new)
    # limits were for centred values; those of what is carried become as wide as they can be
    carried = np.array([bool(p.carries) for p in fit.law.parameters])
    low, high = np.where(carried, -700.0, fit.low), np.where(carried, 700.0, fit.high)
    return replace(fit, theta=theta, references=new, low=low, high=high)


def _held(fit: Fit, index: Array | int, values: Array) -> Array:
    """The lowest objective with theta[index[k]] held at values[k]: [K]."""
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
    for start in (begin, ridge):
        start[np.arange(count), index] = values
    low, high = fit.low, fit.high
    ends = [
        solve(fit.law, fit.logs, fit.data.y, s, low, high, fit.loss, weights=fit.data.weights, free=free).objective
        for s in (begin, ridge)
    ]
    return np.minimum(*ends)


def _through(fit: Fit, at: Any) -> Callable[[Array], Array]:
    """The lowest objective of curves that pass through a value at one point: a heavy row holds them there."""
    point = {c: np.atleast_1d(v) for c, v in fit.centred(at).items()}
    x = {c: np.concatenate([v, point[c]]) for c, v in fit.logs.items()}

    def objective(values: Array) -> Array:
        count, n = len(values), fit.points
        y = np.concatenate([np.tile(fit.data.y, (count, 1)), np.asarray(values)[:, None]], axis=1)
        heavy = HEAVY * max(1.0, n)
        w = np.tile(np.append(fit.data.weights, heavy), (count, 1))
        begin = np.tile(fit.theta, (count, 1))
        found = solve(fit.law, x, y, begin, fit.low, fit.high, fit.loss, weights=w, free=fit.free_mask)
        predicted = fit.law.predict(found.theta, x)
        r = space_of(predicted, fit.loss.space, np) - space_of(y, fit.loss.space, np)
        off = np.abs(r[:, -1]) > 1e-4 + 0.01 * np.abs(r[:, :-1]).max(axis=1)  # the law cannot pass there
        return np.where(off, np.inf, (fit.data.weights * fit.loss.values(r[:, :-1])).sum(axis=1))

    return objective


def _interval(
    stat: Callable[[Array], Array], value: float, error: float, limits: tuple[float, float], wanted: float, level: float
) -> Interval:
    """Both ends: a wide look on both sides at once, then a close one inside the step where the threshold is passed."""
    reach = np.geomspace(0.2, FAR, STEPS) * error
    sides = [np.clip(value + side * reach, *limits) for side in (-1, 1)]
    found = np.sqrt(stat(np.concatenate(sides))).reshape(2, STEPS)
    ends, opened = [np.nan, np.nan], [False, False]
    spans: list[tuple[float, float, float, float] | None] = [None, None]
    for s in (0, 1):
        past = np.flatnonzero(found[s] >= np.sqrt(wanted))
        if not len(past):
            opened[s] = True
            ends[s] = limits[s] if np.isfinite(limits[s]) else (-np.inf, np.inf)[s]
        else:
            k = int(past[0])
            inner = (value, 0.0) if k == 0 else (float(sides[s][k - 1]), float(found[s][k - 1]))
            spans[s] = (*inner, float(sides[s][k]), float(found[s][k]))
    if any(spans):
        share = np.linspace(0, 1, STEPS + 2)[1:-1]
        close = np.concatenate([sp[0] + share * (sp[2] - sp[0]) for sp in spans if sp])
        roots = iter(np.sqrt(stat(close)).reshape(-1, STEPS))
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
