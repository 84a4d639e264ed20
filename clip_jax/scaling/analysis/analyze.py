"""Analyze a table of runs: fit every law on every frontier and collect what figures, page and summary show."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np

from clip_jax.distributed.mesh import log_devices
from clip_jax.errors import UserError
from clip_jax.scaling.analysis.averaging import NO_BREAK, AveragedForecast, average
from clip_jax.scaling.analysis.extrapolation import (
    MIN_POINTS_TO_EXTRAPOLATE,
    extrapolation_scores,
    forecast_check,
    rival_forms,
)
from clip_jax.scaling.analysis.frontier_fit import (
    BUDGET,
    FRONTIER_RULES,
    FrontierFit,
    TooFewPoints,
    fit_frontier,
    rules_for,
    select,
)
from clip_jax.scaling.data.observations import rising_correlation
from clip_jax.scaling.data.provenance import rows_hash, versions
from clip_jax.scaling.data.records import (
    ForecastCheck,
    FormScore,
    InfluenceRecord,
    LawRecord,
    PointRecord,
    SurfaceRecord,
    ValleyRecord,
)
from clip_jax.scaling.data.runs_table import fit_rows, prepare
from clip_jax.scaling.fit.solver import is_large_table
from clip_jax.scaling.frontier.frontier import by_size, compute_optimal, seed_noise, unbeaten
from clip_jax.scaling.frontier.isoflop import allocation, isoflop
from clip_jax.scaling.frontier.parametric import TESTED_ROWS, ParametricFit, fit_parametric
from clip_jax.scaling.frontier.selection import selection_bias, valley_scatter
from clip_jax.scaling.frontier.shared_trunks import effective_degrees, inflation, point_correlations, shared_text
from clip_jax.scaling.laws import compared_laws, with_ceiling
from clip_jax.scaling.laws.base import Array
from clip_jax.scaling.profile.noise import Noise
from clip_jax.scaling.profile.statistic import ONE_STEP_PROFILE, interval_method
from clip_jax.scaling.uncertainty.interval_format import ends_data
from clip_jax.storage.json_files import plain_json

if TYPE_CHECKING:
    import pandas as pd

logger = logging.getLogger(__name__)
T = TypeVar("T")

MAX_BUDGETS = 2000  # that valleys are looked for at
TARGET = 10.0  # times the largest FLOPs: where laws are compared


@dataclass(frozen=True)
class Frontier:
    """Points that a rule selected (columns of `by_size`), a fit for each law by key, and why other laws have no fit.

    chance: the error of guessing, or None. profiled: whether its fits have intervals.
    """

    rule: str
    points: pd.DataFrame
    fitted: dict[str, FrontierFit] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    chance: float | None = None
    profiled: bool = True

    @cached_property
    def averaged(self) -> AveragedForecast | None:
        """The forecast averaged over forms, or None where no form was fitted."""
        return average(self.fitted, self.chance)


@dataclass(frozen=True)
class Analysis:
    """The analysis of one table.

    rows: those that may enter a fit. frontiers: by rule, the reported one first. surface: Chinchilla's law of size and
    samples, or the reason why it was not fitted. curves: evaluations during training (run_id, flops, error). law: all
    results as plain data.
    """

    title: str
    metric: str
    rows: pd.DataFrame
    frontiers: dict[str, Frontier]
    valleys: list[ValleyRecord]
    cubic_valleys: list[ValleyRecord]
    surface: ParametricFit | str
    curves: pd.DataFrame | None
    winner: str | None
    law: LawRecord

    @property
    def frontier(self) -> Frontier:
        """The reported frontier."""
        return next(iter(self.frontiers.values()))

    @property
    def best(self) -> FrontierFit | None:
        """The law that extrapolates best on the reported frontier, or None without a fit."""
        return None if self.winner is None else self.frontier.fitted[self.winner]

    @property
    def averaged(self) -> AveragedForecast | None:
        """The forecast averaged over forms on the reported frontier."""
        return self.frontier.averaged

    def averaged_bands(self, grid: Array) -> dict[str, Array]:
        """Return {median, low, high, run_low, run_high} over FLOPs [n]. Raises UserError where no form was fitted."""
        if self.averaged is None:
            raise UserError(field="averaged", reason="no form could be fitted, so there is no average")
        return self.averaged.bands(grid)

    @property
    def target(self) -> float:
        """The FLOPs at which laws are compared."""
        return float(self.frontier.points["flops"].max() * TARGET)


def analyze(
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
    """Fit all laws to a table of runs, on every frontier that the table supports.

    Args:
      df: one row per run (see `runs_table.prepare`). Without a column ``budget`` the frontier consists of the runs that
        no cheaper run equals or beats.
      metric: the column to explain, an error in (0, 1] or a loss.
      curves: evaluations during training; drawn, never fitted. Those without a finite logarithm are left out.
      lr_evidence: rows (budget, peak_lr, error, verdict) of the learning rates that were tried.
      title: title of the report.
      chance: the error of guessing: the top of every form that has one, and no curve exceeds it. Runs above it stay in
        the fits of those forms and are left out of the others.
      name: name of the table in errors.
      full: False fits the reported frontier only, without the law of size and samples and without other rules.

    Returns:
      The analysis; its ``law`` is the content of ``law.json``.

    Raises:
      UserError: a missing column, a number out of range, two units in a column, or no run that may enter the fit.
    """
    planned = "budget" in df.columns
    rows, left_out = fit_rows(prepare(df, metric, name), metric, chance, keep_above_chance=True)
    if rows.empty:
        reason = f"no run may enter the fit; the first was left out: {left_out[0]['reason']}"
        raise UserError(field=metric, reason=reason)
    logger.info("fitting %s of %d runs", metric, len(rows))
    log_devices()
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
    noise = point_noise(rows, metric, reported, planned)
    bias = winners_bias(rows, metric) if planned else {}
    few = planned or rows["budget"].nunique() <= MAX_BUDGETS  # without planned budgets each compute is one of its own
    c, y = reported["flops"].to_numpy(float), reported["error"].to_numpy(float)

    def fitted(rule: str, points: pd.DataFrame, first: bool = False) -> Frontier:
        frontier = Frontier(rule, points, chance=chance, profiled=first or not is_large_table())
        return fit_forms(frontier, candidates, noise, planned, bias if rule == BUDGET else {}, strict=first)

    reported_rule, *other_rules = rules_for(planned)
    # a second thread compiles and fits what the first does not wait for: most of the time is spent outside Python
    with ThreadPoolExecutor(1) as pool:

        def beside(function: Callable[..., T], *args: object) -> Future[T]:
            return pool.submit(copy_context().run, function, *args)

        surface = beside(_surface, rows, metric, chance) if full else None
        main = fitted(reported_rule, reported, first=True)
        others = [beside(fitted, rule, select(rule, candidates)) for rule in (other_rules if full else ())]
        check = beside(_check_without_largest, rows, metric, main, candidates, planned) if main.fitted else None
        sha256 = beside(rows_hash, rows)
        scores = []
        if main.fitted:
            laws = [f.fit.law for f in main.fitted.values()]
            known = {w.key: with_ceiling(w, chance)[1] for w in laws}
            scores = extrapolation_scores(c, y, laws, known=known, chance=chance)
        keys = {f.fit.law.name: key for key, f in main.fitted.items()}
        tested = bool(scores) and scores[0]["mean_abs_log_error"] is not None
        winner = keys[scores[0]["form"]] if tested else next(iter(main.fitted), None)
        valleys = isoflop(rows, metric) if few else []
        analysis = Analysis(
            title,
            metric,
            rows,
            {frontier.rule: frontier for frontier in (main, *(other.result() for other in others))},
            valleys,
            isoflop(rows, metric, way="cubic") if few else [],
            surface.result() if surface else "not asked for",
            curves,
            winner,
            cast(LawRecord, {}),
        )
        of_laws = _laws_data(analysis, scores)
    sd, degrees = seed_noise(rows, metric)
    rising = _rising(rows, metric)
    law: dict[str, object] = {
        "title": title, "metric": metric, "runs": len(rows), "left_out": left_out, "chance": chance,
        "rows_sha256": sha256.result(), "versions": versions(),
        "frontier_rule": FRONTIER_RULES[main.rule], "flops_span": float(c.max() / c.min()),
        "batch_sizes": sorted({int(b) for b in rows["batch_size"]}), "seed_sd_of_log_error": sd if degrees else None,
        "frontier": _with_drops(reported, sd, degrees), "isoflop": valleys, "isoflop_cubic": analysis.cubic_valleys,
        "allocation": asdict(allocation(valleys)), "allocation_cubic": asdict(allocation(analysis.cubic_valleys)),
        "surface": _surface_data(analysis.surface),
        "winner": None if winner is None else main.fitted[winner].fit.law.name, "rising": rising,
        "selection": next((f.selection for f in main.fitted.values() if f.selection), None),
        "why": _why(scores, main), "extrapolation": scores, "forecast_check": check.result() if check else [],
        **_averaged_data(main, analysis.target),
        "lr_evidence": [] if lr_evidence is None else lr_evidence.to_dict("records"),
        **of_laws,
    }  # fmt: skip
    shared = [shared_text(noise.inflation)] if noise.inflation > 1 else []
    law["warnings"] = [*([rising] if rising else []), *shared, *cast(list[str], law["warnings"])]
    law["frontiers"] = {
        rule: {
            "rule": FRONTIER_RULES[rule], "points": f.points[["flops", "params", "error"]].to_dict("records"),
            "fits": [fitted.as_data() for fitted in f.fitted.values()], "left_out": f.reasons,
        }
        for rule, f in analysis.frontiers.items()
    }  # fmt: skip
    analysis.law.update(plain_json(law))
    return analysis


analyse = analyze  # the spelling of earlier versions, kept for one release


def fit_forms(
    frontier: Frontier, candidates: pd.DataFrame, noise: Noise, planned: bool, bias: Mapping[float, float],
    *, strict: bool = False,
) -> Frontier:  # fmt: skip
    """Fit every compared form to a frontier's points.

    Args:
      frontier: its rule and points; the fits are added to it, and it is returned.
      candidates, noise, planned, bias: see `frontier_fit.fit_frontier`.
      strict: raise errors about the points themselves instead of recording them as reasons.
    """
    for law in compared_laws(frontier.chance):
        try:
            frontier.fitted[law.key] = fit_frontier(
                law, frontier.points, candidates, rule=frontier.rule, noise=noise, planned=planned,
                chance=frontier.chance, bias=bias, profiled=frontier.profiled,
            )  # fmt: skip
        except TooFewPoints as error:
            frontier.reasons[law.key] = error.reason or str(error)
        except UserError as error:
            if strict:
                raise
            frontier.reasons[law.key] = error.reason or str(error)
    return frontier


def _check_without_largest(
    rows: pd.DataFrame, metric: str, main: Frontier, candidates: pd.DataFrame, planned: bool
) -> list[ForecastCheck]:
    """Forecast the largest budget from the smaller ones only; its seeds do not enter the noise estimate either."""
    points = main.points
    if len(points) <= MIN_POINTS_TO_EXTRAPOLATE:
        return []
    last, below = points.iloc[-1], points.iloc[:-1]
    before = rows[rows["budget"] < last["budget"]]
    cheaper = candidates[candidates["budget"] < last["budget"]]
    bias = winners_bias(before, metric) if planned else {}
    held_out = fit_forms(
        Frontier(main.rule, below, chance=main.chance),
        cheaper,
        point_noise(before, metric, below, planned),
        planned,
        bias,
    )
    return forecast_check(
        held_out.fitted, held_out.averaged, float(last["flops"]), float(last["error"]), float(below["error"].iloc[-1])
    )


def _averaged_data(frontier: Frontier, target: float) -> dict[str, object]:
    """Return the averaged forecast of law.json: at the largest compute of the table and at the target."""
    if frontier.averaged is None:
        return {"averaged": [], "averaging": None}
    computes = (float(frontier.points["flops"].max()), target)
    return {
        "averaged": [frontier.averaged.forecast(p) for p in computes],
        "averaging": {
            "rule": frontier.averaged.rule,
            "left_out": dict(frontier.averaged.left_out),
            "limit": NO_BREAK,
        },
    }


def point_noise(rows: pd.DataFrame, metric: str, frontier: pd.DataFrame, planned: bool = True) -> Noise:
    """Return the scatter of one point of the frontier, in ln(error).

    It is estimated from seeds where cells have several; else, for planned budgets, from the distances of the cells to
    their budget's parabola. Points whose runs share trunks count for less than so many independent ones.
    """
    sd, degrees = seed_noise(rows, metric)
    if degrees:
        cells = by_size(rows, metric)
        degrees = effective_degrees(degrees, point_correlations(rows, cells[cells["seeds"] > 1]))
    elif planned:
        sd, degrees = valley_scatter(rows, metric)
    wider = inflation(point_correlations(rows, frontier))
    return Noise(sd / math.sqrt(float(frontier["seeds"].mean())), degrees, wider)


def winners_bias(rows: pd.DataFrame, metric: str) -> dict[float, float]:
    """Return `selection.selection_bias` of planned budgets, with the scatter that seeds or valleys show."""
    sd, degrees = seed_noise(rows, metric)
    if not degrees:
        sd, degrees = valley_scatter(rows, metric)
    return selection_bias(rows, metric, sd) if degrees else {}


def _rising(rows: pd.DataFrame, metric: str) -> str | None:
    """Return a warning where the metric grows with compute, as an accuracy does."""
    correlation = rising_correlation(np.log(rows["flops"].to_numpy(float)), rows[metric].to_numpy(float))
    if correlation is None:
        return None
    return (
        f"{metric} grows with FLOPs (rank correlation {correlation:+.2f}), and an error or a loss should fall: if it "
        "holds accuracies, write 1 - accuracy, or fit it by clip-jax fit --law=NAME --y-is=accuracy"
    )


def _why(scores: list[FormScore], frontier: Frontier) -> str:
    if not frontier.fitted:
        return "no law: " + next(iter(frontier.reasons.values()))
    if not scores or scores[0]["mean_abs_log_error"] is None:
        return "too few budgets to compare forms by extrapolation"
    best = scores[0]
    untested = [s["form"] for s in scores if s["mean_abs_log_error"] is None]
    return (
        f"{best['form']} forecasts the next budget best: mean |ln(predicted/measured)| "
        f"{best['mean_abs_log_error']:.4f} over {best['forecasts']} forecasts"
        + (f"; too few budgets to test {', '.join(untested)}" if untested else "")
    )


def _laws_data(analysis: Analysis, scores: list[FormScore]) -> dict[str, object]:
    """Return the fits of the reported frontier, their forecasts, warnings, and the influence of each point on the
    best law.
    """
    fitted = analysis.frontier.fitted
    forecasts = [f.forecast(analysis.target) for f in fitted.values()]
    warnings: list[str] = []
    influential: list[InfluenceRecord] = []
    moved: list[str] = []
    rivals = [] if analysis.averaged is None else rival_forms(analysis.averaged.forecast(analysis.target))
    warnings += [w for f in fitted.values() for w in f.unconverged_at(analysis.target, "the target")]
    if analysis.best is not None:
        warnings += [f"{analysis.best.fit.law.name}: {w}" for w in analysis.best.warnings()]
        influential = analysis.best.leave_one_out()
        strong = [r for r in influential if abs(r["shift"]) > 1]
        moved = [
            f"the point at {r['flops']:.3g} FLOPs alone moves {r['parameter']} from {r['without']:.4g} to "
            f"{r['with']:.4g} ({r['shift']:+.1f} standard errors)"
            for r in sorted(strong, key=lambda r: -abs(r["shift"]))[:3]
        ]
    return {
        "fits": [f.as_data() for f in fitted.values()], "next_budget": forecasts,
        "warnings": [*rivals, *warnings, *moved], "rivals": rivals, "moved": moved, "influence": influential,
    }  # fmt: skip


def _surface(rows: pd.DataFrame, metric: str, chance: float | None) -> ParametricFit | str:
    """Fit Chinchilla's law, or return the reason why it cannot be fitted."""
    try:
        return fit_parametric(rows, metric, chance)
    except UserError as error:
        return error.reason or str(error)


