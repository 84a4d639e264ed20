"""Fit compute-optimal sizes without a law of the loss surface: approaches 1 and 2 of Hoffmann et al. (2022).

Approach 2: runs at fixed budgets (IsoFLOP); the lowest point of each valley of y over size is N*, and a line through
the valleys' lowest points in logarithms is N* = G·C^a. The error of each lowest point is estimated by redrawing the
runs' y and refitting the valley, and the line weighs the budgets by it (a random-effects regression).

Approach 1: runs with evaluations along training; the lower envelope of their curves gives the best size at each
compute. Its interval resamples the runs.

``benchmarks/fit_approaches.py`` simulates the coverage of the intervals. Both approaches carry a bias that no interval
here includes: a parabola is symmetric and valleys are not, so sizes tried to one side of the optimum shift ln G (Czech
et al., 2026, the `vpnls` package); and inside a run the learning rate has not decayed, so an envelope is not the
frontier.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, get_args

import numpy as np

from clip_jax.errors import UserError, at_least, one_of, require_columns
from clip_jax.scaling.frontier.isoflop import BUDGETS_FOR_EXPONENT, ValleySpace, Way, lowest_point
from clip_jax.scaling.frontier.valleys import lowest_points, third_differences
from clip_jax.scaling.laws.base import Array
from clip_jax.scaling.profile.prediction import Interval
from clip_jax.scaling.uncertainty.interval_format import interval_data, interval_text

if TYPE_CHECKING:
    import pandas as pd

MAX_REFUSED = 0.1  # share of a valley's redraws without a lowest point, from which on the valley is refused
MIN_RUNS_FOR_ENVELOPE = 6
MIN_DRAWS = 50
SIZE_MARGIN = 2.0  # factor between the best size and the smallest and largest ones trained at a compute


@dataclass(frozen=True)
class PowerOfCompute:
    """A power law of compute y = G·C^a: ``exponent`` is a, ``log_factor`` is ln G with C in FLOPs."""

    exponent: Interval
    log_factor: Interval
    center: float
    covariance: tuple[tuple[float, float], tuple[float, float]]
    quantile: float

    def at(self, flops: float) -> Interval:
        """Return the line at a budget, with its interval."""
        away = np.array([1.0, np.log(flops) - self.center])
        middle = self.log_factor.value + self.exponent.value * self.center
        value = middle + self.exponent.value * away[1]
        reach = self.quantile * float(np.sqrt(away @ np.array(self.covariance) @ away))
        low, value, high = (float(np.exp(v)) for v in (value - reach, value, value + reach))
        return Interval(value, low, high, self.exponent.level)


@dataclass(frozen=True)
class ValleyPoint:
    """The lowest point of the valley of one budget.

    status: ``accepted`` or the reason of refusal; N*, D* and y at the lowest point, and the standard error of ln N*
    (and of ln D*) due to the scatter of its runs. ``refused_draws``: the share of redraws without a lowest point.
    """

    flops: float
    sizes: int
    status: str
    params: float | None = None
    samples: float | None = None
    value: float | None = None
    log_params_se: float | None = None
    log_samples_se: float | None = None
    refused_draws: float = 0.0


@dataclass(frozen=True)
class ApproachResult:
    """The result of approach 1 or 2.

    Attributes:
      approach: 1 or 2.
      status: ``identified``, or why the powers are not known (they are None then).
      params: N* = G·C^a. samples: D* = G·C^a.
      valleys: approach 2: every budget, refused ones too.
      noise_sd: standard deviation of one run's y (of ln y in ``log`` space) around its valley.
      extra_sd: scatter of ln N* around the line beyond the valleys' own errors.
    """

    approach: int
    status: str
    params: PowerOfCompute | None = None
    samples: PowerOfCompute | None = None
    valleys: tuple[ValleyPoint, ...] = ()
    noise_sd: float | None = None
    extra_sd: float | None = None

    def as_data(self) -> dict[str, object]:
        """Return plain dictionaries for JSON."""
        out: dict[str, object] = {"approach": self.approach, "status": self.status}
        for name, power in (("params", self.params), ("samples_seen", self.samples)):
            if power is not None:
                parts = {"exponent": power.exponent, "log_factor": power.log_factor}
                out[name] = {k: interval_data(v) for k, v in parts.items()}
        return {**out, "noise_sd": self.noise_sd, "extra_sd": self.extra_sd, "valleys": [vars(v) for v in self.valleys]}

    @property
    def text(self) -> str:
        """The two powers, then one line per budget."""
        lines = [f"approach {self.approach}: {self.status}"]
        for name, power in (("params", self.params), ("samples_seen", self.samples)):
            if power is not None:
                a, g = interval_text(power.exponent), interval_text(power.log_factor)
                lines.append(f"  {name} = G·C^a: a {a}, ln G {g}")
        for v in self.valleys:
            if v.params is None or v.log_params_se is None:
                lines.append(f"  {v.flops:.4g} FLOPs, {v.sizes} sizes: {v.status}")
            else:
                lines.append(
                    f"  {v.flops:.4g} FLOPs, {v.sizes} sizes: params {v.params:.4g} (±{v.log_params_se:.1%}),"
                    f" samples_seen {v.samples:.4g}, y {v.value:.4g}; {v.status}"
                )
        return "\n".join(lines)


def fit_valleys(
    runs: pd.DataFrame,
    y: str = "loss",
    *,
    budget: str = "budget",
    params: str = "params",
    samples: str = "samples_seen",
    way: Way = "parabola",
    space: ValleySpace = "log",
    noise_sd: float | None = None,
    level: float = 0.95,
    draws: int = 400,
    seed: int = 0,
) -> ApproachResult:
    """Fit approach 2: the valleys of a table of IsoFLOP runs, and N*, D* as powers of the budget.

    Runs of one budget and size (seeds) are averaged. The scatter of runs is estimated from seeds where the table has
    some, else from the residuals of the valleys' polynomials (pooled over budgets); each valley is redrawn with it
    ``draws`` times.

    Args:
      runs: one row per run.
      y: column of the loss or error.
      budget: column of FLOPs, equal in all runs of a valley.
      params: column of sizes.
      samples: column of samples seen (or tokens).
      way: ``parabola``, ``cubic`` or ``akima`` (see `isoflop.lowest_point`).
      space: ``log`` fits ln y, ``linear`` fits y.
      noise_sd: standard deviation of one run (of ln y in ``log`` space), where it is known.
      level: of the intervals.
      draws: redraws of each valley; at least 50.
      seed: of the draws.

    Raises:
      UserError: a missing column, a number not above 0, an unknown way or space, or runs from which no scatter can be
        estimated.
    """
    one_of("space", space, get_args(ValleySpace))
    at_least("draws", draws, MIN_DRAWS)
    columns = [budget, params, samples, y]
    data = _numbers(runs, columns, columns)
    data = data.assign(y=np.log(data[y]) if space == "log" else data[y])
    groups = []
    for flops, rows in data.groupby(budget, sort=True):
        cells = rows.groupby(params, sort=True).agg(y=("y", "mean"), runs=("y", "size"), samples=(samples, "mean"))
        groups.append((float(np.float64(flops)), np.log(cells.index.to_numpy(float)), cells))  # type: ignore[arg-type]
    sd, degrees = (noise_sd, 10_000) if noise_sd is not None else _scatter(data, groups, budget, params, way)
    rng, valleys = np.random.default_rng(seed), []
    for flops, x, cells in groups:
        each = sd / np.sqrt(cells["runs"].to_numpy(float))
        valleys.append(_valley(rng, flops, x, cells, each, way, space, draws))
    kept = [v for v in valleys if v.status == "accepted"]
    if len(kept) < BUDGETS_FOR_EXPONENT:
        reason = f"not identified: {len(kept)} budgets have an accepted valley, {BUDGETS_FOR_EXPONENT} are needed"
        return ApproachResult(2, reason, valleys=tuple(valleys), noise_sd=float(sd))
    log_c = np.log([v.flops for v in kept])
    (size, extra), (data_line, _) = (
        random_effects_line(log_c, np.log(np.array(at, float)), np.array(se, float), degrees, level)
        for at, se in (
            ([v.params for v in kept], [v.log_params_se for v in kept]),
            ([v.samples for v in kept], [v.log_samples_se for v in kept]),
        )
    )
    return ApproachResult(2, "identified", size, data_line, tuple(valleys), float(sd), extra)


def _numbers(table: pd.DataFrame, needed: list[str], columns: list[str]) -> pd.DataFrame:
    """Return the columns as float64. Raises UserError for a missing column of ``needed`` or a number not above 0."""
    require_columns(table.columns, needed)
    data = table[columns].astype(float)
    for column in columns:
        values = data[column].to_numpy(float)
        if (wrong := ~(np.isfinite(values) & (values > 0))).any():
            row, reason = int(np.argmax(wrong)), "must be finite and above 0"
            raise UserError(source=f"row {data.index[row]}", field=column, value=float(values[row]), reason=reason)
    return data


def _scatter(data: pd.DataFrame, groups: list[Any], budget: str, params: str, way: Way) -> tuple[float, int]:
    """Return (standard deviation of one run, its degrees of freedom), from seeds, else from the valleys' residuals."""
    cells = data.groupby([budget, params])["y"]
    degrees = int((cells.size() - 1).sum())
    if degrees >= max(5, len(groups)):
        return float(np.sqrt((cells.var(ddof=1).fillna(0) * (cells.size() - 1)).sum() / degrees)), degrees
    order, total, degrees = 2 if way == "parabola" else 3, 0.0, 0
    for _, x, group in groups:
        values, w = group["y"].to_numpy(float), np.sqrt(group["runs"].to_numpy(float))
        if way == "akima":
            rough = third_differences(x, values)
            total, degrees = total + float((rough**2).sum()), degrees + len(rough)
        elif len(x) > order + 1:
            residual = values - np.polyval(np.polyfit(x - x.mean(), values, order, w=w), x - x.mean())
            total, degrees = total + float((w**2 * residual**2).sum()), degrees + len(x) - order - 1
    if not degrees:
        reason = "the scatter of runs is unknown: no seeds, and no valley has spare sizes"
        raise UserError(field=params, reason=reason, hint="add seeds, or sizes")
    return float(np.sqrt(total / degrees)), degrees


