"""Fit approaches 1 and 2 of Hoffmann et al. (2022) to any table: `clip-jax fit TABLE --approach=1|2`."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, cast

import numpy as np

from clip_jax.errors import UserError
from clip_jax.scaling.any_table.options import TableFit, flops_of, number, refuse_ignored
from clip_jax.scaling.any_table.rows import NamedColumns, columns_from, read_rows
from clip_jax.scaling.frontier.approaches import ApproachResult, fit_envelope, fit_valleys
from clip_jax.scaling.frontier.isoflop import ValleySpace
from clip_jax.scaling.laws.size_data import FLOPS_PER_PARAM_SAMPLE
from clip_jax.scaling.uncertainty.interval_format import interval_data, interval_text

if TYPE_CHECKING:
    import pandas as pd

IGNORED_BY_APPROACHES = ("laws", "frontier", "loss", "delta", "examples", "fixed", "weights", "below", "under")
APPROACH_COLUMNS = ("flops", "params", "samples_seen")


def fit_approach(table: pd.DataFrame, what: TableFit) -> tuple[list[str], dict[str, object]]:
    """Fit the approach and report it as lines of text and as plain data.

    Args:
      table: of runs at fixed budgets (approach 2: ``budget`` or ``flops``, equal in the runs of a budget), or of
        evaluations along training (approach 1: ``run_id``, or the column of ``group``).
      what: ``approach``, columns and meaning of y; ``at`` lists budgets.

    Raises:
      UserError: an option that would be ignored, and as `approaches.fit_valleys` and `approaches.fit_envelope`.
    """
    mode = f"--approach={what.approach}"
    refuse_ignored(
        what, (*IGNORED_BY_APPROACHES, "group") if what.approach == 2 else (*IGNORED_BY_APPROACHES, "space"), mode
    )
    budgets = [flops_of(text) for text in what.at]
    treatment: list[str] = []
    mapped = {item.partition("=")[0].partition("*")[0] for item in what.x}
    if what.approach == 2 and "flops" not in mapped and "budget" in table.columns:
        what = replace(what, x=(*what.x, "flops=budget"))
        treatment.append("budgets are those of the column budget")
    table, derived = _with_samples(table, what, mapped)
    treatment += derived
    if what.approach == 1:
        if not what.group and "run_id" not in table.columns:
            reason = "the table has no column run_id"
            raise UserError(field="--group", reason=reason, hint="name the run of each row: --group=COLUMN")
        what = replace(what, group=what.group or "run_id")
    rows = read_rows(table, what, NamedColumns(f"approach {what.approach}", APPROACH_COLUMNS))
    import pandas as pd

    runs = pd.DataFrame({**rows.columns, "y": rows.y})
    result: ApproachResult
    if what.approach == 1:
        result = fit_envelope(runs.assign(run_id=rows.groups), "y")
    else:
        result = fit_valleys(runs, "y", budget="flops", space=cast(ValleySpace, what.space))  # which checks it
    lines = [f"{len(rows)} rows", *(f"  {s}" for s in (*rows.treatment, *treatment))]
    lines += [f"  note: {w}" for w in rows.warnings]
    lines += [f"  {line}" for line in result.text.splitlines()]
    forecasts = []
    for text, flops in zip(what.at, budgets, strict=True):
        if result.params is None or result.samples is None:
            lines.append(f"  at {text}: no optimum, the powers are not identified")
            continue
        size, samples = result.params.at(flops), result.samples.at(flops)
        lines.append(f"  at {text}: params {interval_text(size)}, samples_seen {interval_text(samples)}")
        forecasts.append({"at": text, "params": interval_data(size), "samples_seen": interval_data(samples)})
    data = {
        **result.as_data(),
        "optima": forecasts,
        "treatment": [*rows.treatment, *treatment],
        "warnings": rows.warnings,
    }
    return lines, data


def _with_samples(table: pd.DataFrame, what: TableFit, mapped: set[str]) -> tuple[pd.DataFrame, list[str]]:
    """Return the table with ``samples_seen``: its own column, or flops/(k · params)."""
    option = "--flops-per-param-sample"
    if "samples_seen" in mapped or "samples_seen" in table.columns:
        if what.flops_per_param_sample:
            reason = "would be ignored: the table has samples"
            raise UserError(field=option, value=what.flops_per_param_sample, reason=reason)
        return table, []
    factor = number(what.flops_per_param_sample, option) if what.flops_per_param_sample else FLOPS_PER_PARAM_SAMPLE
    if not 0 < factor < np.inf:
        raise UserError(field=option, value=what.flops_per_param_sample, reason="must be above 0 and finite")
    columns = columns_from(table, NamedColumns(f"approach {what.approach}", APPROACH_COLUMNS[:2]), what.x)
    samples = columns["flops"] / (factor * columns["params"])
    message = (
        f"the table has no column samples_seen: flops/({factor:g}·params) stands for it ({option}, --x=samples_seen=)"
    )
    return table.assign(samples_seen=samples), [message]
