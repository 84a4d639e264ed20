"""Preregister a forecast before its runs are trained, and grade it afterwards.

A registration fixes the metric, the rule that selects a point, the law (the one that forecasts best below the target),
its fit, the band for the measurement, and the naive guess that it must beat. `grade` selects the measured point by the
same rule as every point of the fit, and lists every deviation from the registration.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from clip_jax.errors import UserError
from clip_jax.scaling.analysis.analyze import Frontier, analyze, fit_forms, point_noise, winners_bias
from clip_jax.scaling.analysis.averaging import AveragedForecast
from clip_jax.scaling.analysis.extrapolation import AVERAGED, MIN_POINTS_TO_EXTRAPOLATE
from clip_jax.scaling.analysis.frontier_fit import BUDGET, FRONTIER_RULES
from clip_jax.scaling.data.observations import picture_scatter
from clip_jax.scaling.data.provenance import rows_hash, versions
from clip_jax.scaling.data.records import Backtest, ForecastBands, ForecastRecord, NoiseRecord, OutcomeRecord
from clip_jax.scaling.data.runs_table import fit_rows, prepare
from clip_jax.scaling.fit.result import Fit
from clip_jax.scaling.frontier.frontier import compute_optimal, seed_noise
from clip_jax.scaling.planning.through_loss import Through, fit_link, forecasts_through
from clip_jax.storage.json_files import plain_json

if TYPE_CHECKING:
    import pandas as pd

# what a forecast is made from, beside the metric
READ = ["run_id", "budget", "flops", "params", "samples_seen", "seed", "kind"]
MADE_AFTER = "made_after_its_runs"  # marks a forecast made after its runs, which does not count as registered
ON_BUDGET = 1e-6  # relative difference below which two budgets are one


def preregister(
    df: pd.DataFrame,
    metric: str,
    target: float,
    *,
    seeds: int,
    pictures: Sequence[tuple[float, int]] = (),
    chance: float | None = None,
) -> ForecastRecord:
    """Forecast the best size of one budget that has not been trained yet; see `preregister_targets`."""
    return preregister_targets(df, metric, (target,), seeds=seeds, pictures=pictures, chance=chance)[0]


def preregister_targets(
    df: pd.DataFrame,
    metric: str,
    targets: Sequence[float],
    *,
    seeds: int,
    pictures: Sequence[tuple[float, int]] = (),
    chance: float | None = None,
    through: Through | None = None,
) -> list[ForecastRecord]:
    """Forecast the best sizes of budgets that have not been trained yet.

    Args:
      df: one row per run, with budgets (see `runs_table.prepare`); all of them below every target.
      metric: an error in (0, 1] or a loss.
      targets: FLOPs of the budgets that will be trained.
      seeds: number of seeds that each measured point will be averaged over.
      pictures: (error at the largest budget, number of pictures) of each task that the metric is the mean of; empty:
        their scatter is not known, or the metric is a loss.
      chance: the error of guessing (see `analysis.analyze`).
      through: forecast the metric from a forecast of this loss, instead of from compute.

    Returns:
      Plain data, one per target. ``predicted`` is the median of the forecast averaged over forms. ``mean``: its 95 %
      band for the mean over seeds of the best size, ``run``: for one run of it, both measured on the pictures of the
      runs below; ``mean_new_pictures``: for the mean on as many new ones. They add to the curve's distribution the
      scatter of a point (residuals or seeds) and the binomial scatter of the pictures at the forecast error.
      ``noise_floor``: the scatter of the measured mean alone, relative, from seeds and pictures: no forecast can be
      expected to be closer. ``forms``: the forecast of each form alone. ``warnings``: why a side of a form's band is
      not bounded, where its fits did not converge. ``rehearsals``: backtests, the same at each earlier budget from
      those below it (none through a loss).

    Raises:
      UserError: fewer than five budgets, a run at or above a target, or no law that can be fitted.
    """
    if seeds < 2:
        reason = "must be at least 2, to estimate the scatter of the target's runs"
        raise UserError(field="seeds", value=seeds, reason=reason, hint="give the sweep extra_seeds_at_optimum")
    table = prepare(df, metric)
    first = min(targets)
    if (table["budget"] >= first * (1 - ON_BUDGET)).any():
        run_id = table.loc[table["budget"] >= first * (1 - ON_BUDGET), "run_id"].iloc[0]
        reason = f"run {run_id} is at or above {first:.4g} FLOPs"
        hint = "a forecast is made before its runs"
        raise UserError(field="target", value=first, reason=reason, hint=hint)
    analysis = analyze(
        df, through.loss if through else metric, chance=through.chance if through else chance, full=False
    )
    points = analysis.frontier.points
    if analysis.best is None or analysis.averaged is None or len(points) <= MIN_POINTS_TO_EXTRAPOLATE:
        reason = f"{len(points)} budgets have finished, at least {MIN_POINTS_TO_EXTRAPOLATE + 1} are needed"
        raise UserError(field="budgets", reason=reason)
    rows, left_out = fit_rows(table, metric, chance, keep_above_chance=True)
    noise = _noise(rows, metric, seeds)
    beside: dict[str, object] = {}
    if through is None:
        bands = [forecast_bands(analysis.averaged, target, noise, pictures) for target in targets]
        rehearsals = backtests(rows, metric, points, noise, pictures, chance)
    else:
        link = fit_link(rows, metric, through.loss, chance)
        loss_noise = _noise(rows[rows[through.loss].notna()], through.loss, seeds)
        bands = forecasts_through(
            analysis.averaged, link, targets,
            loss_sd=loss_noise["seed_sd"], seeds=seeds, pictures=pictures, name=f"through {through.loss}",
        )  # fmt: skip
        points, rehearsals = compute_optimal(rows, metric), []
        described = {"loss": through.loss, "chance": through.chance, "noise": loss_noise, "link": _link_data(link)}
        beside = {"through": described}
    shared: dict[str, object] = {
        "metric": metric, "chance": chance, "rule": FRONTIER_RULES[BUDGET],
        "rows_sha256": rows_hash(rows[_columns(metric, through.loss if through else "")]),
        "rows": len(rows), "left_out": left_out,
        "versions": versions(), "noise": noise | {"pictures": [list(p) for p in pictures]},
        "law": analysis.best.fit.law.key, "why": analysis.law["why"], "fit": analysis.best.as_data(),
        "averaging": analysis.law["averaging"], "extrapolation": analysis.law["extrapolation"], **beside,
        "naive": float(points["error"].iloc[-1]), "frontier": points.to_dict("records"), "rehearsals": rehearsals,
    }  # fmt: skip
    records: list[ForecastRecord] = []
    for target, forecast in zip(targets, bands, strict=True):
        floor = math.hypot(noise["seed_sd"] / math.sqrt(seeds), forecast["picture_sd"]["same"])
        warnings = analysis.averaged.unconverged_at(target, "the target")
        records.append(
            plain_json({**shared, "target": float(target), **forecast, "noise_floor": floor, "warnings": warnings})
        )
    return records


def _columns(metric: str, loss: str) -> list[str]:
    """Return the columns that a forecast is made from; ``loss`` is empty for one that goes through none."""
    return [*READ, metric, *([loss] if loss else [])]


def _link_data(link: Fit) -> dict[str, object]:
    return {
        "law": link.law.key, "formula": link.law.formula, "values": link.values, "points": link.points,
        "residual_sd": link.residual_sd,
    }  # fmt: skip


def _noise(rows: pd.DataFrame, metric: str, seeds: int) -> NoiseRecord:
    """Return the scatter of a run, from the seeds of equal cells."""
    sd, degrees = seed_noise(rows, metric)
    if not degrees:
        reason = "no cell has a second seed, so the scatter of a run is not known"
        raise UserError(field="seed", reason=reason)
    return {"seed_sd": sd, "seed_degrees": degrees, "seeds": seeds}


def forecast_bands(
    averaged: AveragedForecast, flops: float, noise: NoiseRecord, pictures: Sequence[tuple[float, int]]
) -> ForecastBands:
    """Return the averaged forecast at a compute with its bands, each [low, high], and the forecast of each form.

    Args:
      averaged: the forms and their weights.
      flops: the compute.
      noise: the scatter of a run, and the number of seeds that a mean is over.
      pictures: see `preregister`.
    """
    forecast = averaged.forecast(flops)
    last = float(np.mean([p[0] for p in pictures])) if pictures else 1.0
    same, new = (picture_scatter(forecast["median"] / last, pictures, same=s) for s in (True, False))
    run_sd, mean_sd = noise["seed_sd"], noise["seed_sd"] / math.sqrt(noise["seeds"])
    curve: list[float | None] = [*forecast["curve"]]
    mean, run, mean_new = (
        list[float | None](averaged.run_at(flops, sd, scatter).interval().bounded_ends)
        for sd, scatter in ((mean_sd, same), (run_sd, same), (mean_sd, new))
    )
    return {
        "form": AVERAGED, "predicted": forecast["median"], "curve": curve,
        "mean": mean, "run": run, "mean_new_pictures": mean_new,
        "picture_sd": {"same": same, "new": new}, "weights": forecast["weights"], "union": [*forecast["union"]],
        "forms": forecast["forms"],
    }  # fmt: skip


def backtests(
    rows: pd.DataFrame, metric: str, points: pd.DataFrame, noise: NoiseRecord,
    pictures: Sequence[tuple[float, int]], chance: float | None,
) -> list[Backtest]:  # fmt: skip
    """Return the averaged forecast of each budget from at least four below it: {flops, measured, naive, inside, …}.

    Args:
      rows: the runs that the fit may use, with their budgets.
      metric: the column that is forecast.
      points: the frontier, one row per budget, by rising FLOPs.
      noise: the scatter of a run, and the number of seeds that a mean is over.
      pictures: see `preregister`.
      chance: the error of guessing, if it is known.
    """
    out: list[Backtest] = []
    for m in range(MIN_POINTS_TO_EXTRAPOLATE, len(points)):
        ahead, below = points.iloc[m], points.iloc[:m]
        before = rows[rows["budget"] < ahead["budget"]]
        frontier = fit_forms(
            Frontier(BUDGET, below, chance=chance), before, point_noise(before, metric, below), True,
            winners_bias(before, metric),
        )  # fmt: skip
        if frontier.averaged is None:
            continue
        forecast = forecast_bands(frontier.averaged, float(ahead["flops"]), noise, pictures)
        out.append(
            {"flops": float(ahead["flops"]), "form": forecast["form"], "predicted": forecast["predicted"],
             "curve": forecast["curve"], "mean": forecast["mean"], "run": forecast["run"],
             "measured": float(ahead["error"]), "naive": float(below["error"].iloc[-1]),
             "inside": _inside(plain_json(forecast["mean"]), float(ahead["error"]))}
        )  # fmt: skip
    return out


def _inside(band: list[float | None], value: float) -> bool:
    """Return whether a value lies in a band; a side that the data leave open is null, and nothing lies beyond it."""
    low, high = band
    return bool((low is None or low <= value) and (high is None or value <= high))


def grade(registered: ForecastRecord, df: pd.DataFrame) -> OutcomeRecord:
    """Grade a registered forecast by the runs that were trained after it.

    Args:
      registered: the result of `preregister`.
      df: the same table, with the runs of the target's budget.

    Returns:
      ``measured``: mean over seeds of the target's best size, selected like each point of the fit; ``inside``: whether
      it lies in the band of the mean; ``seeds``: each with whether it is inside the band of a run; ``error`` =
      predicted - measured; ``beats_naive``; ``amendments``: every deviation from the registration, in words.

    Raises:
      UserError: runs of the target are missing.
    """
    if registered.get(MADE_AFTER):
        reason = "was registered after its runs; only one registered before them can be graded"
        raise UserError(field="forecast", reason=reason)
    metric, target = registered["metric"], registered["target"]
    rows, _ = fit_rows(prepare(df, metric), metric, registered["chance"], keep_above_chance="weights" in registered)
    near = np.abs(rows["budget"] / target - 1) <= ON_BUDGET
    if not near.any():
        reason = f"no run of {target:.4g} FLOPs has finished"
        raise UserError(field="target", value=target, reason=reason)
    best = compute_optimal(rows[near], metric).iloc[0]
    seed_runs = rows[near & (rows["params"] == best["params"])].sort_values("seed")
    if len(seed_runs) < registered["noise"]["seeds"]:
        reason = (
            f"{len(seed_runs)} of the best size at {target:.4g} FLOPs have finished, "
            f"{registered['noise']['seeds']} were registered"
        )
        raise UserError(field="seeds", reason=reason)
    # not the runs of a smaller target of the same registration
    below = rows[rows["budget"] <= max(p["budget"] for p in registered["frontier"]) * (1 + ON_BUDGET)]
    amendments = []
    columns = _columns(metric, registered["through"]["loss"] if "through" in registered else "")
    if rows_hash(below[columns]) != registered["rows_sha256"]:
        amendments.append("the runs below the target are not those that the forecast was made from")
    if len(seed_runs) > registered["noise"]["seeds"]:
        amendments.append(f"{len(seed_runs)} seeds were trained, {registered['noise']['seeds']} were registered")
    measured, band, run = float(best["error"]), registered["mean"], registered["run"]
    return plain_json(
        {
            "metric": metric, "target": target, "flops": float(best["flops"]), "params": float(best["params"]),
            "sizes": int(best["sizes"]), "bracketed": bool(best["bracketed"]), "measured": measured,
            "predicted": registered["predicted"], "mean": band, "inside": _inside(band, measured),
            "error": registered["predicted"] - measured, "naive": registered["naive"],
            "beats_naive": bool(abs(registered["predicted"] - measured) < abs(registered["naive"] - measured)),
            "seeds": [
                {"run_id": r["run_id"], "seed": int(r["seed"]), "measured": float(r[metric]),
                 "inside": _inside(run, r[metric])}
                for r in seed_runs.to_dict("records")
            ],
            "amendments": amendments, "rows_sha256": rows_hash(rows[[*READ, metric]]),
            **({key: registered[key] for key in ("form", "noise_floor")} if "noise_floor" in registered else {}),
        }
    )  # fmt: skip
