"""Whether to trust a law: what it leaves over, which points move it, and how its parameters trade off."""

from __future__ import annotations

from typing import Any

import numpy as np

from clip_jax.scaling.analysis import Analysis
from clip_jax.scaling.evidence import Fitted
from clip_jax.scaling.figures.style import INK, LAW_COLORS, LAW_DASHES, ORANGE, SOFT, NotDrawn, new_figure
from clip_jax.scaling.fit import Fit
from clip_jax.scaling.profile import Interval
from clip_jax.scaling.surface import Surface
from clip_jax.scaling.uncertainty import bootstrap

MARKERS = {"power": "o", "saturating": "s", "sigmoid": "^", "shifted": "D", "chance": "v", "bnsl": "P"}


def residuals(found: Analysis) -> Any:
    """ln(measured / fitted) of each law on the frontier; and the best law's exponent without each point."""
    if found.best is None:
        raise NotDrawn(found.law["why"])
    left_out = found.law["influence"]
    figure, axes = new_figure(6.4 if left_out else 4.6, 2.9, 2 if left_out else 1)
    for key, fitted in found.frontier.fitted.items():
        fit, best = fitted.fit, key == found.winner
        axes[0].plot(
            fit.data.columns["flops"], np.log(fit.data.y / fit.predict(fit.data.columns)), ls=LAW_DASHES[key],
            marker=MARKERS[key], color=LAW_COLORS[key], ms=4, lw=1.3 if best else 0.7, label=fit.law.name,
        )  # fmt: skip
    axes[0].axhline(0, color=INK, lw=0.7)
    top = max(abs(v) for v in axes[0].get_ylim())
    axes[0].set(
        xscale="log", xlabel="training FLOPs", ylabel="ln(measured / fitted)", title="Residuals", ylim=(-top, 1.6 * top)
    )
    axes[0].legend(loc="upper center", fontsize=7)
    if left_out:
        _influence(axes[1], found.best, left_out)
    return figure


def _influence(axis: Any, best: Fitted, rows: list[dict[str, Any]]) -> None:
    name = best.fit.law.exponent_name
    value, interval = best.fit.values[name], best.intervals.get(name)
    color = LAW_COLORS[best.key]
    if interval is not None and np.isfinite(interval.width):
        axis.axhspan(interval.low, interval.high, color=color, alpha=0.12, lw=0, label="95 % interval")
    axis.axhline(value, color=color, lw=1.2, ls=LAW_DASHES[best.key], label="all points")
    axis.plot(
        [r["flops"] for r in rows], [r["exponent"] for r in rows], "o", color=INK, ms=4, label="without this point"
    )
    axis.set(xscale="log", xlabel="training FLOPs of the point", ylabel=f"{name} of the {best.fit.law.name}")
    axis.set_title("Influence")
    low, high = axis.get_ylim()
    axis.set_ylim(low, high + 0.5 * (high - low))
    axis.legend(loc="upper left", fontsize=7)


def cloud(found: Analysis) -> Any:
    """Two parameters in resamples: of the law of compute, and of the law of size and samples."""
    panels: list[tuple[Fit, tuple[str, str], str, str, dict[str, Interval], str]] = []
    if found.best is not None:
        names = _pair(found.best.fit)
        if names is not None:
            panels.append((
                found.best.fit, names, found.best.fit.law.name, "parametric", found.best.intervals,
                LAW_COLORS[found.best.key],
            ))  # fmt: skip
    if isinstance(found.surface, Surface):
        panels.append((
            found.surface.fit, ("alpha", "beta"), "law of size and samples", "cases", found.surface.intervals, ORANGE
        ))  # fmt: skip
    if not panels:
        raise NotDrawn(found.law["why"] if found.best is None else "fewer than two parameters were fitted")
    figure, axes = new_figure(3.3 * len(panels) + 0.2, 3.2, len(panels))
    for axis, (fit, (a, b), title, kind, intervals, color) in zip(axes, panels, strict=True):
        ensemble = bootstrap(fit, kind=kind, replicas=500)
        x, y = ensemble.draws[a], ensemble.draws[b]
        keep = np.ones(len(x), bool)
        for v in (x, y):
            low, high = np.quantile(v, (0.005, 0.995))
            keep &= (v >= low) & (v <= high)
        axis.plot(x[keep], y[keep], ".", color=color, ms=3, alpha=0.3, mew=0)
        for i, name in enumerate((a, b)):
            interval, center = intervals[name], (fit.values[a], fit.values[b])
            ends = np.clip([interval.low, interval.high], -1e12, 1e12)
            at = [ends, [center[1]] * 2] if i == 0 else [[center[0]] * 2, ends]
            axis.plot(*at, color=INK, lw=1, label="95 % profile intervals" if i == 0 else None)
        axis.plot(fit.values[a], fit.values[b], "o", color=INK, ms=4.5)
        log = [fit.law.parameters[fit.law.index(n)].log and np.ptp(np.log(v[keep])) > 1 for n, v in ((a, x), (b, y))]
        axis.set(
            xscale="log" if log[0] else "linear", yscale="log" if log[1] else "linear", xlabel=_symbol(fit, a),
            ylabel=_symbol(fit, b), title=title[:1].upper() + title[1:],
        )  # fmt: skip
        for side, v, is_log, name in (("x", x[keep], log[0], a), ("y", y[keep], log[1], b)):
            _limits(axis, side, v, is_log, intervals[name])
        axis.text(0.98, 0.02, f"{len(x)} resamples", transform=axis.transAxes, ha="right", fontsize=6.5, color=SOFT)
        axis.legend(loc="upper left", fontsize=6.5)
    return figure


def _pair(fit: Fit) -> tuple[str, str] | None:
    """The exponent, and the amplitude or place that it trades off with."""
    free = [n for n, is_free in zip(fit.law.names, fit.free_mask, strict=True) if is_free]
    exponent = fit.law.exponent_name
    others = [n for n in free if n != exponent and fit.law.parameters[fit.law.index(n)].carries]
    others += [n for n in free if n != exponent]
    return (others[0], exponent) if others and exponent in free else None


def _symbol(fit: Fit, name: str) -> str:
    symbol = fit.law.parameters[fit.law.index(name)].latex or name
    return f"${symbol}$: {fit.law.parameters[fit.law.index(name)].meaning}"


def _limits(axis: Any, side: str, values: np.ndarray, log: bool, interval: Interval) -> None:
    """Around the resamples, and around the interval unless that is several times wider."""
    v = np.log(values) if log else values
    low, high = v.min(), v.max()
    span = (high - low) or 0.1 * abs(high) or 1.0
    with np.errstate(divide="ignore"):
        ends = np.log([max(interval.low, 0), interval.high]) if log else np.array([interval.low, interval.high])
    low = min(low, max(ends[0], low - span))
    high = max(high, min(ends[1], high + span))
    limits = (low - 0.05 * span, high + (0.25 if side == "y" else 0.05) * span)
    getattr(axis, f"set_{side}lim")(*(np.exp(limits) if log else limits))
