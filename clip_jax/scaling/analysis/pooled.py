"""Fit several tasks at once, with exponents and asymptotes partially pooled, so that few budgets suffice for each task.

Every task t follows error_t(C) = E_t + a_t·(C/c0)^-b_t, or, where the error of guessing is given, the bounded form
E_t + (chance_t - E_t)·h/(1 + h) with h = a_t·(C/c0)^-b_t; c0 is the geometric mean of the budgets. Over tasks,
ln b_t and ln E_t (ln(E_t/(chance_t - E_t)) in the bounded form) are normal with means and spreads that are estimated
with the rest; the amplitudes are free. ln(error) scatters with one standard deviation, plus the binomial scatter of the
test examples where their number is given.

Intervals are quantiles of the posterior, drawn by many short Markov chains at once: Metropolis steps of each task's
three parameters, Gibbs steps of means, spreads and scatter, begun at the joint optimum's normal approximation. Spreads
are uniform a priori (`SPREADS`): with a handful of tasks an estimate of a spread is often 0, and intervals at 0 are too
narrow (Gelman, 2006). ``benchmarks/fit_pooled.py`` simulates the coverage of the intervals.

A run that is lucky on one task tends to be lucky on many. With a column ``run`` each run has an effect of its own on
ln(error) of all tasks, normal with a spread that is estimated. Without it scatter is taken to be independent between
tasks, and where it is not, the interval of the mean over tasks is too narrow (`benchmarks/RESULTS_planning.md`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from clip_jax.errors import UserError, require_columns
from clip_jax.scaling.laws.base import Array
from clip_jax.scaling.profile.prediction import Interval
from clip_jax.scaling.uncertainty.interval_format import interval_data, interval_text

if TYPE_CHECKING:
    import pandas as pd

MIN_TASKS = 3
MIN_BUDGETS_PER_TASK = 4
SPREADS = {"b": np.linspace(0.02, 1.2, 60), "E": np.linspace(0.03, 2.4, 60)}
UNPOOLED = 3.0  # spread of ln b and ln E with pool=False: as good as no prior
CENTER = {"b": (np.log(0.2), 1.5), "E": (np.log(0.3), 1.5)}  # weak priors of the means; E in units of the lowest error
AMPLITUDE_SD = 5.0  # of ln a_t, around the mean error
SCATTERS = np.geomspace(0.4, 3.0, 40)  # times the scatter of the first fit
CHAINS, SWEEPS, BURN_IN = 200, 500, 250
SLOWER = 3  # times more sweeps with effects of runs, which move with all tasks' curves
NEWTON_ITERATIONS = 60


@dataclass(frozen=True)
class PooledFit:
    """Draws of all tasks' laws.

    Attributes:
      tasks: names, in the order of the draws' columns.
      asymptotes, amplitudes, exponents: E_t, a_t, b_t: float [draws, tasks].
      chance: error of guessing by task, or None.
      center: c0 in FLOPs.
      scatter: standard deviation of ln(error) beyond binomial noise, [draws].
      spreads: those of ln b and of ln E over tasks, [draws] each; empty where nothing was pooled.
      mixing: largest shift of a median between the first and second half of the kept draws, in standard deviations of
        the parameter; up to 0.4 is chance with 200 chains, above 0.6 they have not settled.
      level: of all intervals.
    """

    tasks: tuple[str, ...]
    asymptotes: Array
    amplitudes: Array
    exponents: Array
    chance: Array | None
    center: float
    scatter: Array
    spreads: Mapping[str, Array]
    mixing: float
    level: float

    def curves(self, flops: float) -> Array:
        """Return the error of each draw and task at a budget, [draws, tasks]."""
        part = self.amplitudes * np.exp(-self.exponents * (np.log(flops) - np.log(self.center)))
        if self.chance is None:
            return self.asymptotes + part
        return self.asymptotes + (self.chance - self.asymptotes) * part / (1 + part)

    def forecast(self, flops: float) -> dict[str, Interval]:
        """Return each task's error at a budget (of the curve, not of a run)."""
        return dict(zip(self.tasks, (self._interval(v) for v in self.curves(flops).T), strict=True))

    def mean(self, flops: float) -> Interval:
        """Return the mean error over tasks at a budget; too narrow where luck is common to runs that are not named."""
        return self._interval(self.curves(flops).mean(axis=1))

    def parameters(self) -> dict[str, dict[str, Interval]]:
        """Return ``E`` and ``b`` of each task."""
        both = {"E": self.asymptotes, "b": self.exponents}
        return {t: {k: self._interval(v[:, i]) for k, v in both.items()} for i, t in enumerate(self.tasks)}

    def spread_intervals(self) -> dict[str, Interval]:
        """Return the spreads over tasks of ln E and ln b; empty where nothing was pooled."""
        return {k: self._interval(v) for k, v in self.spreads.items()}

    def _interval(self, draws: Array) -> Interval:
        low, middle, high = np.quantile(draws, [(1 - self.level) / 2, 0.5, (1 + self.level) / 2])
        return Interval(float(middle), float(low), float(high), self.level)

    def as_data(self, flops: float | None = None) -> dict[str, object]:
        """Return plain dictionaries for JSON: parameters, spreads, and forecasts at a budget."""
        out: dict[str, object] = {
            "tasks": {t: {k: interval_data(v) for k, v in p.items()} for t, p in self.parameters().items()},
            "spreads": {k: interval_data(v) for k, v in self.spread_intervals().items()},
            "scatter": interval_data(self._interval(self.scatter)),
            "mixing": self.mixing,
        }
        if flops is not None:
            by_task = {t: interval_data(v) for t, v in self.forecast(flops).items()}
            out["forecast"] = {"flops": flops, "tasks": by_task, "mean": interval_data(self.mean(flops))}
        return out

    @property
    def text(self) -> str:
        """One line per task."""
        return "\n".join(
            f"{t}: E {interval_text(p['E'])}, b {interval_text(p['b'])}" for t, p in self.parameters().items()
        )


def fit_pooled(
    table: pd.DataFrame,
    *,
    task: str = "task",
    flops: str = "flops",
    error: str = "error",
    examples: str | None = None,
    run: str | None = None,
    chance: Mapping[str, float] | None = None,
    pool: bool = True,
    level: float = 0.95,
    draws: int = 2000,
    seed: int = 0,
) -> PooledFit:
    """Fit the laws of several tasks together.

    Args:
      table: one row per task and run (or frontier point).
      task, flops, error: columns; error above 0.
      examples: column with the number of test examples, whose binomial scatter is added.
      run: column that names the run (or frontier point) of a row; rows of one run share an effect.
      chance: error of guessing by task; turns on the bounded form.
      pool: False fits each task by itself, with priors too weak to matter (for comparison).
      level: of intervals. draws: kept. seed: of the draws.

    Raises:
      UserError: a missing column; numbers not above 0; fewer than `MIN_TASKS` tasks, or `MIN_BUDGETS_PER_TASK` budgets
        in one; a task without chance, or an error not below chance at all its budgets on average.
    """
    columns = [task, flops, error, *([examples] if examples else [])]
    require_columns(table.columns, [*columns, *([run] if run else [])])
    numbers = table[columns[1:]].to_numpy(float)
    if not (np.isfinite(numbers) & (numbers > 0)).all():
        raise UserError(field=", ".join(columns[1:]), reason="must be finite and above 0 in every row")
    names = tuple(sorted(str(t) for t in table[task].unique()))
    if len(names) < MIN_TASKS:
        raise UserError(field=task, value=len(names), reason=f"at least {MIN_TASKS} tasks are needed")
    index = np.searchsorted(names, table[task].astype(str).to_numpy())
    c, y = table[flops].to_numpy(float), table[error].to_numpy(float)
    for i, name in enumerate(names):
        if (count := len(np.unique(c[index == i]))) < MIN_BUDGETS_PER_TASK:
            raise UserError(
                source=name, field=flops, value=count, reason=f"at least {MIN_BUDGETS_PER_TASK} budgets are needed"
            )
    ceiling = None
    if chance is not None:
        if absent := [n for n in names if n not in chance]:
            raise UserError(field="chance", reason=f"missing for {', '.join(absent)}")
        ceiling = np.array([chance[n] for n in names], float)
        if any(y[index == i].mean() >= ceiling[i] for i in range(len(names))):
            raise UserError(field="chance", reason="must lie above a task's mean error")
    binomial = np.zeros(len(y))
    if examples:
        binomial = (1 - np.minimum(y, 1 - 1e-6)) / (y * table[examples].to_numpy(float))  # variance of ln(error)
    center = float(np.exp(np.log(c).mean()))
    runs = np.unique(table[run].to_numpy(), return_inverse=True)[1] if run else None
    model = JointModel(np.log(c / center), np.log(y), index, len(names), binomial, ceiling)
    model.runs = runs
    return _sample(model, names, center, pool, level, draws, seed)


