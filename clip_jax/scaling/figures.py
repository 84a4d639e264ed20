"""The figures of a report, as PNG files a paper could print."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from clip_jax.scaling.frontier import by_size
from clip_jax.scaling.uncertainty import Ensemble

if TYPE_CHECKING:
    import pandas as pd

# Okabe & Ito's palette, told apart by colour-blind readers
FORM_COLOURS = {"power law": "#0072B2", "saturating power law": "#D55E00", "sigmoid in log C": "#009E73"}
FORM_DASHES = {"power law": "-", "saturating power law": "--", "sigmoid in log C": ":"}
DPI = 180


def _axes(width: float = 6.4, height: float = 4.4, rows: int = 1) -> tuple[Any, Any]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, 1, squeeze=False)[:, 0]
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(True, which="major", color="0.92", linewidth=0.8)
        axis.set_axisbelow(True)
    return figure, axes[0] if rows == 1 else axes


def _plain_ticks(axis: Any) -> None:
    """Decimal labels on a logarithmic axis of errors."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    axis.yaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 4, 5, 6, 7, 8, 9)))
    axis.yaxis.set_major_formatter(StrMethodFormatter("{x:.3g}"))
    axis.yaxis.set_minor_formatter(NullFormatter())


def _size_ticks(axis: Any) -> None:
    """Labels like 30 k on a logarithmic axis of parameters."""
    from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter

    axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.xaxis.set_major_formatter(EngFormatter(places=0))
    axis.xaxis.set_minor_formatter(NullFormatter())


def _colour_of(df: pd.DataFrame) -> Any:
    from matplotlib import colormaps
    from matplotlib.colors import LogNorm

    low, high = float(df["params"].min()), float(df["params"].max())
    return colormaps["viridis_r"], LogNorm(low, high if high > low else low * 1.1)


def _params_bar(figure: Any, axis: Any, df: pd.DataFrame) -> None:
    from matplotlib.cm import ScalarMappable
    from matplotlib.ticker import EngFormatter, NullFormatter

    cmap, norm = _colour_of(df)
    bar = figure.colorbar(ScalarMappable(norm, cmap), ax=axis, label="parameters", pad=0.02)
    bar.ax.yaxis.set_minor_formatter(NullFormatter())
    ticks = np.geomspace(norm.vmin, norm.vmax, 4)
    bar.set_ticks(ticks, labels=[EngFormatter(places=0)(t) for t in ticks])


def error_against_flops(
    path: Path, df: pd.DataFrame, frontier: pd.DataFrame, ensembles: list[Ensemble], winner: str | None,
    metric: str, title: str, check: list[dict[str, Any]], curves: pd.DataFrame | None = None,
) -> None:  # fmt: skip
    """Every run, the frontier, each form, and the band of the one that extrapolates best."""
    figure, axis = _axes()
    cmap, norm = _colour_of(df)
    if curves is not None:
        of = dict(zip(df["run_id"], df["params"], strict=True))
        for run_id, part in curves.groupby("run_id"):
            if run_id in of:
                part = part.sort_values("flops")
                axis.plot(part["flops"], part["error"], color=cmap(norm(of[run_id])), alpha=0.3, linewidth=0.8)
    axis.scatter(df["flops"], df[metric], c=df["params"], cmap=cmap, norm=norm, s=22, edgecolor="white", linewidth=0.4)
    axis.plot(
        frontier["flops"],
        frontier["error"],
        "o",
        mfc="none",
        mec="black",
        ms=9,
        label="compute-optimal",
    )
    if len(frontier):
        grid = np.geomspace(frontier["flops"].min() / 1.3, frontier["flops"].max() * 12, 200)
        for ensemble in ensembles:
            name = ensemble.fit.law.name
            best = name == winner
            axis.plot(
                grid, ensemble.fit.predict(grid), FORM_DASHES[name], color=FORM_COLOURS[name],
                linewidth=2 if best else 1.1, label=name + (" (extrapolates best)" if best else ""),
            )  # fmt: skip
            if best:
                low, high = ensemble.band(grid, observation=False)
                axis.fill_between(
                    grid, low, high, color=FORM_COLOURS[name], alpha=0.15, linewidth=0, label="its 95 % band"
                )
    for row in check:
        if row["form"] == winner:
            axis.errorbar(
                row["flops"] * 1.12, row["predicted"],
                yerr=[[max(row["predicted"] - row["low"], 0)], [max(row["high"] - row["predicted"], 0)]],
                fmt="D", color="black", ms=4, capsize=3, linewidth=1, label="forecast without the largest budget",
            )  # fmt: skip
    axis.set(xscale="log", yscale="log", xlabel="training FLOPs", ylabel=_label(metric), title=title)
    values = df[metric].to_numpy(float)
    top = values.max() * 1.15
    axis.set_ylim(max(values.min() * 0.6, 1e-4), min(top, 1.2) if values.max() <= 1 else top)
    _plain_ticks(axis)
    axis.legend(fontsize=7.5, frameon=False, loc="lower left")
    _params_bar(figure, axis, df)
    figure.savefig(path, dpi=DPI)


