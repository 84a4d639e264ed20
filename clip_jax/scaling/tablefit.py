"""Fit a law to any table, as `clip-jax fit --law=…` does, and say so in text; `table_rows` chooses the rows."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from clip_jax.checks import UserError
from clip_jax.scaling import held_out
from clip_jax.scaling.checklist import plain_json, write_checklist
from clip_jax.scaling.clusters import FEW_GROUPS, ClusterIntervals, cluster_intervals
from clip_jax.scaling.diagnostics import REFIT, influence_method, moved_by_rows, residual_checks
from clip_jax.scaling.fit import Fit, fit_law
from clip_jax.scaling.forecast import compare_laws
from clip_jax.scaling.laws import Law
from clip_jax.scaling.loss import Loss
from clip_jax.scaling.points import noise_floor
from clip_jax.scaling.profile import Interval, Noise, parameter_interval, prediction_interval
from clip_jax.scaling.table import read_table
from clip_jax.scaling.table_options import FRONTIERS, MEANINGS, UNITS, TableFit, fixed_values, law_of, point_of
from clip_jax.scaling.table_rows import Rows, columns_from, read_rows, rows_of

__all__ = [
    "FRONTIERS", "MEANINGS", "UNITS", "TableFit", "columns_from", "fit_any", "fit_rows_of", "fixed_values", "law_of",
    "point_of", "rows_of",
]  # fmt: skip


@dataclass(frozen=True)
class _Intervals:
    """95 % intervals of one fit, all by one method."""

    fit: Fit
    noise: Noise
    clusters: ClusterIntervals | None
    method: str

    def parameter(self, name: str) -> Interval:
        return self.clusters.parameter(name) if self.clusters else parameter_interval(self.fit, name, noise=self.noise)

    def forecast(self, point: dict[str, float]) -> tuple[Interval, Interval]:
        """Of the curve, and of a new run."""
        if self.clusters:
            return self.clusters.forecast(point)
        curve = prediction_interval(self.fit, point, noise=self.noise)
        return curve, prediction_interval(self.fit, point, noise=self.noise, new_run=True)

    def new_run(self, point: dict[str, float]) -> Interval:
        return (
            self.forecast(point)[1]
            if self.clusters
            else prediction_interval(self.fit, point, noise=self.noise, new_run=True)
        )


def fit_rows_of(rows: Rows, what: TableFit, law: Law) -> Fit:
    """Fit a law to rows; weights are relative (their mean is 1). Raises as `fit_law`."""
    weights = None if rows.weights is None else rows.weights / rows.weights.mean()
    loss = Loss(what.loss, what.space, what.delta)
    return fit_law(law, rows.columns, rows.y, loss=loss, weights=weights, fixed=fixed_values(what))


def _intervals(fit: Fit, rows: Rows, what: TableFit) -> _Intervals:
    if what.group and what.examples:
        reason = "would be ignored with --group, whose bootstrap sees the scatter of the rows alone"
        raise UserError(field="--examples", value=what.examples, reason=reason)
    floor = float(np.sqrt(np.mean(noise_floor(rows.y, what.examples) ** 2))) if what.examples else 0.0
    if not what.group:
        return _Intervals(fit, Noise(floor), None, "profile likelihood")
    clusters = cluster_intervals(fit, rows.groups)
    method = f"bootstrap of {clusters.groups} groups of {what.group} ({len(clusters.ensemble.replicas)} resamples)"
    return _Intervals(fit, Noise(floor), clusters, method)


def fit_any(path: str | Path, what: TableFit, out_dir: str | Path | None = None) -> str:
    """Fit, and say so in text; with ``out_dir`` also write ``fit.json``, ``checklist.json`` and ``checklist.txt``.

    Args:
      path: the table.
      what: laws, columns, rows and options.
      out_dir: folder for the files, made if missing.

    Returns:
      The text.

    Raises:
      UserError: see `table_rows.read_rows`, `points.check_points` and `clusters.cluster_intervals`.
    """
    table = read_table(path)
    laws = [law_of(what, key) for key in what.laws]
    law = laws[0]
    if any(w.columns != law.columns for w in laws):
        raise UserError(
            "--law: laws of different columns cannot be compared", field="--law", reason="different columns"
        )
    rows = read_rows(table, what, law)
    points = [_checked_point(law, text) for text in what.at]
    fit = fit_rows_of(rows, what, law)
    spans = _intervals(fit, rows, what)
    intervals = {n: spans.parameter(n) for n, free in zip(law.names, fit.free_mask, strict=True) if free}
    forecasts = [(text, *spans.forecast(point)) for text, point in zip(what.at, points, strict=True)]
    lines = [
        f"{path}: {len(rows)} rows",
        *(f"  {s}" for s in rows.treatment),
        f"  {law.name}: {law.text(fit.values, 5)}",
    ]
    lines += [f"    {_parameter(fit, n, intervals.get(n))}" for n in law.names]
    lines.append(
        f"  {fit.status}; {fit.agree} of {fit.starts} polished starts agree ({fit.screened} screened); "
        f"sum of {fit.loss.kind} losses ({fit.loss.space}) {fit.objective:.8g}; residual sd {fit.residual_sd:.4g}"
    )
    if what.group:
        lines.append(f"  95 % intervals: {spans.method}")
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
    lines += [f"  note: {w}" for w in warnings]
    for point, mean, run in forecasts:
        lines.append(f"  at {point}: {mean.value:.4g}, 95 % of the curve {_span(mean)}, of a new run {_span(run)}")
    judged = None
    if rows.held_out is not None:
        judged = held_out.judge(fit, rows.held_out, spans.new_run)
        lines += held_out.as_lines(judged, law.columns[0] if len(law.columns) == 1 else "flops")
        judged["rms_of_laws"] = _rms_of_laws(table, what, laws, judged["rms"])
        if len(laws) > 1:
            said = ", ".join(f"{k} {v:.4f}" for k, v in judged["rms_of_laws"].items() if v is not None)
            lines.append(f"    rms of each law: {said}")
    compared = _compared(table, what, laws, points) if len(laws) > 1 else None
    lines += _comparison_lines(compared) if compared else []
    if out_dir is not None:
        extra = {
            "warnings": warnings, "treatment": rows.treatment, "rows": [int(i) for i in rows.index],
            "compared": compared, "held_out": judged, "interval_method": spans.method,
            "influence_method": influence_method(fit),
            "weights": what.weights or None, "group": what.group or None,
        }  # fmt: skip
        answers = {"left_out": "; ".join(rows.treatment)} if rows.treatment else None
        write_checklist(fit, out_dir, answers, intervals=intervals, moved=moved, method=spans.method)
        _write(Path(out_dir), fit, intervals, forecasts, extra)
        lines.append(f"  {out_dir}/fit.json, checklist.json, checklist.txt")
    return "\n".join(lines)


def _flat(fit: Fit) -> list[str]:
    return [f"not identified: the profile of {f.split()[0]} is flat {f.split()[1]}" for f in fit.flat]


def _rms_of_laws(table: Any, what: TableFit, laws: list[Law], first: float | None) -> dict[str, float | None]:
    """How far each law, fitted below the cut, is from the rows above it."""
    out = {laws[0].name: first}
    for law in laws[1:]:
        rows = read_rows(table, what, law)
        judged = held_out.judge(fit_rows_of(rows, what, law), rows.held_out, _no_interval)  # type: ignore[arg-type]
        out[law.name] = judged["rms"]
    return out


def _no_interval(point: dict[str, float]) -> Interval:
    return Interval(np.nan, np.nan, np.nan, 0.95)


def _compared(table: Any, what: TableFit, laws: list[Law], points: list[dict[str, float]]) -> dict[str, Any]:
    """The laws ranked by held-out extrapolation, on rows that all of them take."""
    every = [read_rows(table, what, law) for law in laws]
    common = np.logical_and.reduce([np.isin(every[0].index, r.index) for r in every])
    rows = every[0].take(common)
    columns, y = rows.columns, rows.y
    target = points[0] if points else {c: np.max(v) * 10 for c, v in columns.items()}
    by = np.prod(list(columns.values()), axis=0)  # compute, up to a factor
    compared = compare_laws(laws, columns, y, target, by, loss=Loss(what.loss, what.space, what.delta))
    if any(len(r) > len(rows) for r in every):
        compared["warnings"].append(f"laws are compared on the {len(rows)} rows that all of them take")
    if what.weights:
        compared["warnings"].append("laws are compared with rows of equal weight")
    return compared


def _comparison_lines(compared: dict[str, Any]) -> list[str]:
    lines = ["  held-out extrapolation (fit below a cut, predict above): score, bias, forecast"]
    for r in compared["ranking"]:
        score = "-" if r["score"] is None else f"{r['score']:.4f} {r['bias']:+.4f}"
        lines.append(f"    {r['form']:24s} {score:16s} {r['predicted']:.4g} [{r['low']:.4g}, {r['high']:.4g}]")
    return [*lines, *(f"  note: {w}" for w in compared["warnings"])]


def _parameter(fit: Fit, name: str, interval: Interval | None) -> str:
    meaning = fit.law.parameters[fit.law.index(name)].meaning
    return f"{name:8s} {fit.values[name]:<12.6g} {'fixed' if interval is None else _span(interval):28s} {meaning}"


def _span(i: Interval) -> str:
    low, high = ("none" if is_open else f"{v:.4g}" for v, is_open in ((i.low, i.open_low), (i.high, i.open_high)))
    return f"[{low}, {high}]"


def _checked_point(law: Law, text: str) -> dict[str, float]:
    point = point_of(law, text)
    if not 0 < min(point.values()) <= max(point.values()) < np.inf:
        raise UserError(field="--at", value=text, reason="must be above 0 and finite")
    return point


def _write(
    out: Path, fit: Fit, intervals: dict[str, Interval], forecasts: list[tuple[str, Interval, Interval]],
    extra: dict[str, Any],
) -> None:  # fmt: skip
    found = {
        "law": fit.law.key, "formula": fit.law.formula, "latex": fit.law.latex, "text": fit.law.text(fit.values, 8),
        "values": fit.values, "intervals_95": {k: [i.low, i.high] for k, i in intervals.items()},
        "open": {k: [i.open_low, i.open_high] for k, i in intervals.items()}, "status": fit.status,
        "identified": fit.identified, "flat": list(fit.flat), "condition": fit.condition,
        "objective": fit.objective, "loss": [fit.loss.kind, fit.loss.space, fit.loss.delta],
        "screened": fit.screened, "starts": fit.starts, "agree": fit.agree, "residual_sd": fit.residual_sd,
        "forecasts": [
            {"at": p, "value": m.value, "curve": [m.low, m.high], "new_run": [r.low, r.high]} for p, m, r in forecasts
        ],
        **extra,
    }  # fmt: skip
    partial = out / ".fit.json.partial"
    partial.write_text(json.dumps(plain_json(found), indent=1, allow_nan=False) + "\n")
    partial.replace(out / "fit.json")
