"""Forecast an error in two steps, through a loss: `clip-jax fit --law=power --then=LINK --through=COLUMN`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from clip_jax.errors import UserError, require_columns
from clip_jax.scaling.analysis.frontier_fit import NOT_RESELECTED, SELECT
from clip_jax.scaling.analysis.two_step import TwoStep, TwoStepForecast, fit_two_step
from clip_jax.scaling.any_table.intervals import TableIntervals
from clip_jax.scaling.any_table.options import TableFit, refuse_ignored
from clip_jax.scaling.any_table.rows import Rows, column_of, positions_of, read_rows, y_column
from clip_jax.scaling.laws import Law, law_named
from clip_jax.scaling.uncertainty.interval_format import interval_text, span_text

if TYPE_CHECKING:
    import pandas as pd

IGNORED_BY_TWO_STEP = ("weights", "group", "below", "examples")
CONSTANT = "batch_size"  # the column that is checked unless --constant names others


@dataclass(frozen=True)
class Steps:
    """The fits of both steps, and how the rows were treated, in words."""

    both: TwoStep
    treatment: tuple[str, ...]


def fit_steps(table: pd.DataFrame, what: TableFit, law: Law) -> Steps:
    """Fit both steps.

    Args:
      table: the whole table.
      what: ``then`` is the link, ``through`` the column of the loss; with ``frontier`` the first step takes the
        frontier of y, as the direct law does, and the second every row.
      law: of the first step.

    Raises:
      UserError: an option that would be ignored; losses that were measured at several values of a column of
        ``constant``; as `fit_two_step`.
    """
    refuse_ignored(what, IGNORED_BY_TWO_STEP, "--then")
    if what.fixed and what.fixed != ("none",):
        reason = "must be none with --then, as it does not say which of the three fits it is for"
        raise UserError(field="--fix", value=",".join(what.fixed), reason=reason)
    if y_column(table, what, law) == what.through:
        reason = "is the column of --y, which the second step explains"
        raise UserError(field="--through", value=what.through, reason=reason)
    rows = read_rows(table, replace(what, frontier="all"), law)
    loss = column_of(table, what.through)[positions_of(table, rows)]
    usable = np.isfinite(loss) & (loss > 0)
    treatment = (
        [] if usable.all() else [f"{(~usable).sum()} rows left out of both steps: {what.through} is not above 0"]
    )
    if not usable.any():
        raise UserError(field="--through", value=what.through, reason="no row has a loss above 0")
    rows, loss = rows.take(usable), loss[usable]
    constant, first = _constant(table, what, rows), None
    if what.frontier != "all":  # the link holds for other runs as well
        first = np.sort(SELECT[what.frontier](next(iter(rows.columns.values())), rows.y))
        treatment.append(f"step 1: the frontier ({what.frontier}), {len(first)} of {len(rows)} rows; step 2: all rows")
        treatment.append(NOT_RESELECTED)
    objectives = (what.loss_function, replace(what.loss_function, under=1.0))
    both = fit_two_step(
        law,
        rows.columns,
        loss,
        law_named(what.then),
        rows.y,
        first_rows=first,
        constant=constant,
        objectives=objectives,
    )
    return Steps(both, tuple(treatment))


def compare_with_direct(
    steps: Steps, what: TableFit, direct: TableIntervals, points: dict[str, dict[str, float]]
) -> tuple[list[str], dict[str, object]]:
    """Compare the two-step forecast with that of the direct law, as lines of text and as plain data.

    Args:
      steps: both fits.
      what: the column of the loss.
      direct: the law fitted to the error itself.
      points: text of ``--at`` -> point.
    """
    both = steps.both
    lines = [f"  two steps through {what.through}:", *(f"    {s}" for s in steps.treatment)]
    lines += [f"    {line}" for line in both.text.splitlines()]
    forecasts = []
    for text, point in points.items():
        on_curve, of_run = _forecast(both, point, text, lines)
        curve, run = direct.forecast(point)
        lines.append(f"    direct law: {interval_text(curve)}, of a new run {span_text(run)}")
        forecasts.append({"at": text, "curve": on_curve.as_data(), "new_run": of_run.as_data()})
    data = [
        {
            "law": fit.law.key, "text": fit.law.text(fit.values, 8), "values": fit.values, "status": fit.status,
            "identified": fit.identified, "flat": list(fit.flat), "rows": fit.points, "residual_sd": fit.residual_sd,
        }
        for fit in (both.first, both.second)
    ]  # fmt: skip
    return lines, {
        "through": what.through, "steps": data, "forecasts": forecasts, "treatment": list(steps.treatment),
    }  # fmt: skip


def _forecast(
    both: TwoStep, point: dict[str, float], text: str, lines: list[str]
) -> tuple[TwoStepForecast, TwoStepForecast]:
    curve, new = (both.forecast(point, new_run=new_run) for new_run in (False, True))
    lines.append(
        f"    at {text}: loss {interval_text(curve.loss)}; y {interval_text(curve.error)}, of a new run"
        f" {span_text(new.error)}, with the loss taken as exact {span_text(curve.fixed_loss)}; 95 % ({curve.method})"
    )
    return curve, new


def _constant(table: pd.DataFrame, what: TableFit, rows: Rows) -> dict[str, np.ndarray]:
    """Return the columns, at the rows, in which comparable losses must share one value."""
    names = what.constant or ((CONSTANT,) if CONSTANT in table.columns else ())
    out = {}
    for name in () if names == ("none",) else names:
        require_columns(table.columns, [name], option="--constant")
        values = table[name].to_numpy()[positions_of(table, rows)]
        kinds = sorted({str(v) for v in values})
        if len(kinds) > 1:
            shown = ", ".join(kinds[:4]) + (", …" if len(kinds) > 4 else "")
            reason = f"has {len(kinds)} values ({shown}), and losses are comparable at one only"
            hint = f"take one, --where={name}={kinds[0]}; --constant=none where the loss does not depend on it"
            raise UserError(field="--constant", value=name, reason=reason, hint=hint)
        out[name] = values
    return out
