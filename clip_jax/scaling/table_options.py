"""What is to be fitted to a table, as the options of `clip-jax fit`, `compare` and `design` say it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from clip_jax.checks import UserError, one_of
from clip_jax.scaling.laws import Law, law_named
from clip_jax.scaling.loss import Loss

UNITS = {"k": 1e3, "M": 1e6, "G": 1e9, "B": 1e9, "T": 1e12, "P": 1e15, "E": 1e18}
MEANINGS = {"error": (0.0, 1.0), "error%": (0.0, 0.01), "accuracy": (1.0, -1.0), "accuracy%": (1.0, -0.01)}
FRONTIERS = ("all", "pareto", "binned", "hull")
LEAST_DELTA = 1e-12  # Huber's; below it residuals drown in rounding


@dataclass(frozen=True)
class TableFit:
    """What is to be fitted to a table.

    Attributes:
      laws: keys; the first is reported in full.
      x: ``COLUMN``, ``LAW_COLUMN=COLUMN`` or ``LAW_COLUMN=COLUMN*UNIT`` (a number or k M G B T P E); none: the law's
        own columns.
      y: a column; empty: ``error``, ``error_mean`` or ``loss``, whichever is there.
      y_is: error, error%, accuracy or accuracy% (a loss is an "error").
      where: ``COLUMN=VALUE`` rows only; numbers are compared as numbers.
      frontier: all, pareto, binned or hull.
      loss, space, delta: of `loss.Loss`.
      chance: the error of guessing. Laws with a ceiling stop there; for the others rows above it are left out.
      examples: of the evaluation set; its binomial scatter is the least that intervals assume (0: unknown).
      fixed: ``NAME=VALUE``, or ``none`` to let few points tell the asymptote.
      at: ``LAW_COLUMN=VALUE,…`` points to forecast.
      weights: a column of weights of the rows; empty: all count alike.
      below: fit only rows below this many FLOPs (or this value of a law's only column), judge the rest; None: fit all.
      group: a column of labels of rows that scatter together; intervals then come from a bootstrap of the groups.
    """

    laws: tuple[str, ...] = ("saturating",)
    x: tuple[str, ...] = ()
    y: str = ""
    y_is: str = "error"
    where: tuple[str, ...] = ()
    frontier: str = "all"
    loss: str = "huber"
    space: str = "log"
    delta: float = 0.02
    chance: float | None = None
    examples: int = 0
    fixed: tuple[str, ...] = ()
    at: tuple[str, ...] = ()
    weights: str = ""
    below: float | None = None
    group: str = ""

    def __post_init__(self) -> None:
        one_of("y-is", self.y_is, tuple(MEANINGS))
        one_of("frontier", self.frontier, FRONTIERS)
        if self.examples and (self.space != "log" or self.examples < 0):
            raise UserError(
                f"examples={self.examples}: must be above 0, with space=log", field="--examples", value=self.examples
            )
        Loss(self.loss, self.space, self.delta)
        if not LEAST_DELTA <= self.delta < np.inf:
            raise UserError(field="--delta", value=self.delta, reason=f"must be at least {LEAST_DELTA:g} and finite")
        if self.below is not None and not 0 < self.below < np.inf:
            raise UserError(field="--below", value=self.below, reason="must be above 0 and finite")
        if self.chance is not None and not 0 < self.chance < np.inf:
            raise UserError(field="--chance", value=self.chance, reason="must be above 0 and finite")
        for key in self.laws:
            law_named(key)


def law_of(what: TableFit, key: str = "") -> Law:
    """Return one of its laws, the first by default, with the ceiling that ``chance`` gives."""
    law = law_named(key or what.laws[0])
    return replace(law, **{"ceiling": what.chance}) if what.chance is not None and hasattr(law, "ceiling") else law


def fixed_values(what: TableFit) -> dict[str, float] | None:
    """Return the parameters held; None leaves the choice to `fit_law`."""
    if not what.fixed:
        return None
    asked = () if what.fixed == ("none",) else what.fixed
    return {k: number(v, f"--fix={k}") for k, v in pairs(asked, "fix").items()}


def pairs(items: Sequence[str], option: str) -> dict[str, str]:
    """Split ``NAME=VALUE`` items of an option. Raises UserError."""
    out: dict[str, str] = {}
    for item in items:
        name, equals, value = item.partition("=")
        if not (name and equals and value):
            raise UserError(field=f"--{option}", value=item, reason="must be NAME=VALUE")
        if name in out:
            raise UserError(field=f"--{option}", value=item, reason=f"{name} is given twice")
        out[name] = value
    return out


def number(text: str, said: str) -> float:
    """Read a number of an option, which ``said`` names. Raises UserError."""
    try:
        return float(text)
    except ValueError:
        raise UserError(f"{said}: {text!r} is not a number", field=said, value=text, reason="not a number") from None


def point_of(law: Law, text: str) -> dict[str, float]:
    """Read a point given as text: VALUE, or LAW_COLUMN=VALUE,… Raises UserError."""
    if "=" not in text and len(law.columns) == 1:
        return {law.columns[0]: number(text, "--at")}
    found = {k: number(v, f"--at={k}") for k, v in pairs(text.split(","), "at").items()}
    if set(found) != set(law.columns):
        raise UserError(field="--at", value=text, reason=f"must give {', '.join(law.columns)}")
    return found
