"""Fit a law to any table and report it as text, as `clip-jax fit --law=…` does; `any_table.rows` selects the rows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from clip_jax._moved import names_of
from clip_jax.distributed.mesh import log_devices
from clip_jax.errors import UserError
from clip_jax.scaling.analysis.extrapolation import compare_laws
from clip_jax.scaling.any_table import held_out
from clip_jax.scaling.any_table.allocation import allocate
from clip_jax.scaling.any_table.approaches import fit_approach
from clip_jax.scaling.any_table.average import Averaged, average_forms, runs_text
from clip_jax.scaling.any_table.curves import fit_curve_laws
from clip_jax.scaling.any_table.intervals import fit_data, fit_rows_of, intervals_of
from clip_jax.scaling.any_table.options import (
    FRONTIERS,
    MEANINGS,
    UNITS,
    TableFit,
    asks_budget,
    fixed_values,
    law_of,
    point_of,
)
from clip_jax.scaling.any_table.rows import columns_from, read_rows, y_column
from clip_jax.scaling.any_table.tasks import fit_tasks, names_several
from clip_jax.scaling.any_table.two_step import compare_with_direct, fit_steps
from clip_jax.scaling.data.chance import chance_beside
from clip_jax.scaling.data.records import Comparison
from clip_jax.scaling.data.runs_table import read_table
from clip_jax.scaling.fit.result import Fit
from clip_jax.scaling.fit.solver import table_of
from clip_jax.scaling.laws import Law, law_named
from clip_jax.scaling.profile.prediction import Interval
from clip_jax.scaling.profile.statistic import ONE_STEP_PROFILE
from clip_jax.scaling.report.checklist import checklist, folder_for, write_checklist
from clip_jax.scaling.uncertainty.clusters import FEW_GROUPS
from clip_jax.scaling.uncertainty.diagnostics import REFIT, influence_method, moved_by_rows, residual_checks
from clip_jax.scaling.uncertainty.interval_format import ends_text, span_text
from clip_jax.storage.json_files import write_json
from clip_jax.storage.paths import as_path

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "FRONTIERS", "MEANINGS", "UNITS", "TableFit", "columns_from", "fit_any", "fit_rows_of", "fixed_values", "law_of",
    "point_of",
]  # fmt: skip

__getattr__ = names_of(__name__, "scaling.any_table.rows")  # rows_of


def fit_any(path: str | Path, what: TableFit, out_dir: str | Path | None = None) -> str:
    """Fit the laws to a table and report as text; with ``out_dir`` also write ``fit.json`` and, for a law, the
    checklist.

    Args:
      path: the table.
      what: laws, columns, rows and options.
      out_dir: folder for the files, made if missing.

    Returns:
      The text.

    Raises:
      UserError: see `rows.read_rows`, `observations.check_points`, `clusters.cluster_intervals`, and the modules
        `allocation`, `approaches`, `curves`, `tasks` and `two_step` of this package.
    """
    table = read_table(path)
    if not (what.of_curves or what.approach or what.tasks or names_several(what, table)):
        with table_of(len(table)):
            return _fit_laws(path, table, what, out_dir)
    if what.of_curves:
        lines, data = fit_curve_laws(table, what)
    else:
        lines, data = fit_approach(table, what) if what.approach else fit_tasks(table, what)
    lines[0] = f"{path}: {lines[0]}"
    if out_dir is not None:
        _write(Path(out_dir), data)
        lines.append(f"  {out_dir}/fit.json")
    return "\n".join(lines)


def _fit_laws(path: str | Path, table: pd.DataFrame, what: TableFit, out_dir: str | Path | None) -> str:
    what, known = with_chance_beside(path, table, what)
    laws = [law_of(what, key) for key in what.laws]
    law = laws[0]
    if any(w.columns != law.columns for w in laws):
        raise UserError(field="--law", value=",".join(what.laws), reason="laws of different columns cannot be compared")
    steps = fit_steps(table, what, law) if what.then else None
    rows = read_rows(table, what, law)
    budgets = [text for text in what.at if asks_budget(law, text)]
    points = {text: _checked_point(law, text) for text in what.at if text not in budgets}
    log_devices()
    fit = fit_rows_of(rows, what, law)
    spans = intervals_of(fit, rows, what)
    intervals = {n: spans.parameter(n) for n, free in zip(law.names, fit.free_mask, strict=True) if free}
    forecasts = [(text, *spans.forecast(point)) for text, point in points.items()]
    on_new = {text: spans.new_run(point, same=False) for text, point in points.items()} if what.examples else {}
    averaged = average_forms(table, what) if points and law.columns == ("flops",) else Averaged(None)
    optima = allocate(spans, rows, what, table, budgets)
    lines = [
        f"{path}: {len(rows)} rows",
        *(f"  {s}" for s in (*known, *rows.treatment)),
        f"  {law.name}: {law.text(fit.values, 5)}",
    ]
    lines += [f"    {_parameter(fit, n, intervals.get(n))}" for n in law.names]
    lines.append(
        f"  {fit.status}; {fit.agree} of {fit.starts} polished starts agree ({fit.screened} screened); "
        f"sum of {fit.loss.kind} losses ({fit.loss.space}) {fit.objective:.8g}; residual sd {fit.residual_sd:.4g}"
    )
    if what.group or spans.method.startswith(ONE_STEP_PROFILE):
        lines.append(f"  95 % intervals: {spans.method}")
    lines += [f"  {spans.selection}"] if spans.selection else []
    if what.under < 1:
        reason = "the data do not show how far the frontier lies below them"
        lines.append(f"  rows above the curve weigh {what.under:g}; no interval is claimed: {reason}")
    if what.weights:
        lines.append(
            f"  rows weigh by {what.weights}, relative to its mean; a new run is taken to have the mean weight"
        )
    moved = moved_by_rows(fit, rows.index, most=3)
    warnings = [*rows.warnings, *fit.notes, *_flat(fit), *residual_checks(fit, rows.index)["warnings"], *moved]
    if spans.clusters and spans.clusters.groups < FEW_GROUPS:
        warnings.append(f"{spans.clusters.groups} groups are few: intervals are wide, and rest on groups being alike")
    if influence_method(fit) != REFIT:
        lines.append(f"  influence of rows: {influence_method(fit)}, for there are many")
    for text, at in points.items():
        warnings += dict.fromkeys([*spans.unconverged_at(at, text), *averaged.unconverged_at(at, text)])
    lines += [f"  note: {w}" for w in (*warnings, averaged.reason) if w]
    for point, mean, run in forecasts:
        runs = runs_text([span_text(r) for r in (run, on_new.get(point, run))], what.examples)
        lines.append(f"  at {point}: {mean.value:.4g}, 95 % of the curve {span_text(mean)}, of a new run {runs}")
        lines += averaged.lines(points[point]["flops"]) if averaged.forecast else []
    lines += optima.lines
    two_steps = None
    if steps is not None:
        compared_steps, two_steps = compare_with_direct(steps, what, spans, points)
        lines += compared_steps
    judged = None
    if rows.held_out is not None:
        judged = held_out.judge(fit, rows.held_out, spans.new_run)
        lines += held_out.as_lines(judged, law.columns[0] if len(law.columns) == 1 else "flops")
        judged["rms_of_laws"] = _rms_of_laws(table, what, laws, judged["rms"])
        if len(laws) > 1:
            scores = [f"{k} {v:.4f}" for k, v in judged["rms_of_laws"].items() if v is not None]
            lines.append(f"    rms of each law: {', '.join(scores)}")
    compared = _compared(table, what, laws, list(points.values())) if len(laws) > 1 else None
    lines += _comparison_lines(compared) if compared else []
    if out_dir is not None:
        extra = {
            "forecasts": [
                {
                    "at": p, "value": m.value, "curve": list(m.bounded_ends), "new_run": list(r.bounded_ends),
                    "new_run_on_new_examples": list(on_new[p].bounded_ends) if p in on_new else None,
                    "averaged": averaged.as_data(points[p]["flops"]) if averaged.forecast else None,
                }
                for p, m, r in forecasts
            ],
            "warnings": warnings, "treatment": [*known, *rows.treatment], "rows": [int(i) for i in rows.index],
            "compared": compared, "held_out": judged, "interval_method": spans.method,
            "selection": spans.selection or None, "influence_method": influence_method(fit),
            "weights": what.weights or None, "group": what.group or None, "allocation": optima.data,
            "two_step": two_steps, "not_averaged": averaged.reason or None,
        }  # fmt: skip
        answers = {"left_out": "; ".join(rows.treatment)} if rows.treatment else None
        write_checklist(checklist(fit, answers, intervals=intervals, moved=moved, method=spans.method), out_dir)
        _write(Path(out_dir), fit_data(fit, intervals) | extra)
        lines.append(f"  {out_dir}/fit.json, checklist.json, checklist.txt")
    return "\n".join(lines)


def with_chance_beside(path: str | Path, table: pd.DataFrame, what: TableFit) -> tuple[TableFit, list[str]]:
    """Return the options with the error of guessing that ``evals.csv`` beside the table gives, and a line that says so.

    An option ``chance`` goes before it; metrics that the evaluations do not know have none.
    """
    if what.chance is not None or what.y_is != "error":
        return what, []
    metric = y_column(table, what, law_named(what.laws[0]))
    chance = chance_beside(as_path(path).parent, metric)
    if chance is None:
        return what, []
    return replace(what, chance=chance), [
        f"guessing is {chance:.4g} (evals.csv beside the table): --chance=… overrides"
    ]


def _flat(fit: Fit) -> list[str]:
    return [f"not identified: the profile of {f.split()[0]} is flat {f.split()[1]}" for f in fit.flat]


def _rms_of_laws(table: pd.DataFrame, what: TableFit, laws: list[Law], first: float | None) -> dict[str, float | None]:
    """Return the root mean square error of each law, fitted below the cut, on the rows above it."""
    out = {laws[0].name: first}
    for law in laws[1:]:
        rows = read_rows(table, what, law)
        judged = held_out.judge(fit_rows_of(rows, what, law), rows.held_out, _no_interval)  # type: ignore[arg-type]
        out[law.name] = judged["rms"]
    return out


def _no_interval(point: dict[str, float]) -> Interval:
    return Interval(np.nan, np.nan, np.nan, 0.95)


def _compared(table: pd.DataFrame, what: TableFit, laws: list[Law], points: list[dict[str, float]]) -> Comparison:
    """Rank the laws by held-out extrapolation, on rows that all of them accept."""
    every = [read_rows(table, what, law) for law in laws]
    common = np.logical_and.reduce([np.isin(every[0].index, r.index) for r in every])
    rows = every[0].take(common)
    columns, y = rows.columns, rows.y
    target = points[0] if points else {c: np.max(v) * 10 for c, v in columns.items()}
    by = np.prod(list(columns.values()), axis=0)  # compute, up to a factor
    weights = None if rows.weights is None else rows.weights / rows.weights.mean()
    compared = compare_laws(laws, columns, y, target, by, loss=what.loss_function, weights=weights)
    if any(len(r) > len(rows) for r in every):
        compared["warnings"].append(f"laws are compared on the {len(rows)} rows that all of them take")
    return compared


def _comparison_lines(compared: Comparison) -> list[str]:
    lines = ["  held-out extrapolation (fit below a cut, predict above): score, bias, forecast"]
    for r in compared["ranking"]:
        score = "-" if r["score"] is None else f"{r['score']:.4f} {r['bias']:+.4f}"
        lines.append(f"    {r['form']:24s} {score:16s} {r['predicted']:.4g} {ends_text(r['low'], r['high'])}")
    return [*lines, *(f"  note: {w}" for w in compared["warnings"])]


def _parameter(fit: Fit, name: str, interval: Interval | None) -> str:
    meaning = fit.law.parameters[fit.law.index(name)].meaning
    return f"{name:8s} {fit.values[name]:<12.6g} {'fixed' if interval is None else span_text(interval):28s} {meaning}"


def _checked_point(law: Law, text: str) -> dict[str, float]:
    point = point_of(law, text)
    if not 0 < min(point.values()) <= max(point.values()) < np.inf:
        raise UserError(field="--at", value=text, reason="must be above 0 and finite")
    return point


def _write(out: Path, data: dict[str, object]) -> None:
    write_json(folder_for(out) / "fit.json", data)
