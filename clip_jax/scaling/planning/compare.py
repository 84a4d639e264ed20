"""Compare two series of runs: the difference of their curves, where they cross, and the compute that one saves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from clip_jax.errors import UserError
from clip_jax.scaling.data.records import ArmRecord
from clip_jax.scaling.laws.base import Array
from clip_jax.scaling.uncertainty.bootstrap import TAILS, Ensemble

if TYPE_CHECKING:
    import pandas as pd

CROSSING_POINTS = 400  # points at which a crossing is searched for


@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % interval. known: share of replica pairs in which the value exists. text: in words."""

    value: float
    low: float
    high: float
    known: float
    text: str


def _pairs(a: Ensemble, b: Ensemble, x: Array, seed: int) -> tuple[Array, Array]:
    """Return ln of both series' curves at x, [R, n] each.

    Replicas are paired at random, for the series are independent though their bootstraps may have used one seed.
    """
    for e in (a, b):
        if len(e.fit.law.columns) != 1:
            reason = f"must have one column, and has {', '.join(e.fit.law.columns)}"
            raise UserError(field="law", value=e.fit.law.key, reason=reason)
    first, second = (np.log(np.maximum(e.curves(x), 1e-12)) for e in (a, b))
    count = min(len(first), len(second))
    return first[:count], second[np.random.default_rng(seed).permutation(len(second))[:count]]


def difference(a: Ensemble, b: Ensemble, x: Array, *, seed: int = 0) -> dict[str, Array]:
    """Return the ratio b/a of the errors at each x [n]: {ratio, low, high, surely_lower, surely_higher}."""
    first, second = _pairs(a, b, np.asarray(x, float), seed)
    low, high = np.exp(np.quantile(second - first, TAILS, axis=0))
    return {
        "ratio": b.fit.predict(x) / a.fit.predict(x), "low": low, "high": high,
        "surely_lower": high < 1, "surely_higher": low > 1,
    }  # fmt: skip


def crossing(a: Ensemble, b: Ensemble, low: float, high: float, *, seed: int = 0) -> Estimate:
    """Find where between ``low`` and ``high`` b's curve falls below a's.

    Each pair of replicas has its own crossing (the first, by rising x); pairs that do not cross in the range are
    counted, and the interval is that of the others. Raises UserError unless 0 < low < high.
    """
    if not 0 < low < high:
        raise UserError(field="low", value=low, reason=f"must be above 0 and below high={high!r}")
    grid = np.geomspace(low, high, CROSSING_POINTS)
    first, second = _pairs(a, b, grid, seed)
    crossings = _crossings(np.log(grid), second - first)
    fitted = _crossings(np.log(grid), np.log(b.fit.predict(grid) / a.fit.predict(grid))[None])[0]
    known = np.isfinite(crossings)
    share = float(known.mean())
    if not np.isfinite(fitted) or share < 0.025:
        return Estimate(np.nan, np.nan, np.nan, share, f"no crossing between {low:.3g} and {high:.3g}")
    ends = np.exp(np.quantile(crossings[known], TAILS))
    text = f"crossing at {np.exp(fitted):.3g} ({ends[0]:.3g} to {ends[1]:.3g})"
    if share < 0.975:
        text += f"; {1 - share:.0%} of resamples do not cross between {low:.3g} and {high:.3g}"
    return Estimate(float(np.exp(fitted)), float(ends[0]), float(ends[1]), share, text)


def _crossings(x: Array, d: Array) -> Array:
    """Return where each row of d [R, n] first passes from above 0 to below, interpolated linearly: [R], NaN if it
    does not.
    """
    down = (d[:, :-1] > 0) & (d[:, 1:] <= 0)
    k = down.argmax(axis=1)
    rows = np.arange(len(d))
    before, after = d[rows, k], d[rows, k + 1]
    with np.errstate(divide="ignore", invalid="ignore"):
        at = x[k] + (x[k + 1] - x[k]) * before / (before - after)
    return np.where(down.any(axis=1), at, np.nan)


