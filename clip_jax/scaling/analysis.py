"""From a table of runs to laws with their evidence, by every rule of frontier: what figures, page and summary show."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from clip_jax.config import UserError
from clip_jax.scaling.checklist import plain_json
from clip_jax.scaling.evidence import BUDGET, LEAST_POINTS, RULES, Fitted, fit_frontier, rules_for, select
from clip_jax.scaling.forecast import disagreements, extrapolation_scores, forecast_check
from clip_jax.scaling.frontier import by_size, compute_optimal, seed_noise, unbeaten
from clip_jax.scaling.isoflop import allocation, isoflop
from clip_jax.scaling.laws import LAWS
from clip_jax.scaling.provenance import rows_hash, versions
from clip_jax.scaling.surface import TESTED_ROWS, Surface, fit_surface
from clip_jax.scaling.table import fit_rows, prepare

if TYPE_CHECKING:
    import pandas as pd

TARGET = 10.0  # times the largest FLOPs: where laws are compared


@dataclass(frozen=True)
class Frontier:
    """Points that a rule picked (columns of `by_size`), a fit for each law by key, and why others have none."""

    rule: str
    points: pd.DataFrame
    fitted: dict[str, Fitted] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Analysis:
    """A table understood. rows: those that may enter a fit. frontiers: by rule, the reported one first. surface: or
    why there is none. curves: evaluations during training (run_id, flops, error). law: all of it as plain data."""

    title: str
    metric: str
    rows: pd.DataFrame
    frontiers: dict[str, Frontier]
    valleys: list[dict[str, Any]]
    leaning: list[dict[str, Any]]
    surface: Surface | str
    curves: pd.DataFrame | None
    winner: str | None
    law: dict[str, Any]

    @property
    def frontier(self) -> Frontier:
        """The one that is reported."""
        return next(iter(self.frontiers.values()))

    @property
    def best(self) -> Fitted | None:
        """The law that extrapolates best, on the reported frontier."""
        return None if self.winner is None else self.frontier.fitted[self.winner]

    @property
    def target(self) -> float:
        """FLOPs at which laws are compared."""
        return float(self.frontier.points["flops"].max() * TARGET)


def analyse(
    df: pd.DataFrame,
    metric: str = "error_mean",
    *,
    curves: pd.DataFrame | None = None,
    lr_evidence: pd.DataFrame | None = None,
    title: str = "Zero-shot transfer against compute",
    chance: float | None = None,
    name: str = "table",
    full: bool = True,
) -> Analysis:
    """Fit a table of runs.

    Args:
      df: one row a run (see `table.prepare`). Without a column ``budget`` the frontier is the runs that no cheaper
        one beats.
      metric: the column to explain, an error in (0, 1] or a loss.
      curves: evaluations during training; drawn, never fitted. Those without a finite logarithm are left out.
      lr_evidence: rows (budget, peak_lr, error, verdict) of learning rates tried.
      title: of the report.
      chance: the error of guessing; runs above it are left out.
      name: of the table, in errors.
      full: False: the reported frontier's fits only, without surface and other rules.

    Raises:
      UserError: a missing column, a number out of range, two units in a column, or no run that may enter the fit.
    """
    planned = "budget" in df.columns
    rows, left_out = fit_rows(prepare(df, metric, name), metric, chance)
    if rows.empty:
        raise UserError(f"no run may enter the fit of {metric}; the first was left out: {left_out[0]['reason']}")
    if curves is not None:
        drawable = (curves[["flops", "error"]] > 0) & np.isfinite(curves[["flops", "error"]])
        curves = curves[drawable.all(axis=1)]
        curves = None if curves.empty else curves
    candidates = rows
    if not planned and rows["seed"].nunique() == 1:  # runs of equal cost and size are no repeats of one another
        candidates = rows.sort_values(metric).drop_duplicates("budget")
    reported = compute_optimal(candidates, metric)
    reported = reported if planned else unbeaten(reported)
    candidates = by_size(candidates, metric)
    noise = _noise(rows, metric, reported)
    floor = noise["seed_sd"] if noise["seed_degrees"] else 0.0
    frontiers: dict[str, Frontier] = {}
    for rule in rules_for(planned)[: None if full else 1]:
        first = not frontiers
        points = reported if first else select(rule, candidates)
        frontiers[rule] = _fit_all(Frontier(rule, points), candidates, floor, planned, strict=first)
    valleys = isoflop(rows, metric)
    scores, check = [], []
    c, y = reported["flops"].to_numpy(float), reported["error"].to_numpy(float)
    main = next(iter(frontiers.values()))
    if main.fitted:
        laws = [f.fit.law for f in main.fitted.values()]
        scores = extrapolation_scores(c, y, laws)
        before = rows[rows["budget"] < reported["budget"].max()]  # what is held out tells nothing, its seeds neither
        check = forecast_check(c, y, laws, **_noise(before, metric, reported.iloc[:-1]))
    keys = {f.fit.law.name: key for key, f in main.fitted.items()}
    winner = keys[scores[0]["form"]] if scores else next(iter(main.fitted), None)
    surface: Surface | str = "not asked for"
    if full:
        try:
            surface = fit_surface(rows, metric)
        except UserError as error:
            surface = str(error).removeprefix("fit: ")
    found = Analysis(
        title, metric, rows, frontiers, valleys, isoflop(rows, metric, way="cubic"), surface, curves, winner, {}
    )
    sd, degrees = seed_noise(rows, metric)
    law = {
        "title": title, "metric": metric, "runs": len(rows), "left_out": left_out, "chance": chance,
        "rows_sha256": rows_hash(rows), "versions": versions(),
        "frontier_rule": RULES[main.rule], "flops_span": float(c.max() / c.min()),
        "batch_sizes": sorted({int(b) for b in rows["batch_size"]}), "seed_sd_of_log_error": sd if degrees else None,
        "frontier": _with_drops(reported, sd, degrees), "isoflop": valleys, "isoflop_cubic": found.leaning,
        "allocation": asdict(allocation(valleys)), "allocation_cubic": asdict(allocation(found.leaning)),
        "surface": _surface_data(surface), "winner": None if winner is None else main.fitted[winner].fit.law.name,
        "why": _why(scores, main), "extrapolation": scores, "forecast_check": check,
        "lr_evidence": [] if lr_evidence is None else lr_evidence.to_dict("records"),
        **_laws_data(found, scores),
    }  # fmt: skip
    law["frontiers"] = {
        rule: {
            "rule": RULES[rule], "points": f.points[["flops", "params", "error"]].to_dict("records"),
            "fits": [fitted.as_data() for fitted in f.fitted.values()], "left_out": f.reasons,
        }
        for rule, f in frontiers.items()
    }  # fmt: skip
    found.law.update(plain_json(law))
    return found


def _fit_all(frontier: Frontier, candidates: pd.DataFrame, floor: float, planned: bool, strict: bool) -> Frontier:
    """Every law on a frontier. strict: what is wrong with the points themselves is the caller's error."""
    enough = len(frontier.points) >= LEAST_POINTS
    for law in LAWS:
        try:
            frontier.fitted[law.key] = fit_frontier(
                law, frontier.points, candidates, rule=frontier.rule, floor=floor, planned=planned
            )
        except UserError as error:
            if strict and enough and len(frontier.points) >= len(law.parameters):
                raise
            frontier.reasons[law.key] = str(error).removeprefix("fit: ")
    return frontier


