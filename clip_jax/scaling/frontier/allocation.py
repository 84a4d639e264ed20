"""Find the compute-optimal allocation: the sizes and samples that minimize a fitted law at a budget, with intervals.

The optimum is found numerically along ``FLOPs = cost``, so it works for any law of sizes and samples seen:
`Chinchilla` (whose closed form is the plain twin in a test), `OverTraining`, `ClipTowers`, `DataRepetition` at a given
number of unique samples, and bounded forms. It is found for every bootstrap draw of the law's parameters at once.

Intervals are percentiles of a bootstrap: rows with replacement from `MIN_ROWS_FOR_CASES` rows on (it needs no model of
the scatter; percentiles expanded for the number of parameters, as Hesterberg, 2015, does for a mean), points redrawn
around the curve below that (`uncertainty.bootstrap`). The interval of y is the curve's own at the optimum, for moving
the optimum changes y to second order only. ``benchmarks/fit_allocation.py`` simulates their coverage: they include the
uncertainty of the law's parameters, not of the choice of the law.

Sources: Hoffmann et al. (2022), approach 3; Muennighoff et al. (2023) for repeated data; Besiroglu et al. (2024) for
the bootstrap of the exponent.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, get_args

import numpy as np

from clip_jax.errors import UserError, one_of
from clip_jax.scaling.fit.result import ILL_CONDITIONED, Fit
from clip_jax.scaling.frontier.cost import SAMPLES, Cost, dense_cost, size_columns
from clip_jax.scaling.frontier.cost_path import CostPath, minimize_along_cost
from clip_jax.scaling.laws.base import Array
from clip_jax.scaling.laws.size_data import FLOPS_PER_PARAM_SAMPLE
from clip_jax.scaling.profile.prediction import Interval
from clip_jax.scaling.profile.profile_likelihood import prediction_interval
from clip_jax.scaling.uncertainty.bootstrap import Resampling, bootstrap
from clip_jax.scaling.uncertainty.interval_format import interval_data, interval_text

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

MIN_ROWS_FOR_CASES = 24  # from which on rows are drawn with replacement


@dataclass(frozen=True)
class Optimum:
    """The compute-optimal run at one budget.

    Attributes:
      flops: the budget.
      sizes: parameters, by size column.
      samples: samples seen (tokens in a language model).
      samples_per_param: samples over the sum of the sizes.
      value: y at the optimum.
      exponents: a of size = G·C^a (and of ``samples_seen``) at this budget; constant in C for Chinchilla's form.
      log_factors: ln G, with C in FLOPs.
    """

    flops: float
    sizes: Mapping[str, Interval]
    samples: Interval
    samples_per_param: Interval
    value: Interval
    exponents: Mapping[str, Interval]
    log_factors: Mapping[str, Interval]


@dataclass(frozen=True)
class Allocation:
    """Optima of a fitted law along a cost.

    Attributes:
      law: key of the law.
      optima: one per budget.
      method: of the intervals, ``cases`` or ``parametric``.
      draws: number of refits behind the intervals.
      identified: False where the data do not bound the law's exponents or amplitudes; all intervals are open then.
      notes: warnings for the reader.
    """

    law: str
    optima: tuple[Optimum, ...]
    method: str
    draws: int
    identified: bool
    notes: tuple[str, ...] = ()

    def as_data(self) -> dict[str, object]:
        """Return plain dictionaries for JSON; an open end of an interval is None."""
        return {
            "law": self.law, "method": self.method, "draws": self.draws, "identified": self.identified,
            "notes": list(self.notes),
            "optima": [
                {
                    "flops": o.flops, SAMPLES: interval_data(o.samples),
                    **{c: interval_data(v) for c, v in o.sizes.items()},
                    "samples_per_param": interval_data(o.samples_per_param), "value": interval_data(o.value),
                    "exponents": {c: interval_data(v) for c, v in o.exponents.items()},
                    "log_factors": {c: interval_data(v) for c, v in o.log_factors.items()},
                }
                for o in self.optima
            ],
        }  # fmt: skip

    @property
    def text(self) -> str:
        """One line per quantity and budget."""
        lines = []
        for o in self.optima:
            lines.append(f"at {o.flops:.4g} FLOPs:")
            for name, value in (*o.sizes.items(), (SAMPLES, o.samples), ("samples per parameter", o.samples_per_param)):
                lines.append(f"  {name}: {interval_text(value)}")
            lines.append(f"  y: {interval_text(o.value)}")
            for c, a in o.exponents.items():
                lines.append(f"  {c} = G·C^a: a {interval_text(a)}, ln G {interval_text(o.log_factors[c])}")
        return "\n".join([*lines, *(f"note: {n}" for n in self.notes)])


def compute_optimal_allocation(
    fit: Fit,
    flops: float | Sequence[float] | Array,
    flops_per_param_sample: float | Mapping[str, float] | Cost = FLOPS_PER_PARAM_SAMPLE,
    *,
    held: Mapping[str, float] | None = None,
    kind: Resampling | None = None,
    groups: ArrayLike | None = None,
    curve: Callable[[dict[str, float]], Interval] | None = None,
    level: float = 0.95,
    draws: int = 500,
    seed: int = 0,
) -> Allocation:
    """Find the sizes and samples that minimize a fitted law at each budget, with intervals.

    Args:
      fit: of a law of model sizes and ``samples_seen``.
      flops: one budget or several, above 0.
      flops_per_param_sample: k of C = k·N·D (one per size column for two towers), or a `Cost`.
      held: value of each further column of the law, such as ``unique_samples``.
      kind: of the bootstrap, ``cases`` or ``parametric``; None chooses by the number of rows.
      groups: [n] labels for ``cases``: groups are drawn first, then rows within each.
      curve: the interval of the law's curve at a point; by default `prediction_interval`.
      level: of the intervals.
      draws: refits.
      seed: of the draws.

    Raises:
      UserError: a law without sizes and samples, a budget not above 0, a further column without a value, a fit that
        failed, or an unknown kind.
    """
    law = fit.law
    size_columns(law)
    cost = k if isinstance(k := flops_per_param_sample, Cost) else dense_cost(law, k)
    budgets = np.atleast_1d(np.asarray(flops, float))
    if not len(budgets) or not (np.isfinite(budgets) & (budgets > 0)).all():
        raise UserError(field="flops", value=flops, reason="must be above 0")
    if fit.status == "failed":
        raise UserError(field="fit", reason="did not converge")
    kind = kind or ("cases" if fit.points >= MIN_ROWS_FOR_CASES or groups is not None else "parametric")
    one_of("allocation.kind", kind, get_args(Resampling))
    ensemble = bootstrap(fit, kind=kind, groups=groups, replicas=draws, seed=seed)
    thetas = np.concatenate([fit.theta[None], ensemble.replicas])
    path = minimize_along_cost(fit, thetas, budgets, cost, held)
    notes, reason = [], _not_identified(fit)
    if reason:
        notes.append(f"not identified: {reason}; every interval is open")
    elif not fit.loss.symmetric:
        notes.append("no interval is claimed of an asymmetric loss")
    elif fit.flat:
        notes.append(f"profile flat: {', '.join(fit.flat)}")
    if cost.residual_sd > 0.1:
        notes.append(f"the runs' FLOPs lie {cost.residual_sd:.0%} (sd) off the cost formula")
    if path.edge[0].any():
        notes.append("an optimum lies at the edge of the sizes searched: the law has none inside")
    tail = expanded_tail(fit.points, fit.free, level) if kind == "cases" else (1 - level) / 2
    opened = bool(reason) or not fit.loss.symmetric
    optima = tuple(_optimum(path, k, float(c), (level, tail), opened) for k, c in enumerate(budgets))
    if not opened:
        curve = curve or (lambda at: prediction_interval(fit, at, level=level))
        at = [{**{c: v.value for c, v in o.sizes.items()}, SAMPLES: o.samples.value, **(held or {})} for o in optima]
        optima = tuple(replace(o, value=curve(point)) for o, point in zip(optima, at, strict=True))
    return Allocation(law.key, optima, kind, len(ensemble.replicas), not reason, tuple(notes))


def _not_identified(fit: Fit) -> str:
    """Explain why the data do not bound the allocation; "" where they do.

    The sizes and samples N*, D* do not depend on the law's asymptote and ceiling.
    """
    # `below` and `above`: laws that lie between two values, which their size and data terms do not depend on
    apart = {fit.law.asymptote, getattr(fit.law, "below", None), getattr(fit.law, "above", None)}
    flat = [f for f in fit.flat if f.rsplit(" ", 1)[0] not in apart]
    bounds = fit.status.removeprefix("bound hit: ").split(", ") if fit.status.startswith("bound hit") else []
    hit = [b for b in bounds if b not in apart]
    if hit:
        return f"{', '.join(hit)} at a bound"
    if flat:
        return f"the profile is flat for {', '.join(flat)}"
    return f"condition {fit.condition:.1e}" if not fit.condition < ILL_CONDITIONED else ""


def expanded_tail(rows: int, free: int, level: float) -> float:
    """Return the share to cut at each end of case-bootstrap draws for an interval of a level.

    Resampled rows scatter by sqrt((n - p)/n) too little, and percentiles know no Student's t; the tail is
    Phi(-t·sqrt(n/(n - p))) with t of n - p degrees of freedom (Hesterberg, 2015, the American Statistician 69).
    """
    from scipy.stats import norm, t

    spare = max(rows - free, 1)
    return float(norm.cdf(-t.ppf((1 + level) / 2, spare) * np.sqrt(rows / spare)))


def _optimum(path: CostPath, k: int, flops: float, levels: tuple[float, float], opened: bool) -> Optimum:
    """Compute the intervals of one budget from the draws; row 0 is the fit itself. Draws at an edge count as unbounded.

    levels: that of the interval, and the share of draws cut at each end.
    """
    edge, (level, tail) = path.edge[1:, k], levels

    def interval(draws: Array, *, exp: bool, sign: int = 0) -> Interval:
        """Return the interval of the draws.

        sign: +1 where a size at its upper edge makes the quantity unbounded above, -1 below, 0 on both sides.
        """
        value, rest = float(draws[0, k]), draws[1:, k]
        lower = np.where(edge == 0, rest, np.where(edge * sign == 1, np.inf, -np.inf))
        upper = np.where(edge == 0, rest, np.where(edge * sign == -1, -np.inf, np.inf))
        low = float(np.quantile(lower, tail, method="lower"))
        high = float(np.quantile(upper, 1 - tail, method="higher"))
        low, high = (-np.inf, np.inf) if opened else (low, high)
        back = np.exp if exp else float
        return Interval(float(back(value)), float(back(low)), float(back(high)), level, low == -np.inf, high == np.inf)

    total = np.logaddexp.reduce(list(path.sizes.values()), axis=0)
    return Optimum(
        flops,
        {c: interval(v, exp=True, sign=1) for c, v in path.sizes.items()},
        interval(path.samples, exp=True, sign=-1),
        interval(path.samples - total, exp=True, sign=-1),
        interval(path.value, exp=False),
        {c: interval(v, exp=False) for c, v in path.exponents.items()},
        {c: interval(v, exp=False) for c, v in path.log_factors.items()},
    )
