"""Hyperparameter scaling rules fitted to runs: the best learning rate, batch, … as powers of width or budget.

A cell is one model at one budget. Every cell at which at least three values of a setting were tried, all else equal,
gives one best value if the lowest error lies between others. The rule is a power law through the best values, for
`config.hyperparameter_rules`. Where the runs do not allow a rule, it holds the reason instead of a number.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from clip_jax.config.hyperparameter_rules import CHECK_KINDS
from clip_jax.config.sweep import SweepConfig
from clip_jax.errors import UserError, require_columns
from clip_jax.scaling.data.runs_table import is_check
from clip_jax.storage.paths import as_path
from clip_jax.sweep.analysis.batch_rules import CriticalBatch, critical_batch
from clip_jax.sweep.collect import collect_to_fit
from clip_jax.sweep.control import config_of
from clip_jax.sweep.plan import make_cell
from clip_jax.sweep.tried_values import INSIDE, judge, noise_of

if TYPE_CHECKING:
    import pandas as pd

MIN_POINTS_FOR_RULE = 3  # distinct widths or budgets
MAX_HALF_WIDTH = 1.0  # of the interval of a power; a wider one identifies nothing
CONFOUNDERS = ("width", "budget", "batch_size", "peak_lr")  # columns whose effect a rule includes if they vary too
TIME_SCALE = "time_scale"  # follows from rate, weight decay, batch and steps
RULE_NAMES = {  # column -> name in `hyperparameter_rules.RULED`; base_lr is the rate without the width's factor
    "peak_lr": "lr", "base_lr": "lr", "weight_decay": "weight_decay", "warmup_fraction": "warmup",
    "batch_size": "batch", TIME_SCALE: "weight_decay",
}  # fmt: skip
FIELDS = {
    "base_lr": "base_lr", "weight_decay": "base.optim.weight_decay", "warmup_fraction": "warmup_fraction",
    "batch_size": "base.batch_size",
}  # fmt: skip
MAX_POWER = 2.0  # that `compute_scaling` accepts


@dataclass(frozen=True)
class Best:
    """Best value of a setting in one cell, at ``x``; ``value`` is None if there is none, and ``status`` says why."""

    x: float
    status: str
    value: float | None = None


@dataclass(frozen=True)
class Rule:
    """Power law setting ≈ value · (x / reference)**power, with an interval of the power.

    Without a rule, ``status`` holds the reason.
    """

    setting: str
    x: str
    status: str  # identified | not identified: why
    bests: tuple[Best, ...]
    power: float | None = None
    low: float | None = None
    high: float | None = None
    reference: float | None = None  # geometric mean of x
    value: float | None = None  # of the setting at the reference
    notes: tuple[str, ...] = ()

    def at(self, x: float) -> float:
        """Return the setting at ``x``.

        Raises:
          UserError: there is no rule; it names the reason.
        """
        if self.value is None or self.reference is None or self.power is None:
            raise UserError(field=self.setting, reason=f"has no rule over {self.x}: {self.status}")
        return self.value * (x / self.reference) ** self.power

    def __str__(self) -> str:
        text = f"{self.setting} over {self.x}: {self.status}"
        if self.power is not None:
            text = (
                f"{self.setting} ≈ {self.value:.4g} · ({self.x} / {self.reference:.4g})^{self.power:.3f}, "
                f"95 % interval of the power [{self.low:.3f}, {self.high:.3f}]"
            )
        return "; ".join([text, *self.notes])


def best_value(cell: pd.DataFrame, setting: str, x: str, metric: str, noise: float = 0.0) -> Best:
    """Find the best value of ``setting`` in a cell.

    It is the vertex of the parabola, over the setting's logarithm, through the lowest mean over seeds and up to two
    values on either side; None where `tried_values.judge` does not find the best inside the tried values.
    """
    at, judged = float(cell[x].iloc[0]), judge(cell, setting, metric, noise)
    if judged.kind != INSIDE:
        return Best(at, judged.text)
    values, errors = np.log(judged.values), np.array(judged.errors)
    k = int(np.argmin(errors))
    near = slice(max(k - 2, 0), k + 3)
    a, b, _ = np.polyfit(values[near] - values[k], errors[near], 2)
    vertex = values[k] - b / (2 * a) if a > 0 else values[k]
    return Best(at, "found", float(np.exp(np.clip(vertex, values[k - 1], values[k + 1]))))


def fit_rule(
    df: pd.DataFrame, *, setting: str = "peak_lr", x: str = "width", metric: str = "error_mean", level: float = 0.95
) -> Rule:
    """Fit ``setting`` as a power of ``x``, by least squares in logarithms.

    The interval of the power is Student's, as the bests are few. Only runs of a cell that agree in every other setting
    are compared. Rows that are not final, and cells where only the usual value was tried, are ignored.

    Args:
      df: runs, as from `collect` or any table with these columns, budget, params and seed.
      setting: column of the setting.
      x: column of the predictor.
      metric: column to minimize.
      level: confidence level of the interval.

    Raises:
      UserError: the table lacks a column.
    """
    from scipy.stats import linregress, t

    cells, noise = _cells_that_vary(df, setting, metric, x)
    bests = tuple(best_value(cell, setting, x, metric, noise) for cell in cells)
    known = [(cell, b.x, b.value) for cell, b in zip(cells, bests, strict=True) if b.value is not None]
    xs = np.array([at for _, at, _ in known])
    if len(np.unique(xs)) < MIN_POINTS_FOR_RULE:
        left = sum(b.value is None for b in bests)
        status = f"not identified: a best {setting} is known at {len(np.unique(xs))} values of {x}, "
        status += f"{MIN_POINTS_FOR_RULE} are needed ({left} of {len(bests)} cells have none)"
        return Rule(setting, x, status, bests)
    fitted = {x, setting} | ({"peak_lr"} if setting == "base_lr" else set())
    others = [c for c in CONFOUNDERS if c not in fitted]
    varying = [c for c in others if len({cell[c].iloc[0] for cell, *_ in known if c in cell}) > 1]
    notes = tuple(f"{c} varies too, and this power includes its effect" for c in varying)
    middle = float(np.log(xs).mean())
    line = linregress(np.log(xs) - middle, np.log([value for *_, value in known]))
    half = float(t.ppf((1 + level) / 2, len(known) - 2)) * float(line.stderr)
    power, value = float(line.slope), float(np.exp(line.intercept))
    if half > MAX_HALF_WIDTH:
        status = f"not identified: the power is {power:.2f} ± {half:.2f}, known no better than to {MAX_HALF_WIDTH:g}"
        return Rule(setting, x, status, bests, notes=notes)
    if abs(power) < half:
        notes += ("the interval contains 0, so the runs do not distinguish it from a constant",)
    return Rule(setting, x, "identified", bests, power, power - half, power + half, float(np.exp(middle)), value, notes)


@dataclass(frozen=True)
class RateRule:
    """Peak rate ≈ value · (params / N0)^a · (samples / D0)^b over cells that vary in both.

    cells: how many had a best rate between others. powers, lows, highs, references: of (params, samples), empty without
    a rule; ``status`` then holds the reason.
    """

    status: str
    cells: int
    value: float | None = None
    powers: tuple[float, ...] = ()
    lows: tuple[float, ...] = ()
    highs: tuple[float, ...] = ()
    references: tuple[float, ...] = ()

    def at(self, params: float, samples: float) -> float:
        """Return the peak rate of a model that sees so many samples.

        Raises:
          UserError: there is no rule; it names the reason.
        """
        if self.value is None:
            raise UserError(field="peak_lr", reason=f"has no rule over params and samples: {self.status}")
        factors = zip((params, samples), self.references, self.powers, strict=True)
        return self.value * math.prod((x / reference) ** power for x, reference, power in factors)

    def __str__(self) -> str:
        if self.value is None:
            return f"peak_lr over params and samples: {self.status}"
        (n, d), (a, b) = self.references, self.powers
        ends = ", ".join(f"[{low:.3f}, {high:.3f}]" for low, high in zip(self.lows, self.highs, strict=True))
        return (
            f"peak_lr ≈ {self.value:.4g} · (params / {n:.4g})^{a:.3f} · (samples / {d:.4g})^{b:.3f}, "
            f"95 % intervals of the powers {ends}, from {self.cells} cells"
        )


def fit_rate_rule(
    df: pd.DataFrame, *, setting: str = "peak_lr", metric: str = "error_mean", level: float = 0.95
) -> RateRule:
    """Fit the best peak rate of each cell as a power of its parameters times a power of its samples.

    A cell is a size and a budget at which at least three rates were tried, the best between others. Cells may be far
    shorter than the runs that the rule is for, as checks at a tenth of the budget. Intervals are Student's.

    Args:
      df: runs, as for `fit_rule`, with params and samples_seen.
      setting: column of the rate.
      metric: column to minimize.
      level: confidence level of the intervals.

    Raises:
      UserError: the table lacks a column.
    """
    from scipy.stats import t

    cells, noise = _cells_that_vary(df, setting, metric, "samples_seen")
    bests = [best_value(cell, setting, "params", metric, noise) for cell in cells]
    known = [
        (cell["params"].iloc[0], cell["samples_seen"].iloc[0], best.value)
        for cell, best in zip(cells, bests, strict=True)
        if best.value is not None
    ]
    x = np.log(np.array(known, float).reshape(-1, 3))
    if len(x) <= MIN_POINTS_FOR_RULE:
        reason = f"a best {setting} is known in {len(x)} cells, {MIN_POINTS_FOR_RULE + 1} are needed"
        return RateRule(f"not identified: {reason} ({len(cells) - len(x)} cells have none)", len(x))
    middle = x[:, :2].mean(axis=0)
    design = np.column_stack([np.ones(len(x)), x[:, :2] - middle])
    if np.linalg.matrix_rank(design, tol=1e-3 * len(x)) < 3:
        return RateRule("not identified: params and samples vary together in all cells", len(x))
    solution = np.linalg.lstsq(design, x[:, 2], rcond=None)[0]
    degrees = len(x) - 3
    variance = float(((x[:, 2] - design @ solution) ** 2).sum()) / degrees
    spread = np.sqrt(variance * np.diag(np.linalg.inv(design.T @ design)))
    halves = float(t.ppf((1 + level) / 2, degrees)) * spread[1:]
    if (halves > MAX_HALF_WIDTH).any():
        shown = ", ".join(f"{p:.2f} ± {h:.2f}" for p, h in zip(solution[1:], halves, strict=True))
        status = f"not identified: the powers are {shown}, known no better than to {MAX_HALF_WIDTH:g}"
        return RateRule(status, len(x))
    powers, references = tuple(map(float, solution[1:])), tuple(map(float, np.exp(middle)))
    lows, highs = (tuple(map(float, solution[1:] + sign * halves)) for sign in (-1, 1))
    return RateRule("identified", len(x), float(np.exp(solution[0])), powers, lows, highs, references)


def _cells_that_vary(df: pd.DataFrame, setting: str, metric: str, *columns: str) -> tuple[list[pd.DataFrame], float]:
    """Return the groups of finished runs of a cell in which only this setting varies, and the noise of their errors."""
    require_columns(df.columns, (setting, *columns, metric, "budget", "params", "seed"))
    done = df[df["final"].astype(bool)] if "final" in df.columns else df
    cells = [part for part in _comparable(done[done[metric].notna()], setting) if part[setting].nunique() > 1]
    return cells, noise_of(done, metric)


def _comparable(done: pd.DataFrame, setting: str) -> list[pd.DataFrame]:
    """Return the runs of each cell in groups that agree in every setting but this one."""
    name = RULE_NAMES.get(setting)
    if "kind" in done:
        done = done[~is_check(done["kind"]) | (done["kind"] == CHECK_KINDS.get(name or ""))]
    held = [c for c in RULE_NAMES if c not in (setting, TIME_SCALE) and RULE_NAMES[c] != name and c in done]
    # another batch size changes the number of steps, and so the rounding of the warm-up
    slack = 1 / done["steps"].min() if name == "batch" and "steps" in done else 0.0
    keys = [_classes(done[c], slack if c == "warmup_fraction" else 0.0) for c in held]
    return [part for _, part in done.groupby([done["budget"], done["params"], *keys])]


def _classes(values: pd.Series, slack: float) -> np.ndarray:
    """Return a class index per value; values that differ by at most ``slack``, and missing ones, share a class."""
    numbers = np.nan_to_num(values.to_numpy(float), nan=-1.0)
    distinct, index = np.unique(numbers, return_inverse=True)
    return np.concatenate([[0], np.cumsum(np.diff(distinct) > slack)])[index] if len(distinct) else index


def rules_text(sweep_dir: str | Path) -> str:
    """Fit power laws in width and in budget for each setting that the sweep varied, or explain why that is impossible.

    The text ends with the fields that give the next sweep the rules over budget. The learning rate over budget is
    ``base_lr``, the rate without the factor that `lr_rule` makes of the width.

    Raises:
      UserError: the directory holds no sweep, or none of its runs has finished.
    """
    root = as_path(sweep_dir)
    config = config_of(root)
    if not isinstance(config, SweepConfig):
        raise UserError(field=root, reason="holds a search, which tries settings at one size and budget only")
    df = collect_to_fit(root)
    if not df["final"].any():
        raise UserError(field=root, reason="no run has finished")
    cells = df[["rung", "budget"]].itertuples(index=False)
    df["base_lr"] = [rate * _base_factor(config, *cell) for rate, cell in zip(df["peak_lr"], cells, strict=True)]
    df[TIME_SCALE] = time_scale(df)
    df["samples_per_param"] = df["samples_seen"] / df["params"]
    lines: list[str] = []
    over_budget: list[Rule] = []
    for setting in ("peak_lr", "weight_decay", "warmup_fraction", "batch_size"):
        over = (("width", setting), ("budget", "base_lr" if setting == "peak_lr" else setting))
        rules = [fit_rule(df, setting=column, x=x, metric=config.metric) for x, column in over]
        if rules[0].bests:
            lines += [f"  {rule}" for rule in rules]
            over_budget += [rule for rule in rules if rule.x == "budget" and rule.power is not None]
        else:
            lines.append(f"  {setting}: only the usual value was tried; {RULE_NAMES[setting]}_multipliers tries others")
    return "\n".join(lines + _field_forms(df, config.metric) + _fields(config, over_budget))


def time_scale(df: pd.DataFrame) -> pd.Series:
    """Return the time scale of decoupled weight decay, B / (lr·weight_decay·D), as a share of the run; NaN without any.

    B is the batch size and D the samples seen, so it is 1 / (lr·weight_decay·steps): at the peak rate, weights decay by
    a factor e over that share of the run. Source: Bergsma et al. (2025), arXiv 2505.13738.
    """
    decay = df["peak_lr"] * df["weight_decay"].where(df["weight_decay"] > 0) * df["samples_seen"]
    return df["batch_size"] / decay


def _field_forms(df: pd.DataFrame, metric: str) -> list[str]:
    """Return the rules in the forms of the literature, for the settings that were tried."""
    rules: list[Rule | RateRule | CriticalBatch] = []
    for setting, x in ((TIME_SCALE, "samples_per_param"), ("batch_size", "samples_seen")):
        rule = fit_rule(df, setting=setting, x=x, metric=metric)
        rules += [rule] if rule.bests else []
    rate = fit_rate_rule(df, metric=metric)
    rules += [rate] if rate.cells else []
    critical = critical_batch(df, metric=metric)
    rules += [critical] if critical.tried else []
    return ["  in the forms of the literature:", *(f"    {rule}" for rule in rules)] if rules else []


def _base_factor(config: SweepConfig, size: float, budget: float) -> float:
    """Return the factor from a size's learning rate to ``base_lr`` at its budget."""
    usual = make_cell(config, size, budget, config.seeds[0]).config.optim.peak_lr
    return float(config.base_lr * config.compute_scaling.factor("lr_power", budget) / usual)


def _fields(config: SweepConfig, rules: list[Rule]) -> list[str]:
    """Return the lines that set these rules over budget, all at one base budget."""
    lines = [f"  {r.setting}: a power of {r.power:.2f} is more than compute_scaling takes" for r in rules if _steep(r)]
    kept = [r for r in rules if not _steep(r)]
    if not kept:
        return lines
    base = config.compute_scaling.base_budget or float(f"{kept[0].reference:.3g}")
    fields = [f"--compute_scaling.base_budget={base:g}"]
    for rule in kept:
        value = rule.at(base)
        text = f"{value:.3g}"
        if rule.setting == "batch_size":
            usual = config.base.batch_size
            text = str(max(1, round(usual * 2.0 ** round(math.log2(value / usual)))))
        name = RULE_NAMES[rule.setting]
        fields += [f"--compute_scaling.{name}_power={rule.power:.3g}", f"--{FIELDS[rule.setting]}={text}"]
    return [*lines, "  for the config of the next sweep:", *(f"    {field}" for field in fields)]


def _steep(rule: Rule) -> bool:
    return rule.power is not None and abs(rule.power) > MAX_POWER
