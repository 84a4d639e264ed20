"""The annealing law and the multi-power law: the loss at a step from the rates of all steps up to it.

Both are E + A·S^-alpha less what the falls of the rate have gained, a sum over all earlier steps; they differ in its
kernel. S is the sum of the rates up to the step, that of the warm-up with it. Over sizes, B·N^-beta is added.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import product
from types import ModuleType
from typing import ClassVar

import numpy as np

from clip_jax.scaling.curves.terms import Terms
from clip_jax.scaling.laws.base import Array, Law, Logs, Parameter, Values, amplitude, exponent

LEVEL = Parameter("L0", "loss that neither training nor size removes", 0.0, 1.0, of_y=True, latex="L_0")
TRAINING = (
    amplitude("A", "loss of little training, at S = 1", ("area", "alpha")),
    exponent("alpha", "how fast it falls with S", latex=r"\alpha"),
)
EXPONENTS = (0.2, 0.35, 0.5, 0.7, 1.0)
SIZE_EXPONENTS = (0.1, 0.2, 0.35, 0.5, 0.8)
LEAST = 1e-6  # of a start's amplitudes, of the highest loss
STARTS = 16  # that are polished: what is left of the grid after least squares is close to an optimum


def _no_terms() -> Terms:
    empty = np.zeros((0, 1))
    return Terms(empty, empty, empty, empty, np.zeros(0, int), 0)


@dataclass(frozen=True)
class CurveLaw(Law):
    """A law of the rows of some curves. ``terms`` hold the falls of the rate before each row.

    Columns: row (its number, from 1), area (S), with sizes also params. A law predicts the rows of its terms alone:
    ``replace(law, terms=…)`` is the law of other curves.
    """

    terms: Terms = field(default_factory=_no_terms)

    columns: ClassVar[tuple[str, ...]] = ("row", "area")
    asymptote = offset = "L0"
    exponent_name = "alpha"
    gained: ClassVar[str]  # the parameter that multiplies the sum over the falls of the rate
    shape_grid: ClassVar[Mapping[str, tuple[float, ...]]]  # of the parameters of the kernel, for starts

    @property
    def replaced(self) -> str:
        """No parameter (empty): as residuals of one curve are not independent, no profile holds it at a point."""
        return ""

    def kernel(self, p: Values, log_rate: Array, log_area: Array, lag: Array, xp: ModuleType) -> Array:
        """Return the part of a fall of the rate that has become a gain in loss (of `Terms`' columns)."""
        raise NotImplementedError

    def curve(self, p: Values, x: Values, xp: ModuleType) -> Array:
        """Return L0 + A·S^-alpha - gained·Σ (η_{k-1} - η_k)·kernel, with sizes + B·N^-beta."""
        row = xp.rint(xp.exp(xp.asarray(x["row"]))).astype(int) - 1
        values = {name: xp.asarray(v) for name, v in p.items()}
        wide = {name: v[..., None] if v.ndim else v for name, v in values.items()}  # over the terms of a row
        fall = self._fall(wide, values["L0"].shape[:-1], xp)[..., row]
        out = p["L0"] + p["A"] * xp.exp(-p["alpha"] * x["area"]) - p[self.gained] * fall
        return out + p[self.size_terms[0]] * xp.exp(-p["beta_N"] * x["params"]) if self.size_terms else out

    def _fall(self, p: Values, shape: tuple[int, ...], xp: ModuleType) -> Array:
        """Return the sum over the falls of the rate before each row, [*shape, rows]."""
        return self.terms.total(lambda rate, area, lag: self.kernel(p, rate, area, lag, xp), shape, xp)

    @property
    def size_terms(self) -> tuple[str, ...]:
        """The parameters of the term of size; none for curves of one size."""
        return tuple(n for n in ("B_N", "beta_N") if n in self.names)

    def references(self, columns: Mapping[str, Array]) -> dict[str, float]:
        """Return the geometric mean of each column; row numbers stay as they are."""
        return super().references(columns) | {"row": 1.0}

    def grid(self, x: Logs, y: Array) -> list[list[float]]:
        """Raise NotImplementedError: `starts` makes no full grid."""
        raise NotImplementedError

    def starts(self, x: Logs, y: Array) -> Array:
        """Return the best starts: exponents and kernels from a grid, the parameters in which the law is linear from
        least squares of the relative residuals, none below 0.
        """
        from scipy.optimize import nnls

        linear = ["L0", "A", self.gained, *self.size_terms[:1]]
        rows = np.rint(np.exp(x["row"])).astype(int) - 1
        starts, misfit = [], []
        for shape in product(*self.shape_grid.values()):
            p = dict(zip(self.shape_grid, map(np.asarray, shape), strict=True))
            fall = self._fall(p, (), np)[rows]
            for alpha, beta in product(EXPONENTS, SIZE_EXPONENTS if self.size_terms else (0.0,)):
                features = [np.ones_like(y), np.exp(-alpha * x["area"]), -fall]
                features += [np.exp(-beta * x["params"])] if self.size_terms else []
                scale = [max(np.abs(f).max(), 1e-300) for f in features]
                solution = nnls(
                    np.stack([f / s / y for f, s in zip(features, scale, strict=True)], axis=1), np.ones(len(y))
                )
                values = np.maximum(solution[0], LEAST * y.max()) / scale
                full = dict(zip(linear, values, strict=True)) | p | {"alpha": alpha, "beta_N": beta}
                starts.append([np.log(full[q.name]) if q.log else full[q.name] for q in self.parameters])
                misfit.append(solution[1])
        best = np.argsort(misfit, kind="stable")[:STARTS]
        return np.unique(np.clip(np.array(starts)[best], *self.bounds(x, y)), axis=0)


@dataclass(frozen=True)
class Annealing(CurveLaw):
    """The annealing law, L = L0 + A·S1^-alpha - C·S2 (Tissue et al., arXiv 2408.11029).

    S1 is the sum of the rates; S2 sums the falls of the rate with a momentum lambda, given here by its memory,
    1/(1 - lambda) steps.
    """

    key, name = "annealing", "annealing law"
    parameters: ClassVar[tuple[Parameter, ...]] = (
        LEVEL,
        *TRAINING,
        amplitude("C", "gain in loss per annealing area S2"),
        Parameter("memory", "1/(1 - lambda): steps over which a fall of the rate takes effect", 3.0, 1e6, log=True,
                  latex="M"),
    )  # fmt: skip
    gained = "C"
    shape_grid: ClassVar[Mapping[str, tuple[float, ...]]] = {"memory": (30.0, 100.0, 300.0, 1000.0, 3000.0, 10000.0)}
    template = "{L0} + {A}·S1^-{alpha} - {C}·S2(λ = 1 - 1/{memory})"
    latex_template = (
        r"<L0> + <A> S_1^{-<alpha>} - <C> S_2,\; S_1 = \sum_{i \leq t} \eta_i,\; "
        r"S_2 = \sum_{i \leq t} \sum_{k \leq i} (\eta_{k-1} - \eta_k) \lambda^{i-k},\; \lambda = 1 - 1/<memory>"
    )

    def kernel(self, p: Values, log_rate: Array, log_area: Array, lag: Array, xp: ModuleType) -> Array:
        """Return sum_{i=k}^{t} lambda^(i - k) = (1 - lambda^(lag + 1))/(1 - lambda)."""
        return -p["memory"] * xp.expm1((lag + 1) * xp.log1p(-1 / p["memory"]))


@dataclass(frozen=True)
class MultiPower(CurveLaw):
    """The multi-power law, L = L0 + A·S1^-alpha - B·Σ_k (η_{k-1} - η_k)·G(η_k^-gamma·S_k) (Luo et al., 2503.12811).

    S1 is the sum of the rates, S_k that from step k on, G(x) = 1 - (C·x + 1)^-beta.
    """

    key, name = "multi-power", "multi-power law"
    parameters: ClassVar[tuple[Parameter, ...]] = (
        LEVEL,
        *TRAINING,
        amplitude("B", "gain in loss per fall of the rate"),
        Parameter("C", "how soon a fall takes effect", 1e-8, 1e8, log=True),
        exponent("beta", "how fast the gain becomes whole", 1e-2, latex=r"\beta"),
        exponent("gamma", "how much sooner at a low rate", 0.0, 1.5, latex=r"\gamma"),
    )
    gained = "B"
    shape_grid: ClassVar[Mapping[str, tuple[float, ...]]] = {
        "C": (0.1, 1.0, 10.0), "beta": (0.3, 0.6, 1.2), "gamma": (0.3, 0.6, 0.9),
    }  # fmt: skip
    template = "{L0} + {A}·S1^-{alpha} - {B}·Σ(η_(k-1) - η_k)·(1 - (1 + {C}·η_k^-{gamma}·S_k)^-{beta})"
    latex_template = (
        r"<L0> + <A> S_1^{-<alpha>} - <B> \sum_{k \leq t} (\eta_{k-1} - \eta_k)"
        r" \left(1 - (1 + <C> \eta_k^{-<gamma>} S_k)^{-<beta>}\right),\; S_k = \sum_{i=k}^{t} \eta_i"
    )

    def kernel(self, p: Values, log_rate: Array, log_area: Array, lag: Array, xp: ModuleType) -> Array:
        """Return G(η_k^-gamma·S_k)."""
        x = p["C"] * xp.exp(log_area - p["gamma"] * log_rate)
        return -xp.expm1(-p["beta"] * xp.log1p(x))


SIZE = (
    amplitude("B_N", "loss of a finite model at N = 1", ("params", "beta_N"), latex="B_N"),
    exponent("beta_N", "how fast it falls with size", latex=r"\beta_N"),
)
SIZE_LATEX = r"<B_N> N^{-<beta_N>} + "


@dataclass(frozen=True)
class AnnealingOfSizes(Annealing):
    """The annealing law of several sizes: L0 becomes L0 + B_N·N^-beta_N, everything else is shared."""

    columns: ClassVar[tuple[str, ...]] = ("row", "area", "params")
    parameters: ClassVar[tuple[Parameter, ...]] = (*Annealing.parameters, *SIZE)
    template = "{B_N}/N^{beta_N} + " + Annealing.template
    latex_template = SIZE_LATEX + Annealing.latex_template


@dataclass(frozen=True)
class MultiPowerOfSizes(MultiPower):
    """The multi-power law of several sizes: L0 becomes L0 + B_N·N^-beta_N, everything else is shared."""

    columns: ClassVar[tuple[str, ...]] = ("row", "area", "params")
    parameters: ClassVar[tuple[Parameter, ...]] = (*MultiPower.parameters, *SIZE)
    template = "{B_N}/N^{beta_N} + " + MultiPower.template
    latex_template = SIZE_LATEX + MultiPower.latex_template


CURVE_LAWS: dict[str, tuple[type[CurveLaw], type[CurveLaw]]] = {  # key -> of one size, of several
    "annealing": (Annealing, AnnealingOfSizes),
    "multi-power": (MultiPower, MultiPowerOfSizes),
}
