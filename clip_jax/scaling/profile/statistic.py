"""Compare constrained fits by an F statistic, with a quadratic approximation that needs no constrained fit."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from clip_jax.scaling.fit.result import ILL_CONDITIONED, Fit, covariance, scale_of
from clip_jax.scaling.fit.solver import few_rows
from clip_jax.scaling.laws.base import Array
from clip_jax.scaling.profile.noise import NO_NOISE, Noise, pooled

QUADRATIC = 0.1  # relative distance of the objective's rise from its second derivative's, at the ends of an interval
PROFILED = "profile likelihood"
ONE_STEP_PROFILE = "one-step form (many rows, and the objective rises as its second derivative says)"


def scatter(fit: Fit, noise: Noise = NO_NOISE) -> float:
    """Return the standard deviation of one point around the curve, in the loss's space."""
    return float(np.sqrt(pooled(fit.residual_sd**2, fit.degrees, noise)[0]))


def pooled_scale(fit: Fit, noise: Noise) -> tuple[float, float, int]:
    """Return (mean psi², mean psi', degrees of freedom), pooled with known noise; psi is the loss's derivative."""
    psi_squared, psi_prime = scale_of(fit)
    psi_squared, degrees = pooled(psi_squared, fit.degrees, replace(noise, sd=min(noise.sd, fit.loss.deltas[-1])))
    return psi_squared * noise.inflation, psi_prime, degrees


def threshold(fit: Fit, level: float, noise: Noise = NO_NOISE) -> float:
    """Return F(1, degrees of freedom) at a level."""
    from scipy.stats import f

    return float(f.ppf(level, 1, pooled_scale(fit, noise)[2]))


def statistic(fit: Fit, objectives: Array, noise: Noise = NO_NOISE) -> Array:
    """Return the rise of the objective in constrained fits, as an F statistic.

    Args:
      fit: the unconstrained optimum.
      objectives: of the constrained fits, any shape.
      noise: the independent estimate of the scatter.
    """
    psi_squared, psi_prime, _ = pooled_scale(fit, noise)
    rise = np.maximum(np.asarray(objectives) - fit.objective, 0.0)
    tiny = 1e-12 * max(fit.objective, 1e-30) + 1e-22 * fit.points  # an exact fit has no scale
    return 2 * rise * psi_prime / max(psi_squared, tiny)


def is_quadratic(fit: Fit, direction: Array, root: float, noise: Noise) -> bool:
    """Return whether no constrained fit is needed: many rows, and the objective rises as its second derivative
    predicts.

    Args:
      fit: the optimum.
      direction: float [p], the change of theta along the constrained optima, per unit of the signed root.
      root: the distance along it, to both sides, inside the bounds.
      noise: see `statistic`.
    """
    if fit.points <= few_rows() or fit.status != "converged" or not fit.condition < ILL_CONDITIONED:
        return False
    ends = fit.theta + root * np.array([[-1.0], [1.0]]) * direction
    if not ((ends > fit.low) & (ends < fit.high))[:, fit.free_mask].all():
        return False
    r = fit.loss.residuals(fit.law.predict(ends, fit.logs), fit.data.y)
    statistics = statistic(fit, (fit.data.weights * fit.loss.values(r)).sum(axis=1), noise)
    return bool(np.all(np.abs(statistics / root**2 - 1) < QUADRATIC))


def along_parameter(fit: Fit, i: int, noise: Noise) -> Array:
    """Return the change of theta per unit of the signed root of one parameter's statistic, to first order: [p]."""
    cov = covariance(fit)
    return cov[i] / np.sqrt(max(cov[i, i], 1e-300)) * wider_by(fit, noise)


def wider_by(fit: Fit, noise: Noise) -> float:
    """Return the ratio of standard errors with the independent estimate of the scatter to those without."""
    return float(np.sqrt(pooled_scale(fit, noise)[0] / max(scale_of(fit)[0], 1e-300)))


def interval_method(fit: Fit) -> str:
    """Return the method of the parameters' intervals: `PROFILED`, or `ONE_STEP_PROFILE` for many rows."""
    if fit.points <= few_rows():
        return PROFILED
    root, free = float(np.sqrt(threshold(fit, 0.95))), np.flatnonzero(fit.free_mask)
    quadratic = all(is_quadratic(fit, along_parameter(fit, int(i), NO_NOISE), root, NO_NOISE) for i in free)
    return ONE_STEP_PROFILE if quadratic else PROFILED
