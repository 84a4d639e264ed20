"""Figure of a search: the metric against each field, with the best setting and the ends of its range."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

from clip_jax.plotting.style import BLUE, HOUSE, ORANGE, SOFT, label_of, new_figure
from clip_jax.sweep.search.space import Dimension

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from clip_jax.sweep.search.config import SearchConfig
    from clip_jax.sweep.search.trial import Trial


def draw(config: SearchConfig, trials: Sequence[Trial], best: Trial) -> Figure:
    """Draw a Figure of one panel per field. Filled: trained to the end; hollow: dropped early."""
    import matplotlib

    with matplotlib.rc_context(cast(Any, HOUSE)):
        space = config.dimensions
        figure, axes = new_figure(1.0 + 2.7 * len(space), 2.9, len(space), sharey=True)
        for axis, dimension in zip(axes, space, strict=True):
            _panel(axis, dimension, config, trials, best)
        axes[0].set_ylabel(label_of(config.metric))
        axes[0].set_title(f"{config.name}: {len(trials)} settings, {config.method}")
        return figure


def _panel(axis: Any, d: Dimension, config: SearchConfig, trials: Sequence[Trial], best: Trial) -> None:
    def coordinate(value: Any) -> float:
        return float(d.values.index(value)) if d.kind == "choice" else float(value)

    for ended, style in ((False, {"mfc": "none", "mec": SOFT}), (True, {"color": BLUE})):
        shown = [
            t for t in trials if d.field in t.setting and t.mean is not None and (t.step == config.base.steps) == ended
        ]
        if shown:
            axis.plot([coordinate(t.setting[d.field]) for t in shown], [t.mean for t in shown], "o", ms=4, **style)
    if d.field in best.setting:
        star = {"ms": 12, "color": ORANGE, "mec": "white", "mew": 0.6, "zorder": 5}
        axis.plot(coordinate(best.setting[d.field]), best.mean, "*", **star)
    axis.set_xlabel(d.field)
    if d.kind == "choice":
        axis.set_xticks(range(len(d.values)), [str(v) for v in d.values])
        axis.margins(x=0.2)
        return
    if d.kind == "log":
        axis.set_xscale("log")
    for end in (d.low, d.high):
        axis.axvline(end, color=SOFT, linewidth=0.8, linestyle=":")
