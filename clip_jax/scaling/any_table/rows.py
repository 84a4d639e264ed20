"""Select the rows of any table for a fit: their columns and units, which rows enter, and why the others do not.

Rows are named by their number in the file: the first row below the header is row 0, whatever was left out before.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from clip_jax.errors import UserError, require_columns
from clip_jax.scaling.analysis.frontier_fit import SELECT
from clip_jax.scaling.any_table.options import MEANINGS, UNITS, TableFit, number, pairs
from clip_jax.scaling.data.observations import rising_correlation
from clip_jax.scaling.data.runs_table import refuse_logarithms, refuse_mixed_negatives
from clip_jax.scaling.laws import Law
from clip_jax.scaling.laws.size_data import FLOPS_PER_PARAM_SAMPLE

if TYPE_CHECKING:
    import pandas as pd

Y_COLUMNS = ("error", "error_mean", "loss")  # tried for y where none is named; exactly one must exist
SCALES = {"flops", "params", "params_image", "params_text", "samples_seen", "unique_samples"}  # more of it: less error
SERIES_COLUMNS = ("family", "arm")
CONSTANT_SPREAD = 1e-12  # relative spread of a y that does not vary
UNIT_HINT = "write 10**value, or the unit, as --x=flops=flops*G"


@dataclass(frozen=True)
class NamedColumns:
    """Columns to read where there is no law: ``name`` in messages, ``columns`` as a law's."""

    name: str
    columns: tuple[str, ...]


@dataclass(frozen=True)
class Rows:
    """Rows for a fit.

    columns: the law's, [n] each. y: [n]. index: row numbers in the file. weights, groups: [n], or None. cut: [n], the
    values that ``below`` is compared with, or None. treatment: how the table was treated, in words. warnings:
    suspicious findings. held_out: the rows at or above ``below``, or None. candidates: the rows that a frontier was
    selected from.
    """

    columns: dict[str, np.ndarray]
    y: np.ndarray
    index: np.ndarray
    weights: np.ndarray | None = None
    groups: np.ndarray | None = None
    cut: np.ndarray | None = None
    treatment: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    held_out: Rows | None = None
    candidates: Rows | None = None

    def __len__(self) -> int:
        return len(self.y)

    def take(self, keep: np.ndarray) -> Rows:
        """Return the rows of a mask or of indices; ``treatment`` and ``warnings`` are kept."""
        weights, groups, cut = (None if v is None else v[keep] for v in (self.weights, self.groups, self.cut))
        columns = {c: v[keep] for c, v in self.columns.items()}
        y, index = self.y[keep], self.index[keep]
        return replace(self, columns=columns, y=y, index=index, weights=weights, groups=groups, cut=cut)


def columns_from(df: pd.DataFrame, law: Law | NamedColumns, x: Sequence[str]) -> dict[str, np.ndarray]:
    """Return the law's columns from the table's, in the requested units.

    Args:
      df: the table.
      law: the law whose columns are read.
      x: items as in `TableFit.x`; columns that no item names are read under the law's own names.

    Raises:
      UserError: an unknown column or unit, a column given twice, a word in a column, logarithms of FLOPs.
    """
    columns: dict[str, np.ndarray] = {}
    for item in x:
        name, equals, source = item.partition("=")
        if not equals:
            source = name
            name = law.columns[0] if len(law.columns) == 1 else name.partition("*")[0]
        if name == "flops" and name not in law.columns and "samples_seen" in law.columns:
            continue  # what a run costs: `flops_column`
        if name not in law.columns:
            reason = f"{law.name} has no column {name!r}, its columns are {', '.join(law.columns)}"
            raise UserError(field="--x", value=item, reason=reason)
        if name in columns:
            raise UserError(field="--x", value=item, reason=f"{name} is given twice")
        columns[name] = _in_unit(df, source, item)
        if name == "flops" and "*" not in source:
            refuse_logarithms(columns[name], source, UNIT_HINT)
    for name in law.columns:
        if name not in columns:
            columns[name] = column_of(df, name)
            if name == "flops":
                refuse_logarithms(columns[name], name, UNIT_HINT)
    return columns


