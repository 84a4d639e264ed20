"""Choose the headline of a report: the average over forms where the analysis has one, else the best form."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from clip_jax.plotting.style import INK, LAW_COLORS
from clip_jax.scaling.analysis.analyze import Analysis
from clip_jax.scaling.analysis.extrapolation import AVERAGED as AVERAGED_NAME
from clip_jax.scaling.data.records import AveragedRecord, RunBand
from clip_jax.scaling.laws.base import Array

AVERAGED_KEY = "averaged"  # its key among laws
AT_TARGET = 1e-3  # relative distance in FLOPs within which a row of law.json is the target's
Bands = Callable[[Array], dict[str, Array]]


@dataclass(frozen=True)
class Headline:
    """A curve with 95 % bands and its forecast of a new frontier point.

    key: of the law, or `AVERAGED_KEY`. bands: FLOPs [n] to {y, low, high (of the law), run_low, run_high (of a new
    frontier point)}. forecast: {flops, predicted, low, high} of a new frontier point at the target. weights: share of
    each form by its name.
    """

    key: str
    name: str
    color: str
    bands: Bands
    forecast: RunBand
    weights: dict[str, float] = field(default_factory=dict)


def headline(analysis: Analysis) -> Headline | None:
    """Return the headline of the reported frontier, None without a fit."""
    if analysis.best is None:
        return None
    average = averaged_bands(analysis)
    if average is not None:
        row = _row_at(analysis.law.get("averaged") or [], analysis.target)
        at = {k: float(v[0]) for k, v in average(np.array([analysis.target])).items()}
        low, high = (at["run_low"], at["run_high"]) if row is None else row["run"]
        predicted = at["y"] if row is None else row["median"]
        weights = {} if row is None else row.get("weights", {})
        forecast: RunBand = {"flops": analysis.target, "predicted": predicted, "low": low, "high": high}
        return Headline(AVERAGED_KEY, AVERAGED_NAME, INK, average, forecast, weights)
    fitted = analysis.best
    alone = next(r for r in analysis.law["next_budget"] if r["form"] == fitted.fit.law.name)
    forecast = {"flops": alone["flops"], "predicted": alone["predicted"], "low": alone["low"], "high": alone["high"]}
    return Headline(fitted.key, fitted.fit.law.name, LAW_COLORS[fitted.key], fitted.bands, forecast)


def averaged_bands(analysis: Analysis) -> Bands | None:
    """Return the bands averaged over forms, under the names of a law's own bands; None where there are none."""
    if analysis.best is None or analysis.averaged is None:
        return None

    def bands(grid: Array) -> dict[str, Array]:
        known = analysis.averaged_bands(np.asarray(grid, float))
        return {"y": known["median"], **{k: known[k] for k in ("low", "high", "run_low", "run_high")}}

    return bands


def _row_at(rows: list[AveragedRecord], flops: float) -> AveragedRecord | None:
    return next((r for r in rows if abs(r["flops"] / flops - 1) < AT_TARGET), None)


def times_beyond(analysis: Analysis, flops: float) -> float:
    """Divide a compute by the largest of the data."""
    return float(flops / analysis.rows["flops"].max())