def learning_curves(path: Path, df: pd.DataFrame, curves: pd.DataFrame | None, metric: str) -> None:
    """Error during training. Drawn, not fitted: only the ends have a fully decayed learning rate."""
    figure, axis = _axes()
    cmap, norm = _colour_of(df)
    params = dict(zip(df["run_id"], df["params"], strict=True))
    drawn = False
    if curves is not None:
        for run_id, part in curves.groupby("run_id"):
            if run_id in params:
                part = part.sort_values("flops")
                axis.plot(part["flops"], part["error"], "-o", color=cmap(norm(params[run_id])), ms=2.5, linewidth=1)
                drawn = True
    if not drawn:
        axis.scatter(df["flops"], df[metric], c=df["params"], cmap=cmap, norm=norm, s=20)
    axis.set(
        xscale="log", yscale="log", xlabel="training FLOPs so far", ylabel=_label(metric),
        title="Learning curves (drawn, not fitted)" if drawn else "Ends of training (no intermediate evaluations)",
    )  # fmt: skip
    _plain_ticks(axis)
    _params_bar(figure, axis, df)
    figure.savefig(path, dpi=DPI)


def isoflop_parabolas(path: Path, df: pd.DataFrame, parabolas: list[dict[str, Any]], metric: str) -> None:
    """Error against parameters, one curve a budget; a star where a parabola's lowest point is accepted."""
    from matplotlib import colormaps

    figure, axis = _axes()
    budgets = [p["budget"] for p in parabolas]
    colours = colormaps["plasma"](np.linspace(0.05, 0.85, max(len(budgets), 1)))
    sizes = by_size(df, metric)
    for colour, parabola in zip(colours, parabolas, strict=False):
        part = sizes[sizes["budget"] == parabola["budget"]]
        label = f"{parabola['budget']:.2g}"
        fitted = parabola["coefficients"] is not None
        axis.plot(
            part["params"],
            part["error"],
            "o" if fitted else "o--",
            color=colour,
            ms=5,
            linewidth=0.7,
            label=label,
        )
        if fitted:
            a, b, c, middle = parabola["coefficients"]
            x = np.linspace(np.log(part["params"].min()), np.log(part["params"].max()), 80)
            axis.plot(np.exp(x), np.exp(np.polyval([a, b, c], x - middle)), "-", color=colour, linewidth=1.1)
        if parabola["status"] == "accepted":
            axis.plot(parabola["params"], parabola["error"], "*", color=colour, ms=12, mec="white", mew=0.6)
    axis.set(xscale="log", yscale="log", xlabel="parameters", ylabel=_label(metric), title="IsoFLOP curves")
    _plain_ticks(axis)
    _size_ticks(axis)
    axis.legend(
        title="FLOPs",
        fontsize=7.5,
        title_fontsize=8,
        frameon=False,
        loc="center left",
        bbox_to_anchor=(1, 0.5),
    )
    figure.savefig(path, dpi=DPI)


def residuals(path: Path, frontier: pd.DataFrame, ensembles: list[Ensemble]) -> None:
    """ln(measured / fitted) of each form at each budget."""
    figure, axis = _axes(height=3.4)
    for ensemble in ensembles:
        name = ensemble.fit.law.name
        off = np.log(frontier["error"].to_numpy(float) / ensemble.fit.predict(frontier["flops"].to_numpy(float)))
        axis.plot(
            frontier["flops"],
            off,
            "o" + FORM_DASHES[name],
            color=FORM_COLOURS[name],
            ms=4,
            linewidth=1,
            label=name,
        )
    axis.axhline(0, color="0.3", linewidth=0.8)
    axis.set(xscale="log", xlabel="training FLOPs", ylabel="ln(measured / fitted)", title="Residuals")
    if ensembles:
        axis.legend(fontsize=8, frameon=False)
    figure.savefig(path, dpi=DPI)


def _label(metric: str) -> str:
    return {"error_mean": "zero-shot error, mean over tasks"}.get(metric, metric.replace("_", " "))
