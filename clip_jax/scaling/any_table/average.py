"""Average the forecasts of the compared forms, beside the forecast of the requested law."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from clip_jax.errors import UserError
from clip_jax.scaling.analysis.averaging import AveragedForecast, average
from clip_jax.scaling.analysis.frontier_fit import FrontierFit
from clip_jax.scaling.any_table.intervals import fit_rows_of, noise_of, reselected
from clip_jax.scaling.any_table.options import TableFit
from clip_jax.scaling.any_table.rows import Rows, read_rows
from clip_jax.scaling.laws import compared_laws, with_ceiling
from clip_jax.scaling.uncertainty.interval_format import interval_text, span_text

if TYPE_CHECKING:
    import pandas as pd

MAX_ROWS = 1000  # 1,400 rows take more than a minute


@dataclass(frozen=True)
class Averaged:
    """The averaged forms, or None and the reason (empty: an average does not apply to this fit)."""

    forecast: AveragedForecast | None
    reason: str = ""

    def lines(self, flops: float) -> list[str]:
        """Return the forecast as lines for a reader."""
        if self.forecast is None:
            return []
        curve, run = self.forecast.curve_at(flops).interval(), self.forecast.run_at(flops).interval()
        return [f"    averaged over forms: {interval_text(curve)}, of a new run {span_text(run)}"]

    def as_data(self, flops: float) -> dict[str, object] | None:
        """Return the forecast as plain data."""
        if self.forecast is None:
            return None
        forecast = self.forecast.forecast(flops)
        return {k: forecast[k] for k in ("median", "curve", "run", "weights")} | {"rule": self.forecast.rule}


def average_forms(table: pd.DataFrame, what: TableFit) -> Averaged:
    """Fit the forms that a report compares to the rows of ``what``, and average them.

    Args:
      table: the table.
      what: a fit of a law of FLOPs alone, whose rows, loss and chance the forms share.
    """
    for option, is_set in (("--weights", what.weights), ("--group", what.group), ("--under", what.under < 1)):
        if is_set:
            return Averaged(None, f"forms are not averaged with {option}")
    if what.space != "log":
        return Averaged(None, f"forms are not averaged with {what.space} residuals")
    what, fitted = replace(what, fixed=()), {}
    for law in compared_laws(what.chance):
        law, known = with_ceiling(law, what.chance)
        try:
            rows = _rising(read_rows(table, what, law))
            if len(rows) > MAX_ROWS:
                return Averaged(None, f"forms are not averaged for more than {MAX_ROWS} rows")
            fit = fit_rows_of(rows, what, law, known=known)
        except UserError:  # too few points for this form
            continue
        again, ceiling = reselected(fit, rows, what)[0], np.inf if what.chance is None else what.chance
        fitted[law.key] = FrontierFit(fit, noise_of(rows, what), again, ceiling=ceiling)
    averaged = average(fitted, what.chance) if fitted else None
    return Averaged(averaged, "" if averaged else "too few rows to average over forms")


def _rising(rows: Rows) -> Rows:
    """Sort rows by FLOPs, the order in which held-out scores take them."""
    return rows.take(np.argsort(rows.columns["flops"], kind="stable"))
