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

UNITS = {"k": 1e3, "M": 1e6, "G": 1e9, "B": 1e9, "T": 1e12, "P": 1e15, "E": 1e18}
MEANINGS = {"error": (0.0, 1.0), "error%": (0.0, 0.01), "accuracy": (1.0, -1.0), "accuracy%": (1.0, -0.01)}
FRONTIERS = ("all", "pareto", "binned", "hull")


@dataclass(frozen=True)
class TableFit:
    """What is to be fitted. law: keys, the first is reported in full. x: ``COLUMN``, ``LAW_COLUMN=COLUMN`` or
    ``LAW_COLUMN=COLUMN*UNIT`` (a number or k M G B T P E). y: a column; y_is: error, error%, accuracy or accuracy%
    (a loss is an "error"). where: ``COLUMN=VALUE`` rows only. chance: the error of guessing: rows
    above it are left out, and laws that have a ceiling stop there. examples: of the evaluation set; its binomial
    scatter is the least that intervals assume (0: unknown). fixed: ``NAME=VALUE``,
    or ``none`` to let few points tell the asymptote. at: ``LAW_COLUMN=VALUE,…`` points to forecast."""

    laws: tuple[str, ...] = ("saturating",)
    x: tuple[str, ...] = ("flops",)
    y: str = "error"
    y_is: str = "error"
    where: tuple[str, ...] = ()
    frontier: str = "all"
    loss: str = "huber"
    space: str = "log"
    delta: float = 0.02
    chance: float | None = None
    examples: int = 0
    fixed: tuple[str, ...] = ()
    at: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        one_of("y-is", self.y_is, tuple(MEANINGS))
        one_of("frontier", self.frontier, FRONTIERS)
        if self.examples and (self.space != "log" or self.examples < 0):
            raise UserError(f"examples={self.examples}: must be above 0, with space=log")
        Loss(self.loss, self.space, self.delta)
        for key in self.laws:
            law_named(key)


def _with_ceiling(law: Law, chance: float | None) -> Law:
    return replace(law, **{"ceiling": chance}) if chance is not None and hasattr(law, "ceiling") else law


def law_of(what: TableFit, key: str = "") -> Law:
    """One of its laws, the first by default, with the ceiling that ``chance`` gives."""
    return _with_ceiling(law_named(key or what.laws[0]), what.chance)


def fixed_values(what: TableFit) -> dict[str, float] | None:
    """Parameters held; None leaves the choice to `fit_law`."""
    if not what.fixed:
        return None
    asked = () if what.fixed == ("none",) else what.fixed
    return {k: _number(v, f"--fix={k}") for k, v in _pairs(asked, "fix").items()}


def _pairs(items: Sequence[str], option: str) -> dict[str, str]:
    out = {}
    for item in items:
        name, equals, value = item.partition("=")
        if not (name and equals and value):
            raise UserError(f"--{option}={item}: must be NAME=VALUE")
        out[name] = value
    return out


def _number(text: str, said: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise UserError(f"{said}: {text!r} is not a number") from None


def columns_from(df: pd.DataFrame, law: Law, x: Sequence[str]) -> dict[str, np.ndarray]:
    """The law's columns from the table's, in the unit that was asked for. Raises UserError."""
    found = {}
    for item in x:
        name, equals, source = item.partition("=")
        if not equals:
            source = name
            name = law.columns[0] if len(law.columns) == 1 else name.partition("*")[0]
        column, star, unit = source.partition("*")
        factor = UNITS[unit] if unit in UNITS else _number(unit, f"--x={item}") if star else 1.0
        if name not in law.columns:
            raise UserError(f"--x={item}: {law.name} has no column {name!r}; it has {', '.join(law.columns)}")
        found[name] = _column(df, column) * factor
    for name in law.columns:
        if name not in found:
            found[name] = _column(df, name)
    return found


def _column(df: pd.DataFrame, name: str) -> np.ndarray:
    import pandas as pd

    if name not in df.columns:
        raise UserError(f"the table lacks the column {name}; it has {', '.join(map(str, df.columns))}")
    numbers = pd.to_numeric(df[name], errors="coerce").astype(float)
    words = df.index[numbers.isna() & df[name].notna()]
    if len(words):
        raise UserError(f"row {words[0]}: {name}={df.loc[words[0], name]!r} is not a number")
    return numbers.to_numpy()


def rows_of(
    df: pd.DataFrame, what: TableFit, law: Law
) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray, list[str]]:
    """(columns, y, row numbers in the table, what was left out and why). Raises UserError on what cannot be treated."""
    said = []
    for column, value in _pairs(what.where, "where").items():
        if column not in df.columns:
            raise UserError(f"--where: the table lacks the column {column}")
        df = df[df[column].astype(str) == value]
        if df.empty:
            raise UserError(f"--where={column}={value}: no row has it")
    twice = df.duplicated()
    if twice.any():
        said.append(f"{int(twice.sum())} rows are exact copies of others, run names included: counted once")
        df = df[~twice]
    columns, (base, sign) = columns_from(df, law, what.x), MEANINGS[what.y_is]
    raw = _column(df, what.y)
    y = base + sign * raw
    if what.y_is != "error" and ((y < 0) | (y > 1)).any():
        row = int(np.argmax((y < 0) | (y > 1)))
        raise UserError(f"row {df.index[row]}: {what.y}={raw[row]:g} read as {what.y_is} is an error of {y[row]:g}")
    keep = np.isfinite(y)
    _leave(said, df, ~keep, f"{what.y} is missing")
    if what.chance is not None:
        above = keep & (y > what.chance)
        _leave(said, df, above, f"error above that of guessing, {what.chance:g}")
        keep &= ~above
    if what.space == "log":
        nothing = keep & (y == 0)
        _leave(said, df, nothing, "an error of 0 has no logarithm")
        keep &= ~nothing
    columns, y, index = {c: v[keep] for c, v in columns.items()}, y[keep], df.index.to_numpy()[keep]
    if what.frontier != "all":
        if len(law.columns) != 1:
            raise UserError(f"--frontier={what.frontier}: {law.name} has more than one column; only 'all' is possible")
        x = next(iter(columns.values()))
        chosen = {"pareto": pareto, "hull": hull, "binned": lambda a, b: binned(a, b, octaves(a, a.min()))}[
            what.frontier
        ](x, y)
        said.append(f"frontier ({what.frontier}): {len(chosen)} of {len(y)} rows")
        columns, y, index = {c: v[chosen] for c, v in columns.items()}, y[chosen], index[chosen]
    return columns, y, index, said


def _leave(said: list[str], df: pd.DataFrame, rows: np.ndarray, why: str) -> None:
    if rows.any():
        said.append(f"{int(rows.sum())} rows left out, the first is row {df.index[int(np.argmax(rows))]}: {why}")


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


def point_of(law: Law, text: str) -> dict[str, float]:
    """A place given as text: VALUE, or LAW_COLUMN=VALUE,… Raises UserError."""
    if "=" not in text and len(law.columns) == 1:
        return {law.columns[0]: _number(text, "--at")}
    found = {k: _number(v, f"--at={k}") for k, v in _pairs(text.split(","), "at").items()}
    if set(found) != set(law.columns):
        raise UserError(f"--at={text}: must give {', '.join(law.columns)}")
    return found


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
