"""Hold the options of `clip-jax fit`, `compare` and `design`: what to fit to a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Literal, get_args

import numpy as np

from clip_jax.errors import UserError, one_of
from clip_jax.scaling.curves.fit import CURVE_LOSS, Reading
from clip_jax.scaling.curves.laws import CURVE_LAWS
from clip_jax.scaling.fit.loss import HUBER_DELTA, Loss, LossKind, Space
from clip_jax.scaling.laws import EVERY, Law, SaturatingPowerLaw, law_named, with_ceiling

UNITS = {"k": 1e3, "M": 1e6, "G": 1e9, "B": 1e9, "T": 1e12, "P": 1e15, "E": 1e18}
Meaning = Literal["error", "error%", "accuracy", "accuracy%"]
MEANINGS: dict[Meaning, tuple[float, float]] = {  # of y: error = base + sign × y
    "error": (0.0, 1.0), "error%": (0.0, 0.01), "accuracy": (1.0, -1.0), "accuracy%": (1.0, -0.01),
}  # fmt: skip
FrontierKind = Literal["all", "pareto", "binned", "hull"]
FRONTIERS = get_args(FrontierKind)
IGNORED_BY_CURVES = (
    "frontier", "space", "chance", "examples", "at", "weights", "below", "under", "flops_per_param_sample", "approach",
    "then", "through", "constant", "tasks",
)  # fmt: skip
MIN_DELTA = 1e-12  # Huber's; below it residuals drown in rounding


@dataclass(frozen=True)
class TableFit:
    """Options of a fit to a table.

    Attributes:
      laws: keys; the first is reported in full.
      x: ``COLUMN``, ``LAW_COLUMN=COLUMN`` or ``LAW_COLUMN=COLUMN*UNIT`` (a number or k M G B T P E); none: the law's
        own columns.
      y: a column; empty: ``error``, ``error_mean`` or ``loss``, whichever the table has.
      y_is: error, error%, accuracy or accuracy% (a loss is an "error").
      where: ``COLUMN=VALUE`` rows only; numbers are compared as numbers.
      frontier: all, pareto, binned or hull.
      loss, space, delta: of `loss.Loss`; delta None: 0.02, for laws of whole curves 0.001.
      chance: the error of guessing. Laws with a ceiling stop at it; for the others rows above it are left out.
      examples: size of the evaluation set; its binomial scatter is the least that intervals assume (0: unknown).
      fixed: ``NAME=VALUE`` each; ``none`` is the same as nothing.
      at: ``LAW_COLUMN=VALUE,…`` points to forecast.
      weights: a column of weights of the rows; empty: all count alike.
      below: fit only rows below this many FLOPs (or this value of a law's only column) and evaluate on the rest; None:
        fit all.
      group: a column of labels of rows that scatter together; intervals then come from a bootstrap of the groups.
      under: weight of rows above the curve, of `loss.Loss`; below 1 the fit follows the lower edge of a cloud.
      flops_per_param_sample: k of FLOPs = k · parameters · samples, or ``SIZE_COLUMN=k,…``; empty: fitted to the
        table's FLOPs where it has them, else 6.
      approach: 1 or 2 of Hoffmann et al. (2022) instead of a law; 0: a law.
      then, through: key of a link law and the column of its input, the loss: a forecast in two steps.
      constant: columns in which the rows of both steps must have one value; none: ``batch_size`` where the table has
        it; ``("none",)``: nothing is checked.
      tasks: a column that names the task of a row: several tasks are fitted together. The same happens where ``y``
        names several columns, separated by commas.
      curves, warmup_steps, peak, reading: of laws of whole curves: which curves are fitted (none: all that have a
        loss), the warm-up that the table leaves out, and `curves.fit.fit_curves`' reading.
    """

    laws: tuple[str, ...] = ("saturating",)
    x: tuple[str, ...] = ()
    y: str = ""
    y_is: Meaning = "error"
    where: tuple[str, ...] = ()
    frontier: FrontierKind = "all"
    loss: LossKind = "huber"
    space: Space = "log"
    delta: float | None = None
    chance: float | None = None
    examples: int = 0
    fixed: tuple[str, ...] = ()
    at: tuple[str, ...] = ()
    weights: str = ""
    below: float | None = None
    group: str = ""
    under: float = 1.0
    flops_per_param_sample: str = ""
    approach: int = 0
    then: str = ""
    through: str = ""
    constant: tuple[str, ...] = ()
    tasks: str = ""
    curves: tuple[str, ...] = ()
    warmup_steps: int | None = None
    peak: float | None = None
    reading: Reading = "first-step"

    def __post_init__(self) -> None:
        one_of("y-is", self.y_is, get_args(Meaning))
        one_of("frontier", self.frontier, FRONTIERS)
        if self.examples and (self.space != "log" or self.examples < 0):
            raise UserError(field="--examples", value=self.examples, reason="must be above 0, with --space=log")
        Loss(self.loss, self.space, HUBER_DELTA if self.delta is None else self.delta)
        if self.delta is not None and not MIN_DELTA <= self.delta < np.inf:
            raise UserError(field="--delta", value=self.delta, reason=f"must be at least {MIN_DELTA:g} and finite")
        if self.below is not None and not 0 < self.below < np.inf:
            raise UserError(field="--below", value=self.below, reason="must be above 0 and finite")
        if self.chance is not None and not 0 < self.chance < np.inf:
            raise UserError(field="--chance", value=self.chance, reason="must be above 0 and finite")
        if not 0 < self.under <= 1:
            raise UserError(field="--under", value=self.under, reason="must be above 0 and at most 1")
        if self.under < 1 and self.loss == "absolute":
            reason, hint = "has no form for absolute losses", "--loss=huber with a small --delta is nearly absolute"
            raise UserError(field="--under", value=self.under, reason=reason, hint=hint)
        if self.approach not in (0, 1, 2):
            third = "approach 3 is a law: --law=chinchilla" if self.approach == 3 else None
            raise UserError(field="--approach", value=self.approach, reason="must be 1 or 2", hint=third)
        if bool(self.then) != bool(self.through):
            present, lacking = ("--then", "--through") if self.then else ("--through", "--then")
            raise UserError(field=present, value=self.then or self.through, reason=f"needs {lacking}")
        if self.then and law_named(self.then).columns != ("loss",):
            links = ", ".join(law.key for law in EVERY if law.columns == ("loss",))
            raise UserError(field="--then", value=self.then, reason=f"must be a law of a loss: {links}")
        if self.constant and not self.then:
            raise UserError(field="--constant", value=self.constant[0], reason="needs --then and --through")
        modes = {"--approach": self.approach, "--then": self.then, "--tasks": self.tasks}
        if len(chosen := [m for m, value in modes.items() if value]) > 1:
            raise UserError(field=chosen[0], value=modes[chosen[0]], reason=f"cannot be combined with {chosen[1]}")
        of_curves = [key in CURVE_LAWS for key in self.laws]
        if any(of_curves) and not all(of_curves):
            reason = "laws of whole curves and of runs cannot be compared"
            raise UserError(field="--law", value=",".join(self.laws), reason=reason)
        if any(of_curves):
            refuse_ignored(self, IGNORED_BY_CURVES, f"--law={self.laws[0]}")
            one_of("--reading", self.reading, get_args(Reading))
            return
        refuse_ignored(self, ("curves", "warmup_steps", "peak", "reading"), "any law but those of whole curves")
        for key in self.laws:
            law_named(key)

    @property
    def of_curves(self) -> bool:
        """Whether its laws are of whole learning curves."""
        return self.laws[0] in CURVE_LAWS

    @property
    def loss_function(self) -> Loss:
        """The loss that the fit minimizes."""
        default = CURVE_LOSS.delta if self.of_curves else HUBER_DELTA
        return Loss(self.loss, self.space, default if self.delta is None else self.delta, self.under)


def refuse_ignored(what: TableFit, names: Sequence[str], mode: str) -> None:
    """Raise UserError where an option in ``names`` (attributes of `TableFit`) was set that ``mode`` would ignore."""
    options = {"laws": "law", "fixed": "fix"}
    for f in fields(what):
        value = getattr(what, f.name)
        if f.name in names and value != f.default:
            shown = ",".join(value) if isinstance(value, tuple) else value
            option = f"--{options.get(f.name, f.name).replace('_', '-')}"
            raise UserError(field=option, value=shown, reason=f"would be ignored with {mode}")


def law_of(what: TableFit, key: str = "") -> Law:
    """Return one of its laws, the first by default, with the ceiling that ``chance`` gives.

    Args:
      what: the options of the fit.
      key: of the law.
    """
    law, _ = with_ceiling(law_named(key or what.laws[0]), what.chance)
    return replace(law, ceiling=what.chance) if isinstance(law, SaturatingPowerLaw) else law


def fixed_values(what: TableFit) -> dict[str, float]:
    """Return the parameters that are held, {name: value}.

    Args:
      what: the fit that is asked for; ``fixed`` names them.

    Raises:
      UserError: a value is no number.
    """
    asked = () if what.fixed == ("none",) else what.fixed
    return {k: number(v, f"--fix={k}") for k, v in pairs(asked, "fix").items()}


def flops_of(text: str) -> float:
    """Return the FLOPs of a ``--at`` given as VALUE or flops=VALUE. Raises UserError unless above 0 and finite."""
    value = number(text.removeprefix("flops="), "--at")
    if not 0 < value < np.inf:
        raise UserError(field="--at", value=text, reason="must be above 0 and finite")
    return value


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


def number(text: str, option: str) -> float:
    """Read a number given for ``option``. Raises UserError."""
    try:
        return float(text)
    except ValueError:
        raise UserError(field=option, value=text, reason="must be a number") from None


def point_of(law: Law, text: str) -> dict[str, float]:
    """Read a point given as text: VALUE, or LAW_COLUMN=VALUE,….

    Args:
      law: whose columns the point has.
      text: of ``--at``.

    Raises:
      UserError: a column is missing, unknown or not a number.
    """
    if "=" not in text and len(law.columns) == 1:
        return {law.columns[0]: number(text, "--at")}
    if "=" not in text:
        hint = f"for its optimum at a budget, --at=flops={text}" if "samples_seen" in law.columns else None
        raise UserError(field="--at", value=text, reason=f"must give {', '.join(law.columns)}", hint=hint)
    point = {k: number(v, f"--at={k}") for k, v in pairs(text.split(","), "at").items()}
    if set(point) != set(law.columns):
        raise UserError(field="--at", value=text, reason=f"must give {', '.join(law.columns)}")
    return point


def asks_budget(law: Law, text: str) -> bool:
    """Return whether a point of ``--at`` is a budget in FLOPs for a law of sizes and samples."""
    names = {item.partition("=")[0] for item in text.split(",")}
    return "samples_seen" in law.columns and "flops" not in law.columns and "flops" in names


def budget_of(law: Law, text: str) -> tuple[float, dict[str, float]]:
    """Read ``flops=VALUE,…`` as (FLOPs, values of the columns that are neither sizes nor samples). Raises UserError."""
    values = {k: number(v, f"--at={k}") for k, v in pairs(text.split(","), "at").items()}
    others = [c for c in law.columns if c != "samples_seen" and not c.startswith("params")]
    if set(values) != {"flops", *others}:
        reason = f"must give {', '.join(['flops', *others])}, or {', '.join(law.columns)}"
        raise UserError(field="--at", value=text, reason=reason)
    if not 0 < min(values.values()) <= max(values.values()) < np.inf:
        raise UserError(field="--at", value=text, reason="must be above 0 and finite")
    return values.pop("flops"), values
