"""Intervals of a law of whole curves: curves are drawn again, for the rows of one are not independent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from clip_jax.scaling.curves.fit import Curve, CurveFit
from clip_jax.scaling.profile.prediction import Interval
from clip_jax.scaling.uncertainty.clusters import ClusterIntervals, cluster_intervals

REPLICAS = 400
SIMULATED = ("annealing",)  # laws whose intervals held in 200 simulated tables: benchmarks/RESULTS_curves.md


@dataclass(frozen=True)
class CurveIntervals:
    """The bootstrap of the fitted curves, and its intervals of parameters and of losses."""

    fitted: CurveFit
    clusters: ClusterIntervals

    def parameter(self, name: str) -> Interval:
        """Return the interval of a free parameter; a side on which it reaches its bound is open."""
        return self.clusters.parameter(name)

    def ends(self, curves: Sequence[Curve]) -> list[tuple[Interval, Interval]]:
        """Return the intervals of the law and of a new run at the last row of each curve."""
        fit, columns = self.fitted.at([replace(c, steps=c.steps[-1:], losses=c.losses[-1:]) for c in curves])
        clusters = replace(self.clusters, ensemble=replace(self.clusters.ensemble, fit=fit))
        return [clusters.forecast({k: v[[i]] for k, v in columns.items()}) for i in range(len(curves))]


def curve_intervals(fitted: CurveFit, *, replicas: int = REPLICAS, seed: int = 0) -> CurveIntervals:
    """Draw curves with replacement, then rows within each, and refit.

    `benchmarks/curve_coverage.py` simulates how often such intervals hold; the command gives those of `SIMULATED` laws.

    Args:
      fitted: of at least five curves, and two more than free parameters.
      replicas: number of refits.
      seed: of the draws.

    Raises:
      UserError: too few curves (see `clusters.cluster_intervals`).
    """
    return CurveIntervals(fitted, cluster_intervals(fitted.fit, fitted.labels, replicas=replicas, seed=seed))
