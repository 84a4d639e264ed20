"""Fit a law to any table, as `clip-jax fit --law=…` does: which columns, in which unit, which rows enter."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from clip_jax.checks import one_of
from clip_jax.config import UserError
from clip_jax.scaling.checklist import plain_json, write_checklist
from clip_jax.scaling.diagnostics import moved_by_rows, residual_checks
from clip_jax.scaling.fit import Fit, fit_law
from clip_jax.scaling.forecast import compare_laws
from clip_jax.scaling.frontier import binned, hull, octaves, pareto
from clip_jax.scaling.laws import Law, law_named
from clip_jax.scaling.loss import Loss
from clip_jax.scaling.points import noise_floor
from clip_jax.scaling.profile import Interval, parameter_interval, prediction_interval
from clip_jax.scaling.table import read_table

if TYPE_CHECKING:
    import pandas as pd

def fit_any(path: str | Path, what: TableFit, out_dir: str | Path | None = None) -> str:
    """Fit, and say so in text; with ``out_dir`` also write ``fit.json``, ``checklist.json`` and ``checklist.txt``.

    Raises UserError: see `rows_of` and `points.check_points`.
    """
    table = read_table(path)
    laws = [law_of(what, key) for key in what.laws]
    law, loss = laws[0], Loss(what.loss, what.space, what.delta)
    columns, y, index, said = rows_of(table, what, law)
    fit = fit_law(law, columns, y, loss=loss, fixed=fixed_values(what))
    floor = float(np.sqrt(np.mean(noise_floor(y, what.examples) ** 2))) if what.examples else 0.0
    intervals = {
        n: parameter_interval(fit, n, floor=floor) for n, free in zip(law.names, fit.free_mask, strict=True) if free
    }
    forecasts = [(point, *_forecast(fit, law, point, floor)) for point in what.at]
    lines = [f"{path}: {len(y)} rows", *(f"  {s}" for s in said), f"  {law.name}: {law.text(fit.values, 5)}"]
    lines += [f"    {_parameter(fit, n, intervals.get(n))}" for n in law.names]
    lines.append(
        f"  {fit.status}; {fit.agree} of {fit.starts} polished starts agree ({fit.screened} screened); "
        f"sum of {loss.kind} losses ({loss.space}) {fit.objective:.8g}; residual sd {fit.residual_sd:.4g}"
    )
    warnings = [
        *fit.notes,
        *(f"not identified: the profile of {f.split()[0]} is flat {f.split()[1]}" for f in fit.flat),
    ]
    warnings += [*residual_checks(fit, index)["warnings"], *moved_by_rows(fit, index, most=3)]
    lines += [f"  note: {w}" for w in warnings]
    for point, mean, run in forecasts:
        lines.append(f"  at {point}: {mean.value:.4g}, 95 % of the curve {_span(mean)}, of a new run {_span(run)}")
    compared = None
    if len(laws) > 1:
        if any(w.columns != law.columns for w in laws):
            raise UserError("--law: laws of different columns cannot be compared")
        target = point_of(law, what.at[0]) if what.at else {c: np.max(v) * 10 for c, v in columns.items()}
        by = np.prod(list(columns.values()), axis=0)  # compute, up to a factor
        compared = compare_laws(laws, columns, y, target, by, loss=loss)
        lines.append("  held-out extrapolation (fit below a cut, predict above): score, bias, forecast")
        for r in compared["ranking"]:
            score = "-" if r["score"] is None else f"{r['score']:.4f} {r['bias']:+.4f}"
            lines.append(f"    {r['form']:24s} {score:16s} {r['predicted']:.4g} [{r['low']:.4g}, {r['high']:.4g}]")
        lines += [f"  note: {w}" for w in compared["warnings"]]
    if out_dir is not None:
        _write(Path(out_dir), fit, intervals, forecasts, compared, warnings, said, index)
        lines.append(f"  {out_dir}/fit.json, checklist.json, checklist.txt")
    return "\n".join(lines)


def _parameter(fit: Fit, name: str, interval: Interval | None) -> str:
    meaning = fit.law.parameters[fit.law.index(name)].meaning
    return f"{name:8s} {fit.values[name]:<12.6g} {'fixed' if interval is None else _span(interval):28s} {meaning}"


def _span(i: Interval) -> str:
    low, high = ("none" if is_open else f"{v:.4g}" for v, is_open in ((i.low, i.open_low), (i.high, i.open_high)))
    return f"[{low}, {high}]"


def _forecast(fit: Fit, law: Law, text: str, floor: float) -> tuple[Interval, Interval]:
    point = point_of(law, text)
    if min(point.values()) <= 0:
        raise UserError(f"--at={text}: must be above 0")
    return prediction_interval(fit, point, floor=floor), prediction_interval(fit, point, floor=floor, new_run=True)


def _write(
    out: Path, fit: Fit, intervals: dict[str, Interval], forecasts: list[tuple[str, Interval, Interval]],
    compared: dict[str, Any] | None, warnings: list[str], said: list[str], index: np.ndarray,
) -> None:  # fmt: skip
    write_checklist(fit, out, {"left_out": "; ".join(said)} if said else None)
    found = {
        "law": fit.law.key, "formula": fit.law.formula, "latex": fit.law.latex, "text": fit.law.text(fit.values, 8),
        "values": fit.values, "intervals_95": {k: [i.low, i.high] for k, i in intervals.items()},
        "open": {k: [i.open_low, i.open_high] for k, i in intervals.items()}, "status": fit.status,
        "identified": fit.identified, "flat": list(fit.flat), "condition": fit.condition,
        "objective": fit.objective, "loss": [fit.loss.kind, fit.loss.space, fit.loss.delta],
        "screened": fit.screened, "starts": fit.starts, "agree": fit.agree, "residual_sd": fit.residual_sd,
        "rows": [int(i) for i in index], "warnings": warnings, "treatment": said, "compared": compared,
        "forecasts": [
            {"at": p, "value": m.value, "curve": [m.low, m.high], "new_run": [r.low, r.high]} for p, m, r in forecasts
        ],
    }  # fmt: skip
    partial = out / ".fit.json.partial"
    partial.write_text(json.dumps(plain_json(found), indent=1, allow_nan=False) + "\n")
    partial.replace(out / "fit.json")
