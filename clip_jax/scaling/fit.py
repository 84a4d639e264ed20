"""Fitting a law to points, robustly and from thousands of starts, with the evidence of how that went."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from clip_jax.config import UserError
from clip_jax.scaling.laws.base import Array, Law
from clip_jax.scaling.loss import LOG_HUBER, NO_DELTA, Loss
from clip_jax.scaling.points import Points, check_points, columns_of, copies
from clip_jax.scaling.solver import CHUNK, FEW_FITS, MANY_ROWS, finish_absolute, screen, solve

SPARE_POINTS = 3  # points beyond the parameters that an asymptote needs to be told
SAME_OBJECTIVE = 1e-6  # starts whose objectives agree to this, relatively, ended at the same optimum
ILL_CONDITIONED = 1e8  # of the normal matrix with unit diagonal, in centred logarithms


@dataclass(frozen=True)
class Fit:
    """A fitted law. ``theta`` float64 [p] holds all parameters over ln(column / reference), fixed ones too.

    status: ``converged``, ``bound hit: NAMES`` or ``failed``. starts: how many were polished, out of ``screened``;
    agree: how many of those ended at the best objective. objective: the loss's sum, never a mean. condition: of the
    normal matrix (a large one: parameters that trade off). flat: parameters whose profile is flat to a side, with
    that side; empty also when nobody looked (``profiled`` False). degrees: points minus free parameters.
    """

    law: Law
    theta: Array
    references: Mapping[str, float]
    loss: Loss
    data: Points
    free_mask: Array
    low: Array
    high: Array
    status: str
    screened: int
    starts: int
    agree: int
    objective: float
    condition: float
    flat: tuple[str, ...] = ()
    profiled: bool = False
    notes: tuple[str, ...] = ()

    @property
    def points(self) -> int:
        """Rows."""
        return len(self.data)

    @property
    def free(self) -> int:
        """Parameters that were fitted."""
        return int(self.free_mask.sum())

    @property
    def degrees(self) -> int:
        """Rows beyond the free parameters, at least 1."""
        return max(self.points - self.free, 1)

    @property
    def identified(self) -> bool:
        """No bound hit, no flat profile, and a normal matrix that can be inverted."""
        return self.status == "converged" and not self.flat and self.condition < ILL_CONDITIONED

    @property
    def logs(self) -> dict[str, Array]:
        """Centred ln(columns), [n] each."""
        return self.centred(self.data.columns)

    def centred(self, columns: Any) -> dict[str, Array]:
        """ln(column / reference) of any columns."""
        return {c: np.log(v / self.references[c]) for c, v in columns_of(self.law, columns).items()}

    def predict(self, columns: Any) -> Array:
        """y at a dict of columns, or at the law's only column; the same shape."""
        x = self.centred(columns)
        shape = next(iter(x.values())).shape
        return self.law.predict(self.theta, {c: v.ravel() for c, v in x.items()}).reshape(shape)

    @property
    def values(self) -> dict[str, float]:
        """Parameters in the units of the table."""
        return self.law.describe(self.theta, self.references)

    @property
    def residuals(self) -> Array:
        """predicted - measured in the loss's space, [n]."""
        return self.loss.residuals(self.law.predict(self.theta, self.logs), self.data.y)

    @property
    def residual_sd(self) -> float:
        """Standard deviation of the residuals over the degrees of freedom, in the loss's space."""
        w = self.data.weights / self.data.weights.mean()
        return float(np.sqrt(np.sum(w * self.residuals**2) / self.degrees))

    def jacobian(self, thetas: Array | None = None) -> Array:
        """Derivatives of the residuals by theta, central differences: [..., n, p] for thetas [..., p]."""
        theta = self.theta if thetas is None else thetas
        x, columns = self.logs, []
        for i in range(theta.shape[-1]):
            step = 1e-6 * (1 + np.abs(theta[..., i : i + 1]))
            aside = np.eye(theta.shape[-1])[i] * step
            up, down = (self.loss.residuals(self.law.predict(theta + s * aside, x), self.data.y) for s in (1, -1))
            columns.append((up - down) / (2 * step))
        return np.stack(columns, axis=-1)

    def summary(self) -> str:
        """One line: the formula with its numbers, and how the fit went."""
        said = [self.status, f"{self.agree}/{self.starts} starts agree", f"{self.points} points"]
        said += [f"profile flat: {', '.join(self.flat)}"] if self.flat else []
        return f"{self.law.name}: {self.law.text(self.values)} ({'; '.join([*said, *self.notes])})"


