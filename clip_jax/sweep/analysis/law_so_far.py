"""The law of the runs of a sweep that have finished, while others still train: a point fit, written nowhere."""

from __future__ import annotations

from pathlib import Path

from clip_jax.distributed.mesh import enable_compile_cache
from clip_jax.errors import UserError
from clip_jax.sweep.collect import read_runs


def law_so_far(root: Path, metric: str) -> str:
    """Return the power law of the best sizes so far as a line of text, or why there is none yet.

    The report compares further forms and gives intervals; this is the same fit of the one form alone.

    Args:
      root: the sweep's directory.
      metric: the column to explain.
    """
    from clip_jax.scaling.analysis.frontier_fit import BUDGET, fit_frontier
    from clip_jax.scaling.data.chance import chance_of
    from clip_jax.scaling.data.runs_table import fit_rows, prepare
    from clip_jax.scaling.frontier.frontier import compute_optimal
    from clip_jax.scaling.laws.compute import PowerLaw
    from clip_jax.scaling.profile.noise import NO_NOISE

    enable_compile_cache()
    df, measured = read_runs(root)
    try:
        chance = chance_of(measured, metric)
        points = compute_optimal(fit_rows(prepare(df, metric), metric, chance)[0], metric)
        fit = fit_frontier(
            PowerLaw(), points, points, rule=BUDGET, noise=NO_NOISE, planned=True, chance=chance, profiled=False
        ).fit
    except UserError as error:
        return f"no law yet: {error.reason or error}"
    return f"law so far: {metric} = {fit.law.text(fit.values, 3)}, from the best sizes of {fit.points} budgets"
