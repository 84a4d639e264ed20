"""Two-step laws: loss from compute (or size and samples), then a task's error from the loss; one interval for both.

The second step is conditional on measured losses: error_i = g(loss_i) + noise, whatever scatter the losses have. A
forecast error(C) = g(loss(C)) therefore carries two independent uncertainties when rows scatter around the curves, and
a joint one when rows are resampled.

There are three kinds of intervals. ``cases`` resamples rows, the same rows in both steps, and needs many of them;
``parametric`` redraws the points around each step's curve; ``profile`` combines the profile intervals of both steps:
the ends of all g(l), where the squared normal deviates of l (first step) and of g at l (second step) add up to that of
the level. ``benchmarks/fit_two_step.py`` simulates their coverage. They assume that both laws are true: a link fitted
at high loss only may bend below it, which no interval here includes.

A contrastive loss depends on the batch size (its chance level is ln B), as does any loss on its evaluation data:
rows that differ in such a column must not be mixed, and `fit_two_step` refuses them.

Sources: Gadre et al. (2024), loss to error by an exponential link; Bhagia et al. (2024), two steps; Chen et al. (2024).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike

from clip_jax.errors import UserError, one_of
from clip_jax.scaling.data.observations import Columns, columns_of
from clip_jax.scaling.fit.loss import LOG_HUBER, TINY, Loss, space_of
from clip_jax.scaling.fit.result import Fit
from clip_jax.scaling.fit.solver import solve
from clip_jax.scaling.fit_law import fit_law
from clip_jax.scaling.frontier.allocation import MIN_ROWS_FOR_CASES, expanded_tail
from clip_jax.scaling.laws.base import Array, Law
from clip_jax.scaling.profile.prediction import Interval
from clip_jax.scaling.profile.profile_likelihood import curve_error, prediction_interval
from clip_jax.scaling.uncertainty.bootstrap import Ensemble, Resampling, bootstrap, case_weights, from_weights
from clip_jax.scaling.uncertainty.interval_format import interval_data, interval_text

IntervalMethod = Literal["profile", "parametric", "cases"]
HELD_INSIDE = 0.1  # of a parameter's range, from the bound at which it ends
MIN_EFFECT = 0.05  # standard errors of the curve below which a parameter does not matter there
ANGLES = 5  # ways of sharing the deviate between the two steps, from all in the first to all in the second


@dataclass(frozen=True)
class TwoStepForecast:
    """The two-step forecast at one point.

    Attributes:
      loss: of the first step, with its own interval.
      error: of both steps.
      fixed_loss: interval of the error when the first step is taken as exact, as from a second step alone.
      method: of the intervals. new_run: whether they are for one run rather than for the curve.
    """

    loss: Interval
    error: Interval
    fixed_loss: Interval
    method: str
    new_run: bool

    def as_data(self) -> dict[str, object]:
        """Return plain dictionaries for JSON."""
        parts = {"loss": self.loss, "error": self.error, "fixed_loss": self.fixed_loss}
        return {k: interval_data(v) for k, v in parts.items()} | {"method": self.method, "new_run": self.new_run}

    @property
    def text(self) -> str:
        """The forecast in one line."""
        what = "a new run" if self.new_run else "the curve"
        return f"loss {interval_text(self.loss)}, error {interval_text(self.error)} ({self.method}, {what})"


@dataclass(frozen=True)
class TwoStep:
    """The fits of both steps. ``first_rows`` and ``second_rows``: the table's rows in each, ascending indices."""

    first: Fit
    second: Fit
    first_rows: Array
    second_rows: Array
    rows: int

    def predict(self, columns: Columns) -> Array:
        """Return the error at columns of the first law; the same shape."""
        return self.second.predict(self.first.predict(columns))

    @property
    def text(self) -> str:
        """One line per step."""
        return f"step 1: {self.first.summary()}\nstep 2: {self.second.summary()}"

    def forecast(
        self,
        at: Columns,
        *,
        method: IntervalMethod | None = None,
        new_run: bool = False,
        level: float = 0.95,
        draws: int = 500,
        seed: int = 0,
    ) -> TwoStepForecast:
        """Forecast the error at one point, with an interval that carries both steps.

        Args:
          at: dict of the first law's columns (a number for a law of one column).
          method: ``profile``, ``parametric`` or ``cases``; None takes ``cases`` where both steps have
            `MIN_ROWS_FOR_CASES` rows and ``parametric`` below (``profile`` takes seconds).
          new_run: for one run, whose loss scatters around the first curve and error around the second.
          level: of the interval.
          draws: refits of a bootstrap.
          seed: of the draws.

        Raises:
          UserError: an unknown method, or columns that are missing.
        """
        enough = min(self.first.points, self.second.points) >= MIN_ROWS_FOR_CASES
        method = method or ("cases" if enough else "parametric")
        one_of("two_step.method", method, get_args(IntervalMethod))
        point = {c: np.atleast_1d(v) for c, v in columns_of(self.first.law, at).items()}
        if any(v.size != 1 for v in point.values()):
            raise UserError(field="at", reason="must be a single point")
        if method == "profile":
            result = self._profile(point, new_run, level)
        else:
            result = self._bootstrap(point, method, new_run, level, draws, seed)
        return self._opened(result, point)

    def _opened(self, forecast: TwoStepForecast, point: dict[str, Array]) -> TwoStepForecast:
        """Open the sides on which a band ends only because a parameter of a step is at its bound."""
        center = np.ravel(self.first.predict(point))
        loss, link = _open_sides(self.first, point), _open_sides(self.second, {"loss": center})
        falls = float(self.second.predict(center * 1.001)[0]) < float(self.second.predict(center)[0])
        carried = loss[::-1] if falls else loss

        def opened(interval: Interval, sides: tuple[bool, bool]) -> Interval:
            low, high = interval.open_low or sides[0], interval.open_high or sides[1]
            return replace(interval, open_low=low, open_high=high)

        either = link[0] or carried[0], link[1] or carried[1]
        return replace(
            forecast, loss=opened(forecast.loss, loss), error=opened(forecast.error, either),
            fixed_loss=opened(forecast.fixed_loss, link),
        )  # fmt: skip

    def _profile(self, point: dict[str, Array], new_run: bool, level: float) -> TwoStepForecast:
        from scipy.stats import chi2, norm

        deviate = float(norm.ppf((1 + level) / 2))
        error = float(self.predict(point)[0])
        first = prediction_interval(self.first, point, level=level, new_run=new_run)
        ends: list[Interval] = []
        for angle in np.linspace(0, np.pi / 2, ANGLES):
            share, rest = (float(chi2.cdf((deviate * f(angle)) ** 2, 1)) for f in (np.sin, np.cos))
            losses = [first.value]
            if share > 1e-9:
                part = prediction_interval(self.first, point, level=share, new_run=new_run)
                losses = [part.low, part.high]
            for end in losses:
                if not np.isfinite(end) or end <= 0:
                    ends.append(Interval(error, -np.inf, np.inf, level, end <= 0 or end == -np.inf, end == np.inf))
                elif rest > 1e-9:
                    ends.append(prediction_interval(self.second, end, level=rest, new_run=new_run))
                else:
                    value = float(np.ravel(self.second.predict(end))[0])
                    ends.append(Interval(value, value, value, level))
        both = Interval(
            error, min(e.low for e in ends), max(e.high for e in ends), level,
            any(e.open_low for e in ends), any(e.open_high for e in ends),
        )  # fmt: skip
        alone = prediction_interval(self.second, first.value, level=level, new_run=new_run)
        return TwoStepForecast(first, both, alone, "profile", new_run)

    def _bootstrap(
        self, point: dict[str, Array], kind: Resampling, new_run: bool, level: float, draws: int, seed: int
    ) -> TwoStepForecast:
        first, second = self._ensembles(kind, draws, seed)
        rng = np.random.default_rng(seed + 1)
        count = min(len(first.replicas), len(second.replicas))
        logs = {c: v for c, v in self.first.centered(point).items()}
        losses = self.first.law.predict(first.replicas[:count], logs)[:, 0]
        if new_run:
            losses = _scattered(losses, first.noise[:count], self.first.loss.space, rng)
        center = float(self.first.predict(point)[0])
        errors, alone = (_at_each(self.second, second.replicas[:count], v) for v in (losses, np.full(count, center)))
        if new_run:
            errors, alone = (_scattered(v, second.noise[:count], self.second.loss.space, rng) for v in (errors, alone))
        error, tails = float(self.predict(point)[0]), []
        for fit in (self.first, self.second):
            tails.append(expanded_tail(fit.points, fit.free, level) if kind == "cases" else (1 - level) / 2)
        ends = []
        for v, d, tail in ((center, losses, tails[0]), (error, errors, min(tails)), (error, alone, tails[1])):
            low, high = np.quantile(d, [tail, 1 - tail])
            ends.append(Interval(v, float(low), float(high), level))
        return TwoStepForecast(ends[0], ends[1], ends[2], kind, new_run)

    def _ensembles(self, kind: Resampling, draws: int, seed: int) -> tuple[Ensemble, Ensemble]:
        """Refit both steps; for ``cases`` draw k of both ensembles uses the same resampled rows."""
        if kind == "parametric":
            return tuple(  # type: ignore[return-value]
                bootstrap(fit, kind=kind, replicas=draws, seed=seed + k)
                for k, fit in enumerate((self.first, self.second))
            )
        weights = case_weights(np.random.default_rng(seed), self.rows, draws)
        parts = [(self.first, weights[:, self.first_rows]), (self.second, weights[:, self.second_rows])]
        enough = np.all([(w > 0).sum(axis=1) > fit.free for fit, w in parts], axis=0)
        first, second = (from_weights(fit, w[enough]) for fit, w in parts)
        if first.failed or second.failed:  # draws that do not end are rare, and would shift one list against the other
            first, second = (
                Ensemble(f, r, n, "cases") for f, r, n in ((e.fit, *_shuffled(e, seed)) for e in (first, second))
            )
        return first, second


