"""Intervals and forecasts, by a parametric bootstrap that knows how little a few points tell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from clip_jax.scaling.fit import TINY, Fit, fit_law, solve
from clip_jax.scaling.laws import EXPONENT, LAWS, Law

TAILS = (0.025, 0.975)
TIE = 1e-5  # differences of mean |ln(predicted / measured)| below this tell nothing
LEAST_POINTS = 4  # to fit before anything is extrapolated


@dataclass(frozen=True)
class Ensemble:
    """A fit and what it could as well have been: ``replicas`` float [R, p], ``noise`` float [R], the standard
    deviation of ln(error) of one point in each."""

    fit: Fit
    replicas: np.ndarray
    noise: np.ndarray

    def interval(self, parameter: str) -> tuple[float, float]:
        """The 95 % interval of a parameter."""
        values = [self.fit.law.describe(theta, self.fit.reference)[parameter] for theta in self.replicas]
        low, high = np.quantile(values, TAILS)
        return float(low), float(high)

    def band(self, flops: np.ndarray | float, *, observation: bool = True, seed: int = 0) -> tuple[Any, Any]:
        """The 95 % band at ``flops`` (same shapes): of a new measurement, or of the law alone."""
        x = np.log(np.atleast_1d(np.asarray(flops, float)) / self.fit.reference)
        logs = np.log(np.maximum(self.fit.law.predict(self.replicas, x), TINY))
        if observation:
            rng = np.random.default_rng(seed)
            logs = logs + self.noise[:, None] * rng.standard_normal(logs.shape)
        low, high = np.exp(np.quantile(logs, TAILS, axis=0))
        shape = np.shape(flops)
        return low.reshape(shape), high.reshape(shape)


def bootstrap(
    fit: Fit,
    flops: np.ndarray,
    *,
    seed_sd: float = 0.0,
    seed_degrees: int = 0,
    replicas: int = 500,
    seed: int = 0,
) -> Ensemble:
    """Draw new points around the fitted curve and fit again.

    The scatter of a point is the larger of what the fit leaves over and what seeds show. A handful of points
    does not tell the scatter well, so each replica draws its own from the scaled inverse chi-squared
    distribution; for a straight line this gives Student's intervals, and a test simulates the coverage.

    Args:
      fit: of `fit_law` on ``flops`` (float [n]).
      flops: the points of the fit.
      seed_sd: standard deviation of ln(error) of one *point* between seeds; ``seed_degrees`` of freedom.
      seed_degrees: 0 when seeds say nothing.
      replicas: how many.
      seed: of the draws.
    """
    rng = np.random.default_rng(seed)
    law, x = fit.law, np.log(flops / fit.reference)
    sd, degrees = fit.residual_sd, max(fit.points - fit.free, 1)
    if seed_degrees and seed_sd > sd:
        sd, degrees = seed_sd, seed_degrees
    # one degree of freedom has tails without end; a scatter above e-fold says only that nothing is known
    noise = np.minimum(sd * np.sqrt(degrees / rng.chisquare(degrees, replicas)), 1.0)
    centre = law.predict(fit.theta, x)
    errors = centre * np.exp(noise[:, None] * rng.standard_normal((replicas, len(x))))
    free = [i for i, p in enumerate(law.parameters) if not (fit.free < len(law.parameters) and p == law.asymptote)]
    bounds = [law.bounds(x, y) for y in errors]  # they depend on the points drawn; the widest serve all
    low, high = np.min([b[0] for b in bounds], axis=0), np.max([b[1] for b in bounds], axis=0)
    grid = law.starts(x, centre)
    ends, costs = [], []
    for begin in [fit.theta.tolist(), *grid[:: max(1, len(grid) // 3)]]:
        start = fit.theta.copy()
        start[free] = np.asarray(begin, float)[free]
        start = np.tile(np.clip(start, low, high), (replicas, 1))
        theta, cost, _ = solve(law, x, np.log(errors), start, free, low, high, iterations=60)
        ends.append(theta)
        costs.append(cost)
    best = np.argmin(costs, axis=0)
    return Ensemble(fit, np.array(ends)[best, np.arange(replicas)], noise)


def forecast(
    law: Law, flops: np.ndarray, errors: np.ndarray, target: float, **noise: Any
) -> tuple[Ensemble, float, float, float]:
    """Fit on the points, predict at ``target``: (ensemble, predicted, low, high)."""
    ensemble = bootstrap(fit_law(law, flops, errors), flops, **noise)
    low, high = ensemble.band(target)
    return ensemble, float(ensemble.fit.predict(target)), float(low), float(high)


def forecast_check(
    flops: np.ndarray, errors: np.ndarray, laws: Sequence[Law] = LAWS, **noise: Any
) -> list[dict[str, Any]]:
    """Fit every form without the largest budget, then look: one row a form.

    ``error`` is predicted - measured. ``verdict`` is "no forecast" when the band is wider than the measured error
    itself; otherwise it says whether the form beats the guess "same as the last budget". Empty with fewer than
    five budgets.
    """
    if len(flops) <= LEAST_POINTS:
        return []
    known, measured, naive = slice(0, -1), float(errors[-1]), float(errors[-2])
    rows = []
    for law in laws:
        ensemble, predicted, low, high = forecast(law, flops[known], errors[known], float(flops[-1]), **noise)
        closer = abs(predicted - measured) < abs(naive - measured)
        if high - low > measured:
            verdict = "no forecast: the band is wider than the remaining error"
        else:
            verdict = "beats the naive guess" if closer else "does not beat the naive guess"
        rows.append(
            {
                "form": law.name,
                "flops": float(flops[-1]),
                "predicted": predicted,
                "measured": measured,
                "error": predicted - measured,
                "low": low,
                "high": high,
                "width": high - low,
                "inside": bool(low <= measured <= high),
                "naive": naive,
                "naive_error": naive - measured,
                "beats_naive": bool(closer and high - low <= measured),
                "verdict": verdict,
                "notes": list(ensemble.fit.notes),
            }
        )
    return rows


def extrapolation_scores(flops: np.ndarray, errors: np.ndarray, laws: Sequence[Law] = LAWS) -> list[dict[str, Any]]:
    """How well each form predicts the next budget from those before it: mean |ln(predicted/measured)|.

    Every prefix of at least four budgets counts once. Best first; a form whose pinned asymptote makes it equal to a
    simpler one ties with it and stands behind it. Empty with fewer than five budgets.
    """
    rows = []
    for law in laws:
        misses = []
        for m in range(LEAST_POINTS, len(flops)):
            fit = fit_law(law, flops[:m], errors[:m])
            misses.append(abs(float(np.log(fit.predict(flops[m]) / errors[m]))))
        if misses:
            rows.append({"form": law.name, "mean_abs_log_error": float(np.mean(misses)), "forecasts": len(misses)})
    return sorted(rows, key=lambda r: round(r["mean_abs_log_error"] / TIE))


def exponent_of(ensemble: Ensemble) -> dict[str, float | str]:
    """The exponent of a fitted form with its 95 % interval."""
    name = EXPONENT[ensemble.fit.law.name]
    low, high = ensemble.interval(name)
    return {"name": name, "value": ensemble.fit.values[name], "low": low, "high": high}
