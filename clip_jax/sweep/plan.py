"""The plan of a sweep: every cell, kept or dropped with the reason, before anything runs. Imports no jax."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from clip_jax.config.passes import is_many, passes_number, passes_text
from clip_jax.config.sweep import SweepConfig
from clip_jax.durations import duration_text
from clip_jax.errors import ConfigError, UserError
from clip_jax.sweep.cell import Cell, make_cell, setting_checks
from clip_jax.sweep.trunks import Trunk, with_branches
from clip_jax.types import JsonObject

if TYPE_CHECKING:
    from clip_jax.sweep.run_times import RunTimes

NO_TRUNKS = " trunks: no two runs share steps; a branch begins at a multiple of base.checkpoint_every before its decay"
ARITHMETIC_ONLY = " times are training arithmetic only: start, compilation, data and evaluation of each run come on top"


@dataclass(frozen=True)
class SweepPlan:
    """All cells of a sweep, in the order they run, and the trunks that some of them branch off."""

    config: SweepConfig
    cells: tuple[Cell, ...]
    trunks: tuple[Trunk, ...] = ()

    @property
    def kept(self) -> list[Cell]:
        """Cells that run."""
        return [c for c in self.cells if c.reason is None]

    def rows(self) -> list[JsonObject]:
        """Return one dictionary per cell and trunk, as stored in ``plan.json``."""
        return [{**trunk.row(), "seconds": trunk.seconds} for trunk in self.trunks] + [
            {
                "run_id": c.run_id,
                "rung": c.size,
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
                **({"branch_at": c.branch_at} if c.branch_at else {}),
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
        for c, r in zip(self.cells, self.rows()[len(self.trunks) :], strict=True):
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
        trained = {c: _seconds(c, times, c.trained_flops) for c in kept}
        trunks = sum(times.seconds(t.flops) if times else t.seconds for t in self.trunks)
        spent = sum(c.trained_flops for c in kept) + sum(t.flops for t in self.trunks)
        dearest = {c.budget: max(each[k] for k in kept if k.budget == c.budget) for c in kept}
        cheapest = {c.size: min(each[k] for k in kept if k.size == c.size) for c in kept}
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
        seconds, price = sum(trained.values()) + trunks, config.resources.price_per_device_hour
        measured = f"{slots} at once ({times.text})" if times else None
        assumed = f"at {config.gflops_per_second:g} GFLOP/s per slot, {slots} at once"
        return [
            f" {len(kept)} runs kept, {len(self.cells) - len(kept)} dropped; {spent:.3g} FLOPs, "
            f"about {duration_text(seconds / slots)} {measured or assumed}"
            + (f"; {_cost(seconds, config.resources.devices, price)}" if price else ""),
            *([f" then up to {' and '.join(stages)}: at most {duration_text(later)} more"] if stages else []),
            *self._trunks(spent),
            *self._settings_tried(list(dearest.values())),
            *([] if times else [ARITHMETIC_ONLY]),
        ]

    def _trunks(self, spent: float) -> list[str]:
        """Return lines on what the trunks save and what their checkpoints take, if any.

        ``spent`` are the FLOPs of all steps that are trained, each counted once.
        """
        if not self.trunks:
            return [] if not self.config.trunks else [NO_TRUNKS]
        separate = sum(c.flops for c in self.kept)
        branches, size = sum(c.branch_at > 0 for c in self.kept), sum(t.bytes_kept for t in self.trunks)
        return [
            f" {branches} of them branch off {len(self.trunks)} trunks: separate runs would take {separate:.3g} FLOPs, "
            f"{1 - spent / separate:.0%} are saved; checkpoints kept for branches: {size / 2**20:,.1f} MiB"
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


def _seconds(cell: Cell, times: RunTimes | None, flops: float | None = None) -> float:
    flops = cell.flops if flops is None else flops
    return times.seconds(flops) if times else cell.seconds * flops / cell.flops


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
            column = [make_cell(config, size, budget, seed) for size in config.sizes]
            for i, cell in enumerate(column):
                epochs = cell.config.samples_seen / train_records if train_records else 0.0
                if cell.reason is None and config.max_epochs and epochs > config.max_epochs:
                    reason = f"{epochs:.1f} epochs > max_epochs={config.max_epochs:g}"
                    column[i] = dataclasses.replace(cell, reason=reason)
                elif cell.run_id in seen:
                    column[i] = dataclasses.replace(cell, reason="the same run stands above")
                seen.add(cell.run_id)
            cells += _near_optimum(config, column)
    cells, trunks = with_branches(cells) if config.trunks else (cells, [])
    plan = SweepPlan(config, tuple(cells), tuple(trunks))
    if not plan.kept:
        sizes = "models" if config.models else "rungs"
        reason = f"no cell is left, the first was dropped: {cells[0].reason}"
        raise ConfigError(field=f"budgets, {sizes}", reason=reason)
    for size, budget in {(c.size, c.budget) for c in plan.kept}:
        setting_checks(config, size, budget)  # any cell may turn out best, so report impossible checks before it runs
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
