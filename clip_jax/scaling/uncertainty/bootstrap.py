"""Bootstrap a fit by several kinds of resamples, with bands for the curve and for a new run.

Which to use: ``parametric`` draws points around the curve and, because a handful of points does not determine its own
scatter, draws the scatter too; for a straight line this gives Student's intervals. ``cases`` draws rows with
replacement: right for many rows of one kind (Chinchilla's), too narrow for a dozen; ``groups`` makes it hierarchical.
`bootstrap_frontier` selects the frontier again in each resample of all runs. Profile intervals (`profile`) hold where a
curved law has few points. ``benchmarks/fit_coverage.py`` simulates them all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike

from clip_jax.errors import UserError, one_of
from clip_jax.scaling.data.observations import Columns, Points, columns_of
from clip_jax.scaling.fit.loss import LOG_HUBER, TINY, Loss
from clip_jax.scaling.fit.result import Fit, covariance
from clip_jax.scaling.fit.solver import solve
from clip_jax.scaling.fit_law import fit_law
from clip_jax.scaling.laws.base import Array, Law

Resampling = Literal["parametric", "cases"]
EnsembleKind = Resampling | Literal["one-step", "frontier"]
TAILS = (0.025, 0.975)


@dataclass(frozen=True)
class Ensemble:
    """A fit and its bootstrap replicas.

    replicas: float [R, p], theta of each. noise: float [R], the standard deviation of one point's residual in each
    (of ln(y) for a loss in logarithms). errors: float [R, p] or None, standard errors of theta in each.
    """

    fit: Fit
    replicas: Array
    noise: Array
    kind: EnsembleKind = "parametric"
    failed: int = 0

    @property
    def draws(self) -> dict[str, Array]:
        """Each parameter's values in the units of the table, [R] each."""
        return self.fit.law.describe(self.replicas, self.fit.references)

    def interval(self, parameter: str, tails: tuple[float, float] = TAILS) -> tuple[float, float]:
        """Return the percentile interval of a parameter, 95 % by default."""
        low, high = np.quantile(self.draws[parameter], tails)
        return float(low), float(high)

    def spread(self, parameter: str) -> float:
        """Return the standard error of a parameter."""
        return float(np.std(self.draws[parameter], ddof=1))

    def curves(self, columns: Columns) -> Array:
        """Return every replica's curve: [R, ...] for columns [...]."""
        x = self.fit.centered(columns)
        shape = next(iter(x.values())).shape
        flat = {c: v.ravel() for c, v in x.items()}
        return self.fit.law.predict(self.replicas, flat).reshape(-1, *shape)

    def band(
        self, columns: Columns, *, observation: bool = True, seed: int = 0, tails: tuple[float, float] = TAILS
    ) -> tuple[Array, Array]:
        """Return the 95 % band at columns (same shapes): of a new run (``observation``), or of the law alone."""
        curves = self.curves(columns)
        noise = self.noise.reshape(-1, *[1] * (curves.ndim - 1))
        if self.fit.loss.space == "log":
            curves = np.log(np.maximum(curves, TINY))
        if observation:
            curves = curves + noise * np.random.default_rng(seed).standard_normal(curves.shape)
        low, high = np.quantile(curves, tails, axis=0)
        return (np.exp(low), np.exp(high)) if self.fit.loss.space == "log" else (low, high)


