"""Laws by name. To add a law, write one class and add it to `EVERY`, or to another package (`plugins`)."""

from __future__ import annotations

from dataclasses import replace

from clip_jax.errors import UserError
from clip_jax.plugins import check_name, load
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
from clip_jax.scaling.laws.size_data import (
    BoundedChinchilla,
    BoundedRepetition,
    Chinchilla,
    ClipTowers,
    DataRepetition,
    OverTraining,
)

# forms that a report compares and averages, the simplest first: those that tie in extrapolation rank in this order
LAWS: tuple[Law, ...] = (PowerLaw(), SaturatingPowerLaw(), SigmoidLogC(), BoundedPowerLaw(), ShiftedPowerLaw())
EVERY: tuple[Law, ...] = (
    *LAWS,
    PowerLawFromChance(),
    BrokenPowerLaw(),
    Chinchilla(),
    BoundedChinchilla(),
    BoundedRepetition(),
    OverTraining(),
    ClipTowers(),
    DataRepetition(),
    ExponentialLink(),
    SigmoidLink(),
)

__all__ = [
    "EVERY", "LAWS", "BoundedChinchilla", "BoundedPowerLaw", "BoundedRepetition", "BrokenPowerLaw", "Chinchilla",
    "ClipTowers", "DataRepetition", "ExponentialLink", "Law", "OverTraining", "Parameter", "PowerLaw",
    "PowerLawFromChance", "SaturatingPowerLaw", "ShiftedPowerLaw", "SigmoidLink", "SigmoidLogC", "compared_laws",
    "law_named", "with_ceiling",
]  # fmt: skip


def compared_laws(chance: float | None) -> tuple[Law, ...]:
    """Return the forms that a report compares: `LAWS`, and the power law from chance where chance is known.

    Args:
      chance: the error of guessing, or None.

    Returns:
      The laws, the simplest first.
    """
    return LAWS if chance is None else (*LAWS, PowerLawFromChance(chance))


def with_ceiling(law: Law, chance: float | None) -> tuple[Law, dict[str, float]]:
    """Limit a law to the error of guessing.

    Args:
      law: the form.
      chance: the error of guessing, or None.

    Returns:
      (the law with its ceiling at ``chance``, the parameters that are known from it by name); the law itself and no
      parameters without chance or where the form has no ceiling.
    """
    if chance is None:
        return law, {}
    if isinstance(law, PowerLawFromChance):
        law = replace(law, ceiling=chance)
    return law, {law.above: chance} if law.above and law.has_ceiling else {}


def law_named(key: str) -> Law:
    """Return a law by key or name.

    Args:
      key: the law's ``key``, as on the command line, or its ``name``; of a law that an installed package adds, the
        ``key``.

    Raises:
      UserError: no such law; the message lists the keys.
    """
    for law in EVERY:
        if key in (law.key, law.name):
            return law
    check_name("law", key, "laws", [law.key for law in EVERY])
    added = load("law", key, "laws")()
    if not isinstance(added, Law) or added.key != key:
        raise UserError(field="law", value=key, reason=f"the entry point must be a Law whose key is {key!r}")
    return added
