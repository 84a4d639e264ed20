"""Named rules by which a sweep's settings follow a model's width and its budget. Loads no jax.

The way of Radford et al., 2021: settings are searched on the smallest model and a short horizon, and carried to the
others by rules. `sweep.rules` fits their exponents to records.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from clip_jax.errors import ConfigError, at_least, between, one_of

LR_RULES = ("width_power", "constant", "mup")
RULED = ("lr", "batch", "warmup", "decay")  # what has a power of the budget, NAME_power, and checks, NAME_checks
POWERS = tuple(f"{name}_power" for name in RULED)


@dataclass(frozen=True)
class BudgetRules:
    """Settings as powers of the budget: value at base_budget × (budget / base_budget)**power."""

    base_budget: float = 0.0  # FLOPs at which base_lr, warmup_fraction, base.batch_size and the weight decay hold
    lr_power: float = 0.0
    batch_power: float = 0.0  # batches are base.batch_size times a power of two
    warmup_power: float = 0.0  # of the share of the steps
    decay_power: float = 0.0  # of base.optim.weight_decay

    def __post_init__(self) -> None:
        at_least("by_budget.base_budget", self.base_budget, 0)
        for name in POWERS:
            between(f"by_budget.{name}", getattr(self, name), -2, 2)
        if any(getattr(self, name) for name in POWERS) != (self.base_budget > 0):
            raise ConfigError(
                f"by_budget.base_budget={self.base_budget:g}: must be above 0 with one of {', '.join(POWERS)}, and is "
                f"ignored without"
            )

    def factor(self, name: str, budget: float) -> float:
        """What the setting of the power ``name`` is multiplied by at ``budget``."""
        power = getattr(self, name)
        return (budget / self.base_budget) ** power if power else 1.0


def check_multiples(name: str, values: tuple[float, ...], *, of_two: bool = False) -> None:
    """Raises ConfigError unless these multiples of a setting can be tried: above 0, distinct, none of them 1; with
    ``of_two`` powers of two."""
    if len(set(values)) != len(values):
        raise ConfigError(f"{name}={values}: no repeats")
    for value in values:
        if not 0 < value < math.inf or value == 1:
            raise ConfigError(f"{name}={values}: multiples must be above 0 and finite, and 1 is the run itself")
        if of_two and math.frexp(value)[0] != 0.5:
            raise ConfigError(f"{name}={values}: must be powers of two, as 0.5 or 4")


def check_lr_rule(rule: str, parametrisation: str, width_fields_at_default: bool) -> None:
    """Raises ConfigError when the rule is unknown, does not fit the parametrisation, or would ignore a setting."""
    one_of("lr_rule", rule, LR_RULES)
    if (rule == "mup") != (parametrisation == "mup"):
        raise ConfigError(
            f"lr_rule={rule!r}: base.model.parametrisation.kind={parametrisation!r}; each needs the other to be 'mup', "
            f"whose table holds the rates"
        )
    if rule != "width_power" and not width_fields_at_default:
        raise ConfigError(f"base_width, lr_width_power: ignored with lr_rule={rule!r}")
