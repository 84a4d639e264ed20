"""Error during training, in the color of each run's size."""

from __future__ import annotations

from typing import Any

from clip_jax.plotting.style import SOFT, NotDrawn, ceiling, color_scale, label_of, new_figure, size_bar
from clip_jax.plotting.ticks import error_ticks
from clip_jax.scaling.analysis.analyze import Analysis
from clip_jax.scaling.report.figures.drawn import drawn_rows, drawn_text

LEAST_EVALUATIONS = 2  # of a run: one is a point, no curve


def known_curves(found: Analysis) -> list[tuple[str, Any]]:
    """Return (run_id, its evaluations by rising FLOPs) of each drawn run that was evaluated at least twice."""
    if found.curves is None:
        return []
    runs = set(drawn_rows(found)["run_id"].astype(str))
    parts = [(str(run), part.sort_values("flops")) for run, part in found.curves.groupby("run_id")]
    return [(run, part) for run, part in parts if run in runs and len(part) >= LEAST_EVALUATIONS]


def curves_behind(axis: Any, found: Analysis, alpha: float, marker: str = "-") -> None:
    """Draw `known_curves`."""
    colors, norm = color_scale(found.rows["params"])
    params = dict(zip(found.rows["run_id"].astype(str), found.rows["params"], strict=True))
    for run, part in known_curves(found):
        axis.plot(part["flops"], part["error"], marker, color=colors(norm(params[run])), alpha=alpha, ms=2, lw=0.8)


def learning_curves(found: Analysis) -> Any:
    """Draw error during training. Not fitted: only the ends have a fully decayed learning rate.

    Raises NotDrawn when no run of the fit was evaluated twice.
    """
    curves = known_curves(found)
    if not curves:
        why = "the table has no evaluations during training"
        raise NotDrawn(why if found.curves is None else f"no run of the fit has {LEAST_EVALUATIONS} evaluations")
    figure, (axis,) = new_figure()
    curves_behind(axis, found, alpha=0.9, marker="-o")
    rows, drawn = found.rows, drawn_rows(found)
    said = ", ".join(filter(None, ["end of a run", drawn_text(found)]))
    axis.plot(drawn["flops"], drawn[found.metric], "o", mfc="none", mec=SOFT, mew=0.6, ms=4.5, label=said)
    axis.set(
        xscale="log", yscale="log", xlabel="training FLOPs so far", ylabel=label_of(found.metric, rows),
        title="Learning curves (drawn, not fitted)",
    )  # fmt: skip
    low, high = axis.get_ylim()
    seen = max(part["error"].max() for _, part in curves)
    limit = ceiling(found.metric, rows[found.metric])
    axis.set_ylim(low, min(high, limit) if seen <= limit else high)
    error_ticks(axis)
    axis.legend(loc="lower left")
    size_bar(figure, axis, rows["params"])
    return figure
