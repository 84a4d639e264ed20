"""Evaluate a fit on held-out rows: those at or above a cut in scale."""

from __future__ import annotations

from collections.abc import Callable
from typing import NotRequired, TypedDict

import numpy as np

from clip_jax.scaling.any_table.rows import Rows
from clip_jax.scaling.fit.loss import TINY
from clip_jax.scaling.fit.result import Fit
from clip_jax.scaling.profile.prediction import Interval
from clip_jax.scaling.uncertainty.interval_format import ends_text

MAX_SHOWN = 10  # rows that are printed, each with an interval of its own


class HeldOutRow(TypedDict):
    """A held-out row; its interval, and whether it holds the measurement, only where it is shown."""

    row: int
    at: float
    columns: dict[str, float]
    measured: float
    predicted: float
    low: float | None
    high: float | None
    inside: bool | None


class HeldOut(TypedDict):
    """The result of `judge`; rms_of_laws: of each law compared."""

    rms: float | None
    bias: float | None
    rows: int
    shown: int
    inside: int
    table: list[HeldOutRow]
    rms_of_laws: NotRequired[dict[str, float | None]]


def judge(fit: Fit, rows: Rows, new_run: Callable[[dict[str, float]], Interval]) -> HeldOut:
    """Compare the forecast of each held-out row with its measurement.

    Args:
      fit: of the rows below the cut.
      rows: the held-out rows.
      new_run: the interval of a new run at a point.

    Returns:
      {rms (of ln(predicted / measured)), bias (its mean), rows, shown, inside, table}; table: for every row, by the
      cut, {row, at, columns, measured, predicted, low, high, inside}. Intervals are those of at most ten rows, spread
      evenly over the cut (None elsewhere), and ``inside`` counts them.
    """
    predicted = np.asarray(fit.predict(rows.columns), float)
    with np.errstate(divide="ignore", invalid="ignore"):
        off = np.log(np.maximum(predicted, TINY)) - np.log(rows.y)
    off = off[np.isfinite(off)]
    at = rows.cut if rows.cut is not None else next(iter(rows.columns.values()))
    order = np.argsort(at, kind="stable")
    positions = np.unique(np.linspace(0, len(order) - 1, min(len(order), MAX_SHOWN)).round().astype(int))
    shown = set(order[positions].tolist())
    known: dict[tuple[float, ...], Interval] = {}
    table: list[HeldOutRow] = []
    for i in order.tolist():
        point = {c: float(v[i]) for c, v in rows.columns.items()}
        row: HeldOutRow = {
            "row": int(rows.index[i]), "at": float(at[i]), "columns": point, "measured": float(rows.y[i]),
            "predicted": float(predicted[i]), "low": None, "high": None, "inside": None,
        }  # fmt: skip
        if i in shown:
            key = tuple(point.values())
            if key not in known:
                known[key] = new_run(point)
            span = known[key]
            low, high = span.bounded_ends
            bounded = bool(np.isfinite([low, high]).all())  # an open band contains any value
            row["low"], row["high"] = low, high
            row["inside"] = bool(low <= rows.y[i] <= high) if bounded else None
        table.append(row)
    return {
        "rms": float(np.sqrt(np.mean(off**2))) if len(off) else None,
        "bias": float(np.mean(off)) if len(off) else None,
        "rows": len(rows), "shown": len(shown), "inside": sum(r["inside"] is True for r in table), "table": table,
    }  # fmt: skip


def as_lines(judged: HeldOut, name: str = "at") -> list[str]:
    """Format the result of `judge`: one line per shown row, then the counts."""
    lines = [f"  held out: {name:>9s}  measured  predicted  95 % of a new run"]
    for r in judged["table"]:
        if r["low"] is not None:
            where = {True: "inside", False: "OUTSIDE", None: "open"}[r["inside"]]
            span = ends_text(r["low"], r["high"])
            numbers = f"{r['at']:8.3g}  {r['measured']:8.4g}  {r['predicted']:9.4g}  {span:18s}"
            lines.append(f"    row {r['row']:<6d} {numbers} {where}")
    summary = f"    {judged['inside']} of {judged['shown']} shown rows inside"
    if judged["rows"] > judged["shown"]:
        summary += f"; {judged['rows'] - judged['shown']} more rows not shown"
    if judged["rms"] is not None:
        summary += (
            f"; rms of ln(predicted/measured) {judged['rms']:.4f} over all {judged['rows']}, mean {judged['bias']:+.4f}"
        )
    return [*lines, summary]
