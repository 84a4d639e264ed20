"""Compare two tables, and plan the next runs of one: `clip-jax compare` and `clip-jax design`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from clip_jax.errors import UserError
from clip_jax.scaling.any_table.intervals import examples_scatter, fit_rows_of, noise_of
from clip_jax.scaling.any_table.options import TableFit, law_of, point_of
from clip_jax.scaling.any_table.rows import Rows, read_rows
from clip_jax.scaling.data.observations import noise_floor
from clip_jax.scaling.data.runs_table import read_table
from clip_jax.scaling.fit.result import Fit
from clip_jax.scaling.laws import Law
from clip_jax.scaling.laws.size_data import FLOPS_PER_PARAM_SAMPLE
from clip_jax.scaling.planning.compare import compute_gain, crossing, difference
from clip_jax.scaling.planning.experimental_design import RunSelection, best_runs, cheapest_plan
from clip_jax.scaling.uncertainty.bootstrap import Resampling, bootstrap
from clip_jax.scaling.uncertainty.clusters import MAX_WEIGHTS, MIN_CLUSTER_REPLICAS

PLACES = 5  # at which the difference is printed


def _fitted(path: str | Path, what: TableFit) -> tuple[Fit, Rows]:
    """Fit the first law of ``what`` to a table that must have more rows than free parameters; return the fit and its
    rows.
    """
    if what.below is not None:
        raise UserError(field="--below", value=what.below, reason="is an option of `clip-jax fit` only")
    law = law_of(what)
    table = read_table(path)
    try:
        rows = read_rows(table, what, law)
        fit = fit_rows_of(rows, what, law)
    except UserError as error:  # one of two tables
        raise error.at(path) from None
    if fit.points <= fit.free:
        reason = f"{fit.points} rows for {fit.free} free parameters: no row is left to estimate the scatter"
        raise UserError(field=path, reason=reason, hint="add rows, or hold a parameter with --fix")
    return fit, rows


def _notes(fit: Fit, rows: Rows) -> list[str]:
    return [f"  note: {n}" for n in (*rows.warnings, *fit.notes)]


def compare_tables(
    first: str | Path, second: str | Path, what: TableFit, *, group: str = "", replicas: int = 1000
) -> str:
    """Compare two tables, fitted alike: the ratio of their errors, where they cross, the compute that the second saves.

    Args:
      first, second: tables of the two series of runs.
      what: columns, units and the law, of both; ``at`` lists the x at which the gain is computed (default: the largest
        x that both have).
      group: a column of both, cells or budgets, that rows are drawn by first (hierarchical bootstrap); empty draws
        around the curve.
      replicas: of each bootstrap.

    Returns:
      The comparison as text.

    Raises:
      UserError: as `fit.fit_any`; a law of more than one column; tables with no x in common; no more rows than
        free parameters.
    """
    group = group or what.group
    lines, ensembles = [], []
    for seed, path in enumerate((first, second)):
        fit, rows = _fitted(path, replace(what, group=group))
        labels = rows.groups
        if labels is not None and len(set(labels)) < 3:
            reason = f"{path} has {len(set(labels))} groups, at least 3 are needed"
            raise UserError(field="--group", value=group, reason=reason)
        kind: Resampling = "cases" if group else "parametric"
        count = min(replicas, max(MIN_CLUSTER_REPLICAS, MAX_WEIGHTS // fit.points))
        ensembles.append(bootstrap(fit, kind=kind, groups=labels, replicas=count, seed=seed))
        lines += [f"{path}: {fit.points} rows", *(f"  {s}" for s in rows.treatment)]
        lines += [f"  {count} resamples, for there are many rows"] if count < replicas else []
        lines += [f"  {fit.law.name}: {fit.law.text(fit.values, 4)}  ({fit.status})", *_notes(fit, rows)]
    a, b = ensembles
    (column,) = a.fit.law.columns if len(a.fit.law.columns) == 1 else ("",)
    if not column:
        reason = "has more than one column; tables are compared along one"
        raise UserError(field="--law", value=what.laws[0], reason=reason)
    spans = [(float(e.fit.data.columns[column].min()), float(e.fit.data.columns[column].max())) for e in (a, b)]
    low, high = max(s[0] for s in spans), min(s[1] for s in spans)
    if not low < high:
        raise UserError(field=column, reason=f"the two tables do not overlap: {_spans(spans)}")
    x = np.geomspace(low, high, PLACES)
    ratios = difference(a, b, x)
    lines.append(f"  {column:>10s}  second/first  95 % interval")
    for i, at in enumerate(x):
        sure = (
            "  surely lower" if ratios["surely_lower"][i] else "  surely higher" if ratios["surely_higher"][i] else ""
        )
        lines.append(
            f"  {at:10.3g}  {ratios['ratio'][i]:12.4f}  [{ratios['low'][i]:.4f}, {ratios['high'][i]:.4f}]{sure}"
        )
    over, under = crossing(a, b, low, high), crossing(b, a, low, high)
    lines.append(f"  second falls below first: {over.text}")
    lines.append(f"  first falls below second: {under.text}")
    for point in what.at or (f"{high:g}",):
        at = point_of(a.fit.law, point)[column]
        lines.append(f"  second {compute_gain(a, b, at).text}")
    return "\n".join(lines)


def _spans(spans: Sequence[tuple[float, float]]) -> str:
    return " and ".join(f"{low:.3g} to {high:.3g}" for low, high in spans)


def design_from_table(
    path: str | Path, what: TableFit, candidates: Sequence[str], *, budget: float = 0.0, precision: float = 0.0
) -> str:
    """Choose which candidates to run next so that the forecast at the only ``what.at`` becomes sharper; return text.

    Args:
      path: the table of the runs so far.
      what: columns, units and the law; one point to forecast.
      candidates: points that may be run: ``VALUE``, or ``LAW_COLUMN=VALUE,…``, each ending in ``:COST`` where its cost
        in FLOPs is not the column ``flops`` or 6 · params · samples_seen.
      budget: FLOPs that may be spent; or
      precision: the half width wanted, as a share of the forecast.

    Raises:
      UserError: neither or both of budget and precision, and as `fit_any` and `experimental_design.best_runs`.
    """
    if (budget > 0) == (precision > 0):
        reason = "exactly one of them is needed"
        raise UserError(field="--budget, --precision", reason=reason, hint="--budget=FLOPS or --precision=SHARE")
    if len(what.at) != 1:
        raise UserError(field="--at", value=what.at, reason="must be given exactly once")
    if not candidates:
        raise UserError(field="--candidate", reason="missing", hint="repeat it for each point that may be run")
    if what.group:
        raise UserError(field="--group", value=what.group, reason="would be ignored by design")
    law = law_of(what)
    points, costs = zip(*(_candidate(law, text) for text in candidates), strict=True)
    target = _point(law, what.at[0], "--at", what.at[0])
    fit, rows = _fitted(path, what)
    columns = {c: np.array([p[c] for p in points]) for c in law.columns}
    floor, floors = noise_of(rows, what).sd, None
    if what.examples:  # at the error that is forecast for each
        floors = noise_floor(np.clip(fit.predict(columns), 1e-9, 1 - 1e-9), what.examples)
    plan: RunSelection
    if budget:
        plan = best_runs(fit, target, columns, np.array(costs), budget, floor=floor, floors=floors)
    else:
        plan = cheapest_plan(fit, target, columns, np.array(costs), precision, floor=floor, floors=floors)
    lines = [f"{path}: {fit.points} rows", *(f"  {s}" for s in rows.treatment)]
    lines += [f"  {law.name}: {law.text(fit.values, 4)}", *_notes(fit, rows)]
    lines.append(f"  the forecast at {what.at[0]} is known to ±{plan.before:.2%} (95 %)")
    if what.examples:
        forecast = float(np.ravel(fit.predict(target))[0])
        same, new = (1.96 * examples_scatter(forecast, fit, what.examples, same=s) for s in (True, False))
        lines.append(
            f"  a run there scatters by its {what.examples} examples alone ±{same:.2%}, on as many new ones ±{new:.2%}"
        )
    for r in plan.chosen:
        where = ", ".join(f"{c}={r.columns[c]:.4g}" for c in law.columns)
        lines.append(f"    run {r.runs} × {where}  ({r.cost:.3g} FLOPs)")
    lines.append(f"  {int(plan.runs.sum())} runs, {plan.cost:.3g} FLOPs: then ±{plan.after:.2%}; fit again after each")
    return "\n".join(lines)


def _point(law: Law, text: str, option: str, whole: str) -> dict[str, float]:
    """Read a point, whose values must be above 0; an error names the option and its whole value."""
    try:
        point = point_of(law, text)
        if not 0 < min(point.values()) <= max(point.values()) < np.inf:
            raise UserError(reason="must be above 0 and finite")
    except UserError as error:
        raise UserError(field=option, value=whole, reason=error.reason) from None
    return point


def _candidate(law: Law, text: str) -> tuple[dict[str, float], float]:
    """Read a candidate point and its cost in FLOPs."""
    point_text, colon, cost_text = text.partition(":")
    point = _point(law, point_text, "--candidate", text)
    if colon:
        try:
            cost = float(cost_text)
        except ValueError:
            cost = np.nan
        if not 0 < cost < np.inf:
            reason = f"its cost {cost_text!r} must be a number of FLOPs above 0"
            raise UserError(field="--candidate", value=text, reason=reason)
        return point, cost
    if "flops" in point:
        return point, point["flops"]
    if {"params", "samples_seen"} <= point.keys():
        return point, FLOPS_PER_PARAM_SAMPLE * point["params"] * point["samples_seen"]
    reason = f"its cost in FLOPs is not known; write {text}:COST"
    raise UserError(field="--candidate", value=text, reason=reason)
