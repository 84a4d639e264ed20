"""Fit a law to points, robustly and from thousands of starts, with diagnostics of the fit."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike

from clip_jax.errors import UserError
from clip_jax.scaling.data.observations import Columns, check_points, count_duplicates
from clip_jax.scaling.fit.loss import LOG_HUBER, Loss
from clip_jax.scaling.fit.result import Fit, condition_of
from clip_jax.scaling.fit.solver import (
    finish_absolute,
    is_large_table,
    polished_starts,
    rows_for_starts,
    screen,
    solve,
)
from clip_jax.scaling.laws.base import Array, Law

EXTRA_POINTS_FOR_ASYMPTOTE = 3  # points needed beyond the number of parameters to determine an asymptote
SAME_OBJECTIVE = 1e-6  # starts whose objectives agree to this, relatively, ended at the same optimum


def fit_law(
    law: Law,
    columns: Columns,
    y: ArrayLike,
    *,
    loss: Loss = LOG_HUBER,
    weights: Array | None = None,
    fixed: Mapping[str, float] | None = None,
    bounds: Mapping[str, tuple[float, float]] | None = None,
    starts: Array | None = None,
    profile: bool = True,
) -> Fit:
    """Minimize the loss: screen the law's starts by objective, polish the best ones, record diagnostics.

    Args:
      law: the form.
      columns: dict or DataFrame with the law's columns, or an array for a law of one column; above 0.
      y: float [n].
      loss: Huber on logarithms by default.
      weights: of the rows, float [n].
      fixed: held parameters, in the table's units. Where a free asymptote has too few points, a note is added.
      bounds: narrower limits of parameters, in the table's units.
      starts: theta to polish instead of the law's grid, float [S, p] (centered as the fit will be).
      profile: find parameters whose profile is flat on a side (costs one more batch of fits).

    Returns:
      The fit.

    Raises:
      UserError: see `check_points`; fewer points than free parameters; an unknown parameter; invalid limits.
    """
    data = check_points(law, columns, y, weights, positive=loss.space == "log")
    notes: list[str] = []
    fixed = dict(fixed or {})
    if len(data) < (least := min_points_for_asymptote(law, fixed)):
        notes.append(f"{len(data)} points are too few to tell {law.asymptote}, at least {least} are needed")
    if n := count_duplicates(data):
        notes.append(f"{n} rows are copies of others; they count, and make intervals too narrow if they are no repeats")
    free = np.array([name not in fixed for name in law.names])
    if not free.any():
        reason = "holds every parameter, so nothing is fitted"
        raise UserError(field="fixed", value=sorted(fixed), reason=reason)
    if len(data) < free.sum():
        reason = f"{law.name} needs at least {free.sum()}"
        raise UserError(field="points", value=len(data), reason=reason)
    if len(data) == free.sum():
        notes.append(f"{len(data)} points and as many parameters: the curve passes through them and nothing is tested")
    references = _references(law, data.columns, {*fixed, *(bounds or {})})
    x = {c: np.log(v / references[c]) for c, v in data.columns.items()}
    shown = np.maximum(data.y, 1e-3 * np.max(np.abs(data.y)))  # grids take logarithms
    low, high = law.bounds(x, shown)
    for name, (a, b) in (bounds or {}).items():
        i = law.index(name)
        limits = [_theta_of(law, name, v, references) for v in (a, b)]
        if not limits[0] < limits[1] or not np.isfinite(limits).all():
            reason = "must be finite, rising and inside its domain"
            raise UserError(field=f"bounds.{name}", value=(a, b), reason=reason)
        low[i], high[i] = limits
    held = np.array([_theta_of(law, n, fixed[n], references) if n in fixed else 0.0 for n in law.names])
    for name in fixed:
        law.index(name)
    grid = law.starts(x, shown) if starts is None else np.asarray(starts, float)
    grid = np.unique(
        np.clip(np.where(free, grid, held), np.where(free, low, -np.inf), np.where(free, high, np.inf)), axis=0
    )
    some = np.arange(len(data))
    if (count := rows_for_starts(len(data))) < len(data):
        some = np.sort(np.random.default_rng(0).choice(len(data), count, replace=False))
        notes.append(f"starts were compared on {count} of the {len(data)} rows, the best one was fitted to all")
    x_some, y_some, w_some = {c: v[some] for c, v in x.items()}, data.y[some], data.weights[some]
    begin = screen(law, x_some, y_some, grid, loss, w_some, polished_starts(len(data)))
    ends = solve(law, x_some, y_some, begin, low, high, loss, weights=w_some, free=free, abreast=True)
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
    fit = replace(fit, condition=condition_of(fit))
    if profile:
        from clip_jax.scaling.profile.profile_likelihood import flat_sides

        fit = replace(fit, flat=flat_sides(fit), profiled=True)
    return fit


def fit_once(law: Law, x: Array, y: Array, *, loss: Loss = LOG_HUBER, fixed: Mapping[str, float]) -> Fit:
    """Fit a law of one column as `fit_law` does, without a profile; the same points are fitted once.

    The prefixes of a frontier choose a form, weigh the average and check the forecast.
    """
    known = tuple(sorted(fixed.items()))
    return _fit_once(law, np.asarray(x, float).tobytes(), np.asarray(y, float).tobytes(), loss, known, is_large_table())


@lru_cache(maxsize=256)
def _fit_once(law: Law, x: bytes, y: bytes, loss: Loss, fixed: tuple[tuple[str, float], ...], large: bool) -> Fit:
    return fit_law(law, np.frombuffer(x), np.frombuffer(y), loss=loss, fixed=dict(fixed), profile=False)


def min_points_for_asymptote(law: Law, fixed: Collection[str] = ()) -> int:
    """Return the number of points needed to determine the asymptote of a law; 0 without one or where it is held.

    Args:
      law: the form.
      fixed: names of the parameters that are held.
    """
    if law.asymptote is None or law.asymptote in fixed:
        return 0
    return len(law.parameters) - len(fixed) + EXTRA_POINTS_FOR_ASYMPTOTE


def _references(law: Law, columns: Mapping[str, Array], limited: set[str]) -> dict[str, float]:
    """Return the geometric means of the columns, but 1 where a fixed or bounded parameter scales with a fitted power of
    one.

    Such a parameter is then held in the unit of the table.
    """
    references = law.references(columns)
    for p in law.parameters:
        for column, power in p.carries:
            if p.name in limited and isinstance(power, str):
                references[column] = 1.0
    shared = {c: references[law.same_unit.get(c, c)] for c in law.columns}
    return {c: 1.0 if 1.0 in (references[c], shared[c]) else shared[c] for c in law.columns}


def _theta_of(law: Law, name: str, value: float, references: Mapping[str, float]) -> float:
    """Return theta of one parameter given in the table's units.

    A parameter whose unit depends on another parameter must have reference 1 (`_references`).
    """
    i = law.index(name)
    values = {p.name: 1.0 for p in law.parameters} | {name: float(value)}
    return float(law.theta(values, references)[i])
