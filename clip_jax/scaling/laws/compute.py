"""Laws of one column: error against training compute (or data, or size: any one column)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType

import numpy as np

from clip_jax.scaling.laws.base import (
    EXPONENTS,
    IRREDUCIBLE,
    Array,
    General,
    Law,
    Logs,
    Parameter,
    Values,
    amplitude,
    asymptote_grid,
    exponent,
    top_limits,
)

NO_SHIFT = -700.0  # ln of a compute that is nothing beside any other


def amplitude_grid(y: Array, factors: tuple[float, ...] = (0.3, 0.6, 1.0, 1.7)) -> list[float]:
    return [f * float(np.exp(np.log(y).mean())) for f in factors]


@dataclass(frozen=True)
class PowerLaw(Law):
    """A power law, error = a·C^-b: a straight line in log-log."""

    key, name = "power", "power law"
    parameters = (
        amplitude("a", "error at C = 1", ("flops", "b")),
        exponent("b", "how fast error falls with compute", -3.0),
    )
    template = "{a}·C^-{b}"
    amplitudes = ("a",)
    latex_template = r"<a>\,C^{-<b>}"

    @property
    def general(self) -> General:
        """The shifted power law without an asymptote and without a shift."""
        return General(ShiftedPowerLaw(), {"E": 0.0, "c": NO_SHIFT})

    def curve(self, p: Values, x: Values, xp: ModuleType) -> Array:
        """Return a·C^-b."""
        return p["a"] * xp.exp(-p["b"] * x["flops"])

    def grid(self, x: Logs, y: Array) -> list[list[float]]:
        """Return amplitudes around the geometric mean, and exponents of falling and rising curves."""
        return [amplitude_grid(y), [-1.0, -0.3, *EXPONENTS]]

    def inverse(self, values: Values, y: Array) -> Array:
        """Return C = (a / y)^(1/b)."""
        return (values["a"] / np.asarray(y, float)) ** (1 / values["b"])


@dataclass(frozen=True)
class SaturatingPowerLaw(Law):
    """A power law with an asymptote, error = E + a·C^-b, never above ``ceiling`` (the error of guessing) if one is
    given.

    The error of guessing is 1 - 1/classes.
    """

    key, name = "saturating", "saturating power law"
    parameters = (
        IRREDUCIBLE,
        amplitude("a", "removable error at C = 1", ("flops", "b")),
        exponent("b", "how fast it falls with compute"),
    )
    asymptote = offset = below = "E"
    amplitudes = ("a",)
    template = "{E} + {a}·C^-{b}"
    latex_template = r"<E> + <a>\,C^{-<b>}"
    ceiling: float | None = None

    @property
    def has_ceiling(self) -> bool:  # type: ignore[override]
        """True if a ceiling is given."""
        return self.ceiling is not None

    @property
    def general(self) -> General | None:
        """The shifted power law without a shift, unless the curve is cut at a ceiling."""
        return General(ShiftedPowerLaw(), {"c": NO_SHIFT}) if self.ceiling is None else None

    def curve(self, p: Values, x: Values, xp: ModuleType) -> Array:
        """Return E + a·C^-b, cut at the ceiling."""
        y = p["E"] + p["a"] * xp.exp(-p["b"] * x["flops"])
        return y if self.ceiling is None else xp.minimum(y, self.ceiling)

    def through(self, p: Mapping[str, Array], at: Values, y: Array, xp: ModuleType) -> dict[str, Array]:
        """Replace a; the cut at the ceiling is ignored."""
        return {**p, "a": (y - p["E"]) * xp.exp(p["b"] * at["flops"])}

    def grid(self, x: Logs, y: Array) -> list[list[float]]:
        """Return asymptotes below the lowest error, amplitudes and exponents."""
        return [
            asymptote_grid(y, (0.0, 0.15, 0.3, 0.45, 0.6, 0.75, 0.9, 0.97)),
            amplitude_grid(y, (0.1, 0.3, 0.6, 1.0)),
            [*EXPONENTS],
        ]

    def inverse(self, values: Values, y: Array) -> Array:
        """Return C = (a / (y - E))^(1/b); infinite at or below E."""
        above = np.asarray(y, float) - values["E"]
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(above > 0, (values["a"] / above) ** (1 / values["b"]), np.inf)


@dataclass(frozen=True)
class ShiftedPowerLaw(Law):
    """A shifted power law, error = E + a·(C + c)^-b: flat below c, a power law above it.

    Cherti et al.'s successors fit this form.
    """

    key, name = "shifted", "shifted power law"
    parameters = (
        IRREDUCIBLE,
        amplitude("a", "removable error at C + c = 1", ("flops", "b")),
        exponent("b", "how fast it falls with compute"),
        Parameter("c", "compute below which error hardly falls", 1e-9, 1e6, log=True, carries=(("flops", 1.0),)),
    )
    asymptote = offset = below = "E"
    amplitudes = ("a",)
    template = "{E} + {a}·(C + {c})^-{b}"
    latex_template = r"<E> + <a>\,(C + <c>)^{-<b>}"

    def curve(self, p: Values, x: Values, xp: ModuleType) -> Array:
        """Return E + a·(C + c)^-b."""
        return p["E"] + p["a"] * xp.exp(-p["b"] * xp.logaddexp(x["flops"], xp.log(p["c"])))

    def grid(self, x: Logs, y: Array) -> list[list[float]]:
        """Return shifts from far below the data to its middle, with asymptotes, amplitudes and exponents."""
        low = float(np.exp(x["flops"].min()))
        return [
            asymptote_grid(y),
            amplitude_grid(y),
            [*EXPONENTS[1:]],
            [low * s for s in (1e-3, 0.1, 1.0, 3.0, 10.0, 30.0)],
        ]

    def inverse(self, values: Values, y: Array) -> Array:
        """Return C = (a / (y - E))^(1/b) - c; infinite at or below E."""
        above = np.asarray(y, float) - values["E"]
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(above > 0, (values["a"] / above) ** (1 / values["b"]) - values["c"], np.inf)


@dataclass(frozen=True)
class PowerLawFromChance(Law):
    """A shifted power law that starts from guessing, error = E + (ceiling - E)·(1 + C/c)^-b."""

    key, name = "chance", "power law from chance"
    parameters = (
        IRREDUCIBLE,
        Parameter("c", "compute at which error leaves chance", 1e-9, 1e6, log=True, carries=(("flops", 1.0),)),
        exponent("b", "how fast it falls with compute"),
    )
    asymptote = below = "E"
    has_ceiling = True
    replaced = "c"
    template = "{E} + (chance - {E})·(1 + C/{c})^-{b}"
    latex_template = r"<E> + (y_0 - <E>)\,(1 + C/<c>)^{-<b>}"
    ceiling: float = 1.0

    def curve(self, p: Values, x: Values, xp: ModuleType) -> Array:
        """Return E + (ceiling - E)·(1 + C/c)^-b, from the ceiling down to E."""
        return p["E"] + (self.ceiling - p["E"]) * xp.exp(-p["b"] * xp.logaddexp(0.0, x["flops"] - xp.log(p["c"])))

    def through(self, p: Mapping[str, Array], at: Values, y: Array, xp: ModuleType) -> dict[str, Array]:
        """Replace c: (C/c) = ((ceiling - E)/(y - E))^(1/b) - 1."""
        return {**p, "c": xp.exp(at["flops"]) / xp.expm1(xp.log((self.ceiling - p["E"]) / (y - p["E"])) / p["b"])}

    def grid(self, x: Logs, y: Array) -> list[list[float]]:
        """Return shifts from far below the data to its end, with asymptotes and exponents."""
        return [
            asymptote_grid(y),
            np.exp(np.linspace(x["flops"].min() - 9, x["flops"].max(), 20)).tolist(),
            [*EXPONENTS],
        ]

    def inverse(self, values: Values, y: Array) -> Array:
        """Return C = c·(((ceiling - E)/(y - E))^(1/b) - 1); infinite at or below E."""
        above = np.asarray(y, float) - values["E"]
        with np.errstate(divide="ignore", invalid="ignore"):
            share = ((self.ceiling - values["E"]) / above) ** (1 / values["b"])
        return np.where(above > 0, values["c"] * (share - 1), np.inf)


@dataclass(frozen=True)
class SigmoidLogC(Law):
    """A sigmoid in log C, error = top / (1 + (C / C_half)^k): from ``top`` down to 0, steepest at C_half."""

    key, name = "sigmoid", "sigmoid in log C"
    parameters = (
        Parameter("top", "error without compute", 0.0, 1.0),
        Parameter("k", "steepness", 0.0, 20.0),
        Parameter("C_half", "compute at half the top", 1e-26, 1e26, log=True, carries=(("flops", 1.0),), latex="C_½"),
    )
    asymptote = above = "top"
    has_ceiling = True
    replaced = "C_half"
    exponent_name = "k"
    template = "{top} / (1 + (C/{C_half})^{k})"
    latex_template = r"\frac{<top>}{1 + (C/<C_half>)^{<k>}}"

    @property
    def general(self) -> General:
        """The bounded power law without a floor."""
        return General(BoundedPowerLaw(), {"E": 0.0}, {"k": "b", "C_half": "c"})

    def curve(self, p: Values, x: Values, xp: ModuleType) -> Array:
        """Return top / (1 + (C/C_half)^k)."""
        return p["top"] / (1.0 + xp.exp(xp.clip(p["k"] * (x["flops"] - xp.log(p["C_half"])), -60, 60)))

    def through(self, p: Mapping[str, Array], at: Values, y: Array, xp: ModuleType) -> dict[str, Array]:
        """Replace C_half: (C/C_half)^k = top/y - 1."""
        return {**p, "C_half": xp.exp(at["flops"] - xp.log(p["top"] / y - 1) / p["k"])}

    def bounds(self, x: Logs, y: Array) -> tuple[Array, Array]:
        """Bound the top by `top_limits`."""
        low, high = super().bounds(x, y)
        width = float(np.ptp(x["flops"])) + 1.0
        low[0], high[0] = top_limits(y)
        low[2], high[2] = x["flops"].min() - 10 * width, x["flops"].max() + 10 * width
        return low, high

    def grid(self, x: Logs, y: Array) -> list[list[float]]:
        """Return half points inside and far beyond the data, with tops and slopes."""
        middle, width = float(x["flops"].mean()), float(np.ptp(x["flops"])) + 1.0
        tops = [float(np.max(y)) * 1.01, max(1.0, float(np.max(y)) * 1.2)]
        return [tops, [0.03, 0.1, 0.3, 0.6, 1.0, 2.0], np.exp(middle + width * np.linspace(-1, 6, 22)).tolist()]

    def inverse(self, values: Values, y: Array) -> Array:
        """Return C = C_half·(top/y - 1)^(1/k); 0 at or above the top."""
        share = np.maximum(values["top"] / np.asarray(y, float) - 1, 0)
        return values["C_half"] * share ** (1 / values["k"])


@dataclass(frozen=True)
class BoundedPowerLaw(Law):
    """A power law between a ceiling and an asymptote, error = E + (top - E)·h/(1 + h), h = (C/c)^-b.

    With E = 0 it is the sigmoid in log C. It differs from the saturating power law by a factor 1 + h, so it
    approximates that law where all errors lie far below the top: not in tables that begin near guessing, nor for losses
    where an unknown top is limited to 1.5 times the highest (see `bounds`). Power laws therefore stay separate forms.
    ``top`` is the error of guessing where that is known.
    """

    key, name = "bounded", "bounded power law"
    parameters = (
        IRREDUCIBLE,
        Parameter("top", "error without compute", 0.0, 1.0),
        Parameter("b", "how fast error leaves the top and nears E", 1e-3, 20.0),
        Parameter("c", "compute halfway between top and E", 1e-26, 1e26, log=True, carries=(("flops", 1.0),)),
    )
    asymptote = below = "E"
    above = "top"
    has_ceiling = True
    replaced = "c"
    template = "{E} + ({top} - {E})/(1 + (C/{c})^{b})"
    latex_template = r"<E> + \frac{<top> - <E>}{1 + (C/<c>)^{<b>}}"

    def curve(self, p: Values, x: Values, xp: ModuleType) -> Array:
        """Return E + (top - E)/(1 + (C/c)^b)."""
        away = xp.clip(p["b"] * (x["flops"] - xp.log(p["c"])), -60, 60)
        return p["E"] + (p["top"] - p["E"]) / (1.0 + xp.exp(away))

    def through(self, p: Mapping[str, Array], at: Values, y: Array, xp: ModuleType) -> dict[str, Array]:
        """Replace c: (C/c)^b = (top - y)/(y - E)."""
        return {**p, "c": xp.exp(at["flops"] - xp.log((p["top"] - y) / (y - p["E"])) / p["b"])}

    def bounds(self, x: Logs, y: Array) -> tuple[Array, Array]:
        """Bound the top by `top_limits`."""
        low, high = super().bounds(x, y)
        width = float(np.ptp(x["flops"])) + 1.0
        low[1], high[1] = top_limits(y)
        low[3], high[3] = x["flops"].min() - 20 * width, x["flops"].max() + 20 * width
        return low, high

    def grid(self, x: Logs, y: Array) -> list[list[float]]:
        """Return asymptotes below the lowest error, halfway points inside, before and beyond the data, with tops and
        exponents.
        """
        middle, width = float(x["flops"].mean()), float(np.ptp(x["flops"])) + 1.0
        tops = [float(np.max(y)) * 1.01, max(1.0, float(np.max(y)) * 1.2)]
        halfway = np.exp(middle + width * np.linspace(-6, 4, 21)).tolist()
        return [asymptote_grid(y, (0.0, 0.3, 0.6, 0.8, 0.95)), tops, [0.03, 0.07, 0.15, 0.3, 0.6, 1.0, 2.0], halfway]

    def inverse(self, values: Values, y: Array) -> Array:
        """Return C = c·((top - y)/(y - E))^(1/b); 0 at or above the top, infinite at or below E."""
        y = np.asarray(y, float)
        with np.errstate(divide="ignore", invalid="ignore"):
            share = np.maximum(values["top"] - y, 0) / np.maximum(y - values["E"], 0)
            return values["c"] * share ** (1 / values["b"])


@dataclass(frozen=True)
class BrokenPowerLaw(Law):
    """A power law with a smooth break, error = E + a·C^-b · (1 + (C/d)^(1/f))^(-s·f) (Caballero et al., 2023).

    The slope changes by s at d; f is the width of the break in powers of e. This form has one break; theirs with
    several is a product of such factors.
    """

    key, name = "bnsl", "broken power law"
    parameters = (
        IRREDUCIBLE,
        amplitude("a", "removable error at C = 1 before the break", ("flops", "b")),
        Parameter("b", "slope before the break", -1.0, 5.0),
        Parameter("s", "slope added after it", -5.0, 30.0),
        Parameter("d", "where the break is", 1e-26, 1e26, log=True, carries=(("flops", 1.0),)),
        Parameter("f", "its width", 1e-3, 5.0, log=True),
    )
    asymptote = offset = below = "E"
    amplitudes = ("a",)
    template = "{E} + {a}·C^-{b}·(1 + (C/{d})^(1/{f}))^(-{s}·{f})"
    latex_template = r"<E> + <a>\,C^{-<b>}\left(1 + (C/<d>)^{1/<f>}\right)^{-<s><f>}"

    def curve(self, p: Values, x: Values, xp: ModuleType) -> Array:
        """Return E + a·C^-b (1 + (C/d)^(1/f))^(-s f)."""
        past = xp.logaddexp(0.0, (x["flops"] - xp.log(p["d"])) / p["f"])
        return p["E"] + p["a"] * xp.exp(-p["b"] * x["flops"] - p["s"] * p["f"] * past)

    def bounds(self, x: Logs, y: Array) -> tuple[Array, Array]:
        """Bound the break to the range of the data."""
        low, high = super().bounds(x, y)
        low[4], high[4] = x["flops"].min(), x["flops"].max()
        return low, high

    def grid(self, x: Logs, y: Array) -> list[list[float]]:
        """Return breaks over the range of the data, sharp or not; the first error sets the factor."""
        breaks = np.exp(np.quantile(x["flops"], np.linspace(0.1, 0.9, 7))).tolist()
        slopes, added = [0.0, 0.05, 0.2, 0.5], [-0.3, 0.3, 1.0, 3.0, 6.0]
        return [
            asymptote_grid(y, (0.01, 0.6)),
            [float(np.max(y)) * s for s in (0.7, 1.0)],
            slopes,
            added,
            breaks,
            [0.05, 0.5],
        ]
