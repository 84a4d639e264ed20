"""Read and check the table of runs that every fit starts from: one row per run. It needs no model code."""

from __future__ import annotations

import logging
import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from clip_jax.errors import UserError, require_columns
from clip_jax.scaling.data.table_files import read_file

if TYPE_CHECKING:
    import pandas as pd

logger = logging.getLogger(__name__)

REQUIRED_COLUMNS = ("run_id", "flops", "params", "samples_seen")
DEFAULTS: dict[str, bool | int | str] = {"seed": 0, "final": True, "kind": "cell", "batch_size": 0}
NEGATIVES = "val_negatives"  # column: negatives per pair of the validation loss
VALIDATION_LOSSES = ("val_loss", "val_loss_refit")
LR_CHECK: Final = "lr_check"
CHECKED = {  # by the kind of a run that tries another value of one setting
    LR_CHECK: "learning rate",
    "decay_check": "weight decay",
    "warmup_check": "warm-up",
    "batch_check": "batch size",
}
FINAL = dict.fromkeys(("true", "1", "1.0", "yes"), True)
FINAL |= dict.fromkeys(("false", "0", "0.0", "no", "nan", "none", "<na>", ""), False)
FLOPS_NAME = re.compile(r"(^|[^a-z])flops?([^a-z]|$)", re.IGNORECASE)
LOG_NAME = re.compile(r"(^|[^a-z])(log|ln)(10|2)?([^a-z]|$)", re.IGNORECASE)
LOGARITHMS = (3.0, 60.0)  # log10 of 1e3 to ln of 1e26


