"""Draw IsoFLOP valleys, and the best size and number of samples against compute."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from clip_jax.plotting.style import (
    BLUE,
    GREEN,
    INK,
    ORANGE,
    SOFT,
    NotDrawn,
    ceiling,
    color_scale,
    label_of,
    new_figure,
    size_bar,
)
from clip_jax.plotting.ticks import error_ticks, size_ticks
from clip_jax.scaling.analysis.analyze import Analysis, is_planned
from clip_jax.scaling.data.records import ValleyRecord
from clip_jax.scaling.frontier.frontier import by_size
from clip_jax.scaling.report.figures.parametric import identified_surface
from clip_jax.scaling.report.figures.valley_errors import ends_of, valley_errors

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

HOLLOW = {"mfc": "white", "ms": 4}
BARS, NO_BARS = "± 1 standard error", "no error known: one seed, no spare size"
MIN_PARABOLAS = 2  # of an allocation
LEGEND_BUDGETS = 9  # budgets in a legend; more get a color bar


def isoflop(analysis: Analysis) -> Figure:
    """Draw error over size at each budget: the parabola with the standard error of its minimum, and a cubic.

    Refused valleys are dotted.
    """
    sizes = by_size(analysis.rows, analysis.metric)
    shown = [v for v in analysis.valleys if v["sizes"] >= 3]
    if not is_planned(analysis) or not shown:
        most = max((v["sizes"] for v in analysis.valleys), default=0)
        reason = f"at most {most} sizes at one budget, 3 are needed"
        raise NotDrawn(reason if is_planned(analysis) else "the table has no column 'budget'")
    budgets = np.array([v["budget"] for v in shown])
    colors, norm = color_scale(budgets, "cividis")
    figure, (axis,) = new_figure(5.8, 3.9)
    cubic_valleys = {v["budget"]: v for v in analysis.cubic_valleys}
    errors = valley_errors(analysis)
    for valley in shown:
        part = sizes[sizes["budget"] == valley["budget"]]
        color = colors(norm(valley["budget"]) * 0.9)
        x = np.linspace(np.log(part["params"].min()), np.log(part["params"].max()), 100)
        accepted = valley["status"] == "accepted"
        axis.plot(
            part["params"], part["error"], "o", color=color, mfc=color if accepted else "white", ms=4, zorder=3,
            label=f"{valley['budget']:.2g}",
        )  # fmt: skip
        for row, style in ((valley, "-" if accepted else ":"), (cubic_valleys[valley["budget"]], (0, (4, 2)))):
            if row["coefficients"] is not None and (row is valley or row["status"] == "accepted"):
                *poly, middle = row["coefficients"]
                axis.plot(
                    np.exp(x), np.exp(np.polyval(poly, x - middle)), ls=style, color=color,
                    lw=1.3 if row is valley and accepted else 0.9,
                )  # fmt: skip
        if accepted:
            if se := errors.get(valley["budget"]):
                ends = ends_of(valley, se, sizes, "params")
                axis.plot(ends, [valley["error"]] * 2, "|-", color=color, ms=5, lw=1.0, zorder=4)
            axis.plot(valley["params"], valley["error"], "*", color=color, ms=11, mec="white", mew=0.7, zorder=5)
        if cubic_valleys[valley["budget"]]["status"] == "accepted":
            row = cubic_valleys[valley["budget"]]
            axis.plot(row["params"], row["error"], "D", mfc="white", mec=color, ms=4, zorder=5)
    axis.set(
        xscale="log",
        yscale="log",
        xlabel="parameters",
        ylabel=label_of(analysis.metric, analysis.rows),
        title="IsoFLOP valleys",
    )
    low, high = axis.get_ylim()
    axis.set_ylim(low, min(high, ceiling(analysis.metric, sizes["error"], analysis.law["chance"]) * 1.005))
    axis.set_xlim(sizes["params"].min() / 1.2, sizes["params"].max() * 1.2)
    error_ticks(axis)
    size_ticks(axis)
    _legends(figure, axis, analysis, len(shown), bool(errors))
    return figure


def _legends(figure: Figure, axis: Axes, analysis: Analysis, count: int, has_errors: bool) -> None:
    import pandas as pd
    from matplotlib.lines import Line2D

    def of(rows: list[ValleyRecord], accepted: bool) -> bool:
        return any((v["status"] == "accepted") is accepted for v in rows)

    looks: list[tuple[bool, str, dict[str, Any]]] = [
        (
            of(analysis.valleys, True),
            f"parabola, its minimum\n({BARS if has_errors else NO_BARS})",
            {"marker": "*", "ms": 8},
        ),
        (
            of(analysis.cubic_valleys, True),
            "cubic, its minimum\n(no error known)",
            {"ls": (0, (4, 2)), "lw": 0.9, "marker": "D", **HOLLOW},
        ),
        (of(analysis.valleys, False), "refused", {"ls": ":", "lw": 0.9, "marker": "o", **HOLLOW}),
    ]
    kinds = [Line2D([], [], color=INK, label=label, **look) for is_there, label, look in looks if is_there]
    if count <= LEGEND_BUDGETS:
        figure.legend(*axis.get_legend_handles_labels(), title="FLOPs", loc="outside right upper", title_fontsize=8)
    else:
        size_bar(figure, axis, pd.Series([v["budget"] for v in analysis.valleys]), "training FLOPs", "cividis")
    figure.legend(handles=kinds, loc="outside lower center", ncols=3)


def allocation(analysis: Analysis) -> Figure:
    """Draw the best size and the best number of samples at each budget, with the laws through them.

    Raises NotDrawn with fewer than two accepted parabolas and no identified law of size and samples.
    """
    accepted = [v for v in analysis.valleys if v["status"] == "accepted"] if is_planned(analysis) else []
    cubic_valleys = [v for v in analysis.cubic_valleys if v["status"] == "accepted"] if is_planned(analysis) else []
    surface = None
    try:
        surface = identified_surface(analysis)
    except NotDrawn as reason:
        if len(accepted) < MIN_PARABOLAS:
            raise NotDrawn(
                f"{len(accepted)} budgets have an accepted parabola, {MIN_PARABOLAS} are needed, and {reason}"
            ) from None
    errors, sizes = valley_errors(analysis), by_size(analysis.rows, analysis.metric)
    figure, axes = new_figure(6.4, 3.1, 2)
    points = analysis.frontier.points
    span = np.geomspace(points["flops"].min() / 1.5, points["flops"].max() * 10, 60)
    path = surface.path(span) if surface else None
    for axis, key, name, at in ((axes[0], "params", "parameters", 0), (axes[1], "samples_seen", "samples seen", 1)):
        axis.plot(points["flops"], points[key], "o", mfc="none", mec=SOFT, ms=6, label="best run of the frontier")
        for rows, a, marker, color, label in (
            (accepted, analysis.law["allocation"], "*", BLUE, "parabola"),
            (cubic_valleys, analysis.law["allocation_cubic"], "D", GREEN, "cubic"),
        ):  # fmt: skip
            if not rows:
                continue
            x = np.array([r["budget"] for r in rows])
            y = np.array([r["params"] if at == 0 else r["samples_seen"] for r in rows])
            axis.plot(x, y, marker, color=color, ms=8 if marker == "*" else 4, zorder=4)
            if rows is accepted and errors:
                for r in rows:
                    axis.plot([r["budget"]] * 2, ends_of(r, errors[r["budget"]], sizes, key), "_-", color=color, lw=1.0)
            legend = f"{label}: 1 budget" if len(rows) == 1 else f"{label}: {len(rows)} budgets"
            if a["status"] == "identified":
                power, se = a["params" if at == 0 else "samples"], a["params_se" if at == 0 else "samples_se"]
                middle = np.exp(np.log(y).mean()) * (span / np.exp(np.log(x).mean())) ** power
                legend = f"{label}: $C^{{{power:.2f} \\pm {se:.2f}}}$"
                axis.plot(span, middle, color=color, lw=1.2, label=legend)
            else:
                axis.plot([], [], marker, color=color, label=legend)
        if path is not None:
            slope = np.polyfit(np.log(span), np.log(path[at]), 1)[0]
            axis.plot(
                span,
                path[at],
                ls=(0, (6, 2)),
                color=ORANGE,
                lw=1.2,
                label=f"law of size and samples: $C^{{{slope:.2f}}}$",
            )
        axis.set(xscale="log", yscale="log", xlabel="training FLOPs", ylabel=f"compute-optimal {name}")
        _room(axis, np.concatenate([points[key].to_numpy(float), *([path[at]] if path is not None else [])]))
        size_ticks(axis, "y")
        axis.legend(loc="upper left", fontsize=7)
    axes[0].set_title("Allocation" + (" (bars: ± 1 standard error)" if errors else ""))
    return figure


def _room(axis: Axes, values: np.ndarray) -> None:
    """Leave space above the data for the legend."""
    axis.set_ylim(values.min() / 2, values.max() * (values.max() / values.min()) ** 0.55 * 2)