def _valley(
    rng: np.random.Generator, flops: float, x: Array, cells: pd.DataFrame, each: Array, way: Way, space: ValleySpace,
    draws: int,
) -> ValleyPoint:  # fmt: skip
    y, log_samples = cells["y"].to_numpy(float), np.log(cells["samples"].to_numpy(float))
    lowest = lowest_point(x, y, way)
    if lowest.x is None or lowest.y is None:
        return ValleyPoint(flops, len(x), lowest.status)
    # akima passes through every point, so the scatter is added to the points themselves
    center = y if lowest.coefficients is None else np.polyval(lowest.coefficients, x - lowest.middle)
    lows = lowest_points(x, center + each * rng.standard_normal((draws, len(x))), way)
    accepted = lows[np.isfinite(lows)]
    refused = 1 - len(accepted) / draws
    samples = np.interp(lowest.x, x, log_samples)
    status = (
        "accepted" if refused <= MAX_REFUSED else f"not identified: {refused:.0%} of its redraws have no lowest point"
    )
    se = float(np.std(accepted, ddof=1)) if len(accepted) > 1 else None
    samples_se = float(np.std(np.interp(accepted, x, log_samples), ddof=1)) if len(accepted) > 1 else None
    value = float(np.exp(lowest.y)) if space == "log" else float(lowest.y)
    return ValleyPoint(
        flops, len(x), status, float(np.exp(lowest.x)), float(np.exp(samples)), value, se, samples_se, refused
    )


def random_effects_line(x: Array, y: Array, se: Array, degrees: int, level: float) -> tuple[PowerOfCompute, float]:
    """Fit a random-effects regression of y on x: points with own standard errors and a common extra scatter.

    The extra variance is Paule and Mandel's; the errors are Knapp and Hartung's where the points scatter more than
    their own errors predict, and are never smaller than those.

    Args:
      x, y: ln of the compute and of what is optimal there, [n].
      se: standard errors of y, [n].
      degrees: degrees of freedom of the standard errors.
      level: of the intervals.

    Returns:
      The line and the extra standard deviation.
    """
    from scipy.optimize import brentq
    from scipy.stats import t

    center = float(x.mean())
    design = np.stack([np.ones_like(x), x - center], axis=1)
    variances = np.maximum(se, 1e-9) ** 2

    def solved(extra: float) -> tuple[Array, Array, float]:
        w = 1 / (variances + extra)
        inverse = np.linalg.inv(design.T @ (w[:, None] * design))
        beta = inverse @ (design.T @ (w * y))
        return beta, inverse, float((w * (y - design @ beta) ** 2).sum())

    spare = len(x) - 2
    extra = 0.0
    if solved(0.0)[2] > spare:
        top = float(np.var(y)) + variances.max()
        while solved(top)[2] > spare:
            top *= 4
        extra = float(brentq(lambda v: solved(v)[2] - spare, 0.0, top))
    beta, inverse, _ = solved(extra)
    # own errors are known to as many degrees as the scatter of runs; an extra scatter only to those of the line
    quantile = float(t.ppf((1 + level) / 2, spare if extra > 0 else max(degrees, 1)))
    to_factor = np.array([1.0, -center])
    g, g_se = float(beta[0] - beta[1] * center), float(np.sqrt(to_factor @ inverse @ to_factor))
    a, a_se = float(beta[1]), float(np.sqrt(inverse[1, 1]))
    ends = [Interval(v, v - quantile * s, v + quantile * s, level) for v, s in ((a, a_se), (g, g_se))]
    pairs = tuple((float(row[0]), float(row[1])) for row in inverse)
    return PowerOfCompute(ends[0], ends[1], center, (pairs[0], pairs[1]), quantile), float(np.sqrt(extra))


def fit_envelope(
    curves: pd.DataFrame,
    y: str = "loss",
    *,
    run_id: str = "run_id",
    flops: str = "flops",
    params: str = "params",
    samples: str = "samples_seen",
    points: int = 200,
    level: float = 0.95,
    draws: int = 400,
    seed: int = 0,
) -> ApproachResult:
    """Fit approach 1: N* and D* as powers of compute from the lower envelope of training curves.

    At each of many computes the run with the lowest y is selected, and lines are fitted to its ln size and ln samples.
    Computes at which the best size is within a factor `SIZE_MARGIN` of the smallest or largest
    size trained are left out, for no neighbor of it could win. Intervals resample whole runs.

    Args:
      curves: one row per evaluation.
      y: column of the loss or error. run_id, flops, params, samples: the other columns' names.
      points: computes at which the envelope is looked up.
      level, draws, seed: of the intervals.

    Raises:
      UserError: a missing column, a number not above 0, or fewer than `MIN_RUNS_FOR_ENVELOPE` runs.
    """
    columns = [flops, params, samples, y]
    numbers = _numbers(curves, [run_id, *columns], columns)
    logs = {k: np.log(numbers[c].to_numpy(float)) for k, c in zip(("c", "n", "d", "y"), columns, strict=True)}
    runs = [np.flatnonzero(curves[run_id].to_numpy() == name) for name in curves[run_id].unique()]
    if len(runs) < MIN_RUNS_FOR_ENVELOPE:
        reason = f"approach 1 needs at least {MIN_RUNS_FOR_ENVELOPE} runs"
        raise UserError(field=run_id, value=len(runs), reason=reason)
    grid = np.linspace(logs["c"].min(), logs["c"].max(), points)
    along, seen = np.full((2, len(runs), points), np.inf)
    for i, rows in enumerate(runs):
        rows = rows[np.argsort(logs["c"][rows], kind="stable")]
        c = logs["c"][rows]
        inside = (grid >= c[0] - 1e-12) & (grid <= c[-1] + 1e-12)
        along[i, inside] = np.interp(grid[inside], c, logs["y"][rows])
        seen[i, inside] = np.interp(grid[inside], c, logs["d"][rows])
    size, center = np.array([logs["n"][rows[0]] for rows in runs]), float(grid.mean())
    first = _envelope_lines(grid - center, size, along, seen)
    if first is None:
        return ApproachResult(1, f"not identified: fewer than {BUDGETS_FOR_EXPONENT} sizes lead inside those trained")
    rng, resampled = np.random.default_rng(seed), []
    for _ in range(draws):
        chosen = np.unique(rng.integers(0, len(runs), len(runs)))
        drawn = _envelope_lines(grid - center, size[chosen], along[chosen], seen[chosen])
        if drawn is not None:
            resampled.append(drawn)
    if len(resampled) < draws * (1 - MAX_REFUSED):
        return ApproachResult(1, f"not identified: {1 - len(resampled) / draws:.0%} of the resamples have no envelope")
    powers = [_power(np.array(resampled)[:, i], first[i], center, level) for i in (0, 1)]
    return ApproachResult(1, "identified", powers[0], powers[1])


