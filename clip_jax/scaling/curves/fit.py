"""Fit a law to whole learning curves, and predict other schedules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np

from clip_jax.errors import UserError, one_of
from clip_jax.scaling.curves.laws import CURVE_LAWS, CurveLaw
from clip_jax.scaling.curves.schedule import Schedule
from clip_jax.scaling.curves.terms import terms_of
from clip_jax.scaling.fit.loss import Loss
from clip_jax.scaling.fit.result import Fit
from clip_jax.scaling.fit_law import fit_law
from clip_jax.scaling.laws.base import Array

CURVE_LOSS = Loss("huber", "log", 1e-3)  # of Luo et al. and Tissue et al.
Reading = Literal["first-step", "after-warmup"]
MOST_ROWS = 600  # of one curve that are fitted: its rows are too alike for more to tell more
MIN_SIZES = 3  # that tell an asymptote, an amplitude and an exponent of size


@dataclass(frozen=True, eq=False)
class Curve:
    """The rows of one run: its schedule, the steps [n] whose losses [n] are known, and its size where sizes differ."""

    name: str
    schedule: Schedule
    steps: Array
    losses: Array
    params: float | None = None

    @property
    def after_warmup(self) -> Curve:
        """The curve without the rows within its warm-up."""
        late = self.steps >= self.schedule.warmup_steps
        return replace(self, steps=self.steps[late], losses=self.losses[late])

    def thinned(self, most: int) -> Curve:
        """Return the curve with at most so many rows, evenly spread and with the last one."""
        if len(self.steps) <= most:
            return self
        rows = np.unique(np.linspace(0, len(self.steps) - 1, most).round().astype(int))
        return replace(self, steps=self.steps[rows], losses=self.losses[rows])


@dataclass(frozen=True)
class CurveFit:
    """A law fitted to curves. fit: of all their rows, one curve after the other. reading: see `fit_curves`."""

    fit: Fit
    curves: tuple[Curve, ...]
    reading: str

    @property
    def labels(self) -> Array:
        """The number of the curve of each row, [n]."""
        return np.repeat(np.arange(len(self.curves)), [len(c.steps) for c in self.curves])

    def at(self, curves: Sequence[Curve]) -> tuple[Fit, dict[str, Array]]:
        """Return (the fit with the law of other curves' rows, the law's columns there), as `Fit.predict` takes them."""
        law, columns = law_at(type(self.fit.law), curves, self.reading)  # type: ignore[arg-type]
        return replace(self.fit, law=law), columns

    def predict(self, schedule: Schedule, steps: Array, params: float | None = None) -> Array:
        """Return the loss at steps [n] of a schedule, of a model of ``params`` where the law is of several sizes."""
        steps = np.atleast_1d(steps)
        fit, columns = self.at([Curve("", schedule, steps, np.ones(len(steps)), params)])
        return fit.predict(columns)

    def residuals(self, curve: Curve) -> Array:
        """Return ln(predicted / measured) of each row of a curve, fitted or not."""
        return np.log(self.predict(curve.schedule, curve.steps, curve.params) / curve.losses)


def law_at(kind: type[CurveLaw], curves: Sequence[Curve], reading: str) -> tuple[CurveLaw, dict[str, Array]]:
    """Return a law of the rows of some curves, and its columns there."""
    law = kind(terms_of([(c.schedule, c.steps) for c in curves], warmup=reading == "first-step"))
    area = np.concatenate([c.schedule.area(c.steps) for c in curves])
    columns = {"row": np.arange(1.0, len(area) + 1), "area": area}
    if "params" in law.columns:
        columns["params"] = np.concatenate([np.full(len(c.steps), c.params, float) for c in curves])
    return law, columns


def fit_curves(
    key: str, curves: Sequence[Curve], *, reading: Reading = "first-step", fixed: Mapping[str, float] | None = None,
    loss: Loss = CURVE_LOSS, most_rows: int = MOST_ROWS,
) -> CurveFit:  # fmt: skip
    """Fit a law to curves; rows within the warm-up are left out, for no such law describes them.

    Args:
      key: ``annealing`` or ``multi-power``.
      curves: at least two schedules between them; where their sizes differ, the law of several sizes is fitted.
      reading: whether the sum over changes of the rate begins at the ``first-step``, so that the rise of the warm-up
        counts, as in the code that Luo et al. (2025) released and for its parameters, or ``after-warmup``. Late in a
        run they differ by a constant, which L0 takes.
      fixed: held parameters, by name.
      loss: Huber of 1e-3 on logarithms by default.
      most_rows: rows of one curve that are fitted, evenly spread.

    Raises:
      UserError: an unknown law or reading; no curve; two sizes and no parameter of size held; see also `fit_law`.
    """
    one_of("law", key, tuple(CURVE_LAWS))
    one_of("--reading", reading, get_args(Reading))
    used = []
    for curve in curves:
        part = curve.after_warmup.thinned(most_rows)
        used += [part] if len(part.steps) else []
    if not used:
        raise UserError(field="curves", value=len(curves), reason="no curve has a loss after its warm-up")
    sizes = {c.params for c in used}
    if len(sizes) > 1 and None in sizes:
        raise UserError(field="params", reason="must be given for each curve or for none")
    kind = CURVE_LAWS[key][len(sizes) > 1]
    law, columns = law_at(kind, used, reading)
    held = set(fixed or {}) & {"L0", "B_N", "beta_N"}
    if 1 < len(sizes) < MIN_SIZES and not held:
        reason = f"{len(sizes)} sizes do not tell L0, B_N and beta_N apart"
        raise UserError(field="params", reason=reason, hint="fit one size, or hold one of them, as beta_N=0.35")
    y = np.concatenate([c.losses for c in used])
    fit = fit_law(law, columns, y, loss=loss, fixed=fixed, profile=False)
    return CurveFit(fit, tuple(used), reading)
