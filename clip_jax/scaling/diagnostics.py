"""Can this fit be trusted? Which rows move it, and what its residuals still contain."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from clip_jax.scaling.fit import Fit, covariance
from clip_jax.scaling.solver import solve

MOVES = 1.0  # standard errors by which one row moves a parameter and is named
OUTLIER = 4.0  # robust standard deviations
SURE = 0.01  # p-values below this are reported


@dataclass(frozen=True)
class Influence:
    """What leaving one row out does. row: its number. parameter: the one it moves most, from ``value`` to
    ``without``; shift: in standard errors; all: each parameter's value without the row."""

    row: int
    parameter: str
    value: float
    without: float
    shift: float
    all: dict[str, float]


def influence(fit: Fit) -> list[Influence]:
    """Leave each row out, fit again from the optimum: most influential first. Needs more rows than parameters + 1."""
    n = fit.points
    if n <= fit.free + 1:
        return []
    weights = fit.data.weights * (1 - np.eye(n))
    found = solve(
        fit.law, fit.logs, fit.data.y, np.tile(fit.theta, (n, 1)), fit.low, fit.high, fit.loss,
        weights=weights, free=fit.free_mask,
    )  # fmt: skip
    errors = np.sqrt(np.maximum(np.diagonal(covariance(fit)), 1e-300))
    shifts = np.where(fit.free_mask, (found.theta - fit.theta) / errors, 0.0)
    drawn, values, out = fit.law.describe(found.theta, fit.references), fit.values, []
    for row in range(n):
        i = int(np.argmax(np.abs(shifts[row])))
        name = fit.law.names[i]
        every = {k: float(v[row]) for k, v in drawn.items()}
        out.append(Influence(row, name, values[name], every[name], float(shifts[row, i]), every))
    return sorted(out, key=lambda r: -abs(r.shift))


def residual_checks(fit: Fit, labels: Any = None) -> dict[str, Any]:
    """What is left over: {sd, robust_sd, outliers, trends, spread, curvature, runs_p, warnings}.

    outliers: rows beyond four robust standard deviations. trends: column -> (rank correlation of the residual with it,
    p). spread: the same of its size (scatter that changes with scale). curvature: the same of the residual with the
    distance from the middle: what a wrong form leaves. warnings: each of these that is surely there, in words, with
    rows by their ``labels`` (their numbers by default).
    """
    from scipy.stats import spearmanr

    r = fit.residuals
    robust = float(1.4826 * np.median(np.abs(r - np.median(r))))
    outliers = [int(i) for i in np.flatnonzero(np.abs(r - np.median(r)) > OUTLIER * max(robust, 1e-12))]
    out: dict[str, Any] = {
        "sd": fit.residual_sd, "robust_sd": robust, "outliers": outliers, "trends": {}, "spread": {}, "curvature": {},
        "warnings": [],
    }  # fmt: skip
    if fit.points < fit.free + 4 or np.ptp(r) < 1e-12:
        return out
    warnings = out["warnings"]
    for column, x in fit.logs.items():
        for kind, a, b, said in (
            ("trends", r, x, f"residuals drift with {column}"),
            ("spread", np.abs(r), x, f"the scatter changes with {column}"),
            ("curvature", r, np.abs(x - np.median(x)), f"residuals bend over {column}: another form may fit"),
        ):
            found = spearmanr(a, b)
            out[kind][column] = (float(found.statistic), float(found.pvalue))
            if found.pvalue < SURE:
                warnings.append(f"{said} (rank correlation {found.statistic:+.2f}, p {found.pvalue:.1g})")
    if outliers:
        named = _some([_label(labels, i) for i in outliers])
        warnings.append(f"{len(outliers)} rows lie beyond {OUTLIER:g} robust standard deviations: {named}")
    return out


def _label(labels: Any, row: int) -> Any:
    return row if labels is None else labels[row]


def _some(rows: list[Any], most: int = 8) -> str:
    return ", ".join(map(str, rows[:most])) + (", …" if len(rows) > most else "")


def moved_by_rows(fit: Fit, labels: Any = None, most: int | None = None) -> list[str]:
    """A sentence for each row that alone moves a parameter by more than a standard error, most influential first."""
    moved = [r for r in influence(fit) if abs(r.shift) > MOVES]
    said = [
        f"row {_label(labels, r.row)} moves {r.parameter} from {r.without:.4g} to {r.value:.4g} "
        f"({-r.shift:+.1f} standard errors)"
        for r in moved[:most]
    ]
    return [*said, f"{len(moved) - len(said)} more rows move one as much"] if len(said) < len(moved) else said
