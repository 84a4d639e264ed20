"""Fit several tasks of one table together: `clip-jax fit TABLE --tasks=COLUMN`, or ``--y=COLUMN,COLUMN,…``."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from clip_jax.errors import UserError, require_columns
from clip_jax.scaling.analysis.pooled import MIN_TASKS, PooledFit, fit_pooled
from clip_jax.scaling.any_table.options import TableFit, flops_of, refuse_ignored
from clip_jax.scaling.any_table.rows import NamedColumns, Rows, column_of, read_rows
from clip_jax.scaling.uncertainty.interval_format import interval_data, interval_text

if TYPE_CHECKING:
    import pandas as pd

IGNORED_BY_TASKS = (
    "loss",
    "space",
    "delta",
    "fixed",
    "weights",
    "below",
    "under",
    "flops_per_param_sample",
    "approach",
    "then",
)
FORM = "saturating"  # what every task follows; bounded where chance is known
MAX_MIXING = 0.6  # of `PooledFit.mixing`, above which the chains have not settled
POOLED_LAW = NamedColumns("the pooled law", ("flops",))


def names_several(what: TableFit, table: pd.DataFrame) -> bool:
    """Return whether ``y`` names several columns rather than one with a comma in its name."""
    return "," in what.y and what.y not in table.columns


def fit_tasks(table: pd.DataFrame, what: TableFit) -> tuple[list[str], dict[str, object]]:
    """Fit all tasks together and report them as lines of text and as plain data.

    In wide form (``y`` names the tasks' columns) each row is a run, whose effect is shared by its tasks; in long form
    (``tasks`` names a column) ``group`` names the run; without it scatter is taken to be independent. The mean over
    tasks has an interval where runs are named and chance is not given.

    Raises:
      UserError: an option that would be ignored; both forms at once; as `rows.read_rows` and `fit_pooled`.
    """
    refuse_ignored(what, IGNORED_BY_TASKS, "several tasks")
    if what.laws != (FORM,):
        reason = f"must be {FORM} for several tasks (with --chance it is bounded)"
        raise UserError(field="--law", value=",".join(what.laws), reason=reason)
    wide = names_several(what, table)
    if wide and (what.tasks or what.group):
        option, value = ("--tasks", what.tasks) if what.tasks else ("--group", what.group)
        raise UserError(field=option, value=value, reason="cannot be combined with --y of several columns")
    budgets = [flops_of(text) for text in what.at]
    parts = _wide(table, what) if wide else _long(table, what)
    if len(parts) < MIN_TASKS:
        option, value = ("--y", what.y) if wide else ("--tasks", what.tasks)
        alone = " or ".join(f"--y={name}" if wide else f"--where={what.tasks}={name}" for name in parts)
        reason = f"names {len(parts)} tasks; at least {MIN_TASKS} are fitted together"
        raise UserError(field=option, value=value, reason=reason, hint=f"fit each alone: --law={FORM} {alone}")
    long, lines = _stacked(parts, what, wide), []
    for name, rows in parts.items():
        lines += [f"  {name}: {s}" for s in (*rows.treatment, *(f"note: {w}" for w in rows.warnings))]
    pooled = fit_pooled(
        long, run="run" if "run" in long else None, examples="examples" if what.examples else None,
        chance=None if what.chance is None else dict.fromkeys(parts, what.chance),
    )  # fmt: skip
    head = f"{len(long)} rows of {len(parts)} tasks, fitted together; 95 % intervals of the posterior"
    lines = [head, *lines, *_task_lines(pooled)]
    if "run" not in long:
        lines.append(
            "  note: no run is named (--group=COLUMN): scatter is taken to be independent between tasks, and the mean"
            " over tasks has no interval"
        )
    elif what.chance is not None and budgets:
        lines.append("  note: with --chance the mean over tasks has no interval: it was not shown to hold 90 %")
    if what.frontier != "all":
        lines.append("  note: intervals do not include the selection of the frontiers")
    warnings = []
    if pooled.mixing > MAX_MIXING:
        warnings.append(f"the chains have not settled (a median moved by {pooled.mixing:.2f} sd)")
    forecasts = []
    for text, flops in zip(what.at, budgets, strict=True):
        each = pooled.forecast(flops)
        lines.append(f"  at {text}:")
        lines += [f"    {name}: {interval_text(v)}" for name, v in each.items()]
        mean = pooled.mean(flops)
        # what is common to a run does not average out over its tasks; the bounded form held the mean in 89.5 %
        if "run" not in long or what.chance is not None:
            mean = replace(mean, open_low=True, open_high=True)
        lines.append(f"    mean over tasks: {interval_text(mean)}")
        data_of_tasks = {name: interval_data(v) for name, v in each.items()}
        forecasts.append({"at": text, "tasks": data_of_tasks, "mean": interval_data(mean)})
    data = pooled.as_data() | {"rows": len(long), "forecasts": forecasts, "warnings": warnings}
    data["treatment"] = {name: rows.treatment for name, rows in parts.items()}
    return [*lines, *(f"  note: {w}" for w in warnings)], data


def _wide(table: pd.DataFrame, what: TableFit) -> dict[str, Rows]:
    names = what.y.split(",")
    if len(set(names)) < len(names) or "" in names:
        raise UserError(field="--y", value=what.y, reason="must name different columns")
    for name in names:
        column_of(table, name)
    return {name: read_rows(table, replace(what, y=name), POOLED_LAW) for name in names}


def _long(table: pd.DataFrame, what: TableFit) -> dict[str, Rows]:
    require_columns(table.columns, [what.tasks], option="--tasks")
    labels = table[what.tasks]
    return {
        str(n): read_rows(table[(labels == n).to_numpy()], what, POOLED_LAW) for n in sorted(labels.dropna().unique())
    }


def _stacked(parts: dict[str, Rows], what: TableFit, wide: bool) -> pd.DataFrame:
    import pandas as pd

    frames = []
    for name, rows in parts.items():
        part = pd.DataFrame({"task": name, "flops": rows.columns["flops"], "error": rows.y})
        if what.examples:
            part["examples"] = what.examples
        if wide or what.group:
            part["run"] = rows.index if wide else np.asarray(rows.groups)
        frames.append(part)
    return pd.concat(frames, ignore_index=True)


def _task_lines(pooled: PooledFit) -> list[str]:
    lines = [
        f"  {name}: b {interval_text(p['b'])}, E {interval_text(p['E'])}" for name, p in pooled.parameters().items()
    ]
    spreads = ", ".join(f"of ln {k} {interval_text(v)}" for k, v in pooled.spread_intervals().items())
    return [*lines, f"  spread over tasks: {spreads}"] if spreads else lines
