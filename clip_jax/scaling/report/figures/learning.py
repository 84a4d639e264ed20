"""Draw error during training, in the color of each run's size."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clip_jax.plotting.style import SOFT, NotDrawn, ceiling, color_scale, label_of, new_figure, size_bar
from clip_jax.plotting.ticks import error_ticks
from clip_jax.scaling.analysis.analyze import Analysis
from clip_jax.scaling.report.figures.drawn import drawn_rows, drawn_text

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MIN_EVALUATIONS = 2  # evaluations per run; a single one is a point, no curve


def known_curves(analysis: Analysis) -> list[tuple[str, pd.DataFrame]]:
    """Return (run_id, its evaluations by rising FLOPs) of each drawn run that was evaluated at least twice."""
    if analysis.curves is None:
        return []
    runs = set(drawn_rows(analysis)["run_id"].astype(str))
    parts = [(str(run), part.sort_values("flops")) for run, part in analysis.curves.groupby("run_id")]
    return [(run, part) for run, part in parts if run in runs and len(part) >= MIN_EVALUATIONS]


def curves_behind(axis: Axes, analysis: Analysis, alpha: float, marker: str = "-") -> None:
    """Draw `known_curves` on an axis, in the color of each run's size."""
    colors, norm = color_scale(analysis.rows["params"])
    params = dict(zip(analysis.rows["run_id"].astype(str), analysis.rows["params"], strict=True))
    for run, part in known_curves(analysis):
        axis.plot(part["flops"], part["error"], marker, color=colors(norm(params[run])), alpha=alpha, ms=2, lw=0.8)


def learning_curves(analysis: Analysis) -> Figure:
    """Draw error during training. Not fitted: only the ends have a fully decayed learning rate.

    Raises NotDrawn when no run of the fit was evaluated twice.
    """
    curves = known_curves(analysis)
    if not curves:
        reason = "the table has no evaluations during training"
        raise NotDrawn(reason if analysis.curves is None else f"no run of the fit has {MIN_EVALUATIONS} evaluations")
    figure, (axis,) = new_figure()
    curves_behind(axis, analysis, alpha=0.9, marker="-o")
    rows, drawn = analysis.rows, drawn_rows(analysis)
    label = ", ".join(filter(None, ["end of a run", drawn_text(analysis)]))
    axis.plot(drawn["flops"], drawn[analysis.metric], "o", mfc="none", mec=SOFT, mew=0.6, ms=4.5, label=label)
    axis.set(
        xscale="log", yscale="log", xlabel="training FLOPs so far", ylabel=label_of(analysis.metric, rows),
        title="Learning curves (drawn, not fitted)",
    )  # fmt: skip
    low, high = axis.get_ylim()
    seen = max(part["error"].max() for _, part in curves)
    limit = ceiling(analysis.metric, rows[analysis.metric])
    axis.set_ylim(low, min(high, limit) if seen <= limit else high)
    error_ticks(axis)
    axis.legend(loc="lower left")
    size_bar(figure, axis, rows["params"])
    return figure
