"""Rules that scale a sweep's hyperparameters with model width and FLOPs budget. Loads no jax.

This follows Radford et al., 2021: hyperparameters are tuned on the smallest model over a short horizon, and rules carry
them over to the others. `sweep.analysis.hyperparameter_scaling` fits the exponents to finished runs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from clip_jax.errors import ConfigError, at_least, between

LrRule = Literal["width_power", "constant", "mup"]
# settings with an exponent of the budget, NAME_power, and multiples to try, NAME_multipliers
RULED = ("lr", "batch", "warmup", "weight_decay")
# setting -> kind of the runs that try multiples of it, as in plan.json and runs.csv
CheckKind = Literal["lr_check", "batch_check", "warmup_check", "decay_check"]
CHECK_KINDS: dict[str, CheckKind] = {
    "lr": "lr_check", "batch": "batch_check", "warmup": "warmup_check", "weight_decay": "decay_check",
}  # fmt: skip
POWERS = tuple(f"{name}_power" for name in RULED)


@dataclass(frozen=True)
class BudgetRules:
    """Hyperparameters as powers of the FLOPs budget: value at base_budget × (budget / base_budget)**power."""

    base_budget: float = 0.0  # FLOPs at which base_lr, warmup_fraction, base.batch_size and the weight decay hold
    lr_power: float = 0.0  # of base_lr
    batch_power: float = 0.0  # batch sizes are base.batch_size times a power of two
    warmup_power: float = 0.0  # of warmup_fraction, the warm-up's share of the steps
    weight_decay_power: float = 0.0  # of base.optim.weight_decay

    def __post_init__(self) -> None:
        at_least("compute_scaling.base_budget", self.base_budget, 0)
        for name in POWERS:
            between(f"compute_scaling.{name}", getattr(self, name), -2, 2)
        if any(getattr(self, name) for name in POWERS) != (self.base_budget > 0):
            reason = f"must be above 0 if one of {', '.join(POWERS)} is set, else left at its default"
            raise ConfigError(field="compute_scaling.base_budget", value=self.base_budget, reason=reason)

    def factor(self, name: str, budget: float) -> float:
        """Return the factor at ``budget`` for the setting whose exponent is the field ``name``."""
        power = getattr(self, name)
        return (budget / self.base_budget) ** power if power else 1.0


def check_multiples(name: str, values: tuple[float, ...], *, of_two: bool = False) -> None:
    """Check the multiples of a setting to try: finite, above 0, distinct, not 1; with ``of_two`` powers of two.

    Raises ConfigError otherwise.
    """
    if len(set(values)) != len(values):
        raise ConfigError(field=name, value=values, reason="must not repeat a value")
    for value in values:
        if not 0 < value < math.inf or value == 1:
            reason = "must be above 0, finite and other than 1, which is the run itself"
            raise ConfigError(field=name, value=values, reason=reason)
        if of_two and math.frexp(value)[0] != 0.5:
            raise ConfigError(field=name, value=values, reason="must be powers of two, such as 0.5 or 4")


def check_lr_rule(rule: str, parametrization: str, width_fields_at_default: bool) -> None:
    """Check the learning-rate rule.

    Raises ConfigError if it contradicts ``parametrization``, or would ignore a width field.
    """
    if (rule == "mup") != (parametrization == "mup"):
        reason = f"does not fit base.model.parametrization.kind={parametrization!r}"
        raise ConfigError(field="lr_rule", value=rule, reason=reason, hint="set both to 'mup', or neither")
    if rule != "width_power" and not width_fields_at_default:
        raise ConfigError(field="base_width, lr_width_power", reason=f"would be ignored with lr_rule={rule!r}")
