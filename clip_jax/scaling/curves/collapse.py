"""Collapse: at compute-optimal horizons the normalized learning curves of all sizes are one (Qiu et al., 2507.02119).

With time as a part x of the run and the reducible loss relative to its end, (L(x·T) - L0)/(L(T) - L0) does not depend
on the size. So the logarithm of the reducible loss is that of its end, a power law of size, plus one function of x.
Runs whose hyper-parameters or data are wrong leave it, many of them early; `Collapse.departure` says where.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from clip_jax.errors import UserError
from clip_jax.scaling.laws.base import Array

WINDOWS = 24  # parts of a run whose mean losses are compared; the first holds the warm-up and is left out
MIN_RUNS = 5  # sound runs, of at least two sizes, from which a scatter can be estimated
FALSE_ALARMS = 0.05  # of sound runs that are flagged at most, over all windows of a run together


@dataclass(frozen=True, eq=False)
class RunCurve:
    """A run so far: its size, the steps it is planned for, and the steps [n] and losses [n] of its log."""

    name: str
    params: float
    horizon: int
    steps: Array
    losses: Array

    def window_means(self, windows: int) -> Array:
        """Return the mean loss of each whole window after the first, [windows - 1]; NaN where the run has not been."""
        x = np.asarray(self.steps, float) / self.horizon
        window = np.ceil(x * windows - 1e-9).astype(int) - 1  # a window holds its end
        inside = (window >= 1) & (window < windows)
        total = np.bincount(window[inside], np.asarray(self.losses, float)[inside], windows)
        count = np.bincount(window[inside], minlength=windows)
        with np.errstate(invalid="ignore", divide="ignore"):
            means = total / np.where(count, count, np.nan)
        whole = np.arange(1, windows + 1) <= x.max(initial=0) * windows + 1e-9
        return np.where(whole, means, np.nan)[1:]


@dataclass(frozen=True)
class Departure:
    """The first window of a run whose loss lies outside the band. at: its end, as a part of the run."""

    at: float
    measured: float
    expected: float
    low: float
    high: float


@dataclass(frozen=True)
class Collapse:
    """One normalized curve of finished sound runs.

    irreducible: L0, the loss at which the curves of all sizes agree best. shape: ln of the reducible loss relative to
    that at the end, [windows - 1]. level, exponent: ln of the reducible loss at the end is level - exponent·ln(params).
    sd, sd_of_loss: of ln of the reducible loss and of ln of the loss of a run around these, per window. left_out: the
    same fitted without each of the runs, empty in these fits themselves. degrees: of freedom of the scatter. between,
    within: the scatter of ln of the normalized curves (each around its own mean) between the means of sizes, and of the
    runs of a size (NaN without seeds).
    """

    windows: int
    irreducible: float
    shape: Array
    level: float
    exponent: float
    sd: Array
    sd_of_loss: Array
    degrees: int
    left_out: tuple[Collapse, ...]
    between: float
    within: float

    def expected(self, params: float) -> Array:
        """Return the loss of each window of a sound run of a size, [windows - 1]."""
        return self.irreducible + np.exp(self.level - self.exponent * np.log(params) + self.shape)

    def band(self, params: float, false_alarms: float = FALSE_ALARMS) -> tuple[Array, Array]:
        """Return the band [windows - 1] that a sound run of a size leaves anywhere in at most this share of cases.

        Scatter may go with the reducible loss (of seeds) or with the loss (of its measurement): the wider band counts.
        The error of the common curve, L0 and the power law is that of the jackknife over runs.
        """
        from scipy.stats import t

        runs, middle = len(self.left_out), self.expected(params)
        again = np.stack([c.expected(params) for c in self.left_out])
        error = np.sqrt((runs - 1) / runs * ((again - again.mean(axis=0)) ** 2).sum(axis=0))
        scatter = np.maximum(self.sd * (middle - self.irreducible), self.sd_of_loss * middle)
        reach = t.ppf(1 - false_alarms / 2 / len(self.shape), self.degrees) * np.hypot(scatter, error)
        return middle - reach, middle + reach

    def departure(self, run: RunCurve, false_alarms: float = FALSE_ALARMS) -> Departure | None:
        """Return where a run, finished or not, first leaves the band of sound runs; None if it has not.

        A loss that is not finite is outside.
        """
        means, (low, high) = run.window_means(self.windows), self.band(run.params, false_alarms)
        begun = np.isin(np.arange(2, self.windows + 1), self._logged(run))
        outside = begun & ~((means >= low) & (means <= high))
        if not outside.any():
            return None
        i = int(np.argmax(outside))
        ends = float(means[i]), float(self.expected(run.params)[i]), float(low[i]), float(high[i])
        return Departure((i + 2) / self.windows, *ends)

    def _logged(self, run: RunCurve) -> Array:
        """Return the whole windows, from 1, in which a run has logged."""
        x = np.asarray(run.steps, float) / run.horizon * self.windows
        window = np.ceil(x - 1e-9).astype(int)
        return np.unique(window[window <= x.max(initial=0) + 1e-9])


def fit_collapse(runs: Sequence[RunCurve], *, windows: int = WINDOWS) -> Collapse:
    """Fit L0, the common curve and the power law of its end to finished sound runs.

    Args:
      runs: at least five, of two sizes or more, each logged in every window but the first, at the horizon of its size.
      windows: parts of a run whose mean losses are compared.

    Raises:
      UserError: too few runs or sizes, a run that is not logged in a window or has a loss that is not finite.
    """
    if len(runs) < MIN_RUNS:
        raise UserError(field="runs", value=len(runs), reason=f"must be at least {MIN_RUNS} finished sound runs")
    sizes = np.log([run.params for run in runs])
    if len(np.unique(sizes)) < 2:
        raise UserError(field="params", value=runs[0].params, reason="must differ between runs")
    y = np.stack([run.window_means(windows) for run in runs])
    if not np.isfinite(y).all():
        r, k = np.argwhere(~np.isfinite(y))[0]
        at = f"between {(k + 1) / windows:.2f} and {(k + 2) / windows:.2f} of its {runs[r].horizon} steps"
        raise UserError(source=f"run {runs[r].name}", field="losses", reason=f"must be finite and logged {at}")
    if not (y > 0).all():
        raise UserError(field="losses", value=float(y.min()), reason="must be above 0")
    every = np.arange(len(runs))
    rest = tuple(_fitted(y[every != r], sizes[every != r], ()) for r in every if len(np.unique(sizes[every != r])) > 1)
    return _fitted(y, sizes, rest)


def _fitted(y: Array, sizes: Array, left_out: tuple[Collapse, ...]) -> Collapse:
    irreducible = _irreducible(y)
    logs = np.log(y - irreducible)
    shape = logs.mean(axis=0) - logs.mean()
    design = np.stack([np.ones(len(y)), sizes], axis=1)
    (level, slope), *_ = np.linalg.lstsq(design, logs.mean(axis=1), rcond=None)
    expected = (level + slope * sizes)[:, None] + shape
    alone = logs - logs.mean(axis=1, keepdims=True) - shape  # the normalized curves around the common one
    names = np.unique(sizes)
    means = np.stack([alone[sizes == s].mean(axis=0) for s in names])
    seeds = len(y) - len(names)
    rest = np.concatenate([alone[sizes == s] - m for s, m in zip(names, means, strict=True)])
    degrees = len(y) - 2

    def scatter(off: Array) -> Array:
        return np.sqrt((off**2).sum(axis=0) / degrees)

    return Collapse(
        y.shape[1] + 1, irreducible, shape - shape[-1], float(level + shape[-1]), -float(slope),
        scatter(logs - expected), scatter(np.log(y / (irreducible + np.exp(expected)))), degrees, left_out,
        between=float(np.sqrt((means**2).mean(axis=1).sum() / (len(names) - 1))),
        within=float(np.sqrt((rest**2).mean(axis=1).sum() / seeds)) if seeds else np.nan,
    )  # fmt: skip


def _irreducible(y: Array) -> float:
    """Return the L0 at which the curves' logarithms differ least in shape, relative to the shape: as L0 falls without
    end every curve becomes flat, so that the differences alone would vanish.
    """
    from scipy.optimize import minimize_scalar

    lowest = float(y.min())

    def misfit(gap: float) -> float:
        logs = np.log(y - (lowest - np.exp(gap)))
        shape = logs.mean(axis=0) - logs.mean()
        rest = logs - logs.mean(axis=1, keepdims=True) - shape
        return float((rest**2).sum() / (shape**2).sum())

    gaps = np.log(lowest * np.geomspace(1e-3, 1, 16))
    best = int(np.argmin([misfit(g) for g in gaps]))
    ends = gaps[max(best - 1, 0)], gaps[min(best + 1, len(gaps) - 1)]
    return lowest - float(np.exp(minimize_scalar(misfit, bounds=ends, method="bounded").x))
