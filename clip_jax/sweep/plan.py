"""The plan of a sweep: every cell, kept or dropped with the reason, before anything runs. Imports no jax."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from clip_jax import flops
from clip_jax.config import RunConfig
from clip_jax.config.hyperparameter_rules import CHECK_KINDS, RULED
from clip_jax.config.io import run_id
from clip_jax.config.passes import is_many, passes_number, passes_text
from clip_jax.config.presets import ladder, sized
from clip_jax.config.sweep import LONGEST_WARMUP, SweepConfig
from clip_jax.durations import duration_text
from clip_jax.errors import ConfigError, UserError
from clip_jax.types import JsonObject

if TYPE_CHECKING:
    from clip_jax.sweep.run_times import RunTimes

LOG_ROWS_PER_RUN = 50  # in metrics.jsonl
ARITHMETIC_ONLY = " times are training arithmetic only: start, compilation, data and evaluation of each run come on top"


@dataclass(frozen=True)
class Cell:
    """One (model, budget, seed). ``reason`` says why it was dropped; None if it is kept."""

    rung: float
    budget: float
    kind: str  # cell | second_seed | lr_check | decay_check | warmup_check | batch_check
    config: RunConfig
    flops: float
    seconds: float  # estimated
    reason: str | None = None

    @property
    def run_id(self) -> str:
        """Name of the run's directory."""
        return run_id(self.config)

    @property
    def params(self) -> int:
        """Number of parameters of the model."""
        return flops.params(self.config.model).total


