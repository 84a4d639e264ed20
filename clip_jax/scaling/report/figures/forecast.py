"""Draw a preregistered forecast and its outcome."""

from __future__ import annotations

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


def draw_forecast(registered: ForecastRecord, graded: OutcomeRecord, runs: pd.DataFrame) -> Figure:
    """Draw the fitted points, the law, the band at the target and its runs; return a Figure.

    Args:
      registered, graded: of `preregistration.preregister` and `preregistration.grade`.
      runs: the table, one row per run.
    """
    from matplotlib import rc_context

    with rc_context(HOUSE):  # type: ignore[arg-type]
        figure, (axis,) = new_figure()
        points, target, metric = registered["frontier"], graded["flops"], registered["metric"]
        known = runs[runs["final"].astype(bool) & ~is_check(runs["kind"])]
        below = known[known["budget"] < registered["target"] * 0.999]
        axis.scatter(below["flops"], below[metric], s=9, color=SOFT, alpha=0.5, lw=0, label="runs before the forecast")
        x, y = ([p[k] for p in points] for k in ("flops", "error"))
        axis.plot(x, y, "o", mfc="none", mec=INK, mew=1, ms=7, label=registered["rule"])
        law, values = with_ceiling(law_named(registered["law"]), registered["chance"])[0], registered["fit"]["values"]
        grid = np.geomspace(min(x) / 1.3, target * 1.3, 200)
        axis.plot(grid, law.predict(law.theta(values, {"flops": 1.0}), {"flops": np.log(grid)}), color=BLUE,
                  label=f"{registered['fit']['form']}, fitted before")  # fmt: skip
        row: RunBand = {"flops": target, "predicted": registered["predicted"], "low": registered["mean"][0],
               "high": registered["mean"][1]}  # fmt: skip
        top = ceiling(metric, known[metric])
        whisker(axis, row, BLUE, "s", "registered forecast, 95 % band", top)
        seeds = [s["measured"] for s in graded["seeds"]]
        axis.plot([target * 1.1] * len(seeds), seeds, "_", color=ORANGE, ms=8, label="its seeds")
        axis.plot([target * 1.1], [graded["measured"]], "D", color=ORANGE, ms=5, zorder=6, label="measured after")
        axis.plot([x[-1], target], [registered["naive"]] * 2, ":", color=SOFT, label="same as the last budget")
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
