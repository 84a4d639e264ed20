"""Draw preregistered forecasts and their outcomes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from clip_jax.plotting.style import BLUE, HOUSE, INK, ORANGE, SOFT, ceiling, label_of, new_figure
from clip_jax.plotting.ticks import error_ticks
from clip_jax.scaling.data.records import ForecastRecord, OutcomeRecord, RunBand
from clip_jax.scaling.data.runs_table import is_check
from clip_jax.scaling.laws import law_named, with_ceiling
from clip_jax.scaling.report.figures.whisker import whisker

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


def draw_forecast(graded: Sequence[tuple[ForecastRecord, OutcomeRecord]], runs: pd.DataFrame) -> Figure:
    """Draw the fitted points, the law, and at each target the band and its runs; return a Figure.

    Args:
      graded: (forecast, outcome) of each target of one metric, of `preregistration.preregister_targets` and
        `preregistration.grade`; the curve is the first one's.
      runs: the table, one row per run.
    """
    from matplotlib import rc_context

    with rc_context(HOUSE):  # type: ignore[arg-type]
        figure, (axis,) = new_figure()
        registered = graded[0][0]
        points, metric = registered["frontier"], registered["metric"]
        known = runs[runs["final"].astype(bool) & ~is_check(runs["kind"])]
        below = known[known["budget"] < registered["target"] * 0.999]
        axis.scatter(below["flops"], below[metric], s=9, color=SOFT, alpha=0.5, lw=0, label="runs before the forecast")
        x, y = ([p[k] for p in points] for k in ("flops", "error"))
        axis.plot(x, y, "o", mfc="none", mec=INK, mew=1, ms=7, label=registered["rule"])
        law, values = with_ceiling(law_named(registered["law"]), registered["chance"])[0], registered["fit"]["values"]
        furthest = max(o["flops"] for _, o in graded)
        grid = np.geomspace(min(x) / 1.3, furthest * 1.3, 200)
        axis.plot(grid, law.predict(law.theta(values, {"flops": 1.0}), {"flops": np.log(grid)}), color=BLUE,
                  label=f"{registered['fit']['form']}, fitted before")  # fmt: skip
        top = ceiling(metric, known[metric])
        for k, (forecast, outcome) in enumerate(graded):
            at = outcome["flops"]
            low, high = forecast["mean"]
            row: RunBand = {"flops": at, "predicted": forecast["predicted"], "low": low, "high": high}
            names = ("registered forecast, 95 % band", "its seeds", "measured after") if k == 0 else ("",) * 3
            whisker(axis, row, BLUE, "s", names[0], top)
            seeds = [s["measured"] for s in outcome["seeds"]]
            axis.plot([at * 1.1] * len(seeds), seeds, "_", color=ORANGE, ms=8, label=names[1])
            axis.plot([at * 1.1], [outcome["measured"]], "D", color=ORANGE, ms=5, zorder=6, label=names[2])
        axis.plot([x[-1], furthest], [registered["naive"]] * 2, ":", color=SOFT, label="same as the last budget")
        axis.set(
            xscale="log", yscale="log", xlabel="training FLOPs", ylabel=label_of(metric, known), title="The forecast"
        )
        low, high = axis.get_ylim()
        axis.set_ylim(low, min(high, top))
        error_ticks(axis)
        axis.legend(loc="lower left", labelspacing=0.35)
        figure.draw_without_rendering()
        figure.set_layout_engine("none")
        return figure