def _open_sides(fit: Fit, point: dict[str, Array]) -> tuple[bool, bool]:
    """Return whether the curve at a point could lie (lower, higher) if the bounds of the search were wider.

    A parameter that ends at such a bound is held slightly inside it: the direction in which the curve moves from there
    to the optimum is the direction in which it would continue. That no error lies below 0 or above 1 is no bound of the
    search. Without a degree of freedom, and with an asymmetric loss, both sides are open.
    """
    if fit.points <= fit.free or not fit.loss.symmetric:
        return True, True
    low = high = False
    at, error = fit.centered(point), curve_error(fit, point)
    for i in np.flatnonzero(fit.free_mask):
        for bound, other in ((fit.low[i], fit.high[i]), (fit.high[i], fit.low[i])):
            linear = not fit.law.parameters[i].log
            if not np.isclose(fit.theta[i], bound, rtol=1e-6, atol=1e-6) or (linear and bound in (0.0, 1.0)):
                continue
            inside, free = fit.theta.copy(), fit.free_mask.copy()
            inside[i], free[i] = bound + HELD_INSIDE * (other - bound), False
            solved = solve(
                fit.law, fit.logs, fit.data.y, inside[None], fit.low, fit.high, fit.loss,
                weights=fit.data.weights, free=free,
            )  # fmt: skip
            ends = fit.law.predict(np.stack([solved.theta[0], fit.theta]), at)[:, 0]
            before, now = space_of(ends, fit.loss.space, np)
            low, high = low or now < before - MIN_EFFECT * error, high or now > before + MIN_EFFECT * error
    return bool(low), bool(high)