def bootstrap(
    fit: Fit,
    *,
    kind: Resampling = "parametric",
    groups: ArrayLike | None = None,
    seed_sd: float = 0.0,
    seed_degrees: int = 0,
    replicas: int = 500,
    seed: int = 0,
) -> Ensemble:
    """Draw the points again and refit, starting from the optimum.

    Args:
      fit: of `fit_law`.
      kind: ``parametric`` (points around the curve) or ``cases`` (rows with replacement).
      groups: [n] labels for ``cases``: groups are drawn first (cells, budgets), then rows (seeds) within each.
      seed_sd: parametric: standard deviation of ln(y) of one *point* that is known from seeds or from the size of the
        evaluation set (`observations.noise_floor`); the scatter is the larger of it and that of the residuals.
      seed_degrees: of freedom of ``seed_sd``; 0 when seeds give no estimate.
      replicas: number of refits.
      seed: of the draws.

    Raises:
      UserError: an unknown kind, or groups without ``cases``.
    """
    one_of("bootstrap.kind", kind, get_args(Resampling))
    if groups is not None and kind != "cases":
        raise UserError(field="kind", value=kind, reason="must be cases with groups")
    rng = np.random.default_rng(seed)
    if kind == "cases":
        weights = case_weights(rng, fit.points, replicas, groups)
        return from_weights(fit, weights)
    sd, degrees = fit.residual_sd, fit.degrees
    if seed_degrees and seed_sd > sd:
        sd, degrees = seed_sd, seed_degrees
    # with one degree of freedom the tail is endless; a scatter above e-fold only means that nothing is known
    most = 1.0 if fit.loss.space == "log" else np.inf
    noise = np.minimum(sd * np.sqrt(degrees / rng.chisquare(degrees, replicas)), most)
    center = fit.law.predict(fit.theta, fit.logs)
    drawn = noise[:, None] * rng.standard_normal((replicas, fit.points))
    y = center * np.exp(drawn) if fit.loss.space == "log" else center + drawn
    theta, ok = _again(fit, y, fit.data.weights)
    return Ensemble(fit, theta[ok], noise[ok], kind, int((~ok).sum()))


def from_covariance(fit: Fit, *, replicas: int = 500, seed: int = 0) -> Ensemble:
    """Draw theta from a normal distribution around the optimum: the one-step form, for fits of many rows."""
    drawn = np.random.default_rng(seed).multivariate_normal(fit.theta, covariance(fit), replicas, method="eigh")
    low, high = (np.where(fit.free_mask, b, fit.theta) for b in (fit.low, fit.high))
    return Ensemble(fit, np.clip(drawn, low, high), np.full(replicas, fit.residual_sd), "one-step")


def case_weights(
    rng: np.random.Generator, rows: int, replicas: int, groups: ArrayLike | None = None, draw: int = 0
) -> Array:
    """Draw how often each row counts, float [R, n]; with groups, groups first and then as many rows within each.

    draw: rows to draw, n by default (without groups).
    """
    if groups is None:
        drawn = rng.integers(0, rows, (replicas, draw or rows))
        return np.stack([np.bincount(d, minlength=rows) for d in drawn]).astype(float)
    labels = np.unique(np.asarray(groups), return_inverse=True)[1]
    members = [np.flatnonzero(labels == g) for g in range(labels.max() + 1)]
    weights = np.zeros((replicas, rows))
    for r in range(replicas):
        for g in rng.integers(0, len(members), len(members)):
            np.add.at(weights[r], rng.choice(members[g], len(members[g])), 1.0)
    return weights


def from_weights(fit: Fit, weights: Array) -> Ensemble:
    """Refit with rows weighted by ``weights`` [R, n]; resamples with too few rows are not used."""
    enough = (weights > 0).sum(axis=1) > fit.free
    weights = weights[enough]
    theta, ok = _again(fit, fit.data.y, weights * fit.data.weights)
    theta, weights = theta[ok], weights[ok]
    r = fit.loss.residuals(fit.law.predict(theta, fit.logs), fit.data.y)
    total = weights.sum(axis=1)
    noise = np.sqrt((weights * r**2).sum(axis=1) / np.maximum(total - fit.free, 1))
    return Ensemble(fit, theta, noise, "cases", int((~ok).sum() + (~enough).sum()))