def read_table(path: str | Path) -> pd.DataFrame:
    """Read a CSV, JSON, JSON-lines or Parquet table of runs, from this project or any other; rows are numbered from 0.

    Raises:
      UserError: a file that is missing, unreadable, empty or open to two readings (see `table_files.read_file`).
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(field=path, reason="no such table")
    df = read_file(path)
    if df.empty:
        raise UserError(field=path, reason="has no rows")
    logger.info("reading %s: %s rows", path, f"{len(df):,}")
    return df


def prepare(df: pd.DataFrame, metric: str, name: str = "table") -> pd.DataFrame:
    """Check the columns and add the optional ones with their defaults; ``budget`` defaults to ``flops``.

    Args:
      df: the table.
      metric: the column to explain.
      name: name of the table in messages.

    Returns:
      A copy with numbers as float64.

    Raises:
      UserError: a missing column, the run whose number is out of range, FLOPs that are plainly logarithms.
    """
    if metric in (*REQUIRED_COLUMNS, "budget"):
        reason = "is a scale, not an error or a loss"
        raise UserError(field="--metric", value=metric, reason=reason)
    require_columns(df.columns, (*REQUIRED_COLUMNS, metric), source=name)
    df = df.copy()
    for column, value in {**DEFAULTS, "budget": df["flops"]}.items():
        if column not in df.columns:
            df[column] = value
    df["final"] = [_is_final(value, run, name) for value, run in zip(df["final"], df["run_id"], strict=True)]
    for column in ("flops", "params", "samples_seen", "budget", metric):
        df[column] = _numbers(df, column, name)
    df["batch_size"] = _numbers(df, "batch_size", name).fillna(DEFAULTS["batch_size"])
    if df["run_id"].duplicated().any():
        twice = df.loc[df["run_id"].duplicated(), "run_id"].iloc[0]
        raise UserError(source=name, field="run_id", value=twice, reason="two rows have it")
    for column in ("flops", "params", "samples_seen", "budget"):
        bad = df[df["final"] & ~((df[column] > 0) & (df[column] < math.inf))]
        if len(bad):
            run, value = bad["run_id"].iloc[0], bad[column].iloc[0]
            reason = "must be above 0 and finite"
            raise UserError(source=f"{name}: run {run}", field=column, value=float(value), reason=reason)
    refuse_logarithms(df["flops"].to_numpy(), "flops", hint="write 10**value")
    return df


def _is_final(value: object, run: object, name: str) -> bool:
    """Read a value of the column ``final``; an empty field means not finished."""
    final = FINAL.get(str(value).strip().lower())
    if final is None:
        raise UserError(source=f"{name}: run {run}", field="final", value=value, reason="must be true or false")
    return final


def _numbers(df: pd.DataFrame, column: str, name: str) -> pd.Series:
    """Return a column as float64, NaN where missing. A word is an error that names its run."""
    import pandas as pd

    numbers = pd.to_numeric(df[column], errors="coerce").astype(float)
    words = df[numbers.isna() & df[column].notna()]
    if len(words):
        value = words[column].iloc[0]
        run = words["run_id"].iloc[0]
        raise UserError(source=f"{name}: run {run}", field=column, value=value, reason="must be a number")
    return numbers


def is_check(kinds: pd.Series) -> pd.Series:
    """Return a bool mask of the runs that only tried another value of a setting (`CHECKED`); they enter no fit."""
    return kinds.isin(list(CHECKED))


def refuse_logarithms(values: np.ndarray, name: str, hint: str = "") -> None:
    """Raise UserError for FLOPs that are plainly logarithms (18 to 23 for 1e18 to 1e23).

    Args:
      values: the column.
      name: its name; only a name that contains FLOPs or log is checked, for a column in another unit may hold small
        numbers.
      hint: how to correct the option or the table.

    Raises:
      UserError: every value lies between the logarithms of 1e3 and 1e26 FLOPs.
    """
    values = values[np.isfinite(values)]
    low, high = LOGARITHMS
    if (
        len(values)
        and low <= values.min()
        and values.max() < high
        and (FLOPS_NAME.search(name) or LOG_NAME.search(name))
    ):
        reason = f"{values.min():g} to {values.max():g} FLOPs look like logarithms"
        raise UserError(field=name, value=float(values[0]), reason=reason, hint=hint or None)


def refuse_mixed_negatives(df: pd.DataFrame, metric: str) -> None:
    """Raise UserError if ``metric`` is a validation loss, measured with different numbers of negatives in the rows.

    Rows that do not state the number, as those of tables without the column, pass.
    """
    import pandas as pd

    if metric not in VALIDATION_LOSSES or NEGATIVES not in df.columns:
        return
    counts = sorted({int(n) for n in pd.to_numeric(df[NEGATIVES], errors="coerce").dropna()})
    if len(counts) > 1:
        reason = f"{metric} rises with the number of negatives, so rows with several of them have no common law"
        hint = f"fit the rows of one (--law=… --where={NEGATIVES}={counts[-1]}), or set evals.val_pairs for all runs"
        raise UserError(field=NEGATIVES, value=counts, reason=reason, hint=hint)


def fit_rows(
    df: pd.DataFrame, metric: str, chance: float | None = None, *, keep_above_chance: bool = False
) -> tuple[pd.DataFrame, list[dict[str, str]]]:
    """Select the rows that may enter a fit: finished runs with fully decayed learning rate that check no setting.

    Args:
      df: a table of `prepare`.
      metric: the column to explain.
      chance: the error of guessing, where it is known.
      keep_above_chance: for a law with a ceiling, rows above ``chance`` stay (their excess is noise); for the others
        they are left out.

    Returns:
      The rows, and the others as {run_id, reason}.

    Raises:
      UserError: as `refuse_mixed_negatives`.
    """
    values = df[metric].to_numpy(float)
    keep = df["final"].to_numpy(bool) & ~is_check(df["kind"]).to_numpy(bool) & (values > 0) & (values < math.inf)
    if chance is not None and not keep_above_chance:
        keep &= values <= chance
    left_out = []
    for row in df[~keep].to_dict("records"):
        value = row[metric]
        if not row["final"]:
            reason = "not finished"
        elif row["kind"] in CHECKED:
            reason = f"a check of the {CHECKED[row['kind']]}"
        elif not 0 < value < math.inf:  # NaN too
            reason = f"{metric}={value} has no finite logarithm"
        else:
            reason = f"{metric}={value:.4g} is above that of guessing, {chance:g}"
        left_out.append({"run_id": str(row["run_id"]), "reason": reason})
    refuse_mixed_negatives(df[keep], metric)
    return df[keep].copy(), left_out