class JointModel:
    """The joint log posterior of z = (e, ln a, ln b by task, means of e and ln b), [3T + 2], for given spreads and
    scatter.

    Args:
      x: ln of the compute, centered, [n].
      log_y: ln(error), [n].
      index: number of each row's task, int [n].
      tasks: number of tasks, T.
      binomial: variance of ln(error) by the number of test examples, [n].
      chance: error of guessing by task [T], for the bounded form; else None.
    """

    def __init__(self, x: Array, log_y: Array, index: Array, tasks: int, binomial: Array, chance: Array | None) -> None:
        self.x, self.log_y, self.index, self.tasks = x, log_y, index, tasks
        self.binomial, self.chance = binomial, chance
        self.runs: Array | None = None
        self.size = 3 * tasks + 2
        rows = [index == t for t in range(tasks)]
        self.level = np.array([log_y[r].mean() for r in rows])
        lowest = float(np.mean([log_y[r].min() for r in rows]))
        mean_b, sd_b = CENTER["b"]
        mean_e, sd_e = CENTER["E"][0] + lowest, CENTER["E"][1]
        if chance is not None:
            share = np.exp(self.level) / chance
            self.level = np.log(share / (1 - share))
            mean_e = float(np.log(0.3 * np.exp(lowest) / chance.mean()))
        self.means = np.array([mean_e, mean_b]), np.array([sd_e, sd_b])
        start = np.concatenate([np.full(tasks, mean_e), self.level - 0.3, np.full(tasks, mean_b), [mean_e, mean_b]])
        self.start = start

    def curve(self, z: Array) -> tuple[Array, tuple[Array, Array, Array]]:
        """Return ln y at z [G, D]: [G, n], and its derivatives by e, ln a and ln b of the row's task."""
        e, la, lb = (z[:, k * self.tasks : (k + 1) * self.tasks][:, self.index] for k in range(3))
        b = np.exp(lb)
        h = np.exp(np.clip(la - b * self.x, -50, 50))
        if self.chance is None:
            floor = np.exp(e)
            y = floor + h
            return np.log(y), (floor / y, h / y, -b * self.x * h / y)
        top = self.chance[self.index]
        floor, g = top / (1 + np.exp(-e)), h / (1 + h)
        y = floor + (top - floor) * g
        steep = (top - floor) * g * (1 - g) / y
        return np.log(y), ((1 - g) * floor * (1 - floor / top) / y, steep, -b * self.x * steep)

    def prior(self, hyper: Array) -> tuple[Array, Array]:
        """Return the precision matrix [G, D, D] and the linear part [G, D] of the Gaussian prior at (s_E, s_b,
        scatter) [G, 3].
        """
        t, n = self.tasks, len(hyper)
        matrix, linear = np.zeros((n, self.size, self.size)), np.zeros((n, self.size))
        for block, mean, spread in ((0, 3 * t, hyper[:, 0]), (2, 3 * t + 1, hyper[:, 1])):
            at = np.arange(block * t, (block + 1) * t)
            tau = 1 / spread**2
            matrix[:, at, at] += tau[:, None]
            matrix[:, at, mean] -= tau[:, None]
            matrix[:, mean, at] -= tau[:, None]
            matrix[:, mean, mean] += t * tau
        at = np.arange(t, 2 * t)
        matrix[:, at, at] += 1 / AMPLITUDE_SD**2
        linear[:, at] += self.level / AMPLITUDE_SD**2
        for k, (mean, sd) in enumerate(zip(*self.means, strict=True)):
            matrix[:, 3 * t + k, 3 * t + k] += 1 / sd**2
            linear[:, 3 * t + k] += mean / sd**2
        return matrix, linear

    def energy(self, z: Array, hyper: Array, matrix: Array, linear: Array) -> Array:
        """Return minus the log posterior up to constants, [G]; the hyperparameters' normalizers are included."""
        variance = hyper[:, 2:] ** 2 + self.binomial
        r = self.curve(z)[0] - self.log_y
        fit = 0.5 * (r**2 / variance + np.log(variance)).sum(axis=1)
        quadratic = 0.5 * np.einsum("gi,gij,gj->g", z, matrix, z) - (linear * z).sum(axis=1)
        return fit + quadratic + self.tasks * np.log(hyper[:, :2]).sum(axis=1)

    def by_task(self, z: Array, log_y: Array, hyper: Array, effects: Array | float) -> Array:
        """Return the log posterior of each task's parameters given all others, up to constants, [G, T].

        log_y: of `curve` at z, [G, n]. effects: of the row's run on ln y, [G, n].
        """
        t = self.tasks
        variance = hyper[:, 2:] ** 2 + self.binomial
        fit = -0.5 * ((log_y + effects - self.log_y) ** 2 / variance) @ np.eye(t)[self.index]
        e, la, lb = (z[:, k * t : (k + 1) * t] for k in range(3))
        about = [(e - z[:, 3 * t, None]) / hyper[:, :1], (lb - z[:, 3 * t + 1, None]) / hyper[:, 1:2]]
        return fit - 0.5 * (about[0] ** 2 + about[1] ** 2 + ((la - self.level) / AMPLITUDE_SD) ** 2)

    def hessian(self, z: Array, hyper: Array, matrix: Array, linear: Array) -> tuple[Array, Array]:
        """Return the gradient [G, D] and the Gauss-Newton matrix [G, D, D] of the energy."""
        t, (log_y, slopes) = self.tasks, self.curve(z)
        w = 1 / (hyper[:, 2:] ** 2 + self.binomial)
        r = log_y - self.log_y
        gradient, out = np.einsum("gij,gj->gi", matrix, z) - linear, matrix.copy()
        onto = np.eye(t)[self.index]  # [n, T]
        for i in range(3):
            gradient[:, i * t : (i + 1) * t] += (w * r * slopes[i]) @ onto
            for j in range(3):
                at = np.arange(t)
                out[:, i * t + at, j * t + at] += (w * slopes[i] * slopes[j]) @ onto
        return gradient, out

    def minimize(self, hyper: Array, start: Array) -> tuple[Array, Array, Array]:
        """Minimize by damped Gauss-Newton at each hyper [G, 3]; return (z, energy, matrix at the minimum)."""
        matrix, linear = self.prior(hyper)
        z, damping = np.tile(start, (len(hyper), 1)) if start.ndim == 1 else start.copy(), np.full(len(hyper), 1e-2)
        energy = self.energy(z, hyper, matrix, linear)
        for _ in range(NEWTON_ITERATIONS):
            gradient, h = self.hessian(z, hyper, matrix, linear)
            diagonal = np.einsum("gii->gi", h)
            damped = h + (damping[:, None] * diagonal)[:, :, None] * np.eye(self.size)
            step = np.clip(np.linalg.solve(damped, gradient[..., None])[..., 0], -2, 2)
            new = z - step
            after = self.energy(new, hyper, matrix, linear)
            better = after < energy
            gain = float(np.max(np.where(better, energy - after, 0)))
            z, energy = np.where(better[:, None], new, z), np.where(better, after, energy)
            damping = np.clip(np.where(better, damping / 6, damping * 4), 1e-9, 1e6)
            if gain < 1e-7 and better.any():
                break
        return z, energy, self.hessian(z, hyper, matrix, linear)[1]


