"""Error against compute: the law with its band and forecast, and the learning curves behind it."""

from __future__ import annotations

from typing import Any

import numpy as np

from clip_jax.scaling.analysis import Analysis
from clip_jax.scaling.figures.style import (
    INK,
    LAW_COLORS,
    LAW_DASHES,
    SOFT,
    NotDrawn,
    color_scale,
    label_of,
    new_figure,
    size_bar,
)
from clip_jax.scaling.figures.ticks import error_ticks

AHEAD = 12  # times the largest FLOPs: how far laws are drawn


def error_vs_flops(found: Analysis) -> Any:
    """Every run, the frontier, each law, the band of the one that extrapolates best, and its forecasts."""
    rows, points = found.rows, found.frontier.points
    figure, (axis,) = new_figure()
    colors, norm = color_scale(rows["params"])
    _curves_behind(axis, found, alpha=0.25)
    axis.scatter(
        rows["flops"], rows[found.metric], c=rows["params"], cmap=colors, norm=norm, s=16, lw=0.4, ec="white",
        zorder=3,
    )  # fmt: skip
    axis.plot(
        points["flops"], points["error"], "o", mfc="none", mec=INK, mew=1, ms=7.5, zorder=4,
        label=f"frontier: {_rule(found)}",
    )  # fmt: skip
    grid = np.geomspace(points["flops"].min() / 1.4, points["flops"].max() * AHEAD, 240)
    values = rows[found.metric].to_numpy(float)
    low, high = values.min(), values.max()
    for key, fitted in found.frontier.fitted.items():
        best = key == found.winner
        y = fitted.fit.predict(grid)
        axis.plot(
            grid, y, ls="-" if best else LAW_DASHES[key], color=LAW_COLORS[key], lw=1.9 if best else 1.0,
            zorder=5 if best else 2,
            label=fitted.fit.law.name + _remark(found, y, grid, best),
        )  # fmt: skip
        if best:
            band = fitted.bands(grid)
            a, b = (np.where(np.isfinite(band[e]), band[e], v) for e, v in (("low", 1e-9), ("high", 1e9)))
            axis.fill_between(grid, a, b, color=LAW_COLORS[key], alpha=0.14, lw=0, label="its 95 % band")
            low = min(low, max(float(y[-1]) * 0.8, low * 0.3))
            forecast = next(r for r in found.law["next_budget"] if r["form"] == fitted.fit.law.name)
            _bar(axis, forecast, LAW_COLORS[key], "s", "forecast of a run at 10×")
    check = [r for r in found.law["forecast_check"] if found.best and r["form"] == found.best.fit.law.name]
    for row in check:
        _bar(axis, {**row, "flops": row["flops"] * 1.13}, INK, "D", "forecast without the largest budget")
    axis.set(xscale="log", yscale="log", xlabel="training FLOPs", ylabel=label_of(found.metric), title=found.title)
    axis.set_ylim(low * 0.85, high * 1.12)
    axis.set_xlim(rows["flops"].min() / 2, points["flops"].max() * (AHEAD if found.winner else 2))
    error_ticks(axis)
    axis.legend(loc="lower left", labelspacing=0.35)
    size_bar(figure, axis, rows["params"])
    return figure


def _remark(found: Analysis, y: np.ndarray, grid: np.ndarray, best: bool) -> str:
    """That a law is the best one, or lies on it and so cannot be seen."""
    if best:
        return " (extrapolates best)" if found.law["extrapolation"] else ""
    same = found.best is not None and np.allclose(y, found.best.fit.predict(grid), rtol=1e-3)
    return " (the same curve)" if same else ""


def _rule(found: Analysis) -> str:
    return str(found.law["frontier_rule"])


def _bar(axis: Any, row: dict[str, Any], color: str, marker: str, label: str) -> None:
    middle = row["predicted"]
    low, high = (v if v is not None and np.isfinite(v) else far for v, far in ((row["low"], 0.0), (row["high"], 1e9)))
    axis.errorbar(
        row["flops"], middle, yerr=[[max(middle - low, 0)], [max(high - middle, 0)]], fmt=marker, color=color,
        ms=4, capsize=2.5, lw=1.0, zorder=6, label=label,
    )  # fmt: skip


def _curves_behind(axis: Any, found: Analysis, alpha: float, marker: str = "-") -> int:
    """Learning curves in the color of their size; how many there were."""
    if found.curves is None:
        return 0
    colors, norm = color_scale(found.rows["params"])
    params = dict(zip(found.rows["run_id"], found.rows["params"], strict=True))
    drawn = 0
    for run_id, part in found.curves.groupby("run_id"):
        if run_id in params:
            part = part.sort_values("flops")
            axis.plot(
                part["flops"], part["error"], marker, color=colors(norm(params[run_id])), alpha=alpha, ms=2, lw=0.8
            )
            drawn += 1
    return drawn


def learning_curves(found: Analysis) -> Any:
    """Error during training. Drawn, not fitted: only the ends have a fully decayed learning rate."""
    figure, (axis,) = new_figure()
    if not _curves_behind(axis, found, alpha=0.9, marker="-o"):
        raise NotDrawn("the table has no evaluations during training")
    rows = found.rows
    axis.plot(rows["flops"], rows[found.metric], "o", mfc="none", mec=SOFT, mew=0.6, ms=4.5, label="end of a run")
    axis.set(
        xscale="log", yscale="log", xlabel="training FLOPs so far", ylabel=label_of(found.metric),
        title="Learning curves (drawn, not fitted)",
    )  # fmt: skip
    error_ticks(axis)
    axis.legend(loc="lower left")
    size_bar(figure, axis, rows["params"])
    return figure