def _surface_data(surface: ParametricFit | str) -> SurfaceRecord:
    """Return Chinchilla's law as plain data, or the reason why it was not fitted."""
    if isinstance(surface, str):
        return {"status": f"left out: {surface}"}
    fit = surface.fit
    notes = list(fit.notes)
    if interval_method(fit) == ONE_STEP_PROFILE:
        notes.append(f"intervals: {ONE_STEP_PROFILE}")
    if fit.points < TESTED_ROWS:
        notes.append(f"{fit.points} rows: the coverage of its intervals was simulated from {TESTED_ROWS} rows on")
    return {
        "formula": fit.law.formula, "values": fit.values, "status": fit.status, "identified": fit.identified,
        "intervals": {n: dict(zip(("low", "high"), ends_data(i), strict=True)) for n, i in surface.intervals.items()},
        "flat": list(fit.flat), "starts": fit.starts, "agree": fit.agree, "screened": fit.screened,
        "condition": fit.condition, "objective": fit.objective, "rows": fit.points, "notes": notes,
        "residual_sd": fit.residual_sd,
        "flops": {"factor": surface.cost, "power_of_params": surface.power, "sd_of_log": surface.cost_sd},
    }  # fmt: skip


def _with_drops(frontier: pd.DataFrame, sd: float, degrees: int) -> list[PointRecord]:
    """Return each budget's best run, and whether the error falls to the next budget by more than twice its noise."""
    rows: list[Any] = frontier.to_dict("records")
    for now, after in zip(rows, [*rows[1:], None], strict=True):
        now["drop"] = now["noise"] = now["falls"] = None
        if after is not None:
            now["drop"] = now["error"] - after["error"]
            if degrees:
                now["noise"] = 2 * sd * now["error"] * math.sqrt(1 / now["seeds"] + 1 / after["seeds"])
                now["falls"] = bool(now["drop"] > now["noise"])
    return rows


def is_planned(analysis: Analysis) -> bool:
    """Return whether the budgets of the table were planned."""
    return BUDGET in analysis.frontiers
