"""Two tables against each other, and what to run next for one of them: `clip-jax compare` and `clip-jax design`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from clip_jax.config import UserError
from clip_jax.scaling.compare import compute_gain, crossing, difference
from clip_jax.scaling.design import Plan, best_runs, cheapest_plan
from clip_jax.scaling.fit import Fit, fit_law
from clip_jax.scaling.loss import Loss
from clip_jax.scaling.points import noise_floor
from clip_jax.scaling.table import read_table
from clip_jax.scaling.tablefit import TableFit, fixed_values, law_of, point_of, rows_of
from clip_jax.scaling.uncertainty import bootstrap

PLACES = 5  # at which the difference is printed


def _fitted(path: str | Path, what: TableFit, group: str) -> tuple[Fit, list[str], np.ndarray | None]:
    """The first law of ``what`` on a table, and the labels that its rows are drawn by."""
    table = read_table(path)
    law = law_of(what)
    columns, y, index, said = rows_of(table, what, law)
    labels = None
    if group:
        if group not in table.columns:
            raise UserError(f"--group={group}: {path} lacks this column")
        labels = table[group].astype(str).loc[index].to_numpy()
        if len(set(labels)) < 3:
            raise UserError(f"--group={group}: {path} has {len(set(labels))} groups, at least 3 are needed")
    fixed = fixed_values(what)
    return fit_law(law, columns, y, loss=Loss(what.loss, what.space, what.delta), fixed=fixed), said, labels


def compare_tables(
    first: str | Path, second: str | Path, what: TableFit, *, group: str = "", replicas: int = 1000
) -> str:
    """Both fitted alike; the ratio of their errors, where they cross and the compute that the second saves, in text.

    Args:
      first, second: tables of the two families.
      what: columns, units and the law, of both; ``at`` lists where the gain is wanted (default: the largest x that both
        have).
      group: a column of both, cells or budgets, that rows are drawn by first (hierarchical bootstrap); empty draws
        around the curve.
      replicas: of each bootstrap.

    Raises:
      UserError: as `tablefit.fit_any`; a law of more than one column; tables with no x in common.
    """
    lines, ensembles = [], []
    for seed, path in enumerate((first, second)):
        fit, said, labels = _fitted(path, what, group)
        kind = "cases" if group else "parametric"
        ensembles.append(bootstrap(fit, kind=kind, groups=labels, replicas=replicas, seed=seed))
        lines += [f"{path}: {fit.points} rows", *(f"  {s}" for s in said)]
        lines += [
            f"  {fit.law.name}: {fit.law.text(fit.values, 4)}  ({fit.status})",
            *(f"  note: {n}" for n in fit.notes),
        ]
    a, b = ensembles
    (column,) = a.fit.law.columns if len(a.fit.law.columns) == 1 else ("",)
    if not column:
        raise UserError(f"--law={what.laws[0]}: has more than one column; families are compared along one")
    spans = [(float(e.fit.data.columns[column].min()), float(e.fit.data.columns[column].max())) for e in (a, b)]
    low, high = max(s[0] for s in spans), min(s[1] for s in spans)
    if not low < high:
        raise UserError(f"compare: the tables have no {column} in common: {_spans(spans)}")
    x = np.geomspace(low, high, PLACES)
    found = difference(a, b, x)
    lines.append(f"  {column:>10s}  second/first  95 % interval")
    for i, at in enumerate(x):
        sure = "  surely lower" if found["surely_lower"][i] else "  surely higher" if found["surely_higher"][i] else ""
        lines.append(f"  {at:10.3g}  {found['ratio'][i]:12.4f}  [{found['low'][i]:.4f}, {found['high'][i]:.4f}]{sure}")
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
    """Which of the candidates to run next so that the forecast at the only ``what.at`` becomes sharper, in text.

    Args:
      path: the table of what was run.
      what: columns, units and the law; one point to forecast.
      candidates: points that may be run: ``VALUE``, or ``LAW_COLUMN=VALUE,…``, each ending in ``:COST`` where its cost
        in FLOPs is not the column ``flops`` or 6 · params · samples_seen.
      budget: FLOPs that may be spent; or
      precision: the half width wanted, a share of the forecast.

    Raises:
      UserError: neither or both of budget and precision, and as `fit_any` and `design.best_runs`.
    """
    if (budget > 0) == (precision > 0):
        raise UserError("design: give --budget=FLOPS or --precision=SHARE, one of them")
    if len(what.at) != 1:
        raise UserError("design: needs one --at, the point to forecast")
    if not candidates:
        raise UserError("design: needs --candidate=VALUE, once for each point that may be run")
    fit, said, _ = _fitted(path, what, "")
    law, points, costs = fit.law, [], []
    for text in candidates:
        place, _, cost = text.partition(":")
        point = point_of(law, place)
        points.append(point)
        costs.append(float(cost) if cost else _cost(point, text))
    columns = {c: np.array([p[c] for p in points]) for c in law.columns}
    floor = float(np.sqrt(np.mean(noise_floor(fit.data.y, what.examples) ** 2))) if what.examples else 0.0
    target = point_of(law, what.at[0])
    plan: Plan
    if budget:
        plan = best_runs(fit, target, columns, np.array(costs), budget, floor=floor)
    else:
        plan = cheapest_plan(fit, target, columns, np.array(costs), precision, floor=floor)
    lines = [f"{path}: {fit.points} rows", *(f"  {s}" for s in said), f"  {law.name}: {law.text(fit.values, 4)}"]
    lines.append(f"  the forecast at {what.at[0]} is known to ±{plan.before:.2%} (95 %)")
    for r in plan.chosen:
        where = ", ".join(f"{c}={r[c]:.4g}" for c in law.columns)
        lines.append(f"    run {r['runs']} × {where}  ({r['cost']:.3g} FLOPs)")
    lines.append(f"  {int(plan.runs.sum())} runs, {plan.cost:.3g} FLOPs: then ±{plan.after:.2%}; fit again after each")
    return "\n".join(lines)


def _cost(point: dict[str, float], text: str) -> float:
    if "flops" in point:
        return point["flops"]
    if {"params", "samples_seen"} <= point.keys():
        return 6 * point["params"] * point["samples_seen"]
    raise UserError(f"--candidate={text}: its cost in FLOPs is not known; write {text}:COST")
