"""The house style of the figures: one palette, one size of type, axes that read as numbers."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

DPI = 220
INK, SOFT, PALE = "#222222", "#767676", "#e6e6e6"
# Okabe & Ito's palette, told apart by color-blind readers, with a dash each for print without color
BLUE, ORANGE, GREEN, PURPLE, SKY, YELLOW = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00"
LAW_COLORS = {"power": BLUE, "saturating": ORANGE, "sigmoid": GREEN, "shifted": PURPLE, "chance": YELLOW, "bnsl": SKY}
LAW_DASHES: dict[str, Any] = {
    "power": (0, (1, 1)), "saturating": (0, (6, 2)), "sigmoid": (0, (3, 1.5)), "shifted": "-.",
    "chance": (0, (8, 2, 2, 2)), "bnsl": ":",
}  # fmt: skip
SIZES = "viridis_r"
HOUSE = {
    "font.family": "DejaVu Sans", "font.size": 8, "axes.labelsize": 8.5, "axes.titlesize": 9, "legend.fontsize": 7.5,
    "axes.titlelocation": "left", "axes.titleweight": "bold", "axes.linewidth": 0.7, "axes.edgecolor": INK,
    "axes.labelcolor": INK, "text.color": INK, "xtick.color": INK, "ytick.color": INK, "axes.axisbelow": True,
    "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.color": PALE, "grid.linewidth": 0.6,
    "axes.grid.which": "major", "legend.frameon": False, "legend.handlelength": 2.4, "lines.linewidth": 1.4,
    "mathtext.default": "regular", "savefig.dpi": DPI, "figure.constrained_layout.use": True,
}  # fmt: skip


class NotDrawn(Exception):
    """A figure that this table cannot give; the message says why."""


def new_figure(width: float = 5.6, height: float = 3.7, columns: int = 1, **options: Any) -> tuple[Any, list[Any]]:
    """(figure, its axes from left to right), in inches, without pyplot's global state."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    return figure, list(figure.subplots(1, columns, squeeze=False, **options)[0])


def png(figure: Any) -> bytes:
    """The figure as a file's content, to be written wherever the place is."""
    out = io.BytesIO()
    figure.savefig(out, format="png")
    return out.getvalue()


def label_of(metric: str) -> str:
    """A metric for an axis."""
    return {"error_mean": "zero-shot error, mean over tasks"}.get(metric, metric.replace("_", " "))


def short_number(value: float) -> str:
    """12,500 -> 12.5k."""
    for size, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.3g}"


def error_ticks(axis: Any) -> None:
    """Plain decimals on a logarithmic axis of errors, as many as the range needs."""
    from matplotlib.ticker import FixedLocator, NullFormatter, NullLocator, StrMethodFormatter

    low, high = axis.get_ylim()
    axis.yaxis.set_major_locator(FixedLocator(nice_ticks(low, high)))
    axis.yaxis.set_major_formatter(StrMethodFormatter("{x:.4g}"))
    axis.yaxis.set_minor_locator(NullLocator())
    axis.yaxis.set_minor_formatter(NullFormatter())
    axis.set_ylim(low, high)


def nice_ticks(low: float, high: float) -> list[float]:
    """Four to nine round numbers between low and high, for a logarithmic axis."""
    found: list[float] = []
    for steps in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 4, 5, 7)):
        decades = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
        found = [s * 10.0**d for d in decades for s in steps if low <= s * 10.0**d <= high]
        if len(found) >= 4:
            return found
    from matplotlib.ticker import MaxNLocator

    return [float(v) for v in MaxNLocator(6).tick_values(low, high) if low <= v <= high]


def size_ticks(axis: Any, which: str = "x") -> None:
    """Labels like 30k on a logarithmic axis of parameters or samples."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter

    side = axis.xaxis if which == "x" else axis.yaxis
    low, high = axis.get_xlim() if which == "x" else axis.get_ylim()
    if high / low > 1e4:
        side.set_major_locator(LogLocator(numticks=7))
    else:
        side.set_major_locator(FixedLocator(nice_ticks(low, high)))
    side.set_major_formatter(FuncFormatter(lambda v, _: short_number(v)))
    side.set_minor_formatter(NullFormatter())


def color_scale(values: Any, name: str = SIZES) -> tuple[Any, Any]:
    """(color map, logarithmic norm) of positive values."""
    from matplotlib import colormaps
    from matplotlib.colors import LogNorm

    low, high = float(np.min(values)), float(np.max(values))
    return colormaps[name], LogNorm(low, high if high > low else low * 1.1)


def size_bar(figure: Any, axis: Any, values: pd.Series, label: str = "parameters", name: str = SIZES) -> None:
    """A color bar with four plain labels; nothing where all sizes are one."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.ticker import NullFormatter

    if values.nunique() < 2:
        return
    colors, norm = color_scale(values, name)
    bar = figure.colorbar(ScalarMappable(norm, colors), ax=axis, label=label, pad=0.02, aspect=28)
    bar.outline.set_linewidth(0.4)
    bar.ax.yaxis.set_minor_formatter(NullFormatter())
    ticks = np.geomspace(norm.vmin, norm.vmax, 4)
    bar.set_ticks(ticks, labels=[short_number(float(f"{t:.2g}")) for t in ticks])
    bar.ax.minorticks_off()
