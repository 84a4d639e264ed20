"""A forecast that is written down before its runs are trained, and its grading afterwards.

What is fixed beforehand: the metric, how a point is picked, the law (the one that forecasts best below the target), its
fit, the band for what will be measured, and the guess it has to beat. `outcome` picks the measured point by the same
rule as every point of the fit was picked, and lists whatever was not as registered.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from clip_jax.config import UserError
from clip_jax.scaling.analysis import analyse
from clip_jax.scaling.checklist import plain_json
from clip_jax.scaling.evidence import BUDGET, RULES, Fitted
from clip_jax.scaling.fit import fit_law
from clip_jax.scaling.forecast import LEAST_POINTS
from clip_jax.scaling.frontier import compute_optimal, seed_noise
from clip_jax.scaling.provenance import rows_hash, versions
from clip_jax.scaling.table import fit_rows, prepare

if TYPE_CHECKING:
    import pandas as pd

# what a forecast is made from, beside the metric
READ = ["run_id", "budget", "flops", "params", "samples_seen", "seed", "kind"]
ON_BUDGET = 1e-6  # relative difference below which two budgets are one


def register(
    df: pd.DataFrame, metric: str, target: float, *, seeds: int, eval_sd: float = 0.0, chance: float | None = None
) -> dict[str, Any]:
    """Forecast the best size of a budget that was not trained yet.

    Args:
      df: one row a run, with budgets (see `table.prepare`); all of them below ``target``.
      metric: an error in (0, 1] or a loss.
      target: FLOPs of the budget that will be trained.
      seeds: how many the mean of the measured point will be over.
      eval_sd: standard deviation of the metric from the finite number of examples, as a share of it.
      chance: the error of guessing; runs above it are left out.

    Returns:
      Plain data. ``mean``: the band, 95 %, of the mean over seeds of the best size; ``run``: of one run of it. Both add
      to the law's own interval, in quadrature, the scatter of a point (residuals or seeds, the larger) and that of
      the examples. ``rehearsals``: the same done at each earlier budget from those below it.

    Raises:
      UserError: fewer than five budgets, a run at or above the target, or no law that can be fitted.
    """
    if seeds < 2:
        raise UserError(f"forecast: {seeds} seeds; the scatter of the target needs at least 2")
    if not 0 <= eval_sd < 1:
        raise UserError(f"forecast: eval_sd={eval_sd:g} must be a share of the metric, in [0, 1)")
    table = prepare(df, metric)
    if (table["budget"] >= target * (1 - ON_BUDGET)).any():
        there = table.loc[table["budget"] >= target * (1 - ON_BUDGET), "run_id"].iloc[0]
        raise UserError(f"forecast: run {there} is at or above {target:.4g} FLOPs; a forecast is made before its runs")
    found = analyse(df, metric, chance=chance, full=False)
    points = found.frontier.points
    if found.best is None or len(points) <= LEAST_POINTS:
        raise UserError(f"forecast: {len(points)} budgets have finished, at least {LEAST_POINTS + 1} are needed")
    rows, left_out = fit_rows(table, metric, chance)
    sd, degrees = seed_noise(rows, metric)
    if not degrees:
        raise UserError("forecast: no cell has a second seed, so the scatter of a run is not known")
    c, y = points["flops"].to_numpy(float), points["error"].to_numpy(float)
    noise = {"seed_sd": sd, "seed_degrees": degrees, "eval_sd": eval_sd, "seeds": seeds}
    laws = [_at(fitted, target, noise) for fitted in found.frontier.fitted.values()]
    chosen = next(r for r in laws if r["form"] == found.best.fit.law.name)
    return plain_json(
        {
            "metric": metric, "chance": chance, "target": float(target),
            "rule": RULES[BUDGET], "rows_sha256": rows_hash(rows[[*READ, metric]]),
            "rows": len(rows), "left_out": left_out, "versions": versions(), "noise": noise,
            "law": found.best.fit.law.key, "why": found.law["why"], "fit": found.best.as_data(),
            "extrapolation": found.law["extrapolation"], **chosen, "naive": float(y[-1]), "others": laws,
            "frontier": points.to_dict("records"), "rehearsals": _rehearsals(found.best, c, y, noise),
        }
    )  # fmt: skip


def _at(fitted: Fitted, flops: float, noise: dict[str, Any]) -> dict[str, Any]:
    """{form, predicted, curve, mean, run}: the law at a compute with its bands, each [low, high]."""
    curve = fitted.curve_at(flops)
    bands = {
        "mean": _scattered(fitted, curve, noise["seed_sd"] / math.sqrt(noise["seeds"]), noise["eval_sd"]),
        "run": _scattered(fitted, curve, noise["seed_sd"], noise["eval_sd"]),
    }
    return {
        "form": fitted.fit.law.name, "predicted": curve.value, "curve": [curve.low, curve.high],
        **{name: [band.low, band.high] for name, band in bands.items()},
    }  # fmt: skip


def _scattered(fitted: Fitted, curve: Any, seed_sd: float, eval_sd: float) -> Any:
    from clip_jax.scaling.profile import with_scatter

    return with_scatter(fitted.fit, curve, math.hypot(max(fitted.fit.residual_sd, seed_sd), eval_sd))


def _rehearsals(best: Fitted, c: np.ndarray, y: np.ndarray, noise: dict[str, Any]) -> list[dict[str, Any]]:
    """The chosen law's forecast of each budget from at least four below it: {flops, measured, naive, inside, …}."""
    rows = []
    for m in range(LEAST_POINTS, len(c)):
        law = best.fit.law
        before = _at(Fitted(fit_law(law, c[:m], y[:m]), best.floor), float(c[m]), noise)
        low, high = before["mean"]
        rows.append(
            {"flops": float(c[m]), **before, "measured": float(y[m]), "naive": float(y[m - 1]),
             "inside": bool(low <= y[m] <= high)}
        )  # fmt: skip
    return rows


