"""Draw the trade-off of two parameters: resamples of a fit, and the profile interval of each parameter."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from clip_jax.plotting.style import INK, LAW_COLORS, ORANGE, SOFT, NotDrawn, new_figure
from clip_jax.plotting.ticks import nice_ticks, tick_labels
from clip_jax.scaling.analysis.analyze import Analysis
from clip_jax.scaling.fit.result import Fit
from clip_jax.scaling.fit.solver import MANY_ROWS
from clip_jax.scaling.frontier.parametric import ParametricFit
from clip_jax.scaling.profile.prediction import Interval
from clip_jax.scaling.uncertainty.bootstrap import Resampling, bootstrap, from_covariance

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import ArrayLike

INNER = (0.005, 0.995)  # quantiles of the resamples that are drawn
DECADES = 4  # of ratios from which on only powers of ten are named


@dataclass(frozen=True)
class Coordinate:
    """A parameter on an axis.

    Amplitudes and computes are shown as ratios to the fitted value on a logarithmic axis, others as they are.
    """

    fit: Fit
    name: str
    interval: Interval

    @property
    def is_ratio(self) -> bool:
        """True if the parameter is shown as a ratio: it is positive and of any magnitude."""
        return self.fit.law.parameters[self.fit.law.index(self.name)].log

    def shown(self, values: ArrayLike) -> np.ndarray:
        """Convert values of the parameter to the values on the axis."""
        return np.asarray(values, float) / (self.fit.values[self.name] if self.is_ratio else 1.0)

    @property
    def label(self) -> str:
        """The label of the axis."""
        parameter = self.fit.law.parameters[self.fit.law.index(self.name)]
        unit = f" / {self.fit.values[self.name]:.3g}" if self.is_ratio else ""
        return f"${parameter.latex or self.name}${unit}: {parameter.meaning}"

    def limits(self, resamples: np.ndarray, room: float) -> tuple[float, float]:
        """Return limits that enclose the resamples, and the interval unless it is several times wider.

        room: space above, as a share of the range.
        """
        v = np.log(resamples) if self.is_ratio else resamples
        low, high = float(v.min()), float(v.max())
        value = 0.0 if self.is_ratio else float(self.fit.values[self.name])
        low, high = min(low, value), max(high, value)
        span = (high - low) or 0.1 * abs(high) or 1.0
        ends = self.shown([self.interval.low, self.interval.high])
        if self.is_ratio:
            ends = np.log(np.maximum(ends, 1e-300))
        low, high = min(low, max(ends[0], low - span)), max(high, min(ends[1], high + span))
        at = np.array([low - 0.06 * span, high + room * span])
        return tuple(np.exp(at) if self.is_ratio else at)


def cloud(analysis: Analysis) -> Figure:
    """Draw two parameters in resamples: of the law of compute, and of the law of size and samples."""
    panels: list[tuple[str, Resampling, str, Coordinate, Coordinate]] = []
    if analysis.best is not None and (names := _pair(analysis.best.fit)):
        fit, intervals = analysis.best.fit, analysis.best.intervals
        x, y = (Coordinate(fit, n, intervals[n]) for n in names)
        panels.append((fit.law.name, "parametric", LAW_COLORS[fit.law.key], x, y))
    if isinstance(analysis.surface, ParametricFit):
        fit, intervals = analysis.surface.fit, analysis.surface.intervals
        x, y = (Coordinate(fit, n, intervals[n]) for n in ("alpha", "beta"))
        label = "size and samples" + ("" if fit.identified else " (not identified)")
        panels.append((label, "cases", ORANGE, x, y))
    if not panels:
        raise NotDrawn(analysis.law["why"] if analysis.best is None else "fewer than two parameters were fitted")
    figure, axes = new_figure(3.3 * len(panels) + 0.2, 3.2, len(panels))
    for axis, (title, kind, color, x, y) in zip(axes, panels, strict=True):
        _panel(axis, x, y, kind, color)
        axis.set_title(title[:1].upper() + title[1:])
    return figure


def _panel(axis: Axes, x: Coordinate, y: Coordinate, kind: Resampling, color: str) -> None:
    many = x.fit.points > MANY_ROWS
    ensemble = from_covariance(x.fit) if many else bootstrap(x.fit, kind=kind, replicas=500)
    points = [c.shown(ensemble.draws[c.name]) for c in (x, y)]
    keep = np.ones(len(points[0]), bool)
    for v in points:
        low, high = np.quantile(v, INNER)
        keep &= (v >= low) & (v <= high)
    axis.plot(points[0][keep], points[1][keep], ".", color=color, ms=3, alpha=0.3, mew=0)
    middle = [float(c.shown(c.fit.values[c.name])) for c in (x, y)]
    for i, c in enumerate((x, y)):
        limits = c.limits(points[i][keep], room=0.25 if i else 0.06)
        ends = c.shown([c.interval.low, c.interval.high])
        beyond = [ends[0] < limits[0], ends[1] > limits[1]]
        ends = np.clip(ends, *limits)
        across = [middle[1 - i]] * 2
        at = [across, ends] if i else [ends, across]
        axis.plot(*at, color=INK, lw=1, label=None if i else "95 % intervals")
        for end, arrow, is_beyond in zip(ends, "v^" if i else "<>", beyond, strict=True):
            if is_beyond:  # a triangle at the edge: the interval extends beyond it
                where = (middle[0], end) if i else (end, middle[1])
                axis.plot(*where, arrow, color=INK, ms=4, clip_on=False)
        _scale(axis, "y" if i else "x", c, limits)
    axis.plot(*middle, "o", color=INK, ms=4.5)
    drawn = f"{len(points[0])} {'draws, one-step form' if many else 'resamples'}"
    axis.text(0.98, 0.02, drawn, transform=axis.transAxes, ha="right", fontsize=6.5, color=SOFT)
    axis.legend(loc="upper left", fontsize=6.5)


def _scale(axis: Axes, side: str, c: Coordinate, limits: tuple[float, float]) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter, NullLocator

    of = axis.yaxis if side == "y" else axis.xaxis
    getattr(axis, f"set_{side}label")(c.label)
    if c.is_ratio:
        getattr(axis, f"set_{side}scale")("log")
        if limits[1] / limits[0] < 10**DECADES:
            ticks = nice_ticks(*limits)
            of.set_minor_locator(NullLocator())
            of.set_ticks(ticks, tick_labels(ticks))
        else:
            of.set_major_locator(LogLocator(numticks=6))
        of.set_minor_formatter(NullFormatter())
    getattr(axis, f"set_{side}lim")(*limits)


def _pair(fit: Fit) -> tuple[str, str] | None:
    """Choose the exponent, and the amplitude or compute that it trades off with."""
    free = [n for n, is_free in zip(fit.law.names, fit.free_mask, strict=True) if is_free]
    exponent = fit.law.exponent_name
    others = [n for n in free if n != exponent and fit.law.parameters[fit.law.index(n)].carries]
    others += [n for n in free if n != exponent]
    return (others[0], exponent) if others and exponent in free else None
