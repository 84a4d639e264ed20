"""Diagnose a fit: the influence of single rows, and patterns in its residuals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from clip_jax.scaling.data.records import ResidualChecks
from clip_jax.scaling.fit.result import Fit, covariance, scale_of
from clip_jax.scaling.fit.solver import solve

NOTABLE_SHIFT = 1.0  # standard errors by which one row moves a parameter and is named
OUTLIER = 4.0  # robust standard deviations
SIGNIFICANT = 0.01  # p-values below this are reported
MAX_ROWS_TO_REFIT = 2000  # rows up to which each is left out and the law fitted again
REFITS_PER_CHUNK = 256  # rows left out at once
MIN_WITHIN = 0.3  # share of residuals within Huber's delta from which they alone are the curvature
REFIT, ONE_STEP = "each row left out and the law fitted again", "one Newton step for each row left out"


@dataclass(frozen=True)
class Influence:
    """The effect of leaving one row out.

    row: its number. parameter: the one it moves most, from ``value`` to ``without``; shift: in standard errors; all:
    each parameter's value without it. method: `REFIT` or `ONE_STEP`.
    """

    row: int
    parameter: str
    value: float
    without: float
    shift: float
    all: dict[str, float]
    method: str = REFIT


def influence_method(fit: Fit) -> str:
    """Return how `influence` leaves rows out of this fit: `REFIT` up to `MAX_ROWS_TO_REFIT` rows, `ONE_STEP` above."""
    return REFIT if fit.points <= MAX_ROWS_TO_REFIT else ONE_STEP


def influence(fit: Fit, *, method: str | None = None, most: int | None = None, least: float = 0.0) -> list[Influence]:
    """Leave each row out and measure the effect, most influential first. Needs more rows than parameters + 1.

    Args:
      fit: the fit.
      method: `REFIT` (fit again from the optimum, in chunks) or `ONE_STEP` (see `_one_step`); by default that of
        `influence_method`.
      most: rows to return; None for all.
      least: of ``shift``; rows that move every parameter less are not returned.
    """
    if fit.points <= fit.free + 1:
        return []
    method = method or influence_method(fit)
    thetas = leave_one_out(fit, method)
    errors = np.sqrt(np.maximum(np.diagonal(covariance(fit)), 1e-300))
    shifts = np.where(fit.free_mask, (thetas - fit.theta) / errors, 0.0)
    largest = np.abs(shifts).max(axis=1)
    rows = np.argsort(-largest, kind="stable")
    rows = rows[largest[rows] >= least][:most]
    drawn, values, out = fit.law.describe(thetas[rows], fit.references), fit.values, []
    for position, row in enumerate(rows):
        i = int(np.argmax(np.abs(shifts[row])))
        name = fit.law.names[i]
        every = {k: float(v[position]) for k, v in drawn.items()}
        out.append(Influence(int(row), name, values[name], every[name], float(shifts[row, i]), every, method))
    return out


def leave_one_out(fit: Fit, method: str = REFIT) -> np.ndarray:
    """Return theta of the fits without one row each, [n, p], by `REFIT` or `ONE_STEP` (see `influence`)."""
    return _refits(fit) if method == REFIT else _one_step(fit)


def _refits(fit: Fit) -> np.ndarray:
    """Return theta of fits without one row each, [n, p]; in chunks, for all weights together are n x n."""
    n, out = fit.points, []
    for first in range(0, n, REFITS_PER_CHUNK):
        rows = np.arange(first, min(first + REFITS_PER_CHUNK, n))
        weights = np.tile(fit.data.weights, (len(rows), 1))
        weights[np.arange(len(rows)), rows] = 0.0
        begin = np.tile(fit.theta, (len(rows), 1))
        solved = solve(
            fit.law, fit.logs, fit.data.y, begin, fit.low, fit.high, fit.loss, weights=weights, free=fit.free_mask
        )
        out.append(solved.theta)
    return np.concatenate(out)


def _one_step(fit: Fit) -> np.ndarray:
    """Return theta without one row each by one Newton step from the optimum, [n, p].

    Without row i the gradient at the optimum is -w ψ(r) j and the curvature H - w ψ' j jᵀ, so theta moves by
    (H - w ψ' j jᵀ)^-1 w ψ(r) j = H^-1 j · w ψ(r) / (1 - w ψ' jᵀ H^-1 j), with ψ the derivative of the loss and j that
    of the residual (Cook and Weisberg, 1982): exact for least squares on a law that is linear in theta. A parameter on
    its bound stays there. Least absolute deviations, whose optimum jumps from row to row, move by this on average only.
    """
    r, w = fit.residuals, fit.data.weights
    moves = fit.free_mask & ~(np.isclose(fit.theta, fit.low) | np.isclose(fit.theta, fit.high))
    out = np.tile(fit.theta, (fit.points, 1))
    if not moves.any():
        return out
    j = fit.jacobian()[:, moves]
    delta = fit.loss.deltas[-1]
    pull = np.clip(r, -delta, delta)
    psi_prime = (np.abs(r) <= delta).astype(float)
    if fit.loss.kind == "absolute":
        pull, psi_prime = np.sign(r), np.zeros(len(r))
    if (
        psi_prime.mean() < MIN_WITHIN
    ):  # too few rows carry the curvature: its mean, from the density of residuals around 0
        psi_prime = np.full(len(r), scale_of(fit)[1])
    inverse = np.linalg.pinv(np.einsum("nk,nl,n->kl", j, j, w * psi_prime), hermitian=True)
    solved = j @ inverse
    leverage = np.minimum(w * psi_prime * np.einsum("nk,nk->n", solved, j), 0.99)
    out[:, moves] += solved * (w * pull / (1 - leverage))[:, None]
    return np.clip(out, np.where(moves, fit.low, -np.inf), np.where(moves, fit.high, np.inf))


def residual_checks(fit: Fit, labels: Sequence[object] | np.ndarray | None = None) -> ResidualChecks:
    """Test the residuals for patterns: {sd, robust_sd, outliers, trends, spread, curvature, runs_p, warnings}.

    outliers: rows beyond four robust standard deviations. trends: column -> (rank correlation of the residual with it,
    p). spread: the same for its absolute size (scatter that changes with scale). curvature: the same for the residual
    and the distance from the middle, the pattern of a wrong form. warnings: each significant pattern in words, with
    rows by their ``labels`` (their numbers by default).
    """
    from scipy.stats import spearmanr

    r = fit.residuals
    robust = float(1.4826 * np.median(np.abs(r - np.median(r))))
    outliers = [int(i) for i in np.flatnonzero(np.abs(r - np.median(r)) > OUTLIER * max(robust, 1e-12))]
    patterns: dict[str, dict[str, tuple[float, float]]] = {"trends": {}, "spread": {}, "curvature": {}}
    warnings: list[str] = []
    out: ResidualChecks = {
        "sd": fit.residual_sd, "robust_sd": robust, "outliers": outliers, "trends": patterns["trends"],
        "spread": patterns["spread"], "curvature": patterns["curvature"], "warnings": warnings,
    }  # fmt: skip
    if fit.points < fit.free + 4 or np.ptp(r) < 1e-12:
        return out
    for column, x in fit.logs.items():
        for kind, a, b, finding in (
            ("trends", r, x, f"residuals drift with {column}"),
            ("spread", np.abs(r), x, f"the scatter changes with {column}"),
            ("curvature", r, np.abs(x - np.median(x)), f"residuals bend over {column}: another form may fit"),
        ):
            correlation = spearmanr(a, b)
            patterns[kind][column] = (float(correlation.statistic), float(correlation.pvalue))
            if correlation.pvalue < SIGNIFICANT:
                warnings.append(
                    f"{finding} (rank correlation {correlation.statistic:+.2f}, p {correlation.pvalue:.1g})"
                )
    if outliers:
        named = _some([_label(labels, i) for i in outliers])
        warnings.append(f"{len(outliers)} rows lie beyond {OUTLIER:g} robust standard deviations: {named}")
    return out


def _label(labels: Sequence[object] | np.ndarray | None, row: int) -> object:
    return row if labels is None else labels[row]


def _some(rows: Sequence[object], most: int = 8) -> str:
    return ", ".join(map(str, rows[:most])) + (", …" if len(rows) > most else "")


def moved_by_rows(fit: Fit, labels: Sequence[object] | np.ndarray | None = None, most: int | None = None) -> list[str]:
    """Return a sentence for each row that alone moves a parameter by more than a standard error, largest first."""
    moved = influence(fit, least=NOTABLE_SHIFT)
    about = "" if influence_method(fit) == REFIT else "about "
    lines = [
        f"row {_label(labels, r.row)} moves {r.parameter} from {about}{r.without:.4g} to {r.value:.4g} "
        f"({-r.shift:+.1f} standard errors)"
        for r in moved[:most]
    ]
    return [*lines, f"{len(moved) - len(lines)} more rows move one as much"] if len(lines) < len(moved) else lines
