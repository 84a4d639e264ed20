"""Average forecasts over forms: one predictive distribution that includes the uncertainty about the form.

Each form gives a distribution of the curve (or of a run) at a point, from its profile (`profile.prediction_profile`).
The averaged forecast is their mixture: its median is the point forecast, its central 95 % the band. A form that the
data do not reject (`forms_not_rejected`) keeps a weight of at least `MIN_WEIGHT`: forms that the data cannot
distinguish inside their range may differ far beyond it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from clip_jax.scaling.analysis.frontier_fit import FrontierFit, interpolated, knots
from clip_jax.scaling.data.records import AveragedRecord
from clip_jax.scaling.fit.result import Fit
from clip_jax.scaling.fit.solver import few_rows
from clip_jax.scaling.fit_law import EXTRA_POINTS_FOR_ASYMPTOTE, fit_once
from clip_jax.scaling.laws.base import Array
from clip_jax.scaling.profile.noise import NO_NOISE, Noise
from clip_jax.scaling.profile.prediction import Interval, Prediction
from clip_jax.scaling.profile.profile_likelihood import curve_error
from clip_jax.scaling.profile.statistic import pooled_scale, scatter, wider_by
from clip_jax.scaling.uncertainty.diagnostics import ONE_STEP, REFIT, leave_one_out

MIN_WEIGHT = 0.1  # of a form that the data do not reject
REJECTED = 0.01  # p below which points reject a form (see `forms_not_rejected`)
MIN_PREFIXES, MAX_PREFIXES = 2, 6  # that must test every form for held-out scores, and that are used
BY_BIC = "BIC of the full fits, at least 0.1 for a form not rejected at 1 %"
BY_STACKING = "stacked by held-out log scores, at least 0.1 for a form not rejected at 1 %"
NO_BREAK = "no form can know of a break beyond the runs"
MIXTURE_POINTS = 801  # positions at which the mixture's distribution is added up


@dataclass(frozen=True)
class Mixture:
    """Weighted predictive distributions of several forms at one point.

    names: of the forms. weights: float [M], adding up to 1. predictions: one per form, all in one space.
    ceiling: the upper limit of y, in its own unit (infinite: none).
    """

    names: tuple[str, ...]
    weights: Array
    predictions: tuple[Prediction, ...]
    ceiling: float = np.inf

    def cdf(self, z: Array) -> Array:
        """Return the probability of a position at or below each z [K] (in the loss's space)."""
        return sum(w * p.cdf(z) for w, p in zip(self.weights, self.predictions, strict=True))  # type: ignore[return-value]

    def quantiles(self, probabilities: Array) -> tuple[Array, Array]:
        """Return (quantiles in the unit of y, whether each lies on a side that the data leave open), [K] each."""
        z = np.unique(np.concatenate([p.z for p in self.predictions if len(p.z)] or [np.zeros(0)]))
        if len(z) < 2:
            half = np.asarray(probabilities) < 0.5
            return np.where(half, -np.inf, np.inf), np.ones(len(half), bool)
        span = z[-1] - z[0]
        fine = np.unique(np.concatenate([z, np.linspace(z[0] - 0.01 * span, z[-1] + 0.01 * span, MIXTURE_POINTS)]))
        total = np.maximum.accumulate(self.cdf(fine))
        keep = np.concatenate([[True], np.diff(total) > 1e-14])
        positions = np.interp(probabilities, total[keep], fine[keep])
        low_open = np.asarray(probabilities) < total[0]
        high_open = np.asarray(probabilities) > total[-1]
        log = self.predictions[0].log
        ends = (0.0 if log else -np.inf), self.ceiling
        with np.errstate(over="ignore"):
            value = np.exp(positions) if log else positions
        value = np.where(low_open, ends[0], np.where(high_open, ends[1], np.minimum(value, self.ceiling)))
        return value, low_open | (high_open & np.isinf(self.ceiling))

    @property
    def median(self) -> float:
        """The median, used as the point forecast."""
        return float(self.quantiles(np.array([0.5]))[0][0])

    def interval(self, level: float = 0.95) -> Interval:
        """Return the central interval of the mixture, with its median as the value."""
        probabilities = np.array([(1 - level) / 2, 0.5, (1 + level) / 2])
        (low, middle, high), (open_low, _, open_high) = self.quantiles(probabilities)
        return Interval(float(middle), float(low), float(high), level, bool(open_low), bool(open_high))

    def union(self, level: float = 0.95) -> tuple[float, float]:
        """Return the lowest and the highest end of the forms' own intervals, infinite where one of them is open."""
        lows, highs = zip(*(p.interval(level).bounded_ends for p in self.predictions), strict=True)
        return min(lows), min(max(highs), self.ceiling)


def fit_statistics(fits: Sequence[Fit], noise: Noise = NO_NOISE) -> list[dict[str, float]]:
    """Compare forms fitted to the same rows.

    Args:
      fits: of forms to the same rows with the same loss, each with more rows than parameters.
      noise: the independent estimate of the scatter (from seeds).

    Returns:
      For each {bic, p}: the Bayesian information criterion, with the known scatter counted as rows of its own, and the
      p-value of an F test against the form that fits best for its parameters (small: the data reject the form).
    """
    rows, free = fits[0].points, np.array([fit.free for fit in fits])
    squares, known = np.array([_sum_of_squares(fit) for fit in fits]), noise.degrees * noise.sd**2
    count = rows + noise.degrees
    bic = count * np.log(np.maximum(squares + known, 1e-300) / count) + free * np.log(count)
    p = p_values_of_f_tests(squares, free, rows, noise)
    return [{"bic": float(b), "p": float(q)} for b, q in zip(bic, p, strict=True)]


def p_values_of_f_tests(squares: Array, free: Array, rows: int, noise: Noise) -> Array:
    """Return p [M] of the F tests of forms against the best one.

    A form without a degree of freedom takes no part and is not rejected.

    Args:
      squares: each form's sum of squared residuals, [M].
      free: its number of free parameters, [M].
      rows: number of points.
      noise: of a point as second seeds measured it; its degrees of freedom are added.
    """
    from scipy.stats import f

    known, spare = noise.degrees * noise.sd**2, rows - free + noise.degrees
    tested = spare > 0
    if not tested.any():
        return np.ones(len(free))
    best = int(np.argmin(np.where(tested, (squares + known) / np.maximum(spare, 1), np.inf)))
    scale = max((squares[best] + known) / spare[best], 1e-300)
    more = np.maximum(free[best] - free, 1)
    p = f.sf(np.maximum(squares - squares[best], 0) / more / scale, more, spare[best])
    return np.where(tested, p, 1.0)


def forms_not_rejected(fits: Sequence[Fit], p: Sequence[float], noise: Noise = NO_NOISE) -> Array:
    """Return which forms the data do not reject at 1 %, bool [M].

    A form is rejected only if it still is after any one point has been left out: one budget that lies too high would
    otherwise decide between a plateau and none. In simulated sweeps of five budgets over a power law, one of them 20 %
    too high, a test of all points alone leaves the truth without weight in one of six
    (`benchmarks/forecast_coverage.py`).

    Args:
      fits, noise: as in `fit_statistics`.
      p: of each form, by all points.
    """
    kept = np.asarray(p) >= REJECTED
    if kept.all():
        return kept
    squares = np.stack([squares_without_each(fit) for fit in fits], axis=1)  # [n, M]
    free, rows = np.array([fit.free for fit in fits]), fits[0].points - 1
    for without in squares:
        kept |= p_values_of_f_tests(without, free, rows, noise) >= REJECTED
    return kept


def squares_without_each(fit: Fit) -> Array:
    """Return the sums of squared residuals of ``fit`` made again without one row each, [n].

    They are added up as for the whole fit (`_sum_of_squares`).
    """
    theta = leave_one_out(fit, REFIT if fit.points <= few_rows() else ONE_STEP)
    r = fit.loss.residuals(fit.law.predict(theta, fit.logs), fit.data.y)  # [n, n]
    each = fit.data.weights * (r**2 if fit.loss.kind == "absolute" else 2 * fit.loss.values(r))
    return each.sum(axis=1) - np.diagonal(each)


def _sum_of_squares(fit: Fit) -> float:
    """Return the sum of squared residuals; for a robust loss twice its objective, in which outliers count little."""
    return float(np.sum(fit.data.weights * fit.residuals**2)) if fit.loss.kind == "absolute" else 2 * fit.objective


def weights_by_bic(bic: Array) -> Array:
    """Return the weights [M] that BIC gives."""
    raw = np.exp(-0.5 * (bic - bic.min()))
    return raw / raw.sum()


def weights_by_stacking(densities: Array) -> Array:
    """Return the weights [M] that maximize the held-out log score of the mixture.

    Args:
      densities: float [M, H], each form's predictive density at each held-out point.

    Found by expectation maximization from equal weights (Yao et al., 2018, "Using stacking to average Bayesian
    predictive distributions").
    """
    weights = np.full(len(densities), 1 / len(densities))
    for _ in range(200):
        share = weights[:, None] * np.maximum(densities, 1e-300)
        weights = (share / share.sum(axis=0)).mean(axis=1)
    return weights


def with_least(weights: Array, kept: Array, least: float = MIN_WEIGHT) -> Array:
    """Raise the weights [M] of the forms ``kept`` bool [M] to ``least`` and scale the others down: they add up to 1."""
    weights = np.where(kept, weights, np.minimum(weights, least))
    low = kept & (weights < least)
    while True:
        rest = 1 - least * low.sum()
        scaled = np.where(low, least, weights * rest / max(weights[~low].sum(), 1e-300))
        more = kept & ~low & (scaled < least)
        if not more.any():
            return scaled
        low |= more


@dataclass(frozen=True)
class AveragedForecast:
    """The forms fitted to one frontier, averaged.

    fitted: by law key. weights: float [M], in the same order. rule: how the weights were computed, in words.
    left_out: law key -> why a form has no weight. ceiling: the error of guessing, or infinite.
    """

    fitted: Mapping[str, FrontierFit]
    weights: Array
    rule: str
    left_out: Mapping[str, str]
    ceiling: float = np.inf

    @property
    def names(self) -> tuple[str, ...]:
        """The forms' names."""
        return tuple(f.fit.law.name for f in self.fitted.values())

    def curve_at(self, flops: float) -> Mixture:
        """Return the averaged distribution of the law itself at a compute."""
        predictions = tuple(f.prediction_at(flops) for f in self.fitted.values())
        return Mixture(self.names, self.weights, predictions, self.ceiling)

    def run_at(self, flops: float, sd: float | None = None, extra: float = 0.0) -> Mixture:
        """Return the predictive distribution of a new frontier point (the mean of its seeds) at a compute.

        Args:
          flops: its compute.
          sd: its scatter in ln(error), at least that of the frontier's points; None: theirs.
          extra: a further, independent scatter (a finite evaluation set).
        """
        each = [(f.prediction_at(flops), max(f.scatter, sd or 0.0)) for f in self.fitted.values()]
        predictions = tuple(p.scattered(float(np.hypot(s, extra))) for p, s in each)
        return Mixture(self.names, self.weights, predictions)  # a run may lie above guessing by its noise

    def unconverged_at(self, flops: float, where: str) -> list[str]:
        """Return the forms' warnings of bands whose fits did not converge (`FrontierFit.unconverged_at`)."""
        return [w for f in self.fitted.values() for w in f.unconverged_at(flops, where)]

    @cached_property
    def _knots(self) -> tuple[Array, list[Interval], list[Interval]]:
        knot_flops = knots(next(iter(self.fitted.values())).fit.data.columns["flops"])
        return (
            knot_flops,
            [self.curve_at(p).interval() for p in knot_flops],
            [self.run_at(p).interval() for p in knot_flops],
        )

    def bands(self, grid: Array) -> dict[str, Array]:
        """Return {median, low, high, run_low, run_high} over a grid of FLOPs [n]; NaN where the data leave it open.

        The quantiles are computed at a few FLOPs; between them their distance (in ln) from the weighted geometric mean
        of the forms' curves is interpolated.
        """
        knot_flops, curve, run = self._knots
        y, at_knots = self._mean(grid), self._mean(knot_flops)
        shift = np.log([i.value for i in curve] / at_knots)
        of_curve = {
            "median": y * np.exp(np.interp(np.log(grid), np.log(knot_flops), shift)),
            **interpolated(grid, y, knot_flops, at_knots, curve, ""),
        }
        return {
            **{name: np.minimum(value, self.ceiling) for name, value in of_curve.items()},
            **interpolated(grid, y, knot_flops, at_knots, run, "run_"),
        }

    def _mean(self, flops: Array) -> Array:
        logs = [np.log(np.maximum(f.fit.predict(flops), 1e-12)) for f in self.fitted.values()]
        return np.exp(np.average(logs, axis=0, weights=self.weights))

    def forecast(self, flops: float) -> AveragedRecord:
        """Return the forecast at a compute as plain data.

        Returns:
          {flops, median, curve, run (95 % bands [low, high]; an open end is infinite), weights {form: share}, union
          [low, high] of the forms' own curve bands (as open as any of them), forms [{form, weight, predicted, low,
          high}]}.
        """
        curve, run = self.curve_at(flops), self.run_at(flops)
        per_form = [
            (n, w, f.curve_at(flops)) for n, w, f in zip(self.names, self.weights, self.fitted.values(), strict=True)
        ]
        return {
            "flops": float(flops), "median": curve.median, "curve": list(curve.interval().bounded_ends),
            "run": list(run.interval().bounded_ends), "union": list(curve.union()),
            "weights": dict(zip(self.names, map(float, self.weights), strict=True)),
            "forms": [
                {"form": n, "weight": float(w), "predicted": i.value, "low": low, "high": high}
                for n, w, i in per_form
                for low, high in [i.bounded_ends]
            ],
        }  # fmt: skip


def average(fitted: Mapping[str, FrontierFit], chance: float | None = None) -> AveragedForecast | None:
    """Average the forms fitted to one frontier.

    Args:
      fitted: by law key, the simplest first. Forms with as many parameters as points are left out with the reason.
      chance: the error of guessing, which no curve exceeds.

    Returns:
      The average, or None when no form is left.
    """
    kept: dict[str, FrontierFit] = {}
    left_out: dict[str, str] = {}
    rows = min((f.fit.points for f in fitted.values()), default=0)
    for key, f in fitted.items():
        if f.fit.points <= f.fit.free:
            left_out[key] = f"{f.fit.points} points and as many parameters: nothing of it is tested"
        else:
            kept[key] = f
    if not kept:
        return None
    fits = [on_common_rows(f.fit, rows, chance) for f in kept.values()]
    noise = next(iter(kept.values())).noise
    statistics = fit_statistics(fits, noise)
    accepted = forms_not_rejected(fits, [s["p"] for s in statistics], noise)
    densities = held_out_densities(kept)
    if densities is None:
        weights, rule = weights_by_bic(np.array([s["bic"] for s in statistics])), BY_BIC
    else:
        weights, rule = weights_by_stacking(densities), BY_STACKING
    weights = with_least(weights, accepted)
    return AveragedForecast(kept, weights, rule, left_out, np.inf if chance is None else chance)


def on_common_rows(fit: Fit, rows: int, chance: float | None) -> Fit:
    """Return the fit restricted to the rows that every form was fitted to: those not above chance.

    Args:
      fit: to all rows that its own form takes.
      rows: number of rows that every form takes.
      chance: the error of guessing, or None.
    """
    if fit.points == rows or chance is None:
        return fit
    data = fit.data.where(fit.data.y <= chance)
    seen = replace(fit, data=data)
    return replace(seen, objective=float(np.sum(data.weights * fit.loss.values(seen.residuals))))


def held_out_densities(fitted: Mapping[str, FrontierFit]) -> Array | None:
    """Return each form's predictive density of held-out points, or None where a form could not be tested.

    Each prefix of the points, by FLOPs, predicts the next point. A prefix tests a form only where it has enough points
    to determine the asymptote; at least `MIN_PREFIXES` prefixes must test every form.

    Returns:
      float [M, H], densities of ln(error).
    """
    fits = [f.fit for f in fitted.values()]
    count = fits[0].points
    first = max(f.free for f in fits) + EXTRA_POINTS_FOR_ASYMPTOTE
    prefixes = list(range(first, count))[-MAX_PREFIXES:]
    if len(prefixes) < MIN_PREFIXES or any(f.points != count for f in fits):
        return None
    return np.array([[_density(f, m) for m in prefixes] for f in fitted.values()])


def _density(fitted: FrontierFit, m: int) -> float:
    """Return the predictive density of ln(error) of point m from the points before it.

    To first order this is a Student distribution around the curve.
    """
    from scipy.stats import t

    fit, x, y = fitted.fit, fitted.fit.data.columns["flops"], fitted.fit.data.y
    held = {n: fit.values[n] for n, free in zip(fit.law.names, fit.free_mask, strict=True) if not free}
    before = fit_once(fit.law, x[:m], y[:m], loss=fit.loss, fixed=held)
    at, noise = float(x[m]), fitted.noise
    sd = float(np.hypot(curve_error(before, at) * wider_by(before, noise), scatter(before, noise)))
    off = float(np.log(y[m] / before.predict(at)))
    return float(t.pdf(off / sd, pooled_scale(before, noise)[2])) / sd