def _inside(band: list[float | None], value: float) -> bool:
    """A side that the data leave open is written as null, and nothing lies beyond it."""
    low, high = band
    return bool((low is None or low <= value) and (high is None or value <= high))


def outcome(registered: dict[str, Any], df: pd.DataFrame) -> dict[str, Any]:
    """Grade a registered forecast by the runs that were trained after it.

    Args:
      registered: what `register` returned.
      df: the same table, with the runs of the target's budget.

    Returns:
      ``measured``: mean over seeds of the target's best size, picked as each point of the fit; ``inside`` the band of
      the mean; ``seeds``: each with whether it is inside the band of a run; ``error`` = predicted - measured;
      ``beats_naive``; ``amendments``: in words, whatever is not as it was registered.

    Raises:
      UserError: the target's runs are not all there.
    """
    metric, target = registered["metric"], registered["target"]
    rows, _ = fit_rows(prepare(df, metric), metric, registered["chance"])
    near = np.abs(rows["budget"] / target - 1) <= ON_BUDGET
    if not near.any():
        raise UserError(f"forecast: no run of {target:.4g} FLOPs has finished")
    best = compute_optimal(rows[near], metric).iloc[0]
    own = rows[near & (rows["params"] == best["params"])].sort_values("seed")
    if len(own) < registered["noise"]["seeds"]:
        raise UserError(
            f"forecast: {len(own)} seeds of the best size at {target:.4g} FLOPs have finished, "
            f"{registered['noise']['seeds']} were registered"
        )
    below = rows[rows["budget"] < target * (1 - ON_BUDGET)]
    amendments = []
    if rows_hash(below[[*READ, metric]]) != registered["rows_sha256"]:
        amendments.append("the runs below the target are not those that the forecast was made from")
    if len(own) > registered["noise"]["seeds"]:
        amendments.append(f"{len(own)} seeds were trained, {registered['noise']['seeds']} were registered")
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
                for r in own.to_dict("records")
            ],
            "amendments": amendments, "rows_sha256": rows_hash(rows[[*READ, metric]]),
        }
    )  # fmt: skip