def _in_unit(df: pd.DataFrame, source: str, item: str) -> np.ndarray:
    """Return a column given as ``COLUMN`` or ``COLUMN*UNIT`` in an item of ``--x``."""
    column, star, unit = source.partition("*")
    factor = UNITS[unit] if unit in UNITS else number(unit, f"--x={item}") if star else 1.0
    return column_of(df, column) * factor


def flops_column(df: pd.DataFrame, x: Sequence[str]) -> np.ndarray | None:
    """Return the runs' cost in FLOPs, from ``flops=COLUMN*UNIT`` in ``x`` or the column ``flops``; None without it."""
    for item in x:
        name, _, source = item.partition("=")
        if name == "flops" and source:
            return _in_unit(df, source, item)
    if "flops" not in df.columns:
        return None
    flops = column_of(df, "flops")
    refuse_logarithms(flops, "flops", UNIT_HINT)
    return flops


def column_of(df: pd.DataFrame, name: str) -> np.ndarray:
    """Return a column as float64, NaN for empty fields. Raises UserError for a missing column or a word."""
    import pandas as pd

    require_columns(df.columns, [name])
    numbers = pd.to_numeric(df[name], errors="coerce").astype(float)
    words = df.index[numbers.isna() & df[name].notna()]
    if len(words):
        word = df.loc[words[0], name]
        advice = "write a decimal point, and no thousands" if re.fullmatch(r"[\d.,]*,[\d.,]*", str(word)) else None
        raise UserError(source=f"row {words[0]}", field=name, value=word, reason="must be a number", hint=advice)
    return numbers.to_numpy()


def rows_where(df: pd.DataFrame, items: Sequence[str]) -> pd.DataFrame:
    """Return the rows of ``COLUMN=VALUE``; numbers are equal as numbers (512, 512.0 and 5.12e2). Raises UserError."""
    import pandas as pd

    for column, value in pairs(items, "where").items():
        require_columns(df.columns, [column], option="--where")
        asked = pd.to_numeric(pd.Series([value]), errors="coerce").iloc[0]
        same = df[column].astype(str) == value
        if pd.notna(asked) and (pd.api.types.is_numeric_dtype(df[column]) or not same.any()):
            same = pd.to_numeric(df[column], errors="coerce") == asked
        df = df[same.to_numpy(bool)]
        if df.empty:
            raise UserError(field="--where", value=f"{column}={value}", reason="matches no row")
    return df


def y_column(df: pd.DataFrame, what: TableFit, law: Law | NamedColumns) -> str:
    """Return the name of the column to explain. Raises UserError where none or several of the usual ones exist."""
    if what.y:
        return what.y
    candidates = [c for c in Y_COLUMNS if c in df.columns and c not in law.columns]
    if len(candidates) == 1:
        return candidates[0]
    reason = f"missing, and the table has {' and '.join(candidates) or 'no column ' + ', '.join(Y_COLUMNS)}"
    hint = f"name the column to explain, one of {', '.join(map(str, df.columns))}"
    raise UserError(field="--y", reason=reason, hint=hint)


