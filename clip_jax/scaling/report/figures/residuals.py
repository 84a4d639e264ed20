"""Draw the residuals of laws, and the influence of single points on them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from clip_jax.plotting.style import INK, LAW_COLORS, LAW_DASHES, NotDrawn, marker_size, new_figure
from clip_jax.scaling.analysis.analyze import Analysis
from clip_jax.scaling.analysis.frontier_fit import FrontierFit
from clip_jax.scaling.data.records import InfluenceRecord
from clip_jax.scaling.report.figures.same_curves import joint_name, same_curves

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MARKERS = {"power": "o", "saturating": "s", "sigmoid": "^", "bounded": "X", "shifted": "D", "chance": "v", "bnsl": "P"}


def residuals(analysis: Analysis) -> Figure:
    """Draw ln(measured / fitted) of each curve on the frontier; and the best law's exponent without each point."""
    if analysis.best is None:
        raise NotDrawn(analysis.law["why"])
    left_out = analysis.law["influence"]
    figure, axes = new_figure(6.4 if left_out else 4.6, 2.9, 2 if left_out else 1)
    fitted, flops = analysis.frontier.fitted, analysis.frontier.points["flops"].to_numpy(float)
    size = marker_size(4, len(flops))
    for group in same_curves(fitted, np.append(flops, analysis.target), analysis.winner):
        key, fit = group[0], fitted[group[0]].fit
        axes[0].plot(
            fit.data.columns["flops"], np.log(fit.data.y / fit.predict(fit.data.columns)), ls=LAW_DASHES[key],
            marker=MARKERS[key], color=LAW_COLORS[key], ms=size, lw=1.3 if key == analysis.winner else 0.7,
            label=joint_name(fitted, group),
        )  # fmt: skip
    axes[0].axhline(0, color=INK, lw=0.7)
    top = max(abs(v) for v in axes[0].get_ylim())
    axes[0].set(
        xscale="log", xlabel="training FLOPs", ylabel="ln(measured / fitted)", title="Residuals", ylim=(-top, 1.6 * top)
    )
    axes[0].legend(loc="upper center", fontsize=7)
    if left_out:
        _influence(axes[1], analysis.best, left_out)
    return figure


def _influence(axis: Axes, best: FrontierFit, rows: list[InfluenceRecord]) -> None:
    name = best.fit.law.exponent_name
    value, interval = best.fit.values[name], best.intervals.get(name)
    color = LAW_COLORS[best.key]
    if interval is not None and np.isfinite(interval.width):
        axis.axhspan(interval.low, interval.high, color=color, alpha=0.12, lw=0, label="95 % interval")
    axis.axhline(value, color=color, lw=1.2, ls=LAW_DASHES[best.key], label="all points")
    axis.plot(
        [r["flops"] for r in rows], [r["exponent"] for r in rows], "o", color=INK, ms=marker_size(4, len(rows)),
        label="without this point",
    )  # fmt: skip
    axis.set(xscale="log", xlabel="training FLOPs of the point", ylabel=f"{name} of the {best.fit.law.name}")
    axis.set_title("Influence")
    low, high = axis.get_ylim()
    axis.set_ylim(low, high + 0.5 * (high - low))
    axis.legend(loc="upper left", fontsize=7)
