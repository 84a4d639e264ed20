"""Search the optimum of a law along ``FLOPs = cost``, for many parameter vectors at once, on a refined grid."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product

import numpy as np

from clip_jax.errors import UserError
from clip_jax.scaling.fit.result import Fit
from clip_jax.scaling.frontier.cost import SAMPLES, Cost, size_columns
from clip_jax.scaling.laws.base import Array

MARGIN = 1e3  # sizes are searched this factor beyond those of the runs, and further where the budget lies beyond
SEARCH_GRIDS = {1: (41, 3), 2: (17, 7)}  # sizes searched at once -> (points per axis, rounds of refinement)
SLOPE_STEP = 0.5  # of ln(FLOPs) on each side, over which the local exponent is taken


@dataclass(frozen=True)
class CostPath:
    """Optima of R parameter vectors at K budgets, all logarithms: [R, K].

    edge: 0 inside the searched sizes, -1 at the lowest, 1 at the highest, 2 at an edge of one of two sizes.
    """

    sizes: dict[str, Array]
    samples: Array
    value: Array
    exponents: dict[str, Array]
    log_factors: dict[str, Array]
    edge: Array


def minimize_along_cost(
    fit: Fit, thetas: Array, flops: Array, cost: Cost, held: Mapping[str, float] | None = None
) -> CostPath:
    """Minimize the law along ``FLOPs = cost`` for many parameter vectors at once, on a grid that is refined.

    Args:
      fit: its law, units and range of sizes are used.
      thetas: float [R, p].
      flops: float [K].
      cost: FLOPs of a run.
      held: see `compute_optimal_allocation`.

    Returns:
      Natural logarithms of the optimal sizes and samples, y, local exponents and factors, [R, K] each.

    Raises:
      UserError: a column of the law that neither the cost nor ``held`` gives.
    """
    sizes, log_c = size_columns(fit.law), np.log(flops)
    if set(cost.terms) != set(sizes):
        raise UserError(field="cost", reason=f"must have the terms {', '.join(sizes)}, and has {', '.join(cost.terms)}")
    others = {c for c in fit.law.columns if c not in (*sizes, SAMPLES)}
    held_values = dict(held or {})
    if others != set(held_values):
        reason = f"must name exactly {', '.join(sorted(others))}" if others else "must be empty"
        raise UserError(field="held", value=sorted(held_values), reason=reason)
    around = np.concatenate([log_c, log_c - SLOPE_STEP, log_c + SLOPE_STEP])
    log_sizes, samples, value, edge = _search(fit, thetas, around, cost, sizes, held_values)
    center, below, above = (slice(i * len(flops), (i + 1) * len(flops)) for i in range(3))
    exponents, factors = {}, {}
    for name, along in {**log_sizes, SAMPLES: samples}.items():
        exponents[name] = (along[:, above] - along[:, below]) / (2 * SLOPE_STEP)
        factors[name] = along[:, center] - exponents[name] * log_c
    edge = np.where(
        edge[:, center] != 0, edge[:, center], np.where(edge[:, below] != 0, edge[:, below], edge[:, above])
    )
    at = {c: v[:, center] for c, v in log_sizes.items()}
    return CostPath(at, samples[:, center], value[:, center], exponents, factors, edge)


def _search(
    fit: Fit, thetas: Array, log_c: Array, cost: Cost, sizes: tuple[str, ...], held: Mapping[str, float]
) -> tuple[dict[str, Array], Array, Array, Array]:
    """Search the optimum on the grid; return (ln sizes by column, ln samples, y, edge), [R, K] each."""
    law, refs = fit.law, {c: np.log(v) for c, v in fit.references.items()}
    values = {k: v[:, None, None] for k, v in law.unpack(thetas, np).items()}
    seen = {c: np.log(fit.data.columns[c]) for c in sizes}
    spent = np.log(fit.data.columns[SAMPLES]) + cost.log_per_sample(seen)
    below, above = max(0.0, spent.min() - log_c.min()), max(0.0, log_c.max() - spent.max())
    low = np.array([seen[c].min() - np.log(MARGIN) - below for c in sizes])
    high = np.array([seen[c].max() + np.log(MARGIN) + above for c in sizes])
    points, rounds = SEARCH_GRIDS[len(sizes)]
    unit = np.array(list(product(np.linspace(-1, 1, points), repeat=len(sizes))))  # [P, m]
    shape = (len(thetas), len(log_c), len(sizes))
    centers, reach = np.broadcast_to((low + high) / 2, shape), (high - low) / 2

    def objective(at: Array) -> tuple[Array, Array]:
        """Return y and ln samples at ln sizes [R, K, P, m]."""
        logs = {c: at[..., i] for i, c in enumerate(sizes)}
        samples = log_c[:, None] - cost.log_per_sample(logs)
        x = {c: v - refs[c] for c, v in logs.items()} | {SAMPLES: samples - refs[SAMPLES]}
        x |= {c: np.full(1, np.log(v) - refs[c]) for c, v in held.items()}
        with np.errstate(over="ignore", invalid="ignore"):
            y = law.curve(values, x, np)
        return np.where(np.isfinite(y), y, np.inf), samples

    for _ in range(rounds):
        at = np.clip(centers[:, :, None] + unit * reach, low, high)
        y, samples = objective(at)
        best = y.argmin(axis=-1)[..., None]
        centers = np.take_along_axis(at, best[..., None], axis=2)[:, :, 0]
        step = 2 * reach / (points - 1)
        reach = 1.5 * step if len(sizes) > 1 else step
    if len(sizes) == 1:  # a parabola through the best point and its neighbors
        near = np.clip(centers[:, :, None] + step * np.array([-1.0, 0.0, 1.0])[:, None], low, high)
        left, middle, right = np.moveaxis(objective(near)[0], -1, 0)
        curvature = left - 2 * middle + right
        with np.errstate(invalid="ignore"):
            shift = np.where(curvature > 0, (left - right) / np.where(curvature > 0, 2 * curvature, 1.0), 0.0)
        centers = np.clip(centers + np.clip(np.nan_to_num(shift), -1, 1)[..., None] * step, low, high)
    y, samples = (v[..., 0] for v in objective(centers[:, :, None]))
    near_low, near_high = (centers <= low + 2 * step).any(axis=-1), (centers >= high - 2 * step).any(axis=-1)
    edge = np.where(near_low | near_high, 2, 0) if len(sizes) > 1 else near_high.astype(int) - near_low.astype(int)
    return {c: centers[..., i] for i, c in enumerate(sizes)}, samples, y, edge
