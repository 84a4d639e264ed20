"""A cell of a sweep: one run, with its size, its budget and the settings that follow from them. Imports no jax."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Literal

from clip_jax import flops
from clip_jax.config import RunConfig
from clip_jax.config.hyperparameter_rules import CHECK_KINDS, RULED, CheckKind
from clip_jax.config.io import run_id
from clip_jax.config.presets import ladder, sized
from clip_jax.config.sweep import LONGEST_WARMUP, SweepConfig
from clip_jax.errors import ConfigError

CellKind = Literal["cell", "second_seed", "search"] | CheckKind
LOG_ROWS_PER_RUN = 50  # in metrics.jsonl


@dataclass(frozen=True)
class Cell:
    """One (model, budget, seed). ``reason`` says why it was dropped; None if it is kept."""

    size: float  # one of `SweepConfig.sizes`; plans and tables call it ``rung``
    budget: float
    kind: CellKind
    config: RunConfig
    flops: float
    seconds: float  # estimated
    reason: str | None = None
    branch_at: int = 0  # steps taken from a trunk; 0: it trains all of them

    @property
    def trained_flops(self) -> float:
        """FLOPs of the steps that the run trains itself, without those of a trunk."""
        return flops_after(self.branch_at, self.config.steps, self.flops)

    @property
    def run_id(self) -> str:
        """Name of the run's directory."""
        return run_id(self.config)

    @property
    def params(self) -> int:
        """Number of parameters of the model."""
        return flops.params(self.config.model).total


def flops_after(step: int, steps: int, total: float) -> float:
    """Return the FLOPs of the steps after ``step`` of a run of so many steps that takes ``total`` FLOPs."""
    return total * (1 - step / max(steps, 1))  # a damaged record may say 0 steps


def make_cell(
    config: SweepConfig,
    size: float,
    budget: float,
    seed: int,
    *,
    kind: CellKind = "cell",
    lr_factor: float = 1.0,
    weight_decay_factor: float = 1.0,
    warmup_factor: float = 1.0,
    batch_factor: float = 1.0,
) -> Cell:
    """Return the run that spends a budget on a size, to the nearest whole step.

    Learning rate, batch size, warm-up and weight decay follow ``lr_rule`` and ``compute_scaling``, each times its
    factor.

    Args:
      config: of the sweep.
      size: one of its `sizes`: a rung of the ladder, or with ``models`` the index of one.
      budget: FLOPs.
      seed: is added to base.seed.
      kind: what the run is for.
      lr_factor, weight_decay_factor, warmup_factor, batch_factor: multiples of the usual values.
    """
    base, rules = config.base, config.compute_scaling
    model = sized(config.models[int(size)], base.model) if config.models else ladder(size, base.model)
    batch = max(1, round(base.batch_size * 2.0 ** round(math.log2(rules.factor("batch_power", budget)))))
    if batch * batch_factor % 1:
        raise ConfigError(field="batch_size", value=batch * batch_factor, reason="must be a whole number of pairs")
    batch = int(batch * batch_factor)
    step_flops = flops.training_flops(model, batch, batch, base.init_from.freeze_tower).total
    steps = max(2, round(budget / step_flops))
    if config.trunks:
        warmup, log_every = min(base.optim.warmup_of(steps), steps - 1), base.log_every
    else:
        share = min(config.warmup_fraction * rules.factor("warmup_power", budget) * warmup_factor, LONGEST_WARMUP)
        warmup, log_every = min(max(1, round(share * steps)), steps - 1), max(1, steps // LOG_ROWS_PER_RUN)
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
        log_every=log_every,
    )
    total = steps * step_flops
    reason = None
    if config.trunks and base.optim.warmup_of(steps) >= steps:
        reason = f"too few steps: {steps} for base.optim.warmup_steps={base.optim.warmup_steps}"
    if budget / step_flops < config.min_steps:
        reason = f"too few steps: {budget / step_flops:.0f} < min_steps={config.min_steps}"
    return Cell(size, budget, kind, run, total, total / (config.gflops_per_second * 1e9), reason)


def setting_checks(config: SweepConfig, size: float, budget: float) -> list[Cell]:
    """Return the runs of all ``*_multipliers`` but those of the learning rate at one (size, budget), each run once.

    A batch that leaves fewer than ``min_steps`` steps is dropped with that reason.

    Raises:
      ConfigError: a batch is no whole number of pairs, or the base's other settings do not allow a value.
    """
    cells: dict[str, Cell] = {}  # short warm-ups may round to the same step
    for name in RULED[1:]:
        for factor in getattr(config, f"{name}_multipliers"):
            factors = {f"{name}_factor": factor}
            try:
                cell = make_cell(config, size, budget, config.seeds[0], kind=CHECK_KINDS[name], **factors)
            except ConfigError as error:
                raise ConfigError(field=f"{name}_multipliers", reason=f"{factor:g} × the usual: {error}") from None
            cells.setdefault(cell.run_id, cell)
    return list(cells.values())


def _six_digits(value: float) -> float:
    return float(f"{value:.6g}")  # so few digits are read back as they were written
