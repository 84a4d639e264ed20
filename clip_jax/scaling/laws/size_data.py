"""Laws of model size and samples seen, with their compute-optimal allocation.

Columns: params (or params_image, params_text), samples_seen, unique_samples. "Samples" are tokens in a language model.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import ClassVar

import numpy as np

from clip_jax.scaling.laws.base import (
    EXPONENTS,
    IRREDUCIBLE,
    Array,
    Law,
    Logs,
    Parameter,
    Values,
    amplitude,
    asymptote_grid,
    exponent,
    top_limits,
)

FLOPS_PER_PARAM_SAMPLE = 6.0  # of a dense transformer; for CLIP it depends on the tokens per pair: pass your own
UNIQUE_UNIT = {"unique_samples": "samples_seen"}
R_DATA = Parameter("R_data", "repetitions until a sample has lost its worth", 1e-2, 1e4, log=True, latex="R_D")


@dataclass(frozen=True)
class Chinchilla(Law):
    """Chinchilla's law, L = E + A/N^alpha + B/D^beta (Hoffmann et al., 2022, approach 3)."""

    key, name = "chinchilla", "Chinchilla"
    columns = ("params", "samples_seen")
    parameters = (
        IRREDUCIBLE,
        amplitude("A", "error of a finite model at N = 1", ("params", "alpha")),
        exponent("alpha", "how fast it falls with size", latex=r"\alpha"),
        amplitude("B", "error of finite data at D = 1", ("samples_seen", "beta")),
        exponent("beta", "how fast it falls with data", latex=r"\beta"),
    )
    asymptote = offset = below = "E"
    amplitudes = ("A", "B")
    exponent_name = "alpha"
    template = "{E} + {A}/N^{alpha} + {B}/D^{beta}"
    latex_template = r"<E> + \frac{<A>}{N^{<alpha>}} + \frac{<B>}{D^{<beta>}}"

    def curve(self, p: Values, x: Values, xp: ModuleType) -> Array:
        """Return E + A/N^alpha + B/D^beta."""
        size = p["A"] * xp.exp(-p["alpha"] * x["params"])
        return p["E"] + size + p["B"] * xp.exp(-p["beta"] * x["samples_seen"])

    def grid(self, x: Logs, y: Array) -> list[list[float]]:
        """Return asymptotes, exponents, and the rest of y above the asymptote split in several ways between size and
        data.
        """
        left = [s * float(np.exp(np.log(y).mean())) for s in (0.03, 0.1, 0.3)]
        powers = [*EXPONENTS[1::2], EXPONENTS[-1]]
        return [asymptote_grid(y, (0.01, 0.3, 0.5, 0.6, 0.7, 0.8, 0.9)), left, powers, left, powers]

    def optimum(
        self, values: Values, flops: Array | float, factor: float = FLOPS_PER_PARAM_SAMPLE
    ) -> tuple[Array, Array]:
        """Return (N*, D*) that minimize the law at C = factor·N·D: N* = G·(C/factor)^a, D* = (C/factor)^(1-a)/G.

        a = beta/(alpha+beta), G = (alpha·A/(beta·B))^(1/(alpha+beta)).

        Args:
          values: parameters by name, in the table's units; arrays for the draws of a bootstrap.
          flops: C, any shape that broadcasts with ``values``.
          factor: FLOPs per parameter and sample.
        """
        a, b = values["alpha"], values["beta"]
        both = np.asarray(flops, float) / factor
        g = (a * values["A"] / (b * values["B"])) ** (1 / (a + b))
        return g * both ** (b / (a + b)), both ** (a / (a + b)) / g

    def samples_per_param(self, values: Values, flops: Array | float, factor: float = FLOPS_PER_PARAM_SAMPLE) -> Array:
        """Return D*/N*, samples per parameter, at a budget.

        Args:
          values, flops, factor: as of `optimum`.
        """
        size, data = self.optimum(values, flops, factor)
        return data / size

    def at_optimum(self, values: Values, flops: Array | float, factor: float = FLOPS_PER_PARAM_SAMPLE) -> Array:
        """Return the lowest y at a budget.

        Args:
          values, flops, factor: as of `optimum`.
        """
        size, data = self.optimum(values, flops, factor)
        return self.curve(values, {"params": np.log(size), "samples_seen": np.log(data)}, np)


