"""Draw the contour of error over size and samples, with the runs on it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from clip_jax.plotting.style import INK, ORANGE, SOFT, NotDrawn, ceiling, label_of, new_figure
from clip_jax.plotting.ticks import nice_ticks, size_ticks, tick_labels
from clip_jax.scaling.analysis.analyze import Analysis
from clip_jax.scaling.frontier.parametric import ParametricFit
from clip_jax.scaling.report.figures.drawn import drawn_rows, drawn_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def identified_surface(analysis: Analysis) -> ParametricFit:
    """Return the law of size and samples. Raises NotDrawn with the reason where it is missing or not identified."""
    surface = analysis.surface
    if isinstance(surface, str):
        raise NotDrawn(surface)
    fit = surface.fit
    if not fit.identified:
        known = [f"{f.split()[0]} is not bounded {f.split()[1]}" for f in fit.flat]
        known += [fit.status] if fit.status != "converged" else []
        raise NotDrawn(
            f"the law of size and samples is not identified ({'; '.join(known) or 'its parameters trade off freely'})"
        )
    return surface


def contour(analysis: Analysis) -> Figure:
    """Draw L(N, D) as fitted to all runs, lines of equal FLOPs, the runs, and the path of least error.

    Where the law predicts more than the metric can be (an error above 1, or above guessing), nothing is drawn. Raises
    NotDrawn where the law is missing or not identified.
    """
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import LogNorm
    from matplotlib.ticker import NullFormatter

    surface = identified_surface(analysis)
    columns, measured = surface.fit.data.columns, surface.fit.data.y
    n, d = columns["params"], columns["samples_seen"]
    grid_n, grid_d = (np.geomspace(v.min() / 2, v.max() * 2, 120) for v in (n, d))
    z = surface.fit.predict({"params": grid_n[:, None], "samples_seen": grid_d[None]})
    top = ceiling(analysis.metric, measured, analysis.law["chance"])
    z = np.where(z <= top, z, np.nan)
    least, most = float(np.nanmin(z)), float(np.nanmax(z))
    ends = float(min(measured.min(), least)), float(max(measured.max(), most))
    colors, norm = colormaps["YlGnBu"], LogNorm(*ends)
    figure, (axis,) = new_figure(5.6, 4.0)
    axis.grid(False)
    levels = np.geomspace(least, most, 13)
    axis.contourf(grid_d, grid_n, z, levels=levels, cmap=colors, norm=norm, alpha=0.75)
    lines = axis.contour(grid_d, grid_n, z, levels=nice_ticks(least, most), colors=INK, linewidths=0.5)
    axis.clabel(lines, fmt=lambda v: f"{v:.3g}", fontsize=6.5)
    flops = surface.cost * n**surface.power * d
    for budget in np.geomspace(flops.min(), flops.max(), 5):
        axis.plot(budget / (surface.cost * grid_n**surface.power), grid_n, ":", color=SOFT, lw=0.8)
    axis.plot([], [], ":", color=SOFT, lw=0.8, label="equal FLOPs")
    drawn = drawn_rows(analysis)
    axis.scatter(
        drawn["samples_seen"], drawn["params"], c=drawn[analysis.metric], cmap=colors, norm=norm, s=20, ec=INK, lw=0.6,
        zorder=4, label="runs (measured)",
    )  # fmt: skip
    best_n, best_d, _ = surface.path(np.geomspace(flops.min() / 100, flops.max() * 100, 200))
    axis.plot(best_d, best_n, color=ORANGE, lw=1.8, zorder=3, label="compute-optimal path")
    text = drawn_text(analysis) or f"{surface.fit.points} runs"
    text += f"; blank: above {top:g}" if np.isnan(z).any() else ""
    axis.set(
        xscale="log", yscale="log", xlabel="samples seen", ylabel="parameters",
        xlim=(grid_d[0], grid_d[-1]), ylim=(grid_n[0], grid_n[-1]),
        title=f"$L = E + A/N^{{\\alpha}} + B/D^{{\\beta}}$  ({text})",
    )  # fmt: skip
    size_ticks(axis, "x")
    size_ticks(axis, "y")
    bar = figure.colorbar(
        ScalarMappable(norm, colors), ax=axis, label=label_of(analysis.metric, analysis.rows), pad=0.02, aspect=28
    )
    bar.outline.set_linewidth(0.4)
    bar.ax.minorticks_off()
    bar.ax.yaxis.set_minor_formatter(NullFormatter())
    ticks = nice_ticks(*ends)
    bar.set_ticks(ticks, labels=tick_labels(ticks))
    figure.legend(*axis.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure
