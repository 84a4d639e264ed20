"""Simulate tables of runs with a known law, to test a fitter on them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from clip_jax.errors import UserError
from clip_jax.scaling.laws import Chinchilla
from clip_jax.scaling.laws.size_data import FLOPS_PER_PARAM_SAMPLE

if TYPE_CHECKING:
    import pandas as pd


def isoflop_runs(
    law: Chinchilla,
    values: Mapping[str, float],
    *,
    budgets: tuple[float, ...] = tuple(np.geomspace(1e18, 1e21, 6)),
    sizes: int = 9,
    spread: float = 10.0,
    noise: float = 0.0,
    seed: int = 0,
) -> pd.DataFrame:
    """Simulate runs at each budget around its best size, where a run costs 6·N·D FLOPs.

    Args:
      law, values: the true law and its parameters, in the table's units.
      budgets: FLOPs.
      sizes: number of sizes at each budget, evenly in their logarithm.
      spread: the largest size is this many times the best, the smallest as many times below.
      noise: standard deviation of ln(loss).
      seed: of the noise.

    Returns:
      run_id, budget, flops, params, samples_seen, loss; one row per run.

    Raises:
      UserError: spread not above 1, fewer than one size, or a negative noise.
    """
    import pandas as pd

    for field, value, fits, reason in (
        ("spread", spread, spread > 1, "must be above 1"), ("sizes", sizes, sizes >= 1, "must be at least 1"),
        ("noise", noise, noise >= 0, "must be at least 0"),
    ):  # fmt: skip
        if not fits:
            raise UserError(source="isoflop_runs", field=field, value=value, reason=reason)
    best, _ = law.optimum(values, np.array(budgets))
    params = best[:, None] * np.geomspace(1 / spread, spread, sizes)
    flops = np.repeat(np.array(budgets), sizes)
    n = params.ravel()
    d = flops / (FLOPS_PER_PARAM_SAMPLE * n)
    y = law.curve(values, {"params": np.log(n), "samples_seen": np.log(d)}, np)
    y = y * np.exp(noise * np.random.default_rng(seed).standard_normal(len(n)))
    names = [f"run{i}" for i in range(len(n))]
    return pd.DataFrame({"run_id": names, "budget": flops, "flops": flops, "params": n, "samples_seen": d, "loss": y})