@dataclass(frozen=True)
class BoundedChinchilla(Law):
    """Chinchilla's form between a ceiling and an asymptote, error = E + (top - E)·h/(1 + h), h = a/N^alpha + b/D^beta.

    Where h is small in every row it approximates Chinchilla's law (A = a·(top - E)); otherwise that law is no limit of
    it. ``top`` is the error of guessing where that is known.
    """

    key, name = "bounded-chinchilla", "bounded Chinchilla"
    columns: ClassVar[tuple[str, ...]] = ("params", "samples_seen")
    parameters: ClassVar[tuple[Parameter, ...]] = (
        IRREDUCIBLE,
        Parameter("top", "error without compute", 0.0, 1.0),
        amplitude("a", "part of a finite model at N = 1", ("params", "alpha")),
        exponent("alpha", "how fast it falls with size", latex=r"\alpha"),
        amplitude("b", "part of finite data at D = 1", ("samples_seen", "beta")),
        exponent("beta", "how fast it falls with data", latex=r"\beta"),
    )
    asymptote = below = "E"
    above = "top"
    amplitudes = ("a", "b")
    has_ceiling = True
    exponent_name = "alpha"
    template = "{E} + ({top} - {E})·h/(1 + h), h = {a}/N^{alpha} + {b}/D^{beta}"
    latex_template = r"<E> + (<top> - <E>)\frac{h}{1 + h},\; h = \frac{<a>}{N^{<alpha>}} + \frac{<b>}{D^{<beta>}}"

    def _share(self, p: Values, x: Mapping[str, Array | float], xp: ModuleType) -> Array:
        size = p["a"] * xp.exp(-p["alpha"] * x["params"])
        return size + p["b"] * xp.exp(-p["beta"] * x["samples_seen"])

    def curve(self, p: Values, x: Values, xp: ModuleType) -> Array:
        """Return E + (top - E)·h/(1 + h)."""
        h = self._share(p, x, xp)
        return p["E"] + (p["top"] - p["E"]) * h / (1.0 + h)

    def through(self, p: Mapping[str, Array], at: Values, y: Array, xp: ModuleType) -> dict[str, Array]:
        """Multiply a and b by one factor, so that h = (y - E)/(top - y)."""
        factor = (y - p["E"]) / (p["top"] - y) / self._share(p, at, xp)
        return {**p, "a": p["a"] * factor, "b": p["b"] * factor}

    def bounds(self, x: Logs, y: Array) -> tuple[Array, Array]:
        """Bound the top by `top_limits`."""
        low, high = super().bounds(x, y)
        low[1], high[1] = top_limits(y)
        return low, high

    def grid(self, x: Logs, y: Array) -> list[list[float]]:
        """Return odds of the error above the asymptote, split in several ways between size and data, with exponents
        and tops.
        """
        tops = [float(np.max(y)) * 1.01, max(1.0, float(np.max(y)) * 1.2)]
        left, powers = [0.03, 0.15, 0.6], [0.1, 0.2, 0.35, 0.5, 1.0]
        return [asymptote_grid(y, (0.0, 0.3, 0.6, 0.8, 0.95)), tops, left, powers, left, powers]


@dataclass(frozen=True)
class BoundedRepetition(BoundedChinchilla):
    """`BoundedChinchilla` at the effective data D' of `DataRepetition`, with diminishing returns of repeated samples.

    D' = U + U·R_data·(1 - e^(-(D/U - 1)/R_data)) for U unique samples; N counts in full.
    """

    key, name = "bounded-repetition", "bounded data repetition"
    columns = ("params", "samples_seen", "unique_samples")
    same_unit = UNIQUE_UNIT
    parameters = (*BoundedChinchilla.parameters, R_DATA)
    exponent_name = "beta"
    template = "{E} + ({top} - {E})·h/(1 + h), h = {a}/N^{alpha} + {b}/D'^{beta}, R_data={R_data}"
    latex_template = r"<E> + (<top> - <E>)\frac{h}{1 + h},\; h = \frac{<a>}{N^{<alpha>}} + \frac{<b>}{D'^{<beta>}}"

    def _share(self, p: Values, x: Mapping[str, Array | float], xp: ModuleType) -> Array:
        unique = xp.minimum(x["unique_samples"], x["samples_seen"])
        return super()._share(p, {**x, "samples_seen": _effective(unique, x["samples_seen"], p["R_data"], xp)}, xp)

    def grid(self, x: Logs, y: Array) -> list[list[float]]:
        """Return values of each parameter to start from; their product is screened.

        Splits and exponents are fewer than without repetitions.

        Args:
          x: ln of the columns, centered, [n] each.
          y: the error, [n].
        """
        floors, tops, left, powers, *_ = super().grid(x, y)
        return [floors[::2], tops, left, powers, left, powers, [2.0, 10.0, 50.0]]


