"""Rules for settings, fitted to records: how the best learning rate (batch, decay, …) goes with width or budget.

Every cell of a sweep, one model at one budget, at which at least three values of the setting were tried, all else
equal, gives one best value, where the lowest lies between others; a power law through them is the rule, for
`sweep_rules`. Where records do not allow it, the rule says why instead of a number.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from clip_jax.config.sweep import SweepConfig
from clip_jax.errors import UserError
from clip_jax.scaling.data.runs_table import is_check
from clip_jax.storage.paths import as_path
from clip_jax.sweep.collect import collect
from clip_jax.sweep.control import config_of
from clip_jax.sweep.plan import make_cell
from clip_jax.sweep.tried_values import INSIDE, judge, noise_of

if TYPE_CHECKING:
    import pandas as pd

PLACES_FOR_RULE = 3  # distinct widths or budgets
WIDEST = 1.0  # half of the interval of a power that says anything
OTHERS = ("width", "budget", "batch_size", "peak_lr")  # what a rule in one column mixes up, when it varies too
SETTINGS = {  # columns, and the names in `sweep_rules.RULED`; base_lr is the rate without the width's part
    "peak_lr": "lr", "base_lr": "lr", "weight_decay": "decay", "warmup_fraction": "warmup", "batch_size": "batch",
}  # fmt: skip
FIELDS = {
    "base_lr": "base_lr", "weight_decay": "base.optim.weight_decay", "warmup_fraction": "warmup_fraction",
    "batch_size": "base.batch_size",
}  # fmt: skip
STEEPEST = 2.0  # power that `by_budget` takes


@dataclass(frozen=True)
class Best:
    """The best value of a setting in one cell, at ``x``; ``value`` is None where ``status`` says why."""

    x: float
    status: str
    value: float | None = None


@dataclass(frozen=True)
class Rule:
    """setting ≈ value · (x / reference)**power, with an interval of the power; or, in ``status``, why there is none."""

    setting: str
    x: str
    status: str  # identified | not identified: why
    bests: tuple[Best, ...]
    power: float | None = None
    low: float | None = None
    high: float | None = None
    reference: float | None = None  # geometric mean of x
    value: float | None = None  # of the setting there
    notes: tuple[str, ...] = ()

    def at(self, x: float) -> float:
        """The setting there. Raises UserError, with the reason, where there is no rule."""
        if self.value is None or self.reference is None or self.power is None:
            raise UserError(f"{self.setting} over {self.x}: {self.status}")
        return self.value * (x / self.reference) ** self.power

    def __str__(self) -> str:
        said = f"{self.setting} over {self.x}: {self.status}"
        if self.power is not None:
            said = (
                f"{self.setting} ≈ {self.value:.4g} · ({self.x} / {self.reference:.4g})^{self.power:.3f}, "
                f"95 % interval of the power [{self.low:.3f}, {self.high:.3f}]"
            )
        return "; ".join([said, *self.notes])


def best_value(cell: pd.DataFrame, setting: str, x: str, metric: str, noise: float = 0.0) -> Best:
    """Find the best value of ``setting`` in a cell.

    It is the vertex of the parabola, over the setting's logarithm, of the lowest mean over seeds and up to two values
    on either side; None where `tried_values.judge` does not find it inside what was tried.
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
    """Fit ``setting`` as a power of ``x`` to a table of runs (`collect`'s, or any with these columns, budget, params
    and seed): least squares in logarithms and Student's interval, for bests are few. Only runs of a cell that agree in
    every other setting are compared. Rows that are not final, and cells where nothing but the usual value was tried,
    tell nothing.

    Raises UserError when the table lacks a column.
    """
    from scipy.stats import linregress, t

    for column in (setting, x, metric, "budget", "params", "seed"):
        if column not in df.columns:
            raise UserError(f"the table lacks the column {column}; it has {', '.join(map(str, df.columns))}")
    done = df[df["final"].astype(bool)] if "final" in df.columns else df
    cells = [part for part in _comparable(done[done[metric].notna()], setting) if part[setting].nunique() > 1]
    noise = noise_of(done, metric)
    bests = tuple(best_value(cell, setting, x, metric, noise) for cell in cells)
    found = [(cell, b.x, b.value) for cell, b in zip(cells, bests, strict=True) if b.value is not None]
    places = np.array([at for _, at, _ in found])
    if len(np.unique(places)) < PLACES_FOR_RULE:
        left = sum(b.value is None for b in bests)
        status = f"not identified: a best {setting} is known at {len(np.unique(places))} values of {x}, "
        status += f"{PLACES_FOR_RULE} are needed ({left} of {len(bests)} cells have none)"
        return Rule(setting, x, status, bests)
    own = {x, setting} | ({"peak_lr"} if setting == "base_lr" else set())
    varying = [c for c in OTHERS if c not in own and len({cell[c].iloc[0] for cell, *_ in found if c in cell}) > 1]
    notes = tuple(f"{c} varies too, and this power holds its part" for c in varying)
    middle = float(np.log(places).mean())
    line = linregress(np.log(places) - middle, np.log([value for *_, value in found]))
    half = float(t.ppf((1 + level) / 2, len(found) - 2)) * float(line.stderr)
    power, value = float(line.slope), float(np.exp(line.intercept))
    if half > WIDEST:
        status = f"not identified: the power is {power:.2f} ± {half:.2f}, known no better than to {WIDEST:g}"
        return Rule(setting, x, status, bests, notes=notes)
    if abs(power) < half:
        notes += ("the interval holds 0, so the records do not tell it from a constant",)
    return Rule(setting, x, "identified", bests, power, power - half, power + half, float(np.exp(middle)), value, notes)


def _comparable(done: pd.DataFrame, setting: str) -> list[pd.DataFrame]:
    """The runs of each cell in groups that agree in every setting but this one."""
    name = SETTINGS.get(setting)
    if "kind" in done:
        done = done[~is_check(done["kind"]) | (done["kind"] == f"{name}_check")]
    held = [c for c in SETTINGS if c != setting and SETTINGS[c] != name and c in done]
    # another batch means other steps, and a warm-up is a whole number of them
    slack = 1 / done["steps"].min() if name == "batch" and "steps" in done else 0.0
    keys = [_classes(done[c], slack if c == "warmup_fraction" else 0.0) for c in held]
    return [part for _, part in done.groupby([done["budget"], done["params"], *keys])]


def _classes(values: pd.Series, slack: float) -> np.ndarray:
    """A number for each value, the same where they differ by at most ``slack``; what is missing is one class."""
    numbers = np.nan_to_num(values.to_numpy(float), nan=-1.0)
    found, place = np.unique(numbers, return_inverse=True)
    return np.concatenate([[0], np.cumsum(np.diff(found) > slack)])[place] if len(found) else place


def rules_text(sweep_dir: str | Path) -> str:
    """Of every setting that a sweep tried other values of: its rules over width and over budget, or why there is none;
    and the fields that give the next sweep the rules over budget.

    The rate over budget is ``base_lr``: what `lr_rule` makes of the width is divided out. Raises UserError when the
    directory holds no sweep, or none of its runs has finished.
    """
    root = as_path(sweep_dir)
    config = config_of(root)
    if not isinstance(config, SweepConfig):
        raise UserError(f"{root}: holds a search, which tries settings at one size and budget only")
    df = collect(root)
    if not df["final"].any():
        raise UserError(f"{root}: no run has finished")
    places = df[["rung", "budget"]].itertuples(index=False)
    df["base_lr"] = [rate * _base_share(config, *at) for rate, at in zip(df["peak_lr"], places, strict=True)]
    lines: list[str] = []
    found: list[Rule] = []
    for setting in ("peak_lr", "weight_decay", "warmup_fraction", "batch_size"):
        over = (("width", setting), ("budget", "base_lr" if setting == "peak_lr" else setting))
        rules = [fit_rule(df, setting=column, x=x, metric=config.metric) for x, column in over]
        if rules[0].bests:
            lines += [f"  {rule}" for rule in rules]
            found += [rule for rule in rules if rule.x == "budget" and rule.power is not None]
        else:
            lines.append(f"  {setting}: only the usual value was tried; {SETTINGS[setting]}_checks tries others")
    return "\n".join(lines + _fields(config, found))


def _base_share(config: SweepConfig, rung: float, budget: float) -> float:
    """What a rate at a size is multiplied by to be ``base_lr`` at its budget."""
    usual = make_cell(config, rung, budget, config.seeds[0]).config.optim.peak_lr
    return float(config.base_lr * config.by_budget.factor("lr_power", budget) / usual)


def _fields(config: SweepConfig, rules: list[Rule]) -> list[str]:
    """The lines that set these rules over budget, all at one base budget."""
    lines = [f"  {r.setting}: a power of {r.power:.2f} is more than by_budget takes" for r in rules if _steep(r)]
    kept = [r for r in rules if not _steep(r)]
    if not kept:
        return lines
    base = config.by_budget.base_budget or float(f"{kept[0].reference:.3g}")
    fields = [f"--by_budget.base_budget={base:g}"]
    for rule in kept:
        value = rule.at(base)
        said = f"{value:.3g}"
        if rule.setting == "batch_size":
            usual = config.base.batch_size
            said = str(max(1, round(usual * 2.0 ** round(math.log2(value / usual)))))
        name = SETTINGS[rule.setting]
        fields += [f"--by_budget.{name}_power={rule.power:.3g}", f"--{FIELDS[rule.setting]}={said}"]
    return [*lines, "  for the config of the next sweep:", *(f"    {field}" for field in fields)]


def _steep(rule: Rule) -> bool:
    return rule.power is not None and abs(rule.power) > STEEPEST
