"""Draw error against compute: runs, the frontier with its seeds' error bars, laws and their forecasts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from clip_jax.plotting.style import (
    INK,
    LAW_COLORS,
    LAW_DASHES,
    PALE,
    SOFT,
    ceiling,
    color_scale,
    label_of,
    marker_size,
    new_figure,
    size_bar,
)
from clip_jax.plotting.ticks import error_ticks, interval_text
from clip_jax.scaling.analysis.analyze import Analysis
from clip_jax.scaling.data.records import RunBand
from clip_jax.scaling.report.figures.drawn import drawn_rows, drawn_text
from clip_jax.scaling.report.figures.headline import AVERAGED_KEY, Headline, headline, times_beyond
from clip_jax.scaling.report.figures.learning import curves_behind
from clip_jax.scaling.report.figures.same_curves import joint_name, same_curves
from clip_jax.scaling.report.figures.seeds import standard_errors
from clip_jax.scaling.report.figures.whisker import whisker

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DRAWN_AHEAD = 1.25  # times the target: how far laws are drawn
ROOM_BELOW, ROOM_ABOVE = 0.09, 0.04  # shares of the y axis that nothing reaches, the lower for a label
BESIDE = 1.13  # factor in FLOPs that keeps a checked forecast off the point it forecasts


def error_vs_flops(analysis: Analysis) -> Figure:
    """Draw every run, the frontier, each law once, the band of the headline, and its forecasts."""
    rows, points, drawn = analysis.rows, analysis.frontier.points, drawn_rows(analysis)
    figure, (axis,) = new_figure(5.8, 4.7)
    values = rows[analysis.metric].to_numpy(float)
    top = ceiling(analysis.metric, values, analysis.law["chance"])
    first = headline(analysis)
    last, right = points["flops"].max(), (analysis.target * DRAWN_AHEAD if first else points["flops"].max() * 2)
    grid = np.geomspace(points["flops"].min() / 1.4, right, 240)

    curves_behind(axis, analysis, alpha=0.25)
    colors, norm = color_scale(rows["params"])
    axis.scatter(
        drawn["flops"], drawn[analysis.metric], c=drawn["params"], cmap=colors, norm=norm, s=16, lw=0.4, ec="white",
        zorder=3, clip_on=False,
    )  # fmt: skip
    ends = [*values, *_frontier(axis, analysis)]
    if first is not None:
        axis.axvspan(last, right, color=PALE, alpha=0.45, lw=0, zorder=0)
        _laws(axis, analysis, first, grid)
        _band(axis, first, grid, top)
        ends += _forecast(axis, analysis, first, top)
        ends += _check(axis, analysis, top)
    flops = " — ".join(["training FLOPs", *filter(None, [drawn_text(analysis)])])
    axis.set(xscale="log", yscale="log", xlabel=flops, ylabel=label_of(analysis.metric, rows))
    axis.set_title(analysis.title)
    low, high = np.log(min(ends)), np.log(max(ends))
    span = max(high - low, 0.05)
    # runs above guessing are noise, and on the axis all the same
    most = min(max(top, float(values.max()) * 1.01), ceiling(analysis.metric, values))
    axis.set_ylim(np.exp(low - ROOM_BELOW * span), min(np.exp(high + ROOM_ABOVE * span), most))
    axis.set_xlim(min(rows["flops"].min(), grid[0]) / 1.2, right)
    error_ticks(axis)
    figure.legend(loc="outside lower left", ncols=2, labelspacing=0.4, columnspacing=1.2)
    size_bar(figure, axis, rows["params"])
    return figure


def _frontier(axis: Axes, analysis: Analysis) -> list[float]:
    """Draw the frontier with its error bars; returns the ends of the bars."""
    points = analysis.frontier.points
    x, y = points["flops"].to_numpy(float), points["error"].to_numpy(float)
    se = standard_errors(analysis.rows, points)
    known = np.isfinite(se)
    bars = "bars: ± 1 standard error over seeds" if known.any() else "one seed each: no error bars"
    axis.plot(
        x, y, "o", mfc="none", mec=INK, mew=1, ms=marker_size(7.5, len(x)), zorder=4, clip_on=False,
        label=f"frontier: {analysis.law['frontier_rule']}\n({bars})",
    )  # fmt: skip
    if known.any():
        below = np.minimum(se[known], 0.99 * y[known])  # a logarithm has no 0
        axis.errorbar(
            x[known], y[known], yerr=[below, se[known]], fmt="none", ecolor=INK, elinewidth=0.9, capsize=2.5, zorder=4
        )
    return [*(y[known] - np.minimum(se[known], 0.99 * y[known])), *(y[known] + se[known])]


def _laws(axis: Axes, analysis: Analysis, first: Headline, grid: np.ndarray) -> None:
    """Draw each curve once, labeled with its value at the target; the headline is thick, rivals are thin."""
    fitted = analysis.frontier.fitted
    times = f"{times_beyond(analysis, analysis.target):.3g}×"
    if first.key == AVERAGED_KEY:
        axis.plot(grid, first.bands(grid)["y"], color=first.color, lw=1.9, zorder=5, label=first.name)
    for group in same_curves(fitted, grid, analysis.winner):
        key = group[0]
        best = key == first.key
        name = joint_name(fitted, group)
        weight = sum(first.weights.get(fitted[k].fit.law.name, 0) for k in group)
        if first.weights:
            name += f" (weight {weight:.2f})"
        elif analysis.winner in group and analysis.law["extrapolation"]:
            name += " (extrapolates best)"
        answer = fitted[key].curve(np.array([analysis.target]))[0]
        axis.plot(
            grid, fitted[key].curve(grid), ls="-" if best else LAW_DASHES[key], color=LAW_COLORS[key],
            lw=1.9 if best else 1.0, zorder=5 if best else 2, label=f"{name}:\n{answer:.3g} at {times}",
        )  # fmt: skip


def _band(axis: Axes, first: Headline, grid: np.ndarray, top: float) -> None:
    """Draw the band of a new frontier point and, inside it, that of the law; where they nearly coincide, the edges show
    both.
    """
    from matplotlib.colors import to_rgba

    bands = first.bands(grid)
    for prefix, alpha, dashes, label in (
        ("run_", 0.10, (0, (2, 1.5)), "95 % band of a new point (dashed)"),
        ("", 0.16, "-", "95 % band of the curve (solid edge)"),
    ):
        low, high = bands[prefix + "low"], bands[prefix + "high"]
        below, above = (np.where(np.isfinite(e), e, v) for e, v in ((low, 1e-12), (high, 1e12)))
        axis.fill_between(grid, below, above, fc=first.color, alpha=alpha, lw=0)
        axis.fill_between([], [], [], fc=to_rgba(first.color, alpha), ec=first.color, lw=0.6, ls=dashes, label=label)
        for end in (low, high):
            axis.plot(grid, np.where(end <= top, end, np.nan), color=first.color, lw=0.6, ls=dashes, zorder=2)


def _forecast(axis: Axes, analysis: Analysis, first: Headline, top: float) -> list[float]:
    row = first.forecast
    times = f"extrapolates {times_beyond(analysis, row['flops']):.3g}×"
    text = interval_text(row["predicted"], row["low"], row["high"])
    ends = whisker(axis, row, first.color, "s", f"a new point, {times}:\n{text}", top)
    axis.annotate(
        times, (row["flops"], ends[1]), xytext=(8, -3), textcoords="offset points", ha="right", va="top", size=7,
        color=first.color, zorder=7, bbox={"fc": "white", "alpha": 0.8, "lw": 0, "pad": 0.8},
    )  # fmt: skip
    return ends


def _check(axis: Axes, analysis: Analysis, top: float) -> list[float]:
    """Draw the headline's forecast of the largest budget, made without it."""
    ends = []
    for row in analysis.law["forecast_check"][:1]:
        moved: RunBand = {
            "flops": row["flops"] * BESIDE, "predicted": row["predicted"], "low": row["low"], "high": row["high"],
        }  # fmt: skip
        ends += whisker(axis, moved, SOFT, "D", f"{row['form']}, fitted\nwithout the largest budget", top)
    return ends