def compute_gain(a: Ensemble, b: Ensemble, at: float, *, seed: int = 0) -> Estimate:
    """Return how many times less compute b needs for the error of a at ``at``: a's compute over b's.

    A pair of replicas in which b's curve never reaches that error counts as a gain of 0. Raises UserError for a law
    without an inverse.
    """
    first, _ = _pairs(a, b, np.array([float(at)]), seed)
    order = np.random.default_rng(seed + 1).permutation(len(b.replicas))[: len(first)]
    y_a = np.exp(first[: len(order), 0])
    y_b = b.curves(np.array([float(at)]))[order, 0]
    fitted_a, fitted_b = (np.array([float(e.fit.predict(at))]) for e in (a, b))
    with np.errstate(divide="ignore", over="ignore"):  # a flat curve reaches an error at no or any compute
        needed = b.fit.law.inverse({k: v[order] for k, v in b.draws.items()}, y_a)
        fitted_needed = b.fit.law.inverse(b.fit.values, fitted_a)
    gains = _gain(at, y_b, y_a, needed)
    fitted = float(_gain(at, fitted_b, fitted_a, fitted_needed)[0])
    # between a finite and an infinite gain nothing can be interpolated
    method: Literal["linear", "nearest"] = "linear" if np.isfinite(gains).all() else "nearest"
    low, high = (float(v) for v in np.quantile(gains, TAILS, method=method))
    known = float((gains > 0).mean())
    if np.isinf(fitted):
        text = f"lies below the error at {at:.3g} at any compute"
    elif fitted >= 1:
        text = f"needs {fitted:.2f}× ({low:.2f} to {_most(high)}) less compute for the error at {at:.3g}"
    elif fitted > 0:
        least, most = (1 / v if v else np.inf for v in (high, low))
        text = f"needs {1 / fitted:.2f}× ({least:.2f} to {_most(most)}) more compute for the error at {at:.3g}"
    else:
        text = f"never reaches the error at {at:.3g}"
    return Estimate(fitted, low, high, known, text)


def _most(value: float) -> str:
    return "no limit" if np.isinf(value) else f"{value:.3g}"


def _gain(at: float, y_b: Array, y_a: Array, needed: Array) -> Array:
    """Return the gain at / needed; if b's curve does not fall, 0 where it never reaches a's error, inf where it is
    below.

    Args:
      at: compute at which a has the error y_a.
      y_b, y_a: errors of b and of a at ``at``.
      needed: compute at which b's curve has the error y_a.
    """
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        gain = at / np.asarray(needed, float)
    falls = (y_b <= y_a) == (gain >= 1)
    return np.where(falls & ~np.isnan(gain), gain, np.where(y_b > y_a, 0.0, np.inf))


def compare_arms(
    arms: Mapping[str, pd.DataFrame], metric: str = "error_mean", *, law: str = "power", replicas: int = 1000
) -> list[ArmRecord]:
    """Compare every arm with the first, at the largest FLOPs that all have.

    Args:
      arms: name -> table of runs (see `runs_table.prepare`); unfinished runs and checks of rates are left out.
      metric: an error or a loss.
      law: of compute alone, fitted to each arm's runs.
      replicas: of each parametric bootstrap.

    Returns:
      One row per arm: {arm, runs, at, predicted, low, high (of the curve), ratio, ratio_low, ratio_high (of its error
        to
      the first arm's), gain, gain_low, gain_high (the first arm's compute over its own for the first arm's error),
      text}; ratio and gain are None for the first arm itself.

    Raises:
      UserError: no arm, an arm with too few runs, or FLOPs that no two have in common.
    """
    from clip_jax.scaling.data.runs_table import fit_rows, prepare
    from clip_jax.scaling.fit_law import fit_law
    from clip_jax.scaling.laws import law_named
    from clip_jax.scaling.uncertainty.bootstrap import bootstrap

    if not arms:
        raise UserError(field="arms", reason="at least one is needed")
    fits: dict[str, tuple[Ensemble, int, float]] = {}
    for seed, (name, table) in enumerate(arms.items()):
        rows, _ = fit_rows(prepare(table, metric, name), metric)
        fit = fit_law(law_named(law), rows["flops"].to_numpy(float), rows[metric].to_numpy(float))
        if fit.points <= fit.free:
            reason = f"{fit.points} runs for {fit.free} free parameters: no run is left to estimate the scatter"
            raise UserError(field=name, reason=reason)
        fits[name] = bootstrap(fit, replicas=replicas, seed=seed), len(rows), float(rows["flops"].max())
    at = min(top for _, _, top in fits.values())
    first = next(iter(fits.values()))[0]
    out: list[ArmRecord] = []
    for name, (ensemble, runs, _) in fits.items():
        low, high = (float(np.ravel(v)[0]) for v in ensemble.band(at, observation=False))
        ratio = gain = None
        if ensemble is not first:
            ratio, gain = difference(first, ensemble, np.array([at])), compute_gain(first, ensemble, at)
        out.append(
            {
                "arm": name,
                "runs": runs,
                "at": at,
                "predicted": float(ensemble.fit.predict(at)),
                "low": low,
                "high": high,
                "ratio": None if ratio is None else float(ratio["ratio"][0]),
                "ratio_low": None if ratio is None else float(ratio["low"][0]),
                "ratio_high": None if ratio is None else float(ratio["high"][0]),
                "gain": None if gain is None else gain.value,
                "gain_low": None if gain is None else gain.low,
                "gain_high": None if gain is None else gain.high,
                "text": "" if gain is None else gain.text,
            }
        )
    return out