def _why(scores: list[dict[str, Any]], frontier: Frontier) -> str:
    if not frontier.fitted:
        return f"no law: {len(frontier.points)} budgets, at least {LEAST_POINTS} are needed"
    if not scores:
        return "too few budgets to compare forms by extrapolation"
    best = scores[0]
    return (
        f"{best['form']} forecasts the next budget best: mean |ln(predicted/measured)| "
        f"{best['mean_abs_log_error']:.4f} over {best['forecasts']} forecasts"
    )


def _laws_data(found: Analysis, scores: list[dict[str, Any]]) -> dict[str, Any]:
    """Fits of the reported frontier, their forecasts, what to be warned of, and what each point does to the best."""
    fitted = found.frontier.fitted
    forecasts = [f.forecast(found.target) for f in fitted.values()]
    score = {s["form"]: s["mean_abs_log_error"] for s in scores}
    ranking = [{**f, "score": score.get(f["form"]), "low": f["curve_low"], "high": f["curve_high"]} for f in forecasts]
    ranking.sort(key=lambda r: (r["form"] != found.best.fit.law.name, r["score"] or 0) if found.best else 0)
    warnings = disagreements(ranking) if ranking else []
    influential: list[dict[str, Any]] = []
    if found.best is not None:
        warnings += [f"{found.best.fit.law.name}: {w}" for w in found.best.warnings()]
        influential = found.best.leave_one_out()
        strong = [r for r in influential if abs(r["shift"]) > 1]
        warnings += [
            f"the point at {r['flops']:.3g} FLOPs alone moves {r['parameter']} from {r['without']:.4g} to "
            f"{r['with']:.4g} ({r['shift']:+.1f} standard errors)"
            for r in sorted(strong, key=lambda r: -abs(r["shift"]))[:3]
        ]
    return {
        "fits": [f.as_data() for f in fitted.values()], "next_budget": forecasts, "warnings": warnings,
        "influence": influential,
    }  # fmt: skip


