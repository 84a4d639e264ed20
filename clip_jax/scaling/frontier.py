"""The compute-optimal frontier, IsoFLOP parabolas, and the exponents of optimal size and data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

SIZES_FOR_PARABOLA = 4
BUDGETS_FOR_EXPONENT = 3


def by_size(df: pd.DataFrame, metric: str) -> pd.DataFrame:
    """One row a (budget, params): means over seeds. Columns budget params flops samples_seen error sd seeds."""
    grouped = df.groupby(["budget", "params"], sort=True)
    return grouped.agg(
        flops=("flops", "mean"),
        samples_seen=("samples_seen", "mean"),
        error=(metric, "mean"),
        sd=(metric, "std"),
        seeds=(metric, "size"),
    ).reset_index()


def compute_optimal(df: pd.DataFrame, metric: str) -> pd.DataFrame:
    """The best size of each budget, by its mean error over seeds.

    Columns of `by_size`, plus ``sizes`` (tried at this budget) and ``bracketed`` (the best is neither the smallest
    nor the largest of at least three).
    """
    sizes = by_size(df, metric)
    best = sizes.loc[sizes.groupby("budget")["error"].idxmin()].sort_values("budget").reset_index(drop=True)
    counts, inside = [], []
    for budget, params in zip(best["budget"], best["params"], strict=True):
        tried = sizes.loc[sizes["budget"] == budget, "params"]
        counts.append(len(tried))
        inside.append(bool(len(tried) >= 3 and tried.min() < params < tried.max()))
    best["sizes"], best["bracketed"] = counts, inside
    return best


def unbeaten(best: pd.DataFrame) -> pd.DataFrame:
    """The rows of `compute_optimal` that no cheaper one equals or beats: the frontier where no budgets were planned."""
    return best[best["error"] < best["error"].cummin().shift(fill_value=np.inf)].reset_index(drop=True)


def seed_noise(df: pd.DataFrame, metric: str) -> tuple[float, int]:
    """(standard deviation of ln(error) between seeds of one cell, pooled; its degrees of freedom, 0 if unknown)."""
    total, degrees = 0.0, 0
    for _, group in df.groupby(["budget", "params"]):
        if group["seed"].nunique() > 1:  # equal cells of one seed differ in something else
            logs = np.log(group[metric].to_numpy(float))
            total += float(((logs - logs.mean()) ** 2).sum())
            degrees += len(group) - 1
    return (float(np.sqrt(total / degrees)) if degrees else 0.0), degrees


def isoflop(df: pd.DataFrame, metric: str) -> list[dict[str, Any]]:
    """A parabola of ln(error) in ln(params) for each budget (Hoffmann et al., 2022, approach 2).

    ``status`` is ``accepted`` or the reason of refusal: too few sizes, opening downward, or a lowest point outside
    the sizes tried. Accepted ones carry ``params`` and ``samples_seen`` at the lowest point.
    """
    out = []
    for budget, group in by_size(df, metric).groupby("budget", sort=True):
        x, y = np.log(group["params"].to_numpy(float)), np.log(group["error"].to_numpy(float))
        row: dict[str, Any] = {"budget": float(np.float64(budget)), "sizes": len(x), "coefficients": None}  # type: ignore[arg-type]
        if len(x) < SIZES_FOR_PARABOLA:
            row["status"] = f"not identified: {len(x)} sizes, {SIZES_FOR_PARABOLA} are needed"
        else:
            middle = x.mean()
            a, b, c = (float(v) for v in np.polyfit(x - middle, y, 2))
            vertex = middle - b / (2 * a) if a else np.inf
            row["coefficients"] = [a, b, c, float(middle)]
            if a <= 0:
                row["status"] = "not identified: the parabola opens downward"
            elif not x.min() < vertex < x.max():
                row["status"] = "not identified: the lowest point lies outside the sizes tried"
            else:
                samples = np.interp(vertex, x, np.log(group["samples_seen"].to_numpy(float)))
                row |= {
                    "status": "accepted",
                    "params": float(np.exp(vertex)),
                    "samples_seen": float(np.exp(samples)),
                    "error": float(np.exp(np.polyval([a, b, c], vertex - middle))),
                }
        out.append(row)
    return out


@dataclass(frozen=True)
class Exponents:
    """N* ~ C^a and D* ~ C^b with standard errors, or why they are not known."""

    status: str
    params: float | None = None
    params_se: float | None = None
    samples: float | None = None
    samples_se: float | None = None


def allocation(parabolas: list[dict[str, Any]]) -> Exponents:
    """Exponents of the optimal size and number of samples, from the accepted parabolas."""
    accepted = [p for p in parabolas if p["status"] == "accepted"]
    if len(accepted) < BUDGETS_FOR_EXPONENT:
        return Exponents(
            f"not identified: {len(accepted)} budgets have an accepted parabola, {BUDGETS_FOR_EXPONENT} are needed"
        )
    x = np.log([p["budget"] for p in accepted])
    (a, a_se), (b, b_se) = (_slope(x, np.log([p[key] for p in accepted])) for key in ("params", "samples_seen"))
    return Exponents("identified", a, a_se, b, b_se)


def _slope(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    from scipy.stats import linregress

    found = linregress(x, y)
    return float(found.slope), float(found.stderr)