def _shuffled(ensemble: Ensemble, seed: int) -> tuple[Array, Array]:
    order = np.random.default_rng(seed).permutation(len(ensemble.replicas))
    return ensemble.replicas[order], ensemble.noise[order]


def _at_each(fit: Fit, thetas: Array, losses: Array) -> Array:
    """Evaluate the curve of each theta [R, p] at its own loss [R]."""
    column = fit.law.columns[0]
    x = np.log(np.maximum(losses, TINY) / fit.references[column])
    with np.errstate(over="ignore"):
        return fit.law.curve(fit.law.unpack(thetas, np), {column: x}, np)


def _scattered(values: Array, sd: Array, space: str, rng: np.random.Generator) -> Array:
    """Return the values with the scatter of one run added, in the loss's space."""
    noise = sd * rng.standard_normal(len(values))
    return values * np.exp(noise) if space == "log" else values + noise


def fit_two_step(
    law: Law,
    columns: Columns,
    loss: ArrayLike,
    link: Law,
    error: ArrayLike,
    *,
    first_rows: ArrayLike | None = None,
    second_rows: ArrayLike | None = None,
    constant: Mapping[str, ArrayLike] | None = None,
    objectives: tuple[Loss, Loss] = (LOG_HUBER, LOG_HUBER),
    fixed: tuple[Mapping[str, float] | None, Mapping[str, float] | None] = (None, None),
) -> TwoStep:
    """Fit loss(columns) and error(loss) on one table.

    Args:
      law: of the first step.
      columns: its columns, [n] each (an array for a law of one column).
      loss: measured, [n].
      link: a law of the column ``loss``, such as `ExponentialLink`.
      error: measured, [n].
      first_rows: bool [n] or indices of the rows of the first step (a frontier, say); all by default.
      second_rows: the same for the second step.
      constant: name -> values [n] of what the loss depends on beside the law's columns (batch size, validation set);
        each must hold one value over the rows used.
      objectives: losses of the two fits.
      fixed: held parameters of the two fits, as in `fit_law`.

    Raises:
      UserError: a link of another column; a column of ``constant`` with several values; what `fit_law` refuses.
    """
    if link.columns != ("loss",):
        reason = f"must be a law of loss, and is one of {', '.join(link.columns)}"
        raise UserError(field="link", value=link.key, reason=reason)
    loss, error = np.asarray(loss, float), np.asarray(error, float)
    n = len(loss)
    used = [np.arange(n)[slice(None) if rows is None else np.asarray(rows)] for rows in (first_rows, second_rows)]
    used = [np.unique(rows) for rows in used]
    every = np.union1d(*used)
    for name, values in (constant or {}).items():
        kinds = {str(v) for v in np.asarray(values)[every]}
        if len(kinds) > 1:
            shown = ", ".join(sorted(kinds)[:4]) + (", ..." if len(kinds) > 4 else "")
            reason = f"has {len(kinds)} values ({shown}), and losses are comparable at one only"
            raise UserError(field=name, reason=reason)
    x = {c: v[used[0]] for c, v in columns_of(law, columns).items()}
    first = fit_law(law, x, loss[used[0]], loss=objectives[0], fixed=fixed[0])
    second = fit_law(link, {"loss": loss[used[1]]}, error[used[1]], loss=objectives[1], fixed=fixed[1])
    return TwoStep(first, second, used[0], used[1], n)
