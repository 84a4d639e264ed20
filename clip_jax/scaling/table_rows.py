"""Choose the rows of any table for a fit: which columns, in which unit, which rows enter, and why the others do not.

Rows are named by their number in the file, the first one below the header being row 0, whatever was left out before.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from clip_jax.checks import UserError, one_of
from clip_jax.scaling.frontier import binned, hull, octaves, pareto
from clip_jax.scaling.laws import Law, law_named
from clip_jax.scaling.laws.size_data import FLOPS_PER_PARAM_SAMPLE
from clip_jax.scaling.loss import Loss
from clip_jax.scaling.table import refuse_logarithms

if TYPE_CHECKING:
    import pandas as pd

UNITS = {"k": 1e3, "M": 1e6, "G": 1e9, "B": 1e9, "T": 1e12, "P": 1e15, "E": 1e18}
MEANINGS = {"error": (0.0, 1.0), "error%": (0.0, 0.01), "accuracy": (1.0, -1.0), "accuracy%": (1.0, -0.01)}
FRONTIERS = ("all", "pareto", "binned", "hull")
Y_COLUMNS = ("error", "error_mean", "loss")  # what y is, where exactly one of them is there
SCALES = {"flops", "params", "params_image", "params_text", "samples_seen", "unique_samples"}  # more of it: less error
FAMILY_COLUMNS = ("family", "arm")
UNIT_HINT = "write 10**value, or the unit, as --x=flops=flops*G"
LEAST_DELTA = 1e-12  # Huber's; below it residuals drown in rounding
RISES = 0.8  # rank correlation of an error with compute at which it may be an accuracy


@dataclass(frozen=True)
class TableFit:
    """What is to be fitted to a table.

    Attributes:
      laws: keys; the first is reported in full.
      x: ``COLUMN``, ``LAW_COLUMN=COLUMN`` or ``LAW_COLUMN=COLUMN*UNIT`` (a number or k M G B T P E); none: the law's
        own columns.
      y: a column; empty: ``error``, ``error_mean`` or ``loss``, whichever is there.
      y_is: error, error%, accuracy or accuracy% (a loss is an "error").
      where: ``COLUMN=VALUE`` rows only; numbers are compared as numbers.
      frontier: all, pareto, binned or hull.
      loss, space, delta: of `loss.Loss`.
      chance: the error of guessing. Laws with a ceiling stop there; for the others rows above it are left out.
      examples: of the evaluation set; its binomial scatter is the least that intervals assume (0: unknown).
      fixed: ``NAME=VALUE``, or ``none`` to let few points tell the asymptote.
      at: ``LAW_COLUMN=VALUE,…`` points to forecast.
      weights: a column of weights of the rows; empty: all count alike.
      below: fit only rows below this many FLOPs (or this value of a law's only column), judge the rest; None: fit all.
      group: a column of labels of rows that scatter together; intervals then come from a bootstrap of the groups.
    """

    laws: tuple[str, ...] = ("saturating",)
    x: tuple[str, ...] = ()
    y: str = ""
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
    weights: str = ""
    below: float | None = None
    group: str = ""

    def __post_init__(self) -> None:
        one_of("y-is", self.y_is, tuple(MEANINGS))
        one_of("frontier", self.frontier, FRONTIERS)
        if self.examples and (self.space != "log" or self.examples < 0):
            raise UserError(
                f"examples={self.examples}: must be above 0, with space=log", field="--examples", value=self.examples
            )
        Loss(self.loss, self.space, self.delta)
        if not LEAST_DELTA <= self.delta < np.inf:
            raise UserError(field="--delta", value=self.delta, reason=f"must be at least {LEAST_DELTA:g} and finite")
        if self.below is not None and not 0 < self.below < np.inf:
            raise UserError(field="--below", value=self.below, reason="must be above 0 and finite")
        if self.chance is not None and not 0 < self.chance < np.inf:
            raise UserError(field="--chance", value=self.chance, reason="must be above 0 and finite")
        for key in self.laws:
            law_named(key)


@dataclass(frozen=True)
class Rows:
    """Rows for a fit. columns: the law's, [n] each. y: [n]. index: their numbers in the file. weights, groups: [n], or
    None. cut: [n], what ``below`` is compared with, or None. treatment: what was done to the table, in words. warnings:
    what looks wrong. held_out: the rows at or above ``below``, or None."""

    columns: dict[str, np.ndarray]
    y: np.ndarray
    index: np.ndarray
    weights: np.ndarray | None = None
    groups: np.ndarray | None = None
    cut: np.ndarray | None = None
    treatment: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    held_out: Rows | None = None

    def __len__(self) -> int:
        return len(self.y)

    def take(self, keep: np.ndarray) -> Rows:
        """Return the rows of a mask or of indices; words stay."""
        weights, groups, cut = (None if v is None else v[keep] for v in (self.weights, self.groups, self.cut))
        columns = {c: v[keep] for c, v in self.columns.items()}
        y, index = self.y[keep], self.index[keep]
        return replace(self, columns=columns, y=y, index=index, weights=weights, groups=groups, cut=cut)


def law_of(what: TableFit, key: str = "") -> Law:
    """Return one of its laws, the first by default, with the ceiling that ``chance`` gives."""
    law = law_named(key or what.laws[0])
    return replace(law, **{"ceiling": what.chance}) if what.chance is not None and hasattr(law, "ceiling") else law


def fixed_values(what: TableFit) -> dict[str, float] | None:
    """Return the parameters held; None leaves the choice to `fit_law`."""
    if not what.fixed:
        return None
    asked = () if what.fixed == ("none",) else what.fixed
    return {k: number(v, f"--fix={k}") for k, v in pairs(asked, "fix").items()}


def pairs(items: Sequence[str], option: str) -> dict[str, str]:
    """Split ``NAME=VALUE`` items of an option. Raises UserError."""
    out: dict[str, str] = {}
    for item in items:
        name, equals, value = item.partition("=")
        if not (name and equals and value):
            raise UserError(field=f"--{option}", value=item, reason="must be NAME=VALUE")
        if name in out:
            raise UserError(field=f"--{option}", value=item, reason=f"{name} is given twice")
        out[name] = value
    return out


def number(text: str, said: str) -> float:
    """Read a number of an option, which ``said`` names. Raises UserError."""
    try:
        return float(text)
    except ValueError:
        raise UserError(f"{said}: {text!r} is not a number", field=said, value=text, reason="not a number") from None


def point_of(law: Law, text: str) -> dict[str, float]:
    """Read a point given as text: VALUE, or LAW_COLUMN=VALUE,… Raises UserError."""
    if "=" not in text and len(law.columns) == 1:
        return {law.columns[0]: number(text, "--at")}
    found = {k: number(v, f"--at={k}") for k, v in pairs(text.split(","), "at").items()}
    if set(found) != set(law.columns):
        raise UserError(field="--at", value=text, reason=f"must give {', '.join(law.columns)}")
    return found


def columns_from(df: pd.DataFrame, law: Law, x: Sequence[str]) -> dict[str, np.ndarray]:
    """Return the law's columns from the table's, in the unit that was asked for.

    Args:
      df: the table.
      law: whose columns are wanted.
      x: items as in `TableFit.x`; columns that none names are taken by the law's own names.

    Raises:
      UserError: an unknown column or unit, a column given twice, a word in a column, logarithms of FLOPs.
    """
    found: dict[str, np.ndarray] = {}
    for item in x:
        name, equals, source = item.partition("=")
        if not equals:
            source = name
            name = law.columns[0] if len(law.columns) == 1 else name.partition("*")[0]
        column, star, unit = source.partition("*")
        factor = UNITS[unit] if unit in UNITS else number(unit, f"--x={item}") if star else 1.0
        if name not in law.columns:
            reason = f"{law.name} has no column {name!r}; it has {', '.join(law.columns)}"
            raise UserError(f"--x={item}: {reason}", field="--x", value=item, reason=reason)
        if name in found:
            raise UserError(field="--x", value=item, reason=f"{name} is given twice")
        found[name] = column_of(df, column) * factor
        if name == "flops" and not star:
            refuse_logarithms(found[name], column, UNIT_HINT)
    for name in law.columns:
        if name not in found:
            found[name] = column_of(df, name)
            if name == "flops":
                refuse_logarithms(found[name], name, UNIT_HINT)
    return found


def column_of(df: pd.DataFrame, name: str) -> np.ndarray:
    """Return a column as float64, NaN where nothing stands. Raises UserError for a missing column or a word."""
    import pandas as pd

    if name not in df.columns:
        reason = f"the table lacks the column {name}; it has {', '.join(map(str, df.columns))}"
        raise UserError(reason, field=name, reason=reason)
    numbers = pd.to_numeric(df[name], errors="coerce").astype(float)
    words = df.index[numbers.isna() & df[name].notna()]
    if len(words):
        word = df.loc[words[0], name]
        hint = "; write a decimal point, and no thousands" if re.fullmatch(r"[\d.,]*,[\d.,]*", str(word)) else ""
        raise UserError(
            f"row {words[0]}: {name}={word!r} is not a number{hint}", field=name, value=word, reason="not a number",
            hint=hint.lstrip("; ") or None,
        )  # fmt: skip
    return numbers.to_numpy()


def rows_where(df: pd.DataFrame, items: Sequence[str]) -> pd.DataFrame:
    """Return the rows of ``COLUMN=VALUE``; numbers are equal as numbers (512, 512.0 and 5.12e2). Raises UserError."""
    import pandas as pd

    for column, value in pairs(items, "where").items():
        if column not in df.columns:
            raise UserError(
                f"--where: the table lacks the column {column}", field="--where", value=column, reason="no such column"
            )
        asked = pd.to_numeric(pd.Series([value]), errors="coerce").iloc[0]
        same = df[column].astype(str) == value
        if pd.notna(asked) and (pd.api.types.is_numeric_dtype(df[column]) or not same.any()):
            same = pd.to_numeric(df[column], errors="coerce") == asked
        df = df[same.to_numpy(bool)]
        if df.empty:
            raise UserError(field="--where", value=f"{column}={value}", reason="no row has it")
    return df


def y_column(df: pd.DataFrame, what: TableFit, law: Law) -> str:
    """Return the column to explain. Raises UserError where none or several of the usual ones are there."""
    if what.y:
        return what.y
    there = [c for c in Y_COLUMNS if c in df.columns and c not in law.columns]
    if len(there) == 1:
        return there[0]
    reason = f"the table has {' and '.join(there) if there else 'no column ' + ', '.join(Y_COLUMNS)}"
    hint = f"say which to explain: --y=COLUMN of {', '.join(map(str, df.columns))}"
    raise UserError(f"{reason}; {hint}", field="--y", reason=reason, hint=hint)


def read_rows(df: pd.DataFrame, what: TableFit, law: Law) -> Rows:
    """Choose the rows that a fit of one law takes.

    Args:
      df: the table.
      what: columns, meaning and treatment.
      law: the law; one with a ceiling (``has_ceiling``) keeps rows above ``chance``, whose excess is noise.

    Returns:
      The rows, what was left out and why, and what looks wrong.

    Raises:
      UserError: what cannot be treated, named by its column and its row in the file.
    """
    said: list[str] = []
    df = rows_where(df, what.where)
    try:
        twice = df.duplicated()
    except TypeError:  # a Parquet column of lists
        twice = df.astype(str).duplicated()
    if twice.any():
        said.append(f"{int(twice.sum())} rows are exact copies of others, run names included: counted once")
        df = df[~twice]
    columns, name = columns_from(df, law, what.x), y_column(df, what, law)
    raw, y = _explained(df, what, name)
    cut, cut_name = (None, "") if what.below is None else _cut_values(df, columns, law, said)
    labels = _labels(df, what.group)
    keep = np.ones(len(y), bool)

    def leave(rows: np.ndarray, why: str) -> None:
        nonlocal keep
        _leave(said, df, keep & rows, why)
        keep = keep & ~rows

    leave(np.isnan(y), f"{name} is missing")
    leave(np.isinf(y), f"{name} is infinite")
    for column, values in columns.items():
        leave(np.isnan(values), f"{column} is missing")
    if cut is not None and cut_name not in columns:
        leave(np.isnan(cut), f"{cut_name} is missing")
    if labels is not None:
        leave(labels == "", f"{what.group} is missing")
    if what.chance is not None and not getattr(law, "has_ceiling", False):
        leave(y > what.chance, f"error above that of guessing, {what.chance:g}")
    if what.space == "log":
        leave(y == 0, "an error of 0 has no logarithm")
    if not keep.any():
        above = what.chance is not None and bool((y > what.chance).any())
        wrong = {"field": "--chance", "value": what.chance} if above else {"field": name}
        raise UserError(f"no row is left to fit: {'; '.join(said)}", reason="no row is left", **wrong)
    weights = None if not what.weights else column_of(df, what.weights)
    for column, values in columns.items():
        _refuse(df, keep & ~((values > 0) & (values < np.inf)), column, values)
        if np.array_equal(values[keep], y[keep]):
            reason = f"is {column} itself; there is no law in it"
            raise UserError(f"--y={name}: {reason}", field="--y", value=name, reason=reason)
    if weights is not None:
        _refuse(df, keep & ~((weights > 0) & (weights < np.inf)), what.weights, weights)
    if what.space == "log":
        _refuse(df, keep & (y < 0), name, raw)
    rows = Rows(columns, y, df.index.to_numpy(), weights, labels, cut, said).take(keep)
    if len(rows) > 2 and np.ptp(rows.y) == 0:
        reason = f"is {raw[keep][0]:g} in all {len(rows)} rows: there is no law in it"
        raise UserError(f"{name} {reason}", field=name, value=float(raw[keep][0]), reason=reason)
    rows = replace(rows, warnings=[*_families(df[keep], what), *_rising(rows, what, name)])
    if what.below is None or rows.cut is None:
        return _frontier(rows, what, law)
    under = np.asarray(rows.cut < what.below)
    fitted, rest = rows.take(under), rows.take(~under)
    for part, side in ((fitted, "below"), (rest, "at or above")):
        if not len(part):
            reason = f"no row is {side} it: {cut_name} is {rows.cut.min():.4g} to {rows.cut.max():.4g}"
            raise UserError(field="--below", value=f"{what.below:g}", reason=reason)
    said.append(f"fitted: the {len(fitted)} rows whose {cut_name} is below {what.below:g}; held out: {len(rest)}")
    return replace(_frontier(fitted, what, law), held_out=_frontier(replace(rest, treatment=[]), what, law))


def _refuse(df: pd.DataFrame, bad: np.ndarray, column: str, values: np.ndarray) -> None:
    if bad.any():
        row = int(np.argmax(bad))
        reason = "must be above 0 and finite"
        said = f"row {df.index[row]}: {column}={values[row]:g} {reason} ({int(bad.sum())} such rows)"
        raise UserError(said, field=column, value=float(values[row]), reason=reason)


def rows_of(
    df: pd.DataFrame, what: TableFit, law: Law
) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray, list[str]]:
    """Return (columns, y, row numbers in the file, what was left out and why). Raises as `read_rows`."""
    rows = read_rows(df, what, law)
    return rows.columns, rows.y, rows.index, rows.treatment


def _explained(df: pd.DataFrame, what: TableFit, name: str) -> tuple[np.ndarray, np.ndarray]:
    """The column to explain as it stands, and as an error."""
    base, sign = MEANINGS[what.y_is]
    raw = column_of(df, name)
    y = base + sign * raw
    finite = np.isfinite(raw)
    if what.y_is.endswith("%") and finite.any() and np.abs(raw[finite]).max() <= 1:
        reason, hint = (
            f"no value is above 1 %, the largest is {raw[finite].max():g}",
            f"fractions? --y-is={what.y_is[:-1]}",
        )
        said = f"{name} read as {what.y_is}: {reason}; {hint}"
        raise UserError(said, field="--y-is", value=what.y_is, reason=reason, hint=hint)
    outside = finite & ((y < 0) | (y > 1))
    if what.y_is != "error" and outside.any():
        row = int(np.argmax(outside))
        reason = f"read as {what.y_is} is an error of {y[row]:g}"
        said = f"row {df.index[row]}: {name}={raw[row]:g} {reason}"
        raise UserError(said, field=name, value=float(raw[row]), reason=reason)
    return raw, y


def _labels(df: pd.DataFrame, column: str) -> np.ndarray | None:
    """Labels of rows as text, empty where missing."""
    if not column:
        return None
    if column not in df.columns:
        reason = f"the table lacks this column; it has {', '.join(map(str, df.columns))}"
        raise UserError(field="--group", value=column, reason=reason)
    return np.where(df[column].isna(), "", df[column].astype(str)).astype(str)


def _cut_values(df: pd.DataFrame, columns: dict[str, np.ndarray], law: Law, said: list[str]) -> tuple[np.ndarray, str]:
    """What ``below`` is compared with, and its name."""
    if len(columns) == 1:
        ((name, values),) = columns.items()
        return values, name
    if "flops" in df.columns:
        return column_of(df, "flops"), "flops"
    if {"params", "samples_seen"} <= set(columns):
        said.append("the table has no column flops: 6·params·samples_seen stands for it")
        return FLOPS_PER_PARAM_SAMPLE * columns["params"] * columns["samples_seen"], "6·params·samples_seen"
    reason = f"{law.name} has several columns, and the table no column flops to cut by"
    raise UserError(f"--below: {reason}", field="--below", reason=reason)


def _families(df: pd.DataFrame, what: TableFit) -> list[str]:
    chosen = {item.partition("=")[0] for item in what.where} | {what.group}
    out = []
    for column in FAMILY_COLUMNS:
        if column in df.columns and column not in chosen and df[column].nunique() > 1:
            values = sorted(map(str, df[column].dropna().unique()))
            shown = ", ".join(values[:4]) + (", …" if len(values) > 4 else "")
            out.append(f"{column} holds {shown}: one law is fitted to all; --where={column}={values[0]} takes one")
    return out


def _rising(rows: Rows, what: TableFit, name: str) -> list[str]:
    """A warning, no error: a loss may rise with compute for good reasons, and a law may describe a rising quantity."""
    from scipy.stats import spearmanr

    x = np.sum([np.log(v) for v in rows.columns.values()], axis=0)
    if not set(rows.columns) <= SCALES or len(rows) < 5 or np.ptp(x) == 0:
        return []
    found = spearmanr(x, rows.y)
    if not (found.statistic > RISES and found.pvalue < 0.01):
        return []
    along = next(iter(rows.columns)) if len(rows.columns) == 1 else "scale"
    said = f"{name} read as {what.y_is} grows with {along} (rank correlation {found.statistic:+.2f})"
    kind, percent = what.y_is.rstrip("%"), "%" if what.y_is.endswith("%") else ""
    other = "accuracy" if kind == "error" else "error"
    return [f"{said}: if it is an {other}, give --y-is={other}{percent}"]


def _frontier(rows: Rows, what: TableFit, law: Law) -> Rows:
    if what.frontier == "all":
        return rows
    if len(law.columns) != 1:
        reason = f"{law.name} has more than one column; only 'all' is possible"
        raise UserError(field="--frontier", value=what.frontier, reason=reason)
    x = next(iter(rows.columns.values()))
    choose: dict[str, Any] = {"pareto": pareto, "hull": hull, "binned": lambda a, b: binned(a, b, octaves(a, a.min()))}
    chosen = choose[what.frontier](x, rows.y)
    said = f"frontier ({what.frontier}): {len(chosen)} of {len(rows)} rows"
    return replace(rows.take(chosen), treatment=[*rows.treatment, said])


def _leave(said: list[str], df: pd.DataFrame, rows: np.ndarray, why: str) -> None:
    if rows.any():
        said.append(f"{int(rows.sum())} rows left out, the first is row {df.index[int(np.argmax(rows))]}: {why}")
