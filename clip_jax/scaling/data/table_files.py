"""Read the file of a table: CSV in its dialects, JSON, JSON lines or Parquet. An ambiguous file is refused."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from clip_jax.errors import UserError
from clip_jax.storage.delimited import decode, records, separator_of

if TYPE_CHECKING:
    import pandas as pd

PARQUET, JSON, JSON_LINES = (".parquet", ".pq"), (".json",), (".jsonl", ".ndjson")
SUFFIXES = (".csv", ".tsv", ".txt", *PARQUET, *JSON, *JSON_LINES)
COMPRESSED: dict[str, Any] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
LONGEST = 308  # digits of a whole number that float64 holds
DECIMAL_COMMA = re.compile(r"[+-]?\d+,\d+(?:[eE][+-]?\d+)?")
WHOLE = re.compile(r"[+-]?\d+(?:[eE][+-]?\d+)?")
THOUSANDS = {sign: re.compile(rf"[+-]?[1-9]\d{{0,2}}(?:{re.escape(sign)}\d{{3}})+") for sign in ",."}


def is_table_name(path: str | Path) -> bool:
    """Return whether a name has the suffix of a table, in upper or lower case."""
    return _suffix(Path(path)) in SUFFIXES


def read_file(path: Path) -> pd.DataFrame:
    """Read a table; the suffix of its name gives the format (text of unknown kind is CSV).

    Args:
      path: an existing file.

    Returns:
      One row per row of the file, numbered from 0. Column names are stripped of blanks.

    Raises:
      UserError: an unreadable file; a row with more or fewer fields than the header (trailing separators aside); a
        column name that occurs twice; an ambiguous separator; a number beyond float64.
    """
    import pandas as pd

    kind = _suffix(path)
    try:
        if kind in PARQUET:
            return pd.read_parquet(path)
        opened = COMPRESSED.get(path.suffix.lower(), open)
        with opened(path, "rb") as file:
            raw = file.read()
        text = decode(path, raw)
        df = _from_json(path, text, lines=kind in JSON_LINES) if kind in JSON + JSON_LINES else _from_csv(path, text)
    except UserError:
        raise
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001  # there is no end of what damaged files make readers raise
        detail = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(field=path, reason=f"not a readable table ({detail})") from None
    return df


def _suffix(path: Path) -> str:
    suffixes = [s.lower() for s in path.suffixes]
    if suffixes and suffixes[-1] in COMPRESSED:
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


def _from_csv(path: Path, text: str) -> pd.DataFrame:
    import pandas as pd

    separator = separator_of(path, text)
    split = list(records(text, separator))
    if not split:
        raise UserError(field=path, reason="has no rows")
    head, rows = split[0][1], split[1:]
    trailing = (
        not head[-1].strip() and len(head) > 1 and all(not any(map(str.strip, r[len(head) - 1 :])) for _, r in rows)
    )
    if trailing:  # a separator at the end of every line
        head = head[:-1]
    names = [name.strip() or f"Unnamed: {i}" for i, name in enumerate(head)]
    _unique(path, names)
    for line, fields in rows:
        if len(fields) < len(names) or any(map(str.strip, fields[len(names) :])):
            reason = f"{len(fields)} fields, and the header has {len(names)}"
            torn = len(fields) > len(names) and separator == "," and not any("." in cell for cell in fields)
            hint = "if the decimal sign is a comma, write a point" if torn else None
            raise UserError(source=path, field=f"line {line}", reason=reason, hint=hint)
    if any(len(fields) > len(names) for _, fields in rows) or trailing:
        cut = io.StringIO(newline="")
        csv.writer(cut, delimiter=separator).writerows([names, *(f[: len(names)] for _, f in rows)])
        text = cut.getvalue()
    df = pd.read_csv(
        io.StringIO(text, newline=""), sep=separator, header=0, names=names, index_col=False, dtype={"run_id": str},
        low_memory=False,
    )  # fmt: skip
    cells = [fields for _, fields in rows]
    if len(cells) == len(df):
        if separator != ",":
            _read_decimal_commas(path, df, cells)
        _refuse_overflow(path, df, cells)
    return df


def _unique(path: Path, names: list[str]) -> None:
    twice = [n for i, n in enumerate(names) if n in names[:i]]
    if twice:
        raise UserError(source=path, field=twice[0], reason="two columns have this name")


def _read_decimal_commas(path: Path, df: pd.DataFrame, cells: list[list[str]]) -> None:
    """Convert columns like 0,25 to numbers, in place, where a comma can only be the file's decimal sign."""
    import pandas as pd

    columns = {}
    for position, name in enumerate(df.columns):
        if name == "run_id" or pd.api.types.is_numeric_dtype(df[name]) or pd.api.types.is_bool_dtype(df[name]):
            continue
        texts = [c[position].strip() for c, present in zip(cells, df[name].notna(), strict=True) if present]
        commas = [t for t in texts if DECIMAL_COMMA.fullmatch(t)]
        if commas and all(DECIMAL_COMMA.fullmatch(t) or WHOLE.fullmatch(t) for t in texts):
            columns[name] = commas
    if not any(not THOUSANDS[","].fullmatch(t) for commas in columns.values() for t in commas):
        return  # 1,234 could be thousands: left as text, and refused by name where it is used
    for position, name in enumerate(df.columns):
        dotted = [c[position].strip() for c in cells if "." in c[position]]
        if dotted and pd.api.types.is_numeric_dtype(df[name]) and all(map(THOUSANDS["."].fullmatch, dotted)):
            reason = "may be thousands or decimals in a file with decimal commas"
            raise UserError(source=path, field=name, value=dotted[0], reason=reason)
    for name in columns:
        df[name] = pd.to_numeric(df[name].str.strip().str.replace(",", "."))