def _surface_data(surface: Surface | str) -> dict[str, Any]:
    """Chinchilla's law as plain data, or the reason of its absence."""
    if isinstance(surface, str):
        return {"status": f"left out: {surface}"}
    fit = surface.fit
    notes = list(fit.notes)
    if fit.points < TESTED_ROWS:
        notes.append(f"{fit.points} rows: the coverage of its intervals was simulated from {TESTED_ROWS} rows on")
    return {
        "formula": fit.law.formula, "values": fit.values, "status": fit.status, "identified": fit.identified,
        "intervals": {n: {"low": i.low, "high": i.high} for n, i in surface.intervals.items()},
        "flat": list(fit.flat), "starts": fit.starts, "agree": fit.agree, "screened": fit.screened,
        "condition": fit.condition, "objective": fit.objective, "rows": fit.points, "notes": notes,
        "residual_sd": fit.residual_sd,
        "flops": {"factor": surface.cost, "power_of_params": surface.power, "sd_of_log": surface.cost_sd},
    }  # fmt: skip


def _noise(rows: pd.DataFrame, metric: str, frontier: pd.DataFrame) -> dict[str, Any]:
    """What seeds say about the scatter of one point of the frontier."""
    sd, degrees = seed_noise(rows, metric)
    return {"seed_sd": sd / math.sqrt(float(frontier["seeds"].mean())), "seed_degrees": degrees}


def _with_drops(frontier: pd.DataFrame, sd: float, degrees: int) -> list[dict[str, Any]]:
    """Each budget's best, and whether the error falls to the next budget by more than twice its noise."""
    rows: list[Any] = frontier.to_dict("records")
    for now, after in zip(rows, [*rows[1:], None], strict=True):
        now["drop"] = now["noise"] = now["falls"] = None
        if after is not None:
            now["drop"] = now["error"] - after["error"]
            if degrees:
                now["noise"] = 2 * sd * now["error"] * math.sqrt(1 / now["seeds"] + 1 / after["seeds"])
                now["falls"] = bool(now["drop"] > now["noise"])
    return rows


def is_planned(found: Analysis) -> bool:
    """Whether budgets were planned."""
    return BUDGET in found.frontiers
