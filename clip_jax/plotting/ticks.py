"""Place and format the ticks of logarithmic axes: round numbers, all of an axis with the same number of decimals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def short_number(value: float) -> str:
    """Format a number with a unit: 12,500 -> 12.5k."""
    for size, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.3g}"


def interval_text(value: float, low: float | None, high: float | None) -> str:
    """Format a number with its interval, all with the decimals that show two digits of its width and of the number.

    0.07671, 0.06136, 0.1 -> "0.077 [0.061, 0.100]"; an end that is missing or not finite is "none".
    """
    ends = [v if v is not None and np.isfinite(v) else None for v in (low, high)]
    known = [v for v in (value, *ends) if v is not None]
    width = max(known) - min(known) or abs(value)
    decimals = decimals_for(min(width, abs(value)) if value else width)
    inside = ", ".join("none" if v is None else f"{v:.{decimals}f}" for v in ends)
    return f"{value:.{decimals}f} [{inside}]"


def decimals_for(width: float) -> int:
    """Return the number of decimals that show two digits of a width."""
    return int(np.clip(1 - np.floor(np.log10(width)), 0, 12)) if width > 0 else 4


def tick_labels(ticks: Sequence[float]) -> list[str]:
    """Format ticks as plain decimals; within a factor of 10 all have as many decimals as the tick that needs most."""
    if not ticks or max(ticks) >= 10 * min(ticks):
        return [f"{t:.4g}" for t in ticks]
    short = [f"{t:.4g}" for t in ticks]
    if any("e" in s for s in short):
        return short
    decimals = max(len(s.partition(".")[2]) for s in short)
    return [f"{t:.{decimals}f}" for t in ticks]


def error_ticks(axis: Axes) -> None:
    """Put round errors as plain decimals on a logarithmic y axis, as many as the range needs."""
    from matplotlib.ticker import NullFormatter, NullLocator

    low, high = axis.get_ylim()
    ticks = nice_ticks(low, high)
    axis.set_yticks(ticks, tick_labels(ticks))
    axis.yaxis.set_minor_locator(NullLocator())
    axis.yaxis.set_minor_formatter(NullFormatter())
    axis.set_ylim(low, high)


def nice_ticks(low: float, high: float) -> list[float]:
    """Choose four to nine round numbers between low and high, for a logarithmic axis."""
    ticks: list[float] = []
    slack = 1 + 1e-9
    for steps in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 4, 5, 7)):
        decades = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
        ticks = [s * 10.0**d for d in decades for s in steps if low / slack <= s * 10.0**d <= high * slack]
        if len(ticks) >= 4:
            return ticks[:: -(-len(ticks) // 9)]
    from matplotlib.ticker import MaxNLocator

    return [float(v) for v in MaxNLocator(6).tick_values(low, high) if low / slack <= v <= high * slack]


def size_ticks(axis: Axes, which: str = "x") -> None:
    """Put labels like 30k on a logarithmic axis of parameters or samples."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter

    side = axis.xaxis if which == "x" else axis.yaxis
    low, high = axis.get_xlim() if which == "x" else axis.get_ylim()
    if high / low > 1e4:
        side.set_major_locator(LogLocator(numticks=7))
    else:
        side.set_major_locator(FixedLocator(nice_ticks(low, high)))
    side.set_major_formatter(FuncFormatter(lambda v, _: short_number(v)))
    side.set_minor_formatter(NullFormatter())
