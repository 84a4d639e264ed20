"""Laws by name. A new law is one class, added to `EVERY`."""

from __future__ import annotations

from clip_jax.config import UserError
from clip_jax.scaling.laws.base import Law, Parameter
from clip_jax.scaling.laws.compute import (
    BoundedPowerLaw,
    BrokenPowerLaw,
    PowerLaw,
    PowerLawFromChance,
    SaturatingPowerLaw,
    ShiftedPowerLaw,
    SigmoidLogC,
)
from clip_jax.scaling.laws.link import ExponentialLink, SigmoidLink
from clip_jax.scaling.laws.size_data import BoundedChinchilla, Chinchilla, ClipTowers, DataRepetition, OverTraining

# forms that a report compares, the simplest first: those that tie in extrapolation are ranked in this order
LAWS: tuple[Law, ...] = (PowerLaw(), SaturatingPowerLaw(), SigmoidLogC())
EVERY: tuple[Law, ...] = (
    *LAWS,
    ShiftedPowerLaw(),
    PowerLawFromChance(),
    BoundedPowerLaw(),
    BrokenPowerLaw(),
    Chinchilla(),
    BoundedChinchilla(),
    OverTraining(),
    ClipTowers(),
    DataRepetition(),
    ExponentialLink(),
    SigmoidLink(),
)

__all__ = [
    "EVERY", "LAWS", "BoundedChinchilla", "BoundedPowerLaw", "BrokenPowerLaw", "Chinchilla", "ClipTowers",
    "DataRepetition", "ExponentialLink", "Law", "OverTraining", "Parameter", "PowerLaw", "PowerLawFromChance",
    "SaturatingPowerLaw", "ShiftedPowerLaw", "SigmoidLink", "SigmoidLogC", "law_named",
]  # fmt: skip


def law_named(key: str) -> Law:
    """The law of a key or name. Raises UserError that lists the keys."""
    for law in EVERY:
        if key in (law.key, law.name):
            return law
    raise UserError(f"law={key!r}: must be one of {', '.join(law.key for law in EVERY)}")
