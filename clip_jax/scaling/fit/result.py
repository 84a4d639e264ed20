"""A fitted law, and the scale and covariance of its residuals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from clip_jax.scaling.data.observations import Columns, Points, columns_of
from clip_jax.scaling.fit.loss import NO_DELTA, Loss, space_of
from clip_jax.scaling.laws.base import Array, Law

ILL_CONDITIONED = 1e8  # of the normal matrix with unit diagonal, in centered logarithms


@dataclass(frozen=True)
class Fit:
    """A fitted law. ``theta`` float64 [p] holds all parameters over ln(column / reference), fixed ones too.

    status: ``converged``, ``bound hit: NAMES`` or ``failed``. starts: number of starts that were polished, out of
    ``screened``; agree: how many of those ended at the best objective. objective: the loss's sum, never a mean.
    condition: of the normal matrix (large: parameters trade off). flat: parameters whose profile is flat on a side,
    with that side; empty also without a profile (``profiled`` False). degrees: points minus free parameters.
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
        """The number of rows."""
        return len(self.data)

    @property
    def free(self) -> int:
        """The number of fitted parameters."""
        return int(self.free_mask.sum())

    @property
    def degrees(self) -> int:
        """The number of rows beyond the free parameters, at least 1."""
        return max(self.points - self.free, 1)

    @property
    def identified(self) -> bool:
        """True without a bound hit or a flat profile, and with a normal matrix that can be inverted."""
        return self.status == "converged" and not self.flat and self.condition < ILL_CONDITIONED

    @property
    def logs(self) -> dict[str, Array]:
        """The centered ln(columns), [n] each."""
        return self.centered(self.data.columns)

    def centered(self, columns: Columns) -> dict[str, Array]:
        """Return ln(column / reference) of any columns."""
        return {c: np.log(v / self.references[c]) for c, v in columns_of(self.law, columns).items()}

    def predict(self, columns: Columns) -> Array:
        """Return y at a dict of columns, or at the law's only column; the same shape."""
        x = self.centered(columns)
        shape = next(iter(x.values())).shape
        return self.law.predict(self.theta, {c: v.ravel() for c, v in x.items()}).reshape(shape)

    @property
    def values(self) -> dict[str, float]:
        """The parameters in the units of the table."""
        return {k: float(v) for k, v in self.law.describe(self.theta, self.references).items()}

    @property
    def residuals(self) -> Array:
        """The residuals, predicted - measured in the loss's space, [n]."""
        return self.loss.residuals(self.law.predict(self.theta, self.logs), self.data.y)

    @property
    def residual_sd(self) -> float:
        """The standard deviation of the residuals over the degrees of freedom, in the loss's space."""
        w = self.data.weights / self.data.weights.mean()
        return float(np.sqrt(np.sum(w * self.residuals**2) / self.degrees))

    def jacobian(self, thetas: Array | None = None, columns: Columns | None = None) -> Array:
        """Return the derivatives of the curve by theta in the loss's space, which are those of the residuals.

        Central differences in float64: JAX would compile a program for each law and each number of points.

        Args:
          thetas: [..., p]; the fitted one by default.
          columns: where, n points; the fitted rows by default.

        Returns:
          float [..., n, p].
        """
        theta = self.theta if thetas is None else thetas
        x, out = self.logs if columns is None else self.centered(columns), []
        for i in range(theta.shape[-1]):
            step = 1e-6 * (1 + np.abs(theta[..., i : i + 1]))
            aside = np.eye(theta.shape[-1])[i] * step
            up, down = (space_of(self.law.predict(theta + s * aside, x), self.loss.space, np) for s in (1, -1))
            out.append((up - down) / (2 * step))
        return np.stack(out, axis=-1)

    def summary(self) -> str:
        """Return one line: the formula with its numbers, and the status of the fit."""
        remarks = [self.status, f"{self.agree}/{self.starts} starts agree", f"{self.points} points"]
        remarks += [f"profile flat: {', '.join(self.flat)}"] if self.flat else []
        return f"{self.law.name}: {self.law.text(self.values)} ({'; '.join([*remarks, *self.notes])})"


def normal_matrix(fit: Fit, jacobian: Array | None = None) -> Array:
    """Return Jᵀ W J over the free parameters, [..., f, f]."""
    j = (fit.jacobian() if jacobian is None else jacobian)[..., fit.free_mask]
    return np.einsum("...nk,...nl,n->...kl", j, j, fit.data.weights)


def condition_of(fit: Fit) -> float:
    matrix = normal_matrix(fit)
    size = np.sqrt(np.maximum(np.diagonal(matrix), 1e-300))
    return float(np.linalg.cond(matrix / np.outer(size, size)))


def scale_of(fit: Fit, residuals: Array | None = None) -> tuple[float, float]:
    """Return (mean psi² over the degrees of freedom, mean psi'), with psi the derivative of the loss.

    Their quotient turns twice a rise of the objective into an F statistic, and the first over the square of the
    second times (Jᵀ W J)^-1 is the covariance (Huber, 1973). Where delta is so small that few residuals lie within
    it, psi' is taken from the density of residuals around 0. A fit draws as many residuals as it has parameters to 0
    (with absolute deviations exactly: McKean and Schrader, 1987), so the smallest are left out of that density:
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
    psi_squared = float((w * (side * pull) ** 2).sum() / fit.degrees)
    inside = np.average(side[rest] * (r[rest] <= width), weights=w[rest])
    psi_prime = float(inside / width * (min(delta, width) if fit.loss.kind != "absolute" else 1.0))
    return psi_squared, psi_prime


def covariance(fit: Fit) -> Array:
    """Return the covariance of theta, [p, p]; rows of fixed parameters are 0.

    It is the pseudo-inverse where parameters trade off.
    """
    psi_squared, psi_prime = scale_of(fit)
    out = np.zeros((len(fit.theta), len(fit.theta)))
    index = np.flatnonzero(fit.free_mask)
    out[np.ix_(index, index)] = (
        np.linalg.pinv(normal_matrix(fit), hermitian=True) * psi_squared / max(psi_prime, 1e-12) ** 2
    )
    return out
