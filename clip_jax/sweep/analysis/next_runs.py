"""The next runs for a sweep that has a law: `scaling.planning.experimental_design` on its frontier, budgets and
sizes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from clip_jax.config.sweep import SweepConfig
from clip_jax.errors import UserError
from clip_jax.scaling.data.chance import chance_beside, fitted_rows
from clip_jax.scaling.data.records import ValleyRecord
from clip_jax.scaling.data.runs_table import fit_rows, prepare
from clip_jax.scaling.fit_law import fit_law
from clip_jax.scaling.frontier.frontier import compute_optimal, seed_noise
from clip_jax.scaling.frontier.isoflop import allocation, isoflop
from clip_jax.scaling.laws import law_named, with_ceiling
from clip_jax.scaling.planning.experimental_design import RunSelection, best_runs, cheapest_plan
from clip_jax.storage.paths import as_path
from clip_jax.sweep.collect import collect_to_fit
from clip_jax.sweep.control import sweep_config_of
from clip_jax.sweep.plan import make_cell

BUDGET_STEP = 2.0  # ratio of neighboring candidate budgets
MAX_SEEDS = 4  # at most at one candidate


def next_runs(
    sweep_dir: str | Path, target: float, *, budget: float = 0.0, half_width: float = 0.0, law: str = "power"
) -> tuple[RunSelection, str]:
    """Return the plan of the next runs, and a text on what to add to the sweep's config.

    Candidate budgets go from the smallest of the sweep upward by factors of two, below ``target`` and, with ``budget``,
    at most that. The size of each is the rung nearest to the optimum that the sweep's IsoFLOP valleys give, if they
    give one.

    Args:
      sweep_dir: a sweep with at least three finished budgets.
      target: FLOPs at which the error is to be forecast.
      budget: FLOPs to spend; or
      half_width: half width of the forecast's 95 % interval to reach, relative to the forecast.
      law: name of a law of compute.

    Raises:
      UserError: neither or both of budget and half width are given, too few budgets have finished, or the target lies
        inside the sweep.
    """
    if (budget > 0) == (half_width > 0):
        reason = "exactly one of them is needed"
        raise UserError(field="--budget, --precision", reason=reason, hint="--budget=FLOPS or --precision=SHARE")
    root = as_path(sweep_dir)
    config = sweep_config_of(root)
    chance = chance_beside(root, config.metric)
    rows, _ = fit_rows(prepare(collect_to_fit(root), config.metric), config.metric, chance, keep_above_chance=True)
    if rows["budget"].nunique() < 3:
        raise UserError(field=root, reason=f"{rows['budget'].nunique()} budgets have finished, at least 3 are needed")
    frontier = compute_optimal(rows, config.metric)
    top = float(frontier["flops"].max())
    if target <= top:
        raise UserError(field="--at", value=target, reason=f"must be above the sweep's largest budget, {top:g}")
    form = law_named(law)
    if form.columns != ("flops",):
        raise UserError(field="--law", value=law, reason="must be a law of flops alone")
    form, known = with_ceiling(form, chance)
    x, y = (frontier[c].to_numpy(float) for c in ("flops", "error"))
    rows_fitted = fitted_rows(form, y, chance)
    fit = fit_law(form, x[rows_fitted], y[rows_fitted], fixed=known)
    least = float(frontier["budget"].min())
    budgets = [
        least * BUDGET_STEP**k
        for k in range(60)
        if least * BUDGET_STEP**k <= min(target / BUDGET_STEP, budget or target)
    ]
    if not budgets:
        raise UserError(field="--budget", value=budget, reason=f"must be at least {least:g}, the sweep's smallest")
    candidates = np.array(budgets)
    floor, _ = seed_noise(rows, config.metric)
    if budget:
        plan = best_runs(fit, target, candidates, candidates, budget, floor=floor, repeats=MAX_SEEDS)
    else:
        plan = cheapest_plan(fit, target, candidates, candidates, half_width, floor=floor, repeats=MAX_SEEDS)
    return plan, _text(config, plan, target, isoflop(rows, config.metric))


def _text(config: SweepConfig, plan: RunSelection, target: float, valleys: list[ValleyRecord]) -> str:
    optimum = allocation(valleys)
    lines = [f"  the forecast at {target:.3g} FLOPs is known to ±{plan.before:.2%} (95 %)"]
    for row in plan.chosen:
        size, flops = "", row.columns["flops"]
        if optimum.params is not None:
            wanted = optimal_params(valleys, optimum.params, flops)
            rung = min(config.sizes, key=lambda r: abs(np.log(make_cell(config, r, flops, 0).params / wanted)))
            size = f", at rung {rung:g} (the valleys' optimum there: {wanted:,.0f} parameters)"
        lines.append(f"    {row.runs} × {flops:.3g} FLOPs{size}")
    if optimum.status != "identified":
        lines.append(f"  which size is best there is not known: {optimum.status}; train several")
    lines.append(f"  {int(plan.runs.sum())} runs, {plan.cost:.3g} FLOPs: then ±{plan.after:.2%}")
    budgets = sorted({*config.budgets, *(float(f"{r.columns['flops']:.3g}") for r in plan.chosen)})
    most = max((r.runs for r in plan.chosen), default=1)
    seeds = sorted({*config.extra_seeds_at_optimum, *range(1, most)})
    fields = f"--budgets={_listed(budgets)} --extra_seeds_at_optimum={_listed(seeds)}"
    lines.append(f"  the same directory takes them with {fields}")
    return "\n".join(lines)


def _listed(values: Sequence[float]) -> str:
    """Return numbers as the command line takes a list, to their last digit."""
    return ",".join(short if float(short := f"{x:g}") == x else repr(x) for x in values)


def optimal_params(valleys: list[ValleyRecord], power: float, flops: float) -> float:
    """Return the optimal number of parameters at a compute, extrapolated from the accepted valleys.

    Args:
      valleys: of the IsoFLOP analysis; at least one is accepted.
      power: exponent of the optimal size in the compute.
      flops: the compute.
    """
    known = [(v["budget"], v["params"]) for v in valleys if v["status"] == "accepted"]
    logs = [np.log(params) + power * np.log(flops / budget) for budget, params in known]
    return float(np.exp(np.mean(logs)))