def read_rows(df: pd.DataFrame, what: TableFit, law: Law | NamedColumns) -> Rows:
    """Select the rows for the fit of one law.

    Args:
      df: the table.
      what: columns, meaning and treatment.
      law: the law; one with a ceiling (``has_ceiling``) keeps rows above ``chance``, whose excess is noise.

    Returns:
      The rows, with what was left out and why, and with warnings.

    Raises:
      UserError: a value that cannot be treated, named by its column and its row in the file.
    """
    treatment: list[str] = []
    df = rows_where(df, what.where)
    try:
        twice = df.duplicated()
    except TypeError:  # a Parquet column of lists
        twice = df.astype(str).duplicated()
    if twice.any():
        treatment.append(f"{int(twice.sum())} rows are exact copies of others, run names included: counted once")
        df = df[~twice]
    columns, name = columns_from(df, law, what.x), y_column(df, what, law)
    raw, y = explained(df, what, name)
    cut, cut_name = (None, "") if what.below is None else _cut_values(df, columns, law, treatment, what.x)
    labels = _labels(df, what.group)
    weights = None if not what.weights else column_of(df, what.weights)
    not_there = {c: np.isnan(v) for c, v in columns.items()}
    if cut is not None:
        not_there[cut_name] = np.isnan(cut)
    if labels is not None:
        not_there[what.group] = labels == ""
    unusable = [
        (np.isnan(y), f"{name} is missing"),
        (np.isinf(y), f"{name} is infinite"),
        *((rows, f"{column} is missing") for column, rows in not_there.items()),
    ]
    if what.chance is not None and not getattr(law, "has_ceiling", False):
        unusable.append((y > what.chance, f"error above that of guessing, {what.chance:g}"))
    if what.space == "log":
        unusable.append((y == 0, "an error of 0 has no logarithm"))
    keep = np.ones(len(y), bool)
    for rows, exclusion in unusable:
        if (keep & rows).any():
            first = df.index[int(np.argmax(keep & rows))]
            treatment.append(f"{int((keep & rows).sum())} rows left out, the first is row {first}: {exclusion}")
        keep = keep & ~rows
    if not keep.any():
        above = what.chance is not None and bool((y > what.chance).any())
        wrong = {"field": "--chance", "value": what.chance} if above else {"field": name}
        raise UserError(reason=f"no row is left to fit ({', '.join(treatment)})", **wrong)
    if what.chance is not None and (y[keep] > what.chance).all():
        reason = f"every {name} is above it, so no row is better than guessing"
        raise UserError(field="--chance", value=what.chance, reason=reason)
    for column, values in {**columns, **({} if weights is None else {what.weights: weights})}.items():
        _refuse(df, keep & ~((values > 0) & (values < np.inf)), column, values)
    if what.space == "log":
        _refuse(df, keep & (y < 0), name, raw)
    refuse_mixed_negatives(df[keep], name)
    chosen = Rows(columns, y, df.index.to_numpy(), weights, labels, cut, treatment).take(keep)
    _refuse_no_law(chosen, name)
    chosen = replace(chosen, warnings=[*_series_warnings(df[keep], what), *_rising(chosen, what, name)])
    if what.below is None:
        return _frontier(chosen, what, law)
    return _split(chosen, what, law, cut_name)


def rows_of(
    df: pd.DataFrame, what: TableFit, law: Law
) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray, list[str]]:
    """Return the columns, y, row numbers and treatment of `read_rows`, which has taken its place.

    Deprecated: it is here for `clip_jax.scaling.tablefit.rows_of`, and goes with the next release.

    Args:
      df, what, law: as of `read_rows`.
    """
    rows = read_rows(df, what, law)
    return rows.columns, rows.y, rows.index, rows.treatment


def positions_of(df: pd.DataFrame, rows: Rows) -> np.ndarray:
    """Return the positions of the rows in the table they were read from, ints [n]."""
    import pandas as pd

    return np.asarray(df.index.get_indexer(pd.Index(rows.index)))


def _refuse_no_law(rows: Rows, name: str) -> None:
    for column, values in rows.columns.items():
        if np.array_equal(values, rows.y):
            reason = f"is the same column as {column}, so there is nothing to fit"
            raise UserError(field="--y", value=name, reason=reason)
    if len(rows) > 2 and np.ptp(rows.y) <= CONSTANT_SPREAD * np.abs(rows.y).max():
        reason = f"the same in all {len(rows)} rows, so there is nothing to fit"
        raise UserError(field=name, value=float(rows.y[0]), reason=reason)


def _split(rows: Rows, what: TableFit, law: Law | NamedColumns, cut_name: str) -> Rows:
    """Keep the rows below the cut, with those at or above it as ``held_out``; a frontier is selected on each side."""
    assert rows.cut is not None
    assert what.below is not None
    under = np.asarray(rows.cut < what.below)
    for part, side in ((under, "below"), (~under, "at or above")):
        if not part.any():
            reason = f"no row is {side} it: {cut_name} is {rows.cut.min():.4g} to {rows.cut.max():.4g}"
            raise UserError(field="--below", value=f"{what.below:g}", reason=reason)
    split = f"fitted: the {under.sum()} rows whose {cut_name} is below {what.below:g}; held out: {(~under).sum()}"
    fitted = replace(rows.take(under), treatment=[*rows.treatment, split])
    rest = replace(rows.take(~under), treatment=[])
    return replace(_frontier(fitted, what, law), held_out=_frontier(rest, what, law))


