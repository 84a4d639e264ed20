"""Compute the standard error of the minimum of an IsoFLOP valley, from the scatter of its points."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from clip_jax.scaling.data.records import ValleyRecord
from clip_jax.scaling.frontier.frontier import by_size, seed_noise

if TYPE_CHECKING:
    import pandas as pd

    from clip_jax.scaling.analysis.analyze import Analysis

PARAMETERS = 3  # of a parabola


def valley_errors(analysis: Analysis) -> dict[float, float]:
    """Compute the standard error of ln(N*) of each accepted parabola, by budget; empty where no scatter is known.

    The scatter of ln(error) is that over seeds, shrunk by their number at each size, or that of all sizes about their
    parabolas, whichever is larger. It is carried to the minimum to first order.
    """
    sizes = by_size(analysis.rows, analysis.metric)
    accepted = [v for v in analysis.valleys if v["status"] == "accepted"]
    groups = {v["budget"]: sizes[sizes["budget"] == v["budget"]] for v in accepted}
    sd, degrees = seed_noise(analysis.rows, analysis.metric)
    about = _about(accepted, groups)
    if not degrees and about is None:
        return {}
    errors = {}
    for valley in accepted:
        group = groups[valley["budget"]]
        over_seeds = sd / np.sqrt(group["seeds"].to_numpy(float))
        errors[valley["budget"]] = _error_of_minimum(valley, group, np.maximum(over_seeds, about or 0.0))
    return errors


def ends_of(valley: ValleyRecord, se: float, sizes: pd.DataFrame, key: str) -> tuple[float, float]:
    """Return ``params`` or ``samples_seen`` one standard error of the size to either side of a minimum.

    Samples follow from the size at the valley's compute, by the sizes tried.
    """
    ends = np.log(valley["params"]) + np.array([-se, se])
    if key == "params":
        low, high = np.exp(ends)
    else:
        group = sizes[sizes["budget"] == valley["budget"]].sort_values("params")
        line = np.polyfit(np.log(group["params"]), np.log(group["samples_seen"]), 1)
        high, low = valley["samples_seen"] * np.exp(line[0] * np.array([-se, se]))
    return float(low), float(high)


def _about(valleys: list[ValleyRecord], groups: dict[float, pd.DataFrame]) -> float | None:
    """Pool the residuals of the parabolas in ln(error); None where each passes through its points."""
    total, degrees = 0.0, 0
    for valley in valleys:
        x, y = _logs(valley, groups[valley["budget"]])
        total += float(((y - np.polyval(_coefficients(valley)[:-1], x)) ** 2).sum())
        degrees += len(x) - PARAMETERS
    return float(np.sqrt(total / degrees)) if degrees else None


def _error_of_minimum(valley: ValleyRecord, group: pd.DataFrame, scatter: np.ndarray) -> float:
    x, _ = _logs(valley, group)
    a, b = _coefficients(valley)[:2]
    design = np.stack([x**2, x, np.ones_like(x)], axis=1)
    solve = np.linalg.pinv(design)  # of points to coefficients
    gradient = np.array([b / (2 * a**2), -1 / (2 * a), 0.0]) @ solve
    return float(np.sqrt(np.sum((gradient * scatter) ** 2)))


def _coefficients(valley: ValleyRecord) -> list[float]:
    assert valley["coefficients"] is not None, "only accepted valleys are drawn"
    return valley["coefficients"]


def _logs(valley: ValleyRecord, group: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    return np.log(group["params"].to_numpy(float)) - _coefficients(valley)[-1], np.log(group["error"].to_numpy(float))