def make_cell(
    config: SweepConfig,
    rung: float,
    budget: float,
    seed: int,
    *,
    kind: str = "cell",
    lr_factor: float = 1.0,
    weight_decay_factor: float = 1.0,
    warmup_factor: float = 1.0,
    batch_factor: float = 1.0,
) -> Cell:
    """Return the run that spends ``budget`` FLOPs on a rung, to the nearest whole step; its seed is base.seed + seed.

    Learning rate, batch size, warm-up and weight decay follow ``lr_rule`` and ``compute_scaling``, each times its
    factor.
    """
    base, rules = config.base, config.compute_scaling
    model = sized(config.models[int(rung)], base.model) if config.models else ladder(rung, base.model)
    batch = max(1, round(base.batch_size * 2.0 ** round(math.log2(rules.factor("batch_power", budget)))))
    if batch * batch_factor % 1:
        raise ConfigError(field="batch_size", value=batch * batch_factor, reason="must be a whole number of pairs")
    batch = int(batch * batch_factor)
    step_flops = flops.training_flops(model, batch, batch, base.init_from.freeze_tower).total
    steps = max(2, round(budget / step_flops))
    share = min(config.warmup_fraction * rules.factor("warmup_power", budget) * warmup_factor, LONGEST_WARMUP)
    warmup = min(max(1, round(share * steps)), steps - 1)
    peak_lr = config.base_lr * lr_factor * rules.factor("lr_power", budget)
    if config.lr_rule == "width_power":
        # a ResNet's width counts the channels of its first stage, not of a transformer
        width = model.text.width if model.image.stages else model.image.width
        peak_lr *= (config.base_width / width) ** config.lr_width_power
    decay = base.optim.weight_decay * weight_decay_factor * rules.factor("weight_decay_power", budget)
    run = dataclasses.replace(
        base,
        model=model,
        steps=steps,
        batch_size=batch,
        seed=base.seed + seed,
        optim=dataclasses.replace(
            base.optim, peak_lr=_six_digits(peak_lr), warmup_steps=warmup, weight_decay=_six_digits(decay)
        ),
        log_every=max(1, steps // LOG_ROWS_PER_RUN),
    )
    total = steps * step_flops
    reason = None
    if budget / step_flops < config.min_steps:
        reason = f"too few steps: {budget / step_flops:.0f} < min_steps={config.min_steps}"
    return Cell(rung, budget, kind, run, total, total / (config.gflops_per_second * 1e9), reason)


def setting_checks(config: SweepConfig, rung: float, budget: float) -> list[Cell]:
    """Return the runs of all ``*_multipliers`` but those of the learning rate at one (rung, budget), each run once.

    A batch that leaves fewer than ``min_steps`` steps is dropped with that reason.

    Raises:
      ConfigError: a batch is no whole number of pairs, or the base's other settings do not allow a value.
    """
    cells: dict[str, Cell] = {}  # short warm-ups may round to the same step
    for name in RULED[1:]:
        for factor in getattr(config, f"{name}_multipliers"):
            factors = {f"{name}_factor": factor}
            try:
                cell = make_cell(config, rung, budget, config.seeds[0], kind=CHECK_KINDS[name], **factors)
            except ConfigError as error:
                raise ConfigError(field=f"{name}_multipliers", reason=f"{factor:g} × the usual: {error}") from None
            cells.setdefault(cell.run_id, cell)
    return list(cells.values())


def _six_digits(value: float) -> float:
    return float(f"{value:.6g}")  # so few digits are read back as they were written


@dataclass(frozen=True)
class SweepPlan:
    """All cells of a sweep, in the order they run."""

    config: SweepConfig
    cells: tuple[Cell, ...]

    @property
    def kept(self) -> list[Cell]:
        """Cells that run."""
        return [c for c in self.cells if c.reason is None]

    def rows(self) -> list[JsonObject]:
        """Return one dictionary per cell, as stored in ``plan.json``."""
        return [
            {
                "run_id": c.run_id,
                "rung": c.rung,
                "budget": c.budget,
                "seed": c.config.seed,
                "kind": c.kind,
                "width": c.config.model.image.width,
                "depth": c.config.model.image.depth,
                "params": c.params,
                "batch_size": c.config.batch_size,
                "samples_seen": c.config.samples_seen,
                "steps": c.config.steps,
                "flops": c.flops,
                "peak_lr": c.config.optim.peak_lr,
                "seconds": c.seconds,
                "dropped": c.reason,
            }
            for c in self.cells
        ]

    def table(self, times: RunTimes | None = None, pairs: int | None = None) -> str:
        """Return the plan as text for a terminal of 120 columns.

        Args:
          times: of this sweep's finished runs; None: training arithmetic alone, at ``gflops_per_second``.
          pairs: distinct training pairs, for the passes over them; None: not known, or without end.
        """
        head = "   budget   rung  width depth      params     samples"
        lines = [head + ("  passes" if pairs else "") + "    steps     FLOPs  est. time"]
        for c, r in zip(self.cells, self.rows(), strict=True):
            passes = f"  {passes_number(r['samples_seen'] / pairs):>6}" if pairs else ""
            line = (
                f" {r['budget']:8.2e}  {r['rung']:5g}  {r['width']:5d} {r['depth']:5d}  {r['params']:10,d}  "
                f"{r['samples_seen']:10,d}{passes}  {r['steps']:7,d}  {r['flops']:8.2e}  "
                f"{duration_text(_seconds(c, times)):>9}"
            )
            lines.append(line + (f"  seed {r['seed']}" if r["dropped"] is None else f"  dropped: {r['dropped']}"))
        lines += self._totals(times)
        if pairs and is_many(most := max(c.config.samples_seen for c in self.kept) / pairs):
            lines.append(f" up to {passes_text(most)}; max_epochs limits them")
        return "\n".join(lines)

    def _totals(self, times: RunTimes | None) -> list[str]:
        config, kept, slots = self.config, self.kept, self.config.max_concurrent_runs
        each = {c: _seconds(c, times) for c in kept}
        dearest = {c.budget: max(each[k] for k in kept if k.budget == c.budget) for c in kept}
        cheapest = {c.rung: min(each[k] for k in kept if k.rung == c.rung) for c in kept}
        seeds, rates = len(config.extra_seeds_at_optimum), len(config.lr_multipliers)
        at_rungs = config.lr_multipliers_at == "rungs"
        tried, where = list((cheapest if at_rungs else dearest).values()), "budget's best"
        if at_rungs:
            where = "size's smallest budget"
        later = (seeds * sum(dearest.values()) + rates * sum(tried)) / slots
        stages = []
        if seeds:
            what = f"seeds {list(config.extra_seeds_at_optimum)}"
            stages.append(f"{seeds * len(dearest)} runs at each budget's best ({what})")
        if rates:
            what = f"learning rates × {list(config.lr_multipliers)}"
            stages.append(f"{rates * len(tried)}{'' if seeds else ' runs'} at each {where} ({what})")
        seconds, price = sum(each.values()), config.resources.price_per_device_hour
        measured = f"{slots} at once ({times.text})" if times else None
        assumed = f"at {config.gflops_per_second:g} GFLOP/s per slot, {slots} at once"
        return [
            f" {len(kept)} runs kept, {len(self.cells) - len(kept)} dropped; {sum(c.flops for c in kept):.3g} FLOPs, "
            f"about {duration_text(seconds / slots)} {measured or assumed}"
            + (f"; {_cost(seconds, config.resources.devices, price)}" if price else ""),
            *([f" then up to {' and '.join(stages)}: at most {duration_text(later)} more"] if stages else []),
            *self._settings_tried(list(dearest.values())),
            *([] if times else [ARITHMETIC_ONLY]),
        ]

    def _settings_tried(self, dearest: list[float]) -> list[str]:
        """Return a line on the checks of settings other than the learning rate, if any.

        ``dearest`` are the seconds of the most expensive cell of each budget.
        """
        config = self.config
        tried = {
            "batch": config.batch_multipliers,
            "warm-up": config.warmup_multipliers,
            "weight decay": config.weight_decay_multipliers,
        }
        count = sum(map(len, tried.values()))
        if not count:
            return []
        settings = ", ".join(f"{name} × {list(factors)}" for name, factors in tried.items() if factors)
        return [
            f" and up to {count * len(dearest)} runs at each budget's best ({settings}): at most "
            f"{duration_text(count * sum(dearest) / config.max_concurrent_runs)} more"
        ]


def _seconds(cell: Cell, times: RunTimes | None) -> float:
    return times.seconds(cell.flops) if times else cell.seconds


def _cost(seconds: float, devices: int, price: float) -> str:
    hours = seconds / 3600 * devices
    return f"{hours:.3g} device-hours, {hours * price:.3g} at {price:g} each"


def make_plan(config: SweepConfig, train_records: int | None = None) -> SweepPlan:
    """Return the plan of sizes × budgets × seeds; it is deterministic.

    A cell is dropped when it has fewer than ``min_steps`` steps, would exceed ``max_epochs`` over the data, or lies
    further from the guessed optimum than ``sizes_per_budget`` allows.

    Args:
      config: the sweep.
      train_records: distinct training pairs, for ``max_epochs``; None if the data is endless.

    Raises:
      ConfigError: no cell is left, ``max_epochs`` is set for endless data, or a check is impossible.
    """
    if config.max_epochs and train_records is None:
        raise ConfigError(field="max_epochs", reason="would be ignored, the training data is endless")
    cells: list[Cell] = []
    seen: set[str] = set()
    for budget in sorted(config.budgets):
        for seed in config.seeds:
            column = [make_cell(config, rung, budget, seed) for rung in config.sizes]
            for i, cell in enumerate(column):
                epochs = cell.config.samples_seen / train_records if train_records else 0.0
                if cell.reason is None and config.max_epochs and epochs > config.max_epochs:
                    reason = f"{epochs:.1f} epochs > max_epochs={config.max_epochs:g}"
                    column[i] = dataclasses.replace(cell, reason=reason)
                elif cell.run_id in seen:
                    column[i] = dataclasses.replace(cell, reason="the same run stands above")
                seen.add(cell.run_id)
            cells += _near_optimum(config, column)
    plan = SweepPlan(config, tuple(cells))
    if not plan.kept:
        sizes = "models" if config.models else "rungs"
        reason = f"no cell is left, the first was dropped: {cells[0].reason}"
        raise ConfigError(field=f"budgets, {sizes}", reason=reason)
    for rung, budget in {(c.rung, c.budget) for c in plan.kept}:
        setting_checks(config, rung, budget)  # any cell may turn out best, so report impossible checks before it runs
    return plan


def _near_optimum(config: SweepConfig, column: list[Cell]) -> list[Cell]:
    """Drop all but the ``sizes_per_budget`` sizes nearest to the guessed samples per parameter, in logarithm."""
    possible = [c for c in column if c.reason is None]
    if not config.sizes_per_budget or len(possible) <= config.sizes_per_budget:
        return column

    def distance(cell: Cell) -> float:
        ratio = cell.config.samples_seen / cell.params
        return abs(math.log(ratio / config.optimum_samples_per_param))

    near = {c.run_id for c in sorted(possible, key=distance)[: config.sizes_per_budget]}
    return [
        c if c.reason or c.run_id in near else dataclasses.replace(c, reason="away from the guessed optimum")
        for c in column
    ]


def plan_of(config: SweepConfig) -> SweepPlan:
    """Return the plan of a sweep, looking up the number of training pairs if it limits the epochs."""
    records, data = None, config.base.data
    if config.max_epochs and data.source != "scenes":  # without max_epochs a plan needs no data on this machine
        from clip_jax.data.open import open_source

        records = len(open_source(data, "train", config.base.model.image.image_size))
    elif data.source == "scenes" and data.unique_samples:
        records = data.unique_samples
    return make_plan(config, records)


def training_pairs(config: SweepConfig) -> int | None:
    """Return the number of distinct training pairs; None if it is endless, or cannot be counted on this machine."""
    data = config.base.data
    if data.unique_samples:
        return data.unique_samples
    if data.source == "scenes" or any("://" in path for path in data.paths):
        return None
    from clip_jax.data.open import open_source

    try:
        return len(open_source(data, "train", config.base.model.image.image_size))
    except (UserError, OSError):  # a plan needs no data
        return None