def fit_law(
    law: Law,
    columns: Any,
    y: Any,
    *,
    loss: Loss = LOG_HUBER,
    weights: Array | None = None,
    fixed: Mapping[str, float] | None = None,
    bounds: Mapping[str, tuple[float, float]] | None = None,
    starts: Array | None = None,
    profile: bool = True,
) -> Fit:
    """Minimise the loss: screen the law's starts by objective, polish the best ones, look how that went.

    Args:
      law: the form.
      columns: dict or DataFrame with the law's columns, or an array for a law of one column; above 0.
      y: float [n].
      loss: Huber on logarithms by default.
      weights: of the rows, float [n].
      fixed: parameters held, in the table's units. Where points are too few to tell a free asymptote, a note says so.
      bounds: narrower limits of parameters, in the table's units.
      starts: theta to polish in place of the law's grid, float [S, p] (centred as the fit will be).
      profile: look for parameters whose profile is flat to a side (costs one more batch of fits).

    Raises:
      UserError: see `check_points`; fewer points than free parameters; an unknown parameter; a limit that is none.
    """
    data = check_points(law, columns, y, weights, positive=loss.space == "log")
    notes: list[str] = []
    fixed = dict(fixed or {})
    if len(data) < (least := least_to_tell(law, fixed)):
        notes.append(f"{len(data)} points are too few to tell {law.asymptote}, at least {least} are needed")
    if n := copies(data):
        notes.append(f"{n} rows are copies of others; they count, and make intervals too narrow if they are no repeats")
    free = np.array([name not in fixed for name in law.names])
    if not free.any():
        reason = "every parameter is held, so nothing is fitted"
        raise UserError(f"fit: {reason}", field="fixed", value=sorted(fixed), reason=reason)
    if len(data) < free.sum():
        reason = f"{law.name} needs at least {free.sum()} points, there are {len(data)}"
        raise UserError(f"fit: {reason}", field="points", value=len(data), reason=reason)
    if len(data) == free.sum():
        notes.append(f"{len(data)} points and as many parameters: the curve passes through them and nothing is tested")
    references = _references(law, data.columns, {*fixed, *(bounds or {})})
    x = {c: np.log(v / references[c]) for c, v in data.columns.items()}
    shown = np.maximum(data.y, 1e-3 * np.max(np.abs(data.y)))  # grids take logarithms
    low, high = law.bounds(x, shown)
    for name, (a, b) in (bounds or {}).items():
        i = law.index(name)
        limits = [_one(law, name, v, references) for v in (a, b)]
        if not limits[0] < limits[1] or not np.isfinite(limits).all():
            reason = "must be finite, rising and inside its domain"
            raise UserError(f"fit: bounds of {name}=({a}, {b}): {reason}", field=name, value=(a, b), reason=reason)
        low[i], high[i] = limits
    held = np.array([_one(law, n, fixed[n], references) if n in fixed else 0.0 for n in law.names])
    for name in fixed:
        law.index(name)
    grid = law.starts(x, shown) if starts is None else np.asarray(starts, float)
    grid = np.unique(
        np.clip(np.where(free, grid, held), np.where(free, low, -np.inf), np.where(free, high, np.inf)), axis=0
    )
    some = np.arange(len(data))
    if len(data) > MANY_ROWS:
        some = np.sort(np.random.default_rng(0).choice(len(data), MANY_ROWS, replace=False))
        notes.append(f"starts were compared on {MANY_ROWS} of the {len(data)} rows, the best one was fitted to all")
    x_some, y_some, w_some = {c: v[some] for c, v in x.items()}, data.y[some], data.weights[some]
    begin = screen(law, x_some, y_some, grid, loss, w_some, CHUNK if len(some) == len(data) else FEW_FITS)
    ends = solve(law, x_some, y_some, begin, low, high, loss, weights=w_some, free=free)
    last, first = ends, int(np.argmin(ends.objective))
    if len(some) < len(data):
        last = solve(law, x, data.y, ends.theta[[first]], low, high, loss, weights=data.weights, free=free)
    end = int(np.argmin(last.objective))
    best, objective, converged = last.theta[end], float(last.objective[end]), bool(last.converged[end])
    lowest = float(ends.objective[first])
    if loss.kind == "absolute" and len(some) == len(data):  # its linear programs are of the square of the rows
        best, objective = finish_absolute(law, x, data.y, best, free, low, high, loss, data.weights)
        lowest = objective
    agree = int((ends.objective <= lowest * (1 + SAME_OBJECTIVE) + 1e-14 * len(some)).sum())
    hit = [
        name
        for i, name in enumerate(law.names)
        if free[i] and np.isclose(best[i], (low[i], high[i]), rtol=1e-6, atol=1e-6).any()
    ]
    status = f"bound hit: {', '.join(hit)}" if hit else "converged" if converged else "failed"
    fit = Fit(
        law, best, references, loss, data, free, low, high, status, len(grid), len(begin), agree, objective,
        np.inf, notes=tuple(notes),
    )  # fmt: skip
    fit = replace(fit, condition=_condition(fit))
    if profile:
        from clip_jax.scaling.profile import flat_sides

        fit = replace(fit, flat=flat_sides(fit), profiled=True)
    return fit