def _envelope_lines(x: Array, size: Array, along: Array, seen: Array) -> Array | None:
    """Return [[a, ln N* at x = 0], [a, ln D* there]] of the lowest curve at each x; None with fewer than three sizes.

    x: ln compute around a center, [points]. size: ln size per run. along, seen: ln y and ln samples, [runs, points].
    """
    covered = np.isfinite(along)
    lead = along.argmin(axis=0)
    smallest = np.where(covered, size[:, None], np.inf).min(axis=0) + np.log(SIZE_MARGIN)
    largest = np.where(covered, size[:, None], -np.inf).max(axis=0) - np.log(SIZE_MARGIN)
    keep = covered.any(axis=0)
    for _ in range(3):  # the line decides which computes have room, not the winner at a compute, which may be lucky
        if len(np.unique(size[lead[keep]])) < BUDGETS_FOR_EXPONENT:
            return None
        line = np.polyfit(x[keep], size[lead[keep]], 1)
        middle = np.polyval(line, x)
        keep = covered.any(axis=0) & (middle >= smallest) & (middle <= largest)
    if len(np.unique(size[lead[keep]])) < BUDGETS_FOR_EXPONENT:
        return None
    data = seen[lead, np.arange(len(x))]
    return np.array([np.polyfit(x[keep], v[keep], 1) for v in (size[lead], data)])


def _power(draws: Array, value: Array, center: float, level: float) -> PowerOfCompute:
    """Return a power with percentile intervals from draws [R, 2] of (a, middle)."""
    from scipy.stats import norm

    to_factor = np.array([-center, 1.0])
    tails = [(1 - level) / 2, (1 + level) / 2]
    ends = []
    for v, d in ((value[0], draws[:, 0]), (value @ to_factor, draws @ to_factor)):
        low, high = np.quantile(d, tails)
        ends.append(Interval(float(v), float(low), float(high), level))
    cov = np.cov(draws[:, ::-1].T)
    pairs = ((float(cov[0, 0]), float(cov[0, 1])), (float(cov[1, 0]), float(cov[1, 1])))
    return PowerOfCompute(ends[0], ends[1], center, pairs, float(norm.ppf((1 + level) / 2)))
