"""Draw a forecast with its interval so that all of it lies on the axis."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from clip_jax.scaling.data.records import RunBand

OPEN = 2.5  # factor from a forecast to the arrow of an end that nothing bounds
UNBOUNDED_FACTOR = 30.0  # factor from a forecast beyond which an end counts as unbounded


def whisker(axis: Axes, row: RunBand, color: str, marker: str, label: str, top: float) -> list[float]:
    """Draw a forecast with its interval; an unbounded end is an arrow. Return the values that must lie on the axis."""
    middle = min(row["predicted"], top)
    low, high = (v if v is not None and np.isfinite(v) else None for v in (row["low"], row["high"]))
    is_open = (low is None or low < middle / UNBOUNDED_FACTOR, high is None or high > middle * UNBOUNDED_FACTOR)
    bottom = middle / OPEN if is_open[0] or low is None else min(low, middle)
    upper = min(middle * OPEN if is_open[1] or high is None else max(high, middle), top)
    bars = axis.errorbar(
        row["flops"], middle, yerr=[[middle - bottom], [upper - middle]], fmt=marker, color=color, ms=4.5, capsize=2.5,
        lw=1.0, zorder=6, label=label,
    )  # fmt: skip
    bars[0].set_clip_on(False)
    for end, arrow, opened in ((bottom, "v", is_open[0]), (upper, "^", is_open[1] and upper < top)):
        if opened:
            axis.plot(row["flops"], end, arrow, color=color, ms=5, zorder=6)
    return [middle, bottom, upper]
