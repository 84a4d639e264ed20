"""Draw the arms of a comparison: error against compute for each, and the compute of each relative to the first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from clip_jax.plotting.style import (
    BLUE,
    GREEN,
    HOUSE,
    INK,
    ORANGE,
    PURPLE,
    SKY,
    SOFT,
    YELLOW,
    ceiling,
    label_of,
    new_figure,
)
from clip_jax.plotting.ticks import error_ticks
from clip_jax.scaling.data.records import ArmRecord
from clip_jax.scaling.data.runs_table import fit_rows, prepare
from clip_jax.scaling.fit_law import fit_law
from clip_jax.scaling.laws import law_named

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLORS = (BLUE, ORANGE, GREEN, PURPLE, SKY, YELLOW, INK, SOFT)
MARKS = "osD^vPX*"
LARGEST_GAIN = 30.0  # gains beyond are drawn at the edge


def draw_arms(
    arms: Mapping[str, pd.DataFrame],
    compared: Sequence[ArmRecord],
    metric: str = "error_mean",
    *,
    law: str = "power",
    title: str = "",
) -> Figure:
    """Draw error against compute of each arm, and the compute of each arm relative to the first.

    Args:
      arms, metric, law: the arguments of `compare.compare_arms`.
      compared: its result.
      title: of the figure.

    Returns:
      A matplotlib Figure.
    """
    from matplotlib import rc_context

    with rc_context(HOUSE):  # type: ignore[arg-type]
        figure, (left, right) = new_figure(8.2, 3.5, 2, width_ratios=(1.5, 1))
        every = _stacked([fit_rows(prepare(table, metric, name), metric)[0] for name, table in arms.items()])
        for k, (name, table) in enumerate(arms.items()):
            rows, _ = fit_rows(prepare(table, metric, name), metric)
            x, y = rows["flops"].to_numpy(float), rows[metric].to_numpy(float)
            color = COLORS[k % len(COLORS)]
            left.plot(x, y, MARKS[k % len(MARKS)], color=color, ms=4, mec="white", mew=0.4, label=name)
            grid = np.geomspace(x.min(), x.max(), 60)
            left.plot(grid, fit_law(law_named(law), x, y).predict(grid), color=color)
        left.set(xscale="log", yscale="log", xlabel="training FLOPs", ylabel=label_of(metric, every), title=title)
        low, high = left.get_ylim()
        left.set_ylim(low, min(high, ceiling(metric, every[metric])))
        error_ticks(left)
        left.legend(loc="lower left", labelspacing=0.3)
        _gains(right, compared, list(arms))
        figure.draw_without_rendering()
        figure.set_layout_engine("none")
        return figure


def _stacked(tables: list[pd.DataFrame]) -> pd.DataFrame:
    """Stack the rows of all arms."""
    import pandas as pd

    return pd.concat(tables, ignore_index=True)


def _gains(axis: Axes, compared: Sequence[ArmRecord], names: list[str]) -> None:
    others = [
        (r["arm"], r["gain"], r["gain_low"], r["gain_high"])
        for r in compared
        if r["gain"] is not None and r["gain_low"] is not None and r["gain_high"] is not None
    ]
    values = [v for _, *gains in others for v in gains if 1 / LARGEST_GAIN < v < LARGEST_GAIN]
    low, high = min([*values, 0.5]) / 1.5, max([*values, 2.0]) * 1.5
    axis.axvline(1, color=SOFT, lw=0.8)
    for height, (arm, gain, gain_low, gain_high) in enumerate(reversed(others)):
        color = COLORS[names.index(arm) % len(COLORS)]
        ends = np.clip([gain_low, gain_high], low, high)
        axis.plot(list(ends), [height, height], color=color, lw=2)
        if gain <= low:
            axis.text(low * 1.05, height + 0.08, "never reaches it" if gain == 0 else f"{gain:.2g}", color=color)
        else:
            axis.plot([gain], [height], MARKS[names.index(arm) % len(MARKS)], color=color, ms=6)
    axis.set(xscale="log", xlim=(low, high), ylim=(-0.6, len(others) - 0.4))
    axis.set_yticks(range(len(others)), [arm for arm, *_ in reversed(others)])
    axis.set_xlabel(f"compute that {names[0]} needs\nover its own, for one error (95 %)")
    axis.grid(axis="y", visible=False)
