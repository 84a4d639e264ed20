"""The base class of laws: named parameters, one formula, and the change of units that centered logarithms need.

A law is written once, as ``curve(p, x, xp)``: ``p`` holds its parameters by name, ``x`` the natural logarithm of each
column, ``xp`` is numpy or jax.numpy (fits differentiate it). Fits run on columns divided by their geometric means.
The formula must keep its form under that change of unit; ``carries`` declares how a parameter changes with it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import product
from types import ModuleType
from typing import ClassVar

import numpy as np

from clip_jax.errors import UserError

Array = np.ndarray
Logs = dict[str, Array]
Values = Mapping[str, Array] | Mapping[str, float]  # of parameters, by name
MAX_STARTS = 5000


@dataclass(frozen=True)
class Parameter:
    """A parameter of a law. ``low`` and ``high`` bound its value in centered units (of ``max(y)`` where ``of_y``).

    log: fitted as ln(value), so it stays above 0.
    carries: (column, power) pairs: value = centered value · Π reference^power; a power may be another parameter.
    latex: its symbol in a LaTeX formula.
    """

    name: str
    meaning: str
    low: float
    high: float
    log: bool = False
    of_y: bool = False
    carries: tuple[tuple[str, float | str], ...] = ()
    latex: str = ""


def amplitude(name: str, meaning: str, *carries: tuple[str, float | str], latex: str = "") -> Parameter:
    """Return a factor above 0, fitted as its logarithm."""
    return Parameter(name, meaning, 1e-26, 1e26, log=True, carries=carries, latex=latex)


def exponent(name: str, meaning: str, low: float = 1e-3, high: float = 3.0, latex: str = "") -> Parameter:
    """Return the power of a column, in its usual range."""
    return Parameter(name, meaning, low, high, latex=latex)


IRREDUCIBLE = Parameter("E", "error that nothing removes", 0.0, 1.0, of_y=True)


@dataclass(frozen=True)
class General:
    """A law that contains another as a special case.

    law: the larger one. held: theta of its parameters that the special case lacks. names: parameter of the special case
    -> its name in the larger law, where they differ.
    """

    law: Law
    held: Mapping[str, float]
    names: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Law:
    """Base class of all laws. A subclass sets the class variables and implements ``curve`` and ``grid``.

    key: its name on a command line. name: in words. columns: its variables, by the names of the table's columns.
    parameters: in the order of ``theta``. asymptote: the parameter that few points cannot determine, if the law has
    one. exponent_name: the parameter that a summary shows with its interval.
    template: the formula with ``{name}`` for each parameter; ``latex_template`` the same with ``<name>``.
    same_unit: column -> the column whose reference it shares.
    offset, amplitudes: y = offset + terms, each proportional to its amplitude (needed by `through`).
    below, above: parameters that lie below and above every y, without being reached.
    has_ceiling: y never exceeds the error of guessing, so rows above it are noise.
    """

    key: ClassVar[str]
    name: ClassVar[str]
    columns: ClassVar[tuple[str, ...]] = ("flops",)
    parameters: ClassVar[tuple[Parameter, ...]]
    asymptote: ClassVar[str | None] = None
    exponent_name: ClassVar[str] = "b"
    template: ClassVar[str]
    latex_template: ClassVar[str]
    same_unit: ClassVar[Mapping[str, str]] = {}
    offset: ClassVar[str | None] = None
    amplitudes: ClassVar[tuple[str, ...]] = ()
    below: ClassVar[str | None] = None
    above: ClassVar[str | None] = None
    has_ceiling: ClassVar[bool] = False

    def curve(self, p: Values, x: Values, xp: ModuleType) -> Array:
        """Evaluate the law.

        Args:
          p: parameters by name.
          x: ln(column) by column; parameters and columns have one shape or broadcast.
          xp: numpy or jax.numpy.

        Returns:
          y, of the broadcast shape.
        """
        raise NotImplementedError

    def grid(self, x: Logs, y: Array) -> list[list[float]]:
        """Return candidate values per parameter, in centered units; their product is screened for starts.

        Args:
          x: centered ln(column) [n] by column.
          y: [n], above 0.
        """
        raise NotImplementedError

    @property
    def general(self) -> General | None:
        """The law that contains this one, whose compiled program it may share; None: it has its own."""
        return None

    @property
    def replaced(self) -> str:
        """The parameter that `through` computes from the others; empty: the law has no such form."""
        return self.amplitudes[0] if self.amplitudes else ""

    def through(self, p: Mapping[str, Array], at: Values, y: Array, xp: ModuleType) -> dict[str, Array]:
        """Change the parameters so that the curve passes through one point.

        All amplitudes are multiplied by one factor, so the first may be held while the others are fitted.

        Args:
          p: parameters by name, as `curve` takes them.
          at: ln(column) of the point.
          y: the value at that point; NaN or infinite parameters are returned where the form cannot reach it.
          xp: numpy or jax.numpy.

        Returns:
          All parameters by name.
        """
        base = p[self.offset] if self.offset else 0.0
        factor = (y - base) / (self.curve(p, at, xp) - base)
        return {**p, **{name: p[name] * factor for name in self.amplitudes}}

    def inverse(self, values: Values, y: Array) -> Array:
        """Return the column's value at which the law gives y.

        Args:
          values: of the parameters, in the table's units, by name; numbers or arrays.
          y: the error or loss.

        Raises:
          UserError: the law has no inverse.
        """
        raise UserError(field=self.name, reason="has no inverse")

    # shared by all laws

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the parameters, in the order of theta."""
        return tuple(p.name for p in self.parameters)

    @property
    def formula(self) -> str:
        """The formula as text, with the parameters' names."""
        return self.template.format(**{n: n for n in self.names})

    @property
    def latex(self) -> str:
        """The formula in LaTeX, with the parameters' symbols."""
        out = self.latex_template
        for p in self.parameters:
            out = out.replace(f"<{p.name}>", p.latex or p.name)
        return out

    def text(self, values: Mapping[str, float], digits: int = 4) -> str:
        """Return the formula with numbers in it; the minus of an exponent below 0 cancels with the formula's own.

        Args:
          values: of the parameters, by name.
          digits: significant digits.
        """
        return self.template.format(**{n: f"{values[n]:.{digits}g}" for n in self.names}).replace("--", "")

    def index(self, name: str) -> int:
        """Return the index of a parameter in theta.

        Args:
          name: of the parameter.

        Raises:
          UserError: the law lacks it.
        """
        if name not in self.names:
            reason = f"must be one of its parameters {', '.join(self.names)}"
            raise UserError(source=self.name, field=name, reason=reason)
        return self.names.index(name)

    def unpack(self, theta: Array, xp: ModuleType) -> dict[str, Array]:
        """Return the values in centered units by name, each [...], of theta [..., p].

        Args:
          theta: what the solver fits: logarithms of positive parameters, other parameters as they are.
          xp: numpy or jax.numpy.
        """
        fitted = [theta[..., i] for i in range(len(self.parameters))]
        return {p.name: xp.exp(t) if p.log else t for p, t in zip(self.parameters, fitted, strict=True)}

    def predict(self, theta: Array, x: Mapping[str, Array]) -> Array:
        """Return y [..., n] of theta [..., p] at centered ln(columns) [n], in numpy.

        Args:
          theta: as in `unpack`.
          x: ln(column / its reference), by column.
        """
        values = {k: v[..., None] for k, v in self.unpack(np.asarray(theta, float), np).items()}
        with np.errstate(over="ignore"):
            return self.curve(values, {c: np.asarray(x[c], float) for c in self.columns}, np)

    def _carried(self, p: Parameter, values: Values, references: Mapping[str, float]) -> Array | float:
        powers = ((c, values[e] if isinstance(e, str) else e) for c, e in p.carries)
        total: Array | float = 0.0
        for c, power in powers:
            total = total + power * math.log(references[c])
        return total

    def describe(self, theta: Array, references: Mapping[str, float]) -> dict[str, Array]:
        """Return the values of theta [..., p] in the units of the table, by name, each [...].

        Args:
          theta: as in `unpack`.
          references: of the columns, as `references` gives them.
        """
        values = self.unpack(np.asarray(theta, float), np)
        with np.errstate(over="ignore"):
            return {
                p.name: values[p.name] * np.exp(self._carried(p, values, references)) if p.carries else values[p.name]
                for p in self.parameters
            }

    def theta(self, values: Mapping[str, float], references: Mapping[str, float]) -> Array:
        """Return theta of values in the units of the table: float64 [p], the inverse of `describe`.

        Args:
          values: of the parameters, by name.
          references: of the columns, as `references` gives them.
        """
        plain = {p.name: float(values[p.name]) for p in self.parameters}
        out = []
        for p in self.parameters:
            carried = self._carried(p, plain, references) if p.carries else 0.0
            with np.errstate(divide="ignore"):
                out.append(np.log(plain[p.name]) - carried if p.log else plain[p.name] * np.exp(-carried))
        return np.array(out)

    def references(self, columns: Mapping[str, Array]) -> dict[str, float]:
        """Return the geometric mean of each column; columns of one unit share one.

        Args:
          columns: the table's, above 0, [n] each.
        """
        means = {c: float(np.exp(np.log(np.asarray(columns[c], float)).mean())) for c in self.columns}
        return {c: means[self.same_unit.get(c, c)] for c in self.columns}

    def bounds(self, x: Logs, y: Array) -> tuple[Array, Array]:
        """Return the lower and upper limits of theta, float64 [p] each.

        Args:
          x: ln(column / its reference), by column, [n] each.
          y: float [n]; limits of parameters in its units are multiples of the highest.
        """
        top = float(np.max(y))
        pairs = [(p.low * (top if p.of_y else 1), p.high * (top if p.of_y else 1), p.log) for p in self.parameters]
        pick: Callable[[float, bool], float] = lambda v, log: math.log(v) if log else v  # noqa: E731
        return np.array([pick(a, g) for a, _, g in pairs]), np.array([pick(b, g) for _, b, g in pairs])

    def starts(self, x: Logs, y: Array) -> Array:
        """Return starting points of fits: float64 [S, p], S <= `MAX_STARTS`, inside the bounds.

        Args:
          x: ln(column / its reference), by column, [n] each.
          y: float [n].
        """
        grid = [np.asarray(values, float) for values in self.grid(x, y)]
        grid = [np.log(g) if p.log else g for g, p in zip(grid, self.parameters, strict=True)]
        every = np.array(list(product(*grid)))
        if len(every) > MAX_STARTS:
            every = every[np.random.default_rng(0).choice(len(every), MAX_STARTS, replace=False)]
        return np.unique(np.clip(every, *self.bounds(x, y)), axis=0)


def asymptote_grid(y: Array, of_lowest: tuple[float, ...] = (0.01, 0.3, 0.6, 0.8, 0.95)) -> list[float]:
    """Return candidate asymptotes: fractions of the lowest y."""
    return [s * float(np.min(y)) for s in of_lowest]


def top_limits(y: Array) -> tuple[float, float]:
    """Return the limits of a fitted top: from the highest y to 1, or to 1.5 times the highest where that is above 1.

    Values of at most 1 are taken for errors. Of a loss below 1 the top, ln(number of negatives), has to be known.
    """
    highest = float(np.max(y))
    return min(highest * 0.999, 0.999), 1.0 if highest <= 1 else highest * 1.5


EXPONENTS = (0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.5, 0.7, 1.0, 1.5)