def least_to_tell(law: Law, fixed: Collection[str] = ()) -> int:
    """Return how many points the asymptote of a law needs to be told; 0 where it has none, or a held one.

    Args:
      law: the form.
      fixed: names of the parameters that are held.
    """
    if law.asymptote is None or law.asymptote in fixed:
        return 0
    return len(law.parameters) - len(fixed) + SPARE_POINTS


def _references(law: Law, columns: Mapping[str, Array], limited: set[str]) -> dict[str, float]:
    """Geometric means; 1 for columns that a fixed or bounded parameter carries, so that it is held in its own unit."""
    found = law.references(columns)
    for p in law.parameters:
        for column, power in p.carries:
            if p.name in limited and isinstance(power, str):
                found[column] = 1.0
    shared = {c: found[law.same_unit.get(c, c)] for c in law.columns}
    return {c: 1.0 if 1.0 in (found[c], shared[c]) else shared[c] for c in law.columns}


def _one(law: Law, name: str, value: float, references: Mapping[str, float]) -> float:
    """theta of one parameter given in the table's units (a parameter that carries another has reference 1)."""
    i = law.index(name)
    values = {p.name: 1.0 for p in law.parameters} | {name: float(value)}
    return float(law.theta(values, references)[i])


def normal_matrix(fit: Fit, jacobian: Array | None = None) -> Array:
    """Jᵀ W J over the free parameters, [..., f, f]."""
    j = (fit.jacobian() if jacobian is None else jacobian)[..., fit.free_mask]
    return np.einsum("...nk,...nl,n->...kl", j, j, fit.data.weights)


def _condition(fit: Fit) -> float:
    matrix = normal_matrix(fit)
    size = np.sqrt(np.maximum(np.diagonal(matrix), 1e-300))
    return float(np.linalg.cond(matrix / np.outer(size, size)))


def scale_of(fit: Fit, residuals: Array | None = None) -> tuple[float, float]:
    """(mean square of the loss's derivative over the degrees of freedom, mean of its second derivative).

    Their quotient turns twice a rise of the objective into an F statistic, and the first over the square of the
    second times (Jᵀ W J)^-1 is the covariance (Huber, 1973). Where delta is so small that few residuals lie within
    it, the second derivative is taken from the density of residuals around 0. A fit draws as many residuals as it has
    parameters to 0 (with absolute deviations exactly: McKean and Schrader, 1987), so the smallest are left out there:
    counting them makes intervals of few points too narrow.
    """
    r = fit.residuals if residuals is None else residuals
    w = fit.data.weights / fit.data.weights.mean()
    side, r = np.broadcast_to(fit.loss.sides(r), r.shape), np.abs(r)
    delta = fit.loss.deltas[-1] if fit.loss.kind != "squares" else NO_DELTA
    delta_of = 1.0 if fit.loss.kind == "absolute" else delta  # |r| is Huber's loss over delta
    rest = np.argsort(r, kind="stable")[len(r) - fit.degrees :]  # all but the smallest
    width = max(delta, float(np.median(r[rest])), 1e-300)
    pull = np.minimum(r, delta) / delta * delta_of if fit.loss.kind == "absolute" else np.minimum(r, delta)
    square = float((w * (side * pull) ** 2).sum() / fit.degrees)
    inside = np.average(side[rest] * (r[rest] <= width), weights=w[rest])
    bend = float(inside / width * (min(delta, width) if fit.loss.kind != "absolute" else 1.0))
    return square, bend


def covariance(fit: Fit) -> Array:
    """Of theta, [p, p]; rows of fixed parameters are 0. The pseudo-inverse where parameters trade off."""
    square, bend = scale_of(fit)
    out = np.zeros((len(fit.theta), len(fit.theta)))
    index = np.flatnonzero(fit.free_mask)
    out[np.ix_(index, index)] = np.linalg.pinv(normal_matrix(fit), hermitian=True) * square / max(bend, 1e-12) ** 2
    return out