@dataclass(frozen=True)
class OverTraining(Law):
    """Chinchilla's law with one exponent, L = E + a·N^-eta + b·factor^(-eta/2)·D^-eta (Gadre et al., 2024).

    At a fixed ratio M = D/N it is a power law of compute, (a' M^(eta/2) + b' M^(-eta/2))·C^(-eta/2): in log-log
    parallel lines, one per degree of over-training.
    """

    key, name = "overtraining", "over-training"
    columns = ("params", "samples_seen")
    parameters = (
        IRREDUCIBLE,
        amplitude("a", "error of a finite model", ("params", "eta")),
        amplitude("b", "error of finite data", ("samples_seen", "eta")),
        exponent("eta", "how fast both fall", latex=r"\eta"),
    )
    asymptote = offset = below = "E"
    amplitudes = ("a", "b")
    exponent_name = "eta"
    template = "{E} + {a}·N^-{eta} + {b}·6^(-{eta}/2)·D^-{eta}"
    latex_template = r"<E> + <a>\,N^{-<eta>} + <b>\,6^{-<eta>/2}\,D^{-<eta>}"

    def curve(self, p: Values, x: Values, xp: ModuleType) -> Array:
        """Return E + a·N^-eta + b·6^(-eta/2)·D^-eta."""
        half = 0.5 * math.log(FLOPS_PER_PARAM_SAMPLE)
        size = p["a"] * xp.exp(-p["eta"] * x["params"])
        return p["E"] + size + p["b"] * xp.exp(-p["eta"] * (x["samples_seen"] + half))

    def grid(self, x: Logs, y: Array) -> list[list[float]]:
        """Return asymptotes, exponents, and the rest of y above the asymptote split in several ways."""
        left = [s * float(np.exp(np.log(y).mean())) for s in (0.03, 0.1, 0.3)]
        return [asymptote_grid(y, (0.01, 0.3, 0.5, 0.7, 0.9)), left, left, [*EXPONENTS]]


@dataclass(frozen=True)
class ClipTowers(Law):
    """A law of the sizes of both towers of a CLIP model, L = E + A/N_image^alpha + T/N_text^tau + B/D^beta."""

    key, name = "clip", "CLIP towers"
    columns = ("params_image", "params_text", "samples_seen")
    parameters = (
        IRREDUCIBLE,
        amplitude("A", "error of a finite image tower", ("params_image", "alpha")),
        exponent("alpha", "how fast it falls with the image tower", latex=r"\alpha"),
        amplitude("T", "error of a finite text tower", ("params_text", "tau")),
        exponent("tau", "how fast it falls with the text tower", latex=r"\tau"),
        amplitude("B", "error of finite data", ("samples_seen", "beta")),
        exponent("beta", "how fast it falls with data", latex=r"\beta"),
    )
    asymptote = offset = below = "E"
    amplitudes = ("A", "T", "B")
    exponent_name = "alpha"
    template = "{E} + {A}/N_image^{alpha} + {T}/N_text^{tau} + {B}/D^{beta}"
    latex_template = (
        r"<E> + \frac{<A>}{N_\mathrm{image}^{<alpha>}} + \frac{<T>}{N_\mathrm{text}^{<tau>}} + \frac{<B>}{D^{<beta>}}"
    )

    def curve(self, p: Values, x: Values, xp: ModuleType) -> Array:
        """Return E + A/N_image^alpha + T/N_text^tau + B/D^beta."""
        image = p["A"] * xp.exp(-p["alpha"] * x["params_image"])
        text = p["T"] * xp.exp(-p["tau"] * x["params_text"])
        return p["E"] + image + text + p["B"] * xp.exp(-p["beta"] * x["samples_seen"])

    def grid(self, x: Logs, y: Array) -> list[list[float]]:
        """Return few values per parameter: the product over seven parameters must stay small."""
        left = [s * float(np.exp(np.log(y).mean())) for s in (0.05, 0.25)]
        powers = [0.1, 0.25, 0.5, 1.0]
        return [asymptote_grid(y, (0.1, 0.5, 0.8)), left, powers, left, powers, left, powers]

    def optimum(
        self, values: Mapping[str, float], flops: float, flops_per_sample: tuple[float, float, float]
    ) -> tuple[float, float, float]:
        """Return (N_image*, N_text*, D*) that minimize the law at C = D·(i·N_image + t·N_text + o).

        Two towers have no closed form; scipy finds the optimum in logarithms.

        Args:
          values: parameters by name, in the table's units.
          flops: C.
          flops_per_sample: (i, t, o), FLOPs per sample and parameter of each tower, and of the rest.
        """
        from scipy.optimize import minimize

        image, text, other = flops_per_sample

        def data(sizes: Array) -> float:
            return math.log(flops) - math.log(image * math.exp(sizes[0]) + text * math.exp(sizes[1]) + other)

        def loss(sizes: Array) -> float:
            x = {"params_image": sizes[0], "params_text": sizes[1], "samples_seen": data(sizes)}
            return float(self.curve(values, x, np))

        tries = [
            minimize(loss, [s, s + d], method="Nelder-Mead", options={"xatol": 1e-8, "fatol": 1e-14, "maxiter": 4000})
            for s in np.log(np.geomspace(1e4, 1e10, 5))
            for d in (-1.0, 1.0)
        ]
        best = min(tries, key=lambda r: r.fun).x
        return math.exp(best[0]), math.exp(best[1]), math.exp(data(best))


