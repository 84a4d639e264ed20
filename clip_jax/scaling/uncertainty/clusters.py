"""Intervals of a fit whose rows scatter in groups (seeds of a budget, checkpoints of a run, models of one series)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from clip_jax.errors import UserError
from clip_jax.scaling.data.observations import Columns
from clip_jax.scaling.fit.result import Fit
from clip_jax.scaling.profile.prediction import Interval
from clip_jax.scaling.uncertainty.bootstrap import Ensemble, bootstrap

MIN_GROUPS = 5  # with fewer groups their scatter cannot be estimated
FEW_GROUPS = 10  # fewer groups give a warning
CLUSTER_REPLICAS = 2000
MIN_CLUSTER_REPLICAS = 400
MAX_WEIGHTS = 50_000_000  # of all resamples together: 0.4 GB
CLUSTER_LEVEL = 0.95


@dataclass(frozen=True)
class ClusterIntervals:
    """A hierarchical bootstrap of groups, and its intervals. groups: their number. tails: the quantiles used."""

    ensemble: Ensemble
    groups: int
    tails: tuple[float, float]

    def parameter(self, name: str) -> Interval:
        """Return the interval of a free parameter; a side on which it reaches its bound is open."""
        fit = self.ensemble.fit
        low, high = self.ensemble.interval(name, self.tails)
        i = fit.law.index(name)
        theta = np.quantile(self.ensemble.replicas[:, i], self.tails)
        opened = np.isclose(theta, (fit.low[i], fit.high[i]), rtol=1e-6, atol=1e-6)
        return Interval(fit.values[name], low, high, CLUSTER_LEVEL, bool(opened[0]), bool(opened[1]))

    def forecast(self, point: Columns) -> tuple[Interval, Interval]:
        """Return the intervals at one point of the curve and of a new run of a new group."""
        value = float(np.ravel(self.ensemble.fit.predict(point))[0])
        curve, run = (
            [float(np.ravel(v)[0]) for v in self.ensemble.band(point, observation=seen, tails=self.tails)]
            for seen in (False, True)
        )
        return Interval(value, curve[0], curve[1], CLUSTER_LEVEL), Interval(value, run[0], run[1], CLUSTER_LEVEL)


def cluster_intervals(
    fit: Fit, labels: ArrayLike, *, replicas: int = CLUSTER_REPLICAS, seed: int = 0
) -> ClusterIntervals:
    """Draw groups with replacement, then rows within each, and refit.

    Percentiles of a bootstrap of G groups are too narrow by about the ratio of a normal quantile to that of Student's t
    with G - (free parameters) degrees of freedom; the quantiles used are moved outward by it (Hesterberg, 2015,
    "expanded percentile intervals").

    Args:
      fit: of `fit_law`.
      labels: [n], the group of each row.
      replicas: number of refits; fewer above 25,000 rows.
      seed: of the draws.

    Raises:
      UserError: fewer than five groups, or no more than free parameters + 1.
    """
    from scipy.stats import norm, t

    count, least = len(np.unique(np.asarray(labels))), max(MIN_GROUPS, fit.free + 2)
    if count < least:
        reason = f"{count} groups, and intervals of {fit.free} parameters need at least {least}"
        raise UserError(field="--group", reason=reason)
    degrees = count - fit.free
    tail = float(norm.cdf(np.sqrt(count / degrees) * t.ppf((1 - CLUSTER_LEVEL) / 2, degrees)))
    replicas = int(np.clip(MAX_WEIGHTS // fit.points, min(replicas, MIN_CLUSTER_REPLICAS), replicas))
    ensemble = bootstrap(fit, kind="cases", groups=labels, replicas=replicas, seed=seed)
    if len(ensemble.replicas) < replicas / 2:
        reason = f"only {len(ensemble.replicas)} of {replicas} resamples could be fitted"
        raise UserError(field="--group", reason=reason)
    return ClusterIntervals(ensemble, count, (tail, 1 - tail))
