"""Fit one law to rows of a table, with 95 % intervals by the method that suits the origin of the rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from clip_jax.errors import UserError
from clip_jax.scaling.analysis.frontier_fit import NOT_RESELECTED, RESELECT_SHARE, FrontierFit, reselect
from clip_jax.scaling.any_table.options import TableFit, fixed_values
from clip_jax.scaling.any_table.rows import Rows
from clip_jax.scaling.data.observations import noise_floor, picture_scatter
from clip_jax.scaling.fit.result import Fit
from clip_jax.scaling.fit_law import fit_law
from clip_jax.scaling.laws import Law, with_ceiling
from clip_jax.scaling.profile.noise import Noise
from clip_jax.scaling.profile.prediction import Interval, Prediction, unconverged_warnings
from clip_jax.scaling.profile.profile_likelihood import open_unidentified, parameter_interval, prediction_profile
from clip_jax.scaling.profile.statistic import interval_method, scatter
from clip_jax.scaling.uncertainty.bootstrap import Ensemble
from clip_jax.scaling.uncertainty.clusters import ClusterIntervals, cluster_intervals

NO_INTERVAL = "no interval is claimed where rows above the curve weigh less"
RESELECTED = f"intervals include picking the frontier again in resamples of {RESELECT_SHARE:.0%} of the runs".replace(
    "%", " %"
)


@dataclass(frozen=True)
class TableIntervals:
    """95 % intervals of one fit, all by one method.

    Attributes:
      fit: the fit.
      noise: the binomial scatter of a row, from the size of the evaluation set.
      clusters: a bootstrap of groups of rows, or None.
      fitted: the fit with its frontier selected again in resamples, or None.
      method: of the intervals, in words.
      selection: whether the intervals include the selection of a frontier, in words; empty without a frontier.
      examples: size of the evaluation set; 0: unknown.
      ceiling: the error of guessing, which no curve exceeds; a run may by its noise.
    """

    fit: Fit
    noise: Noise
    clusters: ClusterIntervals | None
    fitted: FrontierFit | None
    method: str
    selection: str = ""
    examples: int = 0
    ceiling: float = np.inf

    def parameter(self, name: str) -> Interval:
        """Return the interval of a free parameter."""
        if self.clusters:
            interval = self.clusters.parameter(name)
        elif self.fitted:
            interval = self.fitted.intervals[name]
        else:
            interval = parameter_interval(self.fit, name, noise=self.noise)
        return open_unidentified(self.fit, name, interval)

    def forecast(self, point: dict[str, float]) -> tuple[Interval, Interval]:
        """Return the intervals of the curve and of a new run at a point."""
        return self._at(point, new_run=False), self.new_run(point)

    def new_run(self, point: dict[str, float], *, same: bool = True) -> Interval:
        """Return the interval of a new run at a point, on the ``same`` evaluation set or on as many new examples."""
        forecast = min(float(np.ravel(self.fit.predict(point))[0]), self.ceiling)
        extra = examples_scatter(forecast, self.fit, self.examples, same=same)
        return self._at(point, new_run=True, extra=extra)

    def unconverged_at(self, point: dict[str, float], where: str) -> list[str]:
        """Return a warning for each side of the curve's interval whose constrained fits did not converge.

        Args:
          point: of the curve.
          where: the point in words.
        """
        if self.clusters and self.fit.identified:
            return []
        return unconverged_warnings(self.fit.law.name, where, self._prediction(point), self.ceiling)

    def _at(self, point: dict[str, float], *, new_run: bool, extra: float = 0.0) -> Interval:
        if self.clusters:
            interval = self.clusters.forecast(point)[new_run]
            if not self.fit.identified:
                # resamples start at the optimum and do not show which sides the data leave open
                profile = self._prediction(point).interval()
                interval = replace(interval, open_low=profile.open_low, open_high=profile.open_high)
        else:
            prediction = self._prediction(point)
            sd = float(np.hypot(scatter(self.fit, self.noise), extra))
            interval = (prediction.scattered(sd) if new_run else prediction).interval()
        return interval.around_at_most(self.ceiling) if new_run else interval.at_most(self.ceiling)

    def _prediction(self, point: dict[str, float]) -> Prediction:
        if self.fitted:
            return self.fitted.prediction_at(*point.values())
        key = tuple(point.items())
        if key not in self._predictions:
            self._predictions[key] = prediction_profile(self.fit, point, noise=self.noise)
        return self._predictions[key]

    @cached_property
    def _predictions(self) -> dict[tuple[tuple[str, float], ...], Prediction]:
        return {}


def fit_rows_of(rows: Rows, what: TableFit, law: Law, *, known: Mapping[str, float] | None = None) -> Fit:
    """Fit a law to rows; weights are relative (their mean is 1).

    Args:
      rows: of `rows.read_rows`.
      what: the loss and the held parameters.
      law: the form.
      known: parameters known from elsewhere, held instead of those of ``what``; None: those of ``what``, and the top
        that ``chance`` gives.

    Raises:
      UserError: as `fit_law`.
    """
    weights = None if rows.weights is None else rows.weights / rows.weights.mean()
    fixed = {**with_ceiling(law, what.chance)[1], **fixed_values(what)} if known is None else known
    return fit_law(law, rows.columns, rows.y, loss=what.loss_function, weights=weights, fixed=fixed)


def noise_of(rows: Rows, what: TableFit) -> Noise:
    """Return the scatter of a row due to the finite evaluation set; 0 where its size is not known."""
    return Noise(float(np.sqrt(np.mean(noise_floor(rows.y, what.examples) ** 2))) if what.examples else 0.0)


def examples_scatter(forecast: float, fit: Fit, examples: int, *, same: bool) -> float:
    """Return the scatter of ln(error) that the evaluation set adds at a forecast error (see `picture_scatter`).

    Args:
      forecast: the error.
      fit: its best row is the one whose wrong examples may still become right.
      examples: size of the evaluation set; 0: unknown, and nothing is added.
      same: whether the set is that of the rows, or as many new examples.
    """
    best = float(fit.data.y.min())
    return picture_scatter(forecast / best, [(best, examples)], same=same) if examples else 0.0


def intervals_of(fit: Fit, rows: Rows, what: TableFit) -> TableIntervals:
    """Choose the method: a bootstrap of groups, a frontier selected again in resamples, or the profile likelihood.

    Raises:
      UserError: ``--examples`` or ``--under`` with ``--group``; as `clusters.cluster_intervals`.
    """
    if what.group and what.examples:
        reason = "would be ignored with --group, whose bootstrap resamples the rows only"
        raise UserError(field="--examples", value=what.examples, reason=reason)
    noise, ceiling = noise_of(rows, what), np.inf if what.chance is None else what.chance
    plain = TableIntervals(fit, noise, None, None, NO_INTERVAL, examples=what.examples, ceiling=ceiling)
    if what.under < 1:
        if what.group:
            reason = "would be ignored with --under, for which no interval is computed"
            raise UserError(field="--group", value=what.group, reason=reason)
        return plain
    chosen = rows.candidates is not None
    if rows.groups is not None:
        clusters = cluster_intervals(fit, rows.groups)
        method = f"bootstrap of {clusters.groups} groups of {what.group} ({len(clusters.ensemble.replicas)} resamples)"
        return replace(plain, clusters=clusters, method=method, selection=NOT_RESELECTED if chosen else "")
    if not chosen:
        return replace(plain, method=interval_method(fit))
    again, reason = reselected(fit, rows, what)
    if again is None:
        return replace(plain, method=interval_method(fit), selection=f"{NOT_RESELECTED}: {reason}")
    method = f"{interval_method(fit)}, or the frontier selected again where that is wider"
    return replace(plain, fitted=FrontierFit(fit, noise, again), method=method, selection=RESELECTED)


def reselected(fit: Fit, rows: Rows, what: TableFit) -> tuple[Ensemble | None, str]:
    """Fit frontiers selected again in resamples of the runs (see `frontier_fit`); return None and the reason if
    impossible.

    Args:
      fit: of the frontier.
      rows: the frontier, with its candidates.
      what: the rule; ``space`` and ``weights`` may rule it out.
    """
    candidates = rows.candidates
    if candidates is None:
        return None, "there is no frontier"
    if what.weights:
        return None, "rows have weights"
    if what.space != "log":
        return None, f"residuals are {what.space}"
    return reselect(fit, candidates.columns[fit.law.columns[0]], candidates.y, what.frontier)


def fit_data(fit: Fit, intervals: dict[str, Interval]) -> dict[str, object]:
    """Return a fit as plain data; an open end of an interval is infinite, and null in JSON."""
    loss = [fit.loss.kind, fit.loss.space, fit.loss.delta, *([fit.loss.under] if fit.loss.under < 1 else [])]
    return {
        "law": fit.law.key, "formula": fit.law.formula, "latex": fit.law.latex, "text": fit.law.text(fit.values, 8),
        "values": fit.values, "intervals_95": {k: list(i.bounded_ends) for k, i in intervals.items()},
        "open": {k: [i.open_low, i.open_high] for k, i in intervals.items()}, "status": fit.status,
        "identified": fit.identified, "flat": list(fit.flat), "condition": fit.condition,
        "objective": fit.objective, "loss": loss,
        "screened": fit.screened, "starts": fit.starts, "agree": fit.agree, "residual_sd": fit.residual_sd,
    }  # fmt: skip