@dataclass(frozen=True)
class DataRepetition(Law):
    """Chinchilla's law with diminishing returns of repeated samples and excess parameters, L = E + A/N'^alpha +
    B/D'^beta.

    D' = U + U·R_data·(1 - e^(-(D/U - 1)/R_data)) for U unique samples, and the same for N with R_params, where U_N is
    the size that would be optimal for U samples (Muennighoff et al., 2023, "Scaling data-constrained language models").
    """

    key, name = "repetition", "data repetition"
    columns = ("params", "samples_seen", "unique_samples")
    same_unit = UNIQUE_UNIT
    parameters = (
        *Chinchilla.parameters,
        R_DATA,
        Parameter("R_params", "the same for excess parameters", 1e-2, 1e4, log=True, latex="R_N"),
    )
    asymptote = offset = below = "E"
    amplitudes = ("A", "B")
    exponent_name = "beta"
    template = "{E} + {A}/N'^{alpha} + {B}/D'^{beta}, R_data={R_data}, R_params={R_params}"
    latex_template = r"<E> + \frac{<A>}{N'^{<alpha>}} + \frac{<B>}{D'^{<beta>}}"

    def curve(self, p: Values, x: Values, xp: ModuleType) -> Array:
        """Return Chinchilla's form at the effective size and data."""
        a, b = p["alpha"], p["beta"]
        unique = xp.minimum(x["unique_samples"], x["samples_seen"])
        data = _effective(unique, x["samples_seen"], p["R_data"], xp)
        best = (xp.log(a * p["A"]) - xp.log(b * p["B"]) + b * unique) / a  # alpha A N^-alpha = beta B U^-beta
        size = _effective(xp.minimum(best, x["params"]), x["params"], p["R_params"], xp)
        return p["E"] + p["A"] * xp.exp(-a * size) + p["B"] * xp.exp(-b * data)

    def grid(self, x: Logs, y: Array) -> list[list[float]]:
        """Return few values per parameter: the product over seven parameters must stay small."""
        left = [s * float(np.exp(np.log(y).mean())) for s in (0.05, 0.25)]
        powers = [0.1, 0.25, 0.4, 0.7]
        return [asymptote_grid(y, (0.1, 0.5, 0.8)), left, powers, left, powers, [2.0, 10.0, 50.0], [2.0, 10.0]]


def _effective(unique: Array | float, seen: Array | float, worth: Array | float, xp: ModuleType) -> Array:
    """Return ln of the effective amount of ``seen``, all in logarithms: unique·(1 + worth·(1 - e^(-repeats/worth)))."""
    repeats = xp.expm1(seen - unique)
    return unique + xp.log1p(-worth * xp.expm1(-repeats / worth))