def _refuse_overflow(path: Path, df: pd.DataFrame, cells: list[list[str]] | None = None) -> None:
    """Raise UserError for digits that float64 turns into infinity; the word inf is allowed here and checked by the
    callers.
    """
    import pandas as pd

    for position, name in enumerate(df.columns):
        column = df[name]
        if name == "run_id" or pd.api.types.is_integer_dtype(column) or pd.api.types.is_bool_dtype(column):
            continue
        if not pd.api.types.is_float_dtype(column):
            column = column.map(lambda v: v if not isinstance(v, str) or len(v) > 4 else np.nan)
        infinite = np.isinf(pd.to_numeric(column, errors="coerce").to_numpy(float))
        for row in np.flatnonzero(infinite):
            text = str(cells[row][position] if cells else df[name].iloc[row]).strip()
            if text.lower().lstrip("+-") not in ("inf", "infinity"):
                raise UserError(source=f"{path}: row {row}", field=name, value=text, reason="is too large for a number")


def _from_json(path: Path, text: str, *, lines: bool) -> pd.DataFrame:
    """Read a list of objects (or one object per line), each a row; a key that a row lacks becomes a missing value."""
    import pandas as pd

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        _unique(path, [name for name, _ in pairs])
        return dict(pairs)

    options: dict[str, Any] = {
        "parse_int": lambda t: int(t) if len(t) <= LONGEST else t,  # kept as text, for `_refuse_overflow` to name
        "parse_float": lambda t: float(t) if math.isfinite(float(t)) else t,
        "object_pairs_hook": once,
    }
    if lines:
        rows = [json.loads(line, **options) for line in text.split("\n") if line.strip()]
    else:
        rows = json.loads(text, **options)
    if not isinstance(rows, list):
        raise ValueError("a list of objects is needed")
    for i, row in enumerate(rows):
        if not isinstance(row, dict):
            raise ValueError(f"row {i} is no object")
        nested = [k for k, v in row.items() if isinstance(v, (dict, list))]
        if nested:
            reason = "holds several values, and a column holds one"
            raise UserError(source=f"{path}: row {i}", field=nested[0], reason=reason)
    df = pd.DataFrame(rows)
    df.columns = df.columns.map(str)
    _refuse_overflow(path, df)
    return df