def _again(fit: Fit, y: Array, weights: Array) -> tuple[Array, Array]:
    """Refit from the optimum, and from the optimum moved off its bounds: (theta [R, p], which converged [R])."""
    count = max(np.atleast_2d(y).shape[0], np.atleast_2d(weights).shape[0])
    begin = np.tile(fit.theta, (count, 1))
    solved = solve(fit.law, fit.logs, y, begin, fit.low, fit.high, fit.loss, weights=weights, free=fit.free_mask)
    theta, cost = solved.theta.copy(), solved.objective
    bad = np.flatnonzero(~solved.converged)
    if len(bad) and fit.loss.kind != "absolute":
        inside = np.clip(fit.theta, fit.low + 0.1 * (fit.high - fit.low) * fit.free_mask, fit.high)
        ys, ws = np.broadcast_to(y, (count, fit.points))[bad], np.broadcast_to(weights, (count, fit.points))[bad]
        more = solve(
            fit.law, fit.logs, ys, np.tile(inside, (len(bad), 1)), fit.low, fit.high, fit.loss,
            weights=ws, free=fit.free_mask,
        )  # fmt: skip
        better = more.objective < cost[bad]
        theta[bad[better]] = more.theta[better]
    return theta, np.isfinite(cost)


def bootstrap_frontier(
    law: Law, columns: Columns, y: Array, select: Callable[[Array, Array], Array], *,
    replicas: int = 500, seed: int = 0,
    groups: ArrayLike | None = None, share: float = 1.0, profile: bool = True,
    fixed: Mapping[str, float] | None = None, loss: Loss = LOG_HUBER,
) -> Ensemble:  # fmt: skip
    """Resample all runs, select the frontier again in each resample and fit it: the uncertainty includes the selection.

    A frontier is made of extremes, for which a bootstrap that draws as many runs as there are is known to be too
    narrow; drawing a ``share`` of them widens it (`benchmarks/fit_frontier.py` prints what both cover).

    Args:
      law: of one column.
      columns: dict with it, or an array [n] of all runs.
      y: float [n].
      select: (x [m], y [m]) -> indices of the frontier, such as `frontier.pareto`.
      replicas, seed, groups: as in `bootstrap`.
      share: of the runs drawn in a resample.
      profile, fixed, loss: as in `fit_law`.
    """
    x, y = columns_of(law, columns)[law.columns[0]], np.asarray(y, float)
    labels = None if groups is None else tuple(np.asarray(groups))
    first, used, chosen = _frontiers(x.tobytes(), y.tobytes(), select, replicas, seed, labels, share)
    fit = fit_law(law, x[first], y[first], profile=profile, fixed=fixed, loss=loss)
    # every resample is a weighting of the rows that stood on some frontier
    union = replace(fit, data=Points({law.columns[0]: x[used]}, y[used], np.ones(len(used))))
    return replace(from_weights(union, chosen), fit=fit, kind="frontier")


@lru_cache(maxsize=8)
def _frontiers(
    x_bytes: bytes, y_bytes: bytes, select: Callable[[Array, Array], Array], replicas: int, seed: int,
    groups: tuple[object, ...] | None,
    share: float,
) -> tuple[Array, Array, Array]:  # fmt: skip
    """Return (rows of the frontier, rows on it in some resample [u], which of these are in each [R, u]).

    The result does not depend on the law, and is cached for the next one.
    """
    x, y = np.frombuffer(x_bytes), np.frombuffer(y_bytes)
    draw = max(1, round(share * len(y)))
    labels = None if groups is None else np.array(groups)
    drawn = case_weights(np.random.default_rng(seed), len(y), replicas, labels, draw) > 0
    chosen = []
    for row in drawn:
        rows = np.flatnonzero(row)
        chosen.append(rows[select(x[rows], y[rows])])
    first = select(x, y)
    used = np.unique(np.concatenate([*chosen, first]))
    weights = np.zeros((replicas, len(used)))
    for r, rows in enumerate(chosen):
        weights[r, np.searchsorted(used, rows)] = 1.0
    return first, used, weights