def _refuse(df: pd.DataFrame, bad: np.ndarray, column: str, values: np.ndarray) -> None:
    if bad.any():
        row = int(np.argmax(bad))
        reason = f"must be above 0 and finite ({int(bad.sum())} such rows)"
        raise UserError(source=f"row {df.index[row]}", field=column, value=float(values[row]), reason=reason)


def explained(df: pd.DataFrame, what: TableFit, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the column to explain as it is in the table, and converted to an error."""
    base, sign = MEANINGS[what.y_is]
    raw = column_of(df, name)
    y = base + sign * raw
    finite = np.isfinite(raw)
    if what.y_is.endswith("%") and finite.any() and np.abs(raw[finite]).max() <= 1:
        reason = f"no value of {name} is above 1 %, the largest is {raw[finite].max():g}"
        hint = f"if they are fractions: --y-is={what.y_is[:-1]}"
        raise UserError(field="--y-is", value=what.y_is, reason=reason, hint=hint)
    outside = finite & ((y < 0) | (y > 1))
    if what.y_is != "error" and outside.any():
        row = int(np.argmax(outside))
        reason = f"as {what.y_is} (--y-is) it is an error of {y[row]:g}, not one of 0 to 1"
        raise UserError(source=f"row {df.index[row]}", field=name, value=float(raw[row]), reason=reason)
    return raw, y


def _labels(df: pd.DataFrame, column: str) -> np.ndarray | None:
    """Return labels of rows as text, empty where missing."""
    if not column:
        return None
    require_columns(df.columns, [column], option="--group")
    return np.where(df[column].isna(), "", df[column].astype(str)).astype(str)


def _cut_values(
    df: pd.DataFrame, columns: dict[str, np.ndarray], law: Law | NamedColumns, treatment: list[str], x: Sequence[str]
) -> tuple[np.ndarray, str]:
    """Return the values that ``below`` is compared with, and their name."""
    if len(columns) == 1:
        ((name, values),) = columns.items()
        return values, name
    if (flops := flops_column(df, x)) is not None:
        return flops, "flops"
    if {"params", "samples_seen"} <= set(columns):
        treatment.append("the table has no column flops: 6·params·samples_seen stands for it")
        return FLOPS_PER_PARAM_SAMPLE * columns["params"] * columns["samples_seen"], "6·params·samples_seen"
    reason = f"{law.name} has several columns, and the table has no column flops to compare it with"
    raise UserError(field="--below", reason=reason)


def _series_warnings(df: pd.DataFrame, what: TableFit) -> list[str]:
    chosen = {item.partition("=")[0] for item in what.where} | {what.group}
    out = []
    for column in SERIES_COLUMNS:
        if column in df.columns and column not in chosen and df[column].nunique() > 1:
            values = sorted(map(str, df[column].dropna().unique()))
            shown = ", ".join(values[:4]) + (", …" if len(values) > 4 else "")
            out.append(f"{column} holds {shown}: one law is fitted to all; --where={column}={values[0]} takes one")
    return out


def _rising(rows: Rows, what: TableFit, name: str) -> list[str]:
    """Warn where y rises with compute; it is no error: a loss may do so, and a law may describe a rising quantity."""
    x = np.sum([np.log(v) for v in rows.columns.values()], axis=0)
    correlation = rising_correlation(x, rows.y) if set(rows.columns) <= SCALES else None
    if correlation is None:
        return []
    along = next(iter(rows.columns)) if len(rows.columns) == 1 else "scale"
    message = f"{name} read as {what.y_is} grows with {along} (rank correlation {correlation:+.2f})"
    kind, percent = what.y_is.rstrip("%"), "%" if what.y_is.endswith("%") else ""
    other = "accuracy" if kind == "error" else "error"
    return [f"{message}: if it is an {other}, give --y-is={other}{percent}"]


def _frontier(rows: Rows, what: TableFit, law: Law | NamedColumns) -> Rows:
    if what.frontier == "all":
        return rows
    if len(law.columns) != 1:
        reason = f"{law.name} has more than one column; only 'all' is possible"
        raise UserError(field="--frontier", value=what.frontier, reason=reason)
    x = next(iter(rows.columns.values()))
    chosen = SELECT[what.frontier](x, rows.y)
    message = f"frontier ({what.frontier}): {len(chosen)} of {len(rows)} rows"
    return replace(rows.take(chosen), treatment=[*rows.treatment, message], candidates=rows)
