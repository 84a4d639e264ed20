"""Average the forecasts of the compared forms, beside the forecast of the requested law."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from clip_jax.errors import UserError
from clip_jax.scaling.analysis.averaging import AveragedForecast, average
from clip_jax.scaling.analysis.frontier_fit import FrontierFit
from clip_jax.scaling.any_table.intervals import examples_scatter, fit_rows_of, noise_of, reselected
from clip_jax.scaling.any_table.options import TableFit
from clip_jax.scaling.any_table.rows import Rows, read_rows
from clip_jax.scaling.laws import compared_laws, with_ceiling
from clip_jax.scaling.profile.prediction import Interval
from clip_jax.scaling.uncertainty.interval_format import interval_text, span_text

if TYPE_CHECKING:
    import pandas as pd

RUN_KEYS = ("run", "run_on_new_examples")
MAX_ROWS = 1000  # 1,400 rows take more than a minute


@dataclass(frozen=True)
class Averaged:
    """The averaged forms, or None and the reason (empty: an average does not apply to this fit).

    examples: size of the evaluation set; 0: unknown.
    """

    forecast: AveragedForecast | None
    reason: str = ""
    examples: int = 0

    def lines(self, flops: float) -> list[str]:
        """Return the forecast as lines for a reader."""
        if self.forecast is None:
            return []
        runs = [span_text(run) for run in self._runs(self.forecast, flops)]
        curve = interval_text(self.forecast.curve_at(flops).interval())
        return [f"    averaged over forms: {curve}, of a new run {runs_text(runs, self.examples)}"]

    def _runs(self, forecast: AveragedForecast, flops: float) -> list[Interval]:
        """Return the intervals of a new run: on the same evaluation set and, where its size is known, on a new one."""
        median, fit = forecast.curve_at(flops).median, next(iter(forecast.fitted.values())).fit
        each = [examples_scatter(median, fit, self.examples, same=same) for same in (True, False)]
        return [forecast.run_at(flops, extra=extra).interval() for extra in each[: 2 if self.examples else 1]]

    def unconverged_at(self, point: dict[str, float], where: str) -> list[str]:
        """Return the warnings of the averaged forms, as `TableIntervals.unconverged_at`."""
        return [] if self.forecast is None else self.forecast.unconverged_at(point["flops"], where)

    def as_data(self, flops: float) -> dict[str, object] | None:
        """Return the forecast as plain data."""
        if self.forecast is None:
            return None
        forecast, ends = self.forecast.forecast(flops), [r.bounded_ends for r in self._runs(self.forecast, flops)]
        kept = {k: forecast[k] for k in ("median", "curve", "weights")}
        return kept | dict(zip(RUN_KEYS, map(list, ends), strict=False)) | {"rule": self.forecast.rule}


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
    return Averaged(averaged, "" if averaged else "too few rows to average over forms", what.examples)


def runs_text(spans: list[str], examples: int) -> str:
    """Return the interval of a new run, or those on the same evaluation set and on as many new examples."""
    return f"{spans[0]} on the same {examples} examples, {spans[1]} on as many new ones" if examples else spans[0]


def _rising(rows: Rows) -> Rows:
    """Sort rows by FLOPs, the order in which held-out scores take them."""
    return rows.take(np.argsort(rows.columns["flops"], kind="stable"))
