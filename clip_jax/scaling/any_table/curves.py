"""Fit laws of whole learning curves to any table: `clip-jax fit TABLE --law=annealing,multi-power`."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypedDict

import numpy as np

from clip_jax.errors import UserError, require_columns
from clip_jax.scaling.any_table.intervals import fit_data
from clip_jax.scaling.any_table.options import TableFit, fixed_values
from clip_jax.scaling.any_table.rows import NamedColumns, columns_from, explained, rows_where, y_column
from clip_jax.scaling.curves.fit import Curve, CurveFit, fit_curves
from clip_jax.scaling.curves.intervals import REPLICAS, SIMULATED, CurveIntervals, curve_intervals
from clip_jax.scaling.curves.schedule import schedule_of
from clip_jax.scaling.uncertainty.clusters import MIN_GROUPS
from clip_jax.scaling.uncertainty.interval_format import ends_data, ends_text, span_text

if TYPE_CHECKING:
    import pandas as pd

NAMES = ("schedule", "run", "run_id")  # columns tried for the name of a curve
RATES = ("rate", "lr", "learning_rate")  # and for the learning rate


class End(TypedDict):
    """The last row of a curve: step, losses, and the interval of a new run where one is claimed.

    mean_error: mean of abs(predicted/measured - 1) over all rows of the curve after the warm-up.
    """

    curve: str
    params: float | None
    fitted: bool
    step: int
    measured: float | None
    predicted: float
    mean_error: float | None
    low: float | None
    high: float | None


def read_curves(table: pd.DataFrame, what: TableFit) -> list[Curve]:
    """Return the curves of a table, in its order: one for each name in the column ``group``, and for each size.

    A row with a rate and no loss belongs to the schedule alone; a curve without any loss is one to predict.

    Args:
      table: columns step, rate and the loss, where sizes differ also params.
      what: columns, conditions, and the warm-up that is not logged.

    Raises:
      UserError: a missing column; a number that is missing or out of range; see also `schedule.schedule_of`.
    """
    df = rows_where(table, what.where)
    name = what.group or next((c for c in NAMES if c in df.columns), "")
    require_columns(df.columns, [name or NAMES[0]], option="--group")
    mapped = {item.partition("=")[0] for item in what.x}
    rate = next((c for c in RATES if c in df.columns), RATES[0])
    x = what.x if "rate" in mapped or rate == "rate" else (*what.x, f"rate={rate}")
    sized = "params" in mapped or "params" in df.columns
    columns = columns_from(df, NamedColumns("a law of curves", ("step", "rate", *(["params"] if sized else []))), x)
    raw, y = explained(df, what, y_column(df, what, NamedColumns("", tuple(columns))))
    for column, values in columns.items():
        if np.isnan(values).any():
            row = df.index[int(np.argmax(np.isnan(values)))]
            raise UserError(source=f"row {row}", field=column, reason="is missing")
    if (bad := ~np.isnan(y) & ~((y > 0) & (y < np.inf))).any():
        i = int(np.argmax(bad))
        raise UserError(source=f"row {df.index[i]}", field="loss", value=raw[i], reason="must be above 0 and finite")
    sizes = columns.get("params", np.zeros(len(df)))
    several = len(np.unique(sizes)) > 1
    names = df[name].astype(str).to_numpy()
    curves = []
    for label, size in dict.fromkeys(zip(names.tolist(), sizes.tolist(), strict=True)):
        rows = np.flatnonzero((names == label) & (sizes == size))
        rows = rows[np.argsort(columns["step"][rows], kind="stable")]
        step, loss = columns["step"][rows], y[rows]
        schedule = schedule_of(
            step, columns["rate"][rows], warmup_steps=what.warmup_steps, peak=what.peak, name=f"curve {label}"
        )
        known = ~np.isnan(loss)
        if not known.any():
            known[-1] = True  # to be predicted
        params = float(size) if several else None
        curves.append(Curve(label, schedule, step[known].astype(int), loss[known], params))
    return curves


def fit_curve_laws(table: pd.DataFrame, what: TableFit) -> tuple[list[str], dict[str, object]]:
    """Fit the laws and report the last row of each curve, fitted or not, as lines of text and as plain data.

    Args:
      table: as `read_curves` takes it.
      what: the laws and their options.

    Raises:
      UserError: a name in ``curves`` that no curve with a loss has; see also `read_curves` and `fit.fit_curves`.
    """
    curves = read_curves(table, what)
    with_loss = [c for c in curves if not np.isnan(c.losses).any()]
    names = list(dict.fromkeys(c.name for c in with_loss))
    for name in what.curves:
        if name not in names:
            hint = f"those are {', '.join(names)}"
            raise UserError(field="--curves", value=name, reason="no curve of that name has a loss", hint=hint)
    chosen = [c for c in with_loss if c.name in (what.curves or names)]
    fits = [
        fit_curves(
            key, chosen, reading=what.reading,
            fixed=fixed_values(what), loss=what.loss_function,
        )
        for key in what.laws
    ]  # fmt: skip
    used = fits[0].curves
    lines = [f"{len(used)} of {len(curves)} curves fitted, {sum(len(c.steps) for c in used)} rows"]
    data: dict[str, object] = {}
    tables = []
    for fit in fits:
        spans, method = _intervals(fit)
        tables.append([_end(fit, curve, spans, fitted=curve in chosen) for curve in curves])
        lines += [*_law_lines(fit, spans, method), *_end_lines(tables[-1])]
        parameters = {n: spans.parameter(n) for n in _free(fit)} if spans else {}
        data[fit.fit.law.key] = fit_data(fit.fit, parameters) | {
            "reading": fit.reading, "intervals": method, "curves": tables[-1],
        }  # fmt: skip
    if len(fits) > 1:
        mean = [_mean_end([t[i] for t in tables]) for i in range(len(curves))]
        lines += ["  geometric mean of the laws, for which no interval is claimed", *_end_lines(mean)]
        data["mean"] = {"curves": mean}
    return lines, data


def _intervals(fit: CurveFit) -> tuple[CurveIntervals | None, str]:
    """Return the intervals and their method, or None and why there are none."""
    if fit.fit.law.key not in SIMULATED:
        return None, "none: how often they hold has not been simulated for this law"
    least = max(MIN_GROUPS, fit.fit.free + 2)
    if len(fit.curves) < least:
        reason = f"{len(fit.curves)} curves, and those of {fit.fit.free} parameters need at least {least}"
        return None, f"none: {reason}"
    return curve_intervals(fit), f"bootstrap of {len(fit.curves)} curves ({REPLICAS} resamples)"


def _free(fit: CurveFit) -> list[str]:
    return [n for n, free in zip(fit.fit.law.names, fit.fit.free_mask, strict=True) if free]


def _end(fit: CurveFit, curve: Curve, spans: CurveIntervals | None, *, fitted: bool) -> End:
    """Compare law and measurement at the last row of a curve, and over all its rows after the warm-up."""
    late = curve.after_warmup
    off = None if np.isnan(curve.losses).any() or not len(late.steps) else fit.residuals(late)
    predicted = float(fit.predict(curve.schedule, curve.steps[-1:], curve.params)[0])
    low, high = ends_data(spans.ends([curve])[0][1]) if spans and not fitted else (None, None)
    return {
        "curve": curve.name, "params": curve.params, "fitted": fitted, "step": int(curve.steps[-1]),
        "measured": None if off is None else float(curve.losses[-1]), "predicted": predicted,
        "mean_error": None if off is None else float(np.mean(np.abs(np.expm1(off)))),
        "low": low, "high": high,
    }  # fmt: skip


def _mean_end(ends: list[End]) -> End:
    predicted = float(np.exp(np.mean([np.log(e["predicted"]) for e in ends])))
    return {**ends[0], "predicted": predicted, "mean_error": None, "low": None, "high": None}


def _law_lines(fit: CurveFit, spans: CurveIntervals | None, method: str) -> list[str]:
    inner = fit.fit
    lines = [f"  {inner.law.name}, changes of the rate from {fit.reading}: {inner.law.text(inner.values, 5)}"]
    for name, free, parameter in zip(inner.law.names, inner.free_mask, inner.law.parameters, strict=True):
        span = "fixed" if not free else span_text(spans.parameter(name)) if spans else ""
        lines.append(f"    {name:8s} {inner.values[name]:<12.6g} {span:22s} {parameter.meaning}")
    return [
        *lines,
        f"  {inner.status}; {inner.agree} of {inner.starts} polished starts agree; sum of {inner.loss.kind} losses "
        f"(log, {inner.loss.delta:g}) {inner.objective:.6g}; residual sd {inner.residual_sd:.3g}",
        f"  95 % intervals: {method}",
        *(f"  note: {n}" for n in inner.notes),
    ]


def _end_lines(ends: list[End]) -> list[str]:
    lines = ["    last rows             params    step  measured  predicted      off  mean |off|  95 % of a new run"]
    for e in ends:
        size = "" if e["params"] is None else f"{e['params']:.3g}"
        off = "" if e["measured"] is None else f"{e['predicted'] / e['measured'] - 1:+.2%}"
        mean = "" if e["mean_error"] is None else f"{e['mean_error']:.2%}"
        band = "fitted" if e["fitted"] else "" if e["low"] is None else ends_text(e["low"], e["high"])
        measured = "" if e["measured"] is None else f"{e['measured']:.5g}"
        numbers = f"{e['step']:7d} {measured:>9s} {e['predicted']:10.5g} {off:>8s} {mean:>11s}"
        lines.append(f"    {e['curve']:20s} {size:>7s} {numbers}  {band}".rstrip())
    return lines
