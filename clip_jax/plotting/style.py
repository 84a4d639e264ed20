"""The style of the figures: one palette, one font size, axes that read as numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from clip_jax.plotting.ticks import short_number

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap, LogNorm
    from matplotlib.figure import Figure as MatplotlibFigure
    from numpy.typing import ArrayLike

    from clip_jax.plotting.figure import Figure

DPI = 220
INK, SOFT, PALE = "#222222", "#767676", "#e6e6e6"
# Okabe & Ito's palette, distinguishable for color-blind readers, with one dash pattern each for print without color
BLUE, ORANGE, GREEN, PURPLE, SKY, YELLOW = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00"
WINE = "#882255"
LAW_COLORS = {
    "power": BLUE, "saturating": ORANGE, "sigmoid": GREEN, "bounded": WINE, "shifted": PURPLE, "chance": YELLOW,
    "bnsl": SKY,
}  # fmt: skip
LAW_DASHES: dict[str, Any] = {
    "power": (0, (1, 1)), "saturating": (0, (6, 2)), "sigmoid": (0, (3, 1.5)), "bounded": "-", "shifted": "-.",
    "chance": (0, (8, 2, 2, 2)), "bnsl": ":",
}  # fmt: skip
SIZE_COLORMAP = "viridis_r"
TASK = "error/"  # columns of one task's error
MANY_MARKERS = 40  # points from which their markers shrink
HOUSE = {
    "font.family": "DejaVu Sans", "font.size": 8, "axes.labelsize": 8.5, "axes.titlesize": 9, "legend.fontsize": 7.5,
    "axes.titlelocation": "left", "axes.titleweight": "bold", "axes.linewidth": 0.7, "axes.edgecolor": INK,
    "axes.labelcolor": INK, "text.color": INK, "xtick.color": INK, "ytick.color": INK, "axes.axisbelow": True,
    "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.color": PALE, "grid.linewidth": 0.6,
    "axes.grid.which": "major", "legend.frameon": False, "legend.handlelength": 2.4, "lines.linewidth": 1.4,
    "mathtext.default": "regular", "savefig.dpi": DPI, "figure.constrained_layout.use": True,
    "pdf.fonttype": 42, "ps.fonttype": 42, "svg.fonttype": "none", "svg.hashsalt": "clip_jax",
}  # fmt: skip


class NotDrawn(Exception):
    """The error of a figure that a table cannot give; the message is the reason."""


def new_figure(
    width: float = 5.6, height: float = 3.7, columns: int = 1, *, sharey: bool = False,
    width_ratios: Sequence[float] | None = None,
) -> tuple[Figure, list[Axes]]:  # fmt: skip
    """Make (figure, its axes from left to right) of a size in inches, without pyplot's global state."""
    from clip_jax.plotting.figure import Figure

    figure = Figure(width, height)
    return figure, list(figure.subplots(1, columns, squeeze=False, sharey=sharey, width_ratios=width_ratios)[0])


def label_of(metric: str, rows: pd.DataFrame | None = None) -> str:
    """Return the label of a metric for an axis.

    Args:
      metric: the column.
      rows: the table of the column. Only its columns ``error/TASK`` show whether ``error_mean`` is a mean over tasks;
        where it equals one task's error in every row (others are controls), that task is named.
    """
    if metric.startswith(TASK):
        return f"zero-shot error, {metric.removeprefix(TASK)}"
    if metric != "error_mean":
        return metric.replace("_", " ")
    columns = [] if rows is None else [c for c in map(str, rows.columns) if c.startswith(TASK)]
    tasks = [c for c in columns if rows is not None and rows[c].notna().any()]
    if rows is None or not tasks:
        return "zero-shot error"
    same = [c for c in tasks if np.allclose(rows[c].astype(float), rows[metric].astype(float), rtol=1e-9, atol=0)]
    if same:
        return f"zero-shot error, {same[0].removeprefix(TASK)}"
    return "zero-shot error, mean over tasks" if len(tasks) > 1 else "zero-shot error"


def ceiling(metric: str, values: ArrayLike, chance: float | None = None) -> float:
    """Return the highest value that a metric can take: the error of guessing where known, 1 of an error, else infinity.

    A column that stays within 1 and is not named a loss is an error.
    """
    is_error = "loss" not in metric and float(np.max(values)) <= 1
    return min(1.0 if is_error else np.inf, np.inf if chance is None else chance)


def marker_size(size: float, count: int) -> float:
    """Return the size of ``count`` markers, ``size`` where they are few: many must leave the curve visible."""
    return size * max(min(1.0, (MANY_MARKERS / max(count, 1)) ** 0.5), 0.3)


def color_scale(values: ArrayLike, name: str = SIZE_COLORMAP) -> tuple[Colormap, LogNorm]:
    """Return (color map, logarithmic norm) of positive values."""
    from matplotlib import colormaps
    from matplotlib.colors import LogNorm

    low, high = float(np.min(values)), float(np.max(values))
    return colormaps[name], LogNorm(low, high if high > low else low * 1.1)


def size_bar(
    figure: MatplotlibFigure, axis: Axes, values: pd.Series, label: str = "parameters", name: str = SIZE_COLORMAP
) -> None:
    """Draw a color bar with four plain labels; nothing where all sizes are equal."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.ticker import NullFormatter

    if values.nunique() < 2:
        return
    colors, norm = color_scale(values, name)
    bar = figure.colorbar(ScalarMappable(norm, colors), ax=axis, label=label, pad=0.02, aspect=28)
    bar.outline.set_linewidth(0.4)
    bar.ax.yaxis.set_minor_formatter(NullFormatter())
    ticks = np.geomspace(norm.vmin or 1.0, norm.vmax or 1.0, 4).tolist()
    bar.set_ticks(ticks, labels=[short_number(float(f"{t:.2g}")) for t in ticks])
    bar.ax.minorticks_off()
