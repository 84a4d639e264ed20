"""The critical batch size, from the batch checks of a sweep.

At a batch of B, reaching a loss takes D = D_min·(1 + B/B_crit) samples. A check with a larger batch than usual sees
as many samples D as the usual run of its size and budget, and ends higher: as high as the usual batch after D' < D
samples, which the runs of this size at smaller budgets tell. So D/D' = (1 + B/B_crit)/(1 + B_usual/B_crit).
B_crit belongs to the loss, and is given over D_min, the samples that reach it at the smallest batches.

Sources: McCandlish et al. (2018), arXiv 1812.06162; as a power of D, Bergsma et al. (2025), arXiv 2505.13738.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from clip_jax.config.hyperparameter_rules import CHECK_KINDS
from clip_jax.errors import require_columns
from clip_jax.scaling.data.runs_table import is_check
from clip_jax.sweep.tried_values import noise_of

if TYPE_CHECKING:
    import pandas as pd

MIN_BATCHES = 3  # critical batches at different numbers of samples, for a power of them


@dataclass(frozen=True)
class CriticalBatch:
    """Critical batch sizes by number of samples.

    tried: how many checks had a larger batch. samples, batches: D_min and B_crit of the checks that tell one. status:
    why others do not.
    value, power, reference: B_crit ≈ value · (samples / reference)^power; None without three numbers of samples. No
    interval is given: neighboring points share runs, and Student's covered 82 % instead of 95 % in simulation.
    """

    tried: int
    samples: tuple[float, ...]
    batches: tuple[float, ...]
    status: str
    value: float | None = None
    power: float | None = None
    reference: float | None = None

    def __str__(self) -> str:
        text = "critical batch, in samples: "
        if self.power is not None:
            text += f"≈ {self.value:.4g} · (samples / {self.reference:.4g})^{self.power:.3f}, without an interval"
        elif self.batches:
            text += ", ".join(f"{b:.4g} at {d:.4g} samples" for d, b in zip(self.samples, self.batches, strict=True))
        else:
            text += "not identified"
        return f"{text}; {self.status}" if self.status else text


def critical_batch(df: pd.DataFrame, *, metric: str = "error_mean") -> CriticalBatch:
    """Find the critical batch of each size and budget at which a larger batch was tried.

    Args:
      df: runs with kind, budget, params, batch_size, samples_seen and seed.
      metric: an error or a loss.

    Raises:
      UserError: the table lacks a column.
    """
    require_columns(df.columns, ("kind", "budget", "params", "batch_size", "samples_seen", metric))
    done = df[df["final"].astype(bool)] if "final" in df.columns else df
    done = done[done[metric].notna()]
    usual, checks = done[~is_check(done["kind"])], done[done["kind"] == CHECK_KINDS["batch"]]
    noise, reasons, points, tried = noise_of(done, metric), list[str](), list[tuple[float, float]](), 0
    for (params, budget), cell in checks.groupby(["params", "budget"]):
        of_size = usual[usual["params"] == params].groupby("samples_seen")[[metric, "batch_size"]].mean().sort_index()
        beside = usual[(usual["params"] == params) & (usual["budget"] == budget)]
        for batch, runs in cell.groupby("batch_size"):
            if beside.empty or float(batch) <= beside["batch_size"].iloc[0]:  # type: ignore[arg-type]
                continue
            tried += 1
            small, measured = float(beside["batch_size"].iloc[0]), float(runs[metric].mean())
            samples, at_usual = float(beside["samples_seen"].iloc[0]), float(beside[metric].mean())
            if measured <= at_usual * (1 + noise):
                reasons.append("ends no higher than the usual batch, within the noise")
                continue
            same = _samples_to(of_size[of_size["batch_size"] == small][metric], measured)
            if same is None:
                reasons.append("ends higher than the smallest run of its size")
                continue
            ratio, large = samples / same, float(batch)  # type: ignore[arg-type]
            if ratio * small >= large:  # it loses more than one batch's worth: no such law
                reasons.append("loses more samples than its batch is larger")
                continue
            batch_crit = (large - ratio * small) / (ratio - 1)
            points.append((samples / (1 + large / batch_crit), batch_crit))
    status = "; ".join(f"{reasons.count(r)} of {tried} checks: {r}" for r in dict.fromkeys(reasons))
    if not points:
        return CriticalBatch(tried, (), (), status)
    x, y = (tuple(values) for values in zip(*sorted(points), strict=True))
    if len(set(x)) < MIN_BATCHES:
        return CriticalBatch(tried, x, y, status)
    middle = float(np.log(x).mean())
    power, constant = np.polyfit(np.log(x) - middle, np.log(y), 1)
    return CriticalBatch(tried, x, y, status, math.exp(constant), float(power), math.exp(middle))


def _samples_to(errors: pd.Series, error: float) -> float | None:
    """Return after how many samples runs reach an error, between two of them in logarithms; None outside them.

    Args:
      errors: by number of samples, ascending.
      error: as high as some run's.
    """
    logs = np.log(np.minimum.accumulate(errors.to_numpy(float)))
    if len(logs) < 2 or not logs[-1] <= math.log(error) <= logs[0]:
        return None
    at = np.log(errors.index.to_numpy(float))
    falling = np.concatenate([[True], np.diff(logs) < 0])
    return math.exp(float(np.interp(-math.log(error), -logs[falling], at[falling])))