def _sample(
    model: JointModel, names: tuple[str, ...], center: float, pool: bool, level: float, draws: int, seed: int
) -> PooledFit:
    """Start `CHAINS` chains at the joint optimum's normal approximation and run them."""
    t = model.tasks
    hyper = np.array([[0.6, 0.3, 0.03]]) if pool else np.array([[UNPOOLED, UNPOOLED, 0.03]])
    for _ in range(3):  # the scatter of a first fit
        z, _, h = model.minimize(hyper, model.start)
        r = model.curve(z)[0][0] - model.log_y
        spare = max(len(r) - 3 * t, 1)
        least = 0.2 * np.sqrt(model.binomial.mean())
        hyper[0, 2] = max(np.sqrt(max((r**2).sum() / spare - model.binomial.mean(), 0.0)), least, 1e-5)
    scatters = hyper[0, 2] * SCATTERS
    rng = np.random.default_rng(seed)
    normal = rng.standard_normal((CHAINS, model.size, 1))
    z = z + 1.2 * np.linalg.solve(np.linalg.cholesky(h[0]).T, normal)[..., 0]
    hyper = np.repeat(hyper, CHAINS, axis=0)
    blocks = np.stack([h[0][np.ix_(at, at)] for at in (np.array([k, t + k, 2 * t + k]) for k in range(t))])
    factor = np.linalg.inv(np.linalg.cholesky(blocks)).swapaxes(1, 2)  # [T, 3, 3]: a step of a task's three parameters
    sweeps, burn_in = (n * (1 if model.runs is None else SLOWER) for n in (SWEEPS, BURN_IN))
    keep = np.unique(np.linspace(burn_in, sweeps - 1, max(1, -(-draws // CHAINS))).round().astype(int))
    kept, scale = [], np.array([0.2, 0.7, 1.4])
    shared, effects = np.full(CHAINS, scatters[0]), 0.0  # spread of the runs' effects, and the effects by row
    onto = None if model.runs is None else np.eye(model.runs.max() + 1)[model.runs]  # [n, runs]
    at_z = model.curve(z)[0]
    for sweep in range(sweeps):
        step = np.einsum("tij,gtj->git", factor, rng.standard_normal((CHAINS, t, 3))).reshape(CHAINS, 3 * t)
        new = z.copy()
        new[:, : 3 * t] += step * np.tile(rng.choice(scale, (CHAINS, t)), (1, 3))
        at_new = model.curve(new)[0]
        gain = model.by_task(new, at_new, hyper, effects) - model.by_task(z, at_z, hyper, effects)
        accepted = np.log(rng.random((CHAINS, t))) < gain
        taken, at_z = np.tile(accepted, (1, 3)), np.where(accepted[:, model.index], at_new, at_z)
        z[:, : 3 * t] = np.where(taken, new[:, : 3 * t], z[:, : 3 * t])
        for k, block in enumerate((0, 2)):  # means, then spreads, given the tasks
            values = z[:, block * t : (block + 1) * t]
            precision = t / hyper[:, k] ** 2 + 1 / model.means[1][k] ** 2
            mean = (values.sum(axis=1) / hyper[:, k] ** 2 + model.means[0][k] / model.means[1][k] ** 2) / precision
            z[:, 3 * t + k] = mean + rng.standard_normal(CHAINS) / np.sqrt(precision)
            if pool:
                off = ((values - z[:, 3 * t + k, None]) ** 2).sum(axis=1)[:, None]
                grid = SPREADS["Eb"[k]]
                hyper[:, k] = _pick(rng, grid, -t * np.log(grid) - off / (2 * grid**2))
        off = model.log_y - at_z
        if onto is not None:  # effects given the tasks, then their spread (uniform on its grid)
            w = 1 / (hyper[:, 2:] ** 2 + model.binomial)
            precision = w @ onto + 1 / shared[:, None] ** 2
            drawn = (w * off) @ onto / precision + rng.standard_normal(precision.shape) / np.sqrt(precision)
            square = (drawn**2).sum(axis=1)[:, None]
            grid = np.linspace(0.02, 3, 60) * scatters[-1] / SCATTERS[-1]
            shared = _pick(rng, grid, -drawn.shape[1] * np.log(grid) - square / (2 * grid**2))
            effects = drawn @ onto.T
        r = (off - effects) ** 2
        variance = scatters[:, None] ** 2 + model.binomial
        hyper[:, 2] = _pick(rng, scatters, -0.5 * (r @ (1 / variance).T + np.log(variance).sum(axis=1)))
        if sweep in keep:
            kept.append(np.concatenate([z, hyper], axis=1))
    every = np.array(kept)  # [kept, chains, D + 3]
    out = every.reshape(-1, every.shape[-1])[-draws:]
    e, la, lb = (out[:, k * t : (k + 1) * t] for k in range(3))
    floor = np.exp(e) if model.chance is None else model.chance / (1 + np.exp(-e))
    spreads = {"E": out[:, -3], "b": out[:, -2]} if pool else {}
    mixing = _mixing(every[..., : 3 * t])
    return PooledFit(names, floor, np.exp(la), np.exp(lb), model.chance, center, out[:, -1], spreads, mixing, level)


def _pick(rng: np.random.Generator, grid: Array, log_mass: Array) -> Array:
    """Draw a grid value per row of log_mass [G, K]."""
    mass = np.exp(log_mass - log_mass.max(axis=1, keepdims=True)).cumsum(axis=1)
    return grid[(mass < rng.random(len(mass))[:, None] * mass[:, -1:]).sum(axis=1).clip(max=len(grid) - 1)]


def _mixing(draws: Array) -> float:
    """Return the largest shift of a median between the first and the last kept sweeps, in standard deviations."""
    half = max(1, len(draws) // 2)
    first, last = (np.median(part, axis=(0, 1)) for part in (draws[:half], draws[-half:]))
    return float(np.max(np.abs(first - last) / draws.std(axis=(0, 1))))
