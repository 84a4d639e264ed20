"""Find compute-optimal sizes and samples, as `clip-jax fit --law=chinchilla --at=flops=…` does."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from clip_jax.errors import UserError
from clip_jax.scaling.any_table.intervals import TableIntervals
from clip_jax.scaling.any_table.options import TableFit, budget_of, number, pairs
from clip_jax.scaling.any_table.rows import Rows, flops_column, positions_of
from clip_jax.scaling.frontier.allocation import compute_optimal_allocation
from clip_jax.scaling.frontier.cost import SAMPLES, Cost, dense_cost, fit_cost, size_columns
from clip_jax.scaling.laws import Law

if TYPE_CHECKING:
    import pandas as pd

OPTION = "--flops-per-param-sample"


@dataclass(frozen=True)
class AllocationReport:
    """Optima at the requested budgets: ``lines`` for a reader, ``data`` for fit.json."""

    lines: list[str] = field(default_factory=list)
    data: dict[str, object] | None = None


def allocate(
    spans: TableIntervals, rows: Rows, what: TableFit, table: pd.DataFrame, budgets: list[str]
) -> AllocationReport:
    """Find the optimum at each budget of ``--at=flops=…``.

    Args:
      spans: the fit of a law of sizes and samples, with the intervals of its curve.
      rows: the fitted rows; its groups are resampled as groups.
      what: the options.
      table: the whole table, from whose FLOPs the cost of a run is fitted.
      budgets: items of ``--at``.

    Raises:
      UserError: no cost is known; as `options.budget_of` and `frontier.allocation.compute_optimal_allocation`.
    """
    fit = spans.fit
    if not budgets:
        if what.flops_per_param_sample:
            reason = "would be ignored without --at=flops=VALUE for a law of sizes and samples"
            raise UserError(field=OPTION, value=what.flops_per_param_sample, reason=reason)
        return AllocationReport()
    asked = [(text, *budget_of(fit.law, text)) for text in budgets]
    cost, cost_text = cost_of(fit.law, rows, what, table)
    lines, every = [f"  cost: {cost_text}"], []
    for text, flops, held in asked:
        allocation = compute_optimal_allocation(
            fit, flops, cost, held=held, groups=rows.groups, curve=lambda at: spans.forecast(at)[0]
        )
        lines.append(
            f"  optimum of {text}; 95 % of a bootstrap ({allocation.method}, {allocation.draws} resamples),"
            f" of y: {spans.method}"
        )
        lines += [f"    {line.strip()}" for line in allocation.text.splitlines()[1:]]
        every.append({"at": text, "held": held, **allocation.as_data()})
    parts = {c: {"factor": k, "power": power} for c, (k, power) in cost.terms.items()}
    data: dict[str, object] = {
        "cost": {"text": cost_text, "flops_per_sample": parts, "residual_sd": cost.residual_sd},
        "budgets": every,
    }
    return AllocationReport(lines, data)


def cost_of(law: Law, rows: Rows, what: TableFit, table: pd.DataFrame) -> tuple[Cost, str]:
    """Return the cost of a run and where it comes from, in words.

    The option counts first, then the table's FLOPs, then 6 FLOPs per parameter and sample (for one size column).
    """
    sizes = size_columns(law)
    if what.flops_per_param_sample:
        return _given(law, sizes, what.flops_per_param_sample)
    flops = flops_column(table, what.x)
    if flops is None:
        if len(sizes) > 1:
            reason = "the table has no FLOPs, and towers differ in FLOPs per parameter and sample"
            raise UserError(field=OPTION, reason=reason, hint=f"give {_example(sizes)}")
        cost = dense_cost(law)
        return cost, f"{_formula(cost)}, for the table has no FLOPs ({OPTION} sets another factor)"
    flops = flops[positions_of(table, rows)]
    known = np.isfinite(flops) & (flops > 0)
    columns = {c: v[known] for c, v in rows.columns.items()}
    if not known.any():
        raise UserError(field="flops", reason="is not above 0 in any row that was fitted", hint=f"give {OPTION}")
    cost = fit_cost(columns, flops[known], sizes[0]) if len(sizes) == 1 else _fit_towers(columns, flops[known], sizes)
    left = "" if known.all() else f" of {known.sum()} rows"
    return cost, f"{_formula(cost)}, fitted to the table's FLOPs{left} (residual sd {cost.residual_sd:.2g})"


def _example(sizes: tuple[str, ...]) -> str:
    return ",".join(f"{c}=…" for c in sizes)


def _given(law: Law, sizes: tuple[str, ...], text: str) -> tuple[Cost, str]:
    if "=" in text:
        factors = {k: number(v, f"{OPTION}={k}") for k, v in pairs(text.split(","), OPTION.lstrip("-")).items()}
    else:
        factors = dict.fromkeys(sizes[:1], number(text, OPTION))
    if set(factors) != set(sizes):
        raise UserError(field=OPTION, value=text, reason=f"must give {_example(sizes)}")
    if not all(0 < k < np.inf for k in factors.values()):
        raise UserError(field=OPTION, value=text, reason="must be above 0 and finite")
    cost = dense_cost(law, factors)
    return cost, f"{_formula(cost)}, as given"


def _fit_towers(columns: dict[str, np.ndarray], flops: np.ndarray, sizes: tuple[str, ...]) -> Cost:
    """Fit FLOPs per sample as a sum of k · size over towers, k above 0, by least squares of relative residuals."""
    from scipy.optimize import nnls

    per_sample = flops / columns[SAMPLES]
    shares = np.stack([columns[c] / per_sample for c in sizes], axis=1)
    factors = nnls(shares, np.ones(len(shares)))[0]
    if np.linalg.matrix_rank(shares) < len(sizes) or not (factors > 0).all():
        reason = f"the table's FLOPs do not tell a factor for each of {', '.join(sizes)}"
        raise UserError(field=OPTION, reason=reason, hint=f"give {_example(sizes)}")
    return Cost(dict(zip(sizes, ((float(k), 1.0) for k in factors), strict=True)), 0.0, _sd(shares @ factors))


def _sd(ratio: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.log(ratio) ** 2)))


def _formula(cost: Cost) -> str:
    terms = [f"{k:.4g}·{c}" + ("" if abs(p - 1) < 5e-4 else f"^{p:.4g}") for c, (k, p) in cost.terms.items()]
    whole = " + ".join(terms)
    return f"FLOPs = {whole if len(terms) == 1 else f'({whole})'}·{SAMPLES}"
