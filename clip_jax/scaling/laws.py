"""Forms of a scaling law: error as a function of training FLOPs. C is scaled to a reference before use.

``predict`` takes theta [..., p] and x [n] and gives [..., n]: many parameter vectors at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Protocol

import numpy as np

Array = np.ndarray


class Law(Protocol):
    """A form with free parameters ``theta`` over x = ln(C / C_ref)."""

    @property
    def name(self) -> str: ...

    @property
    def formula(self) -> str: ...

    @property
    def parameters(self) -> tuple[str, ...]: ...

    @property
    def asymptote(self) -> str | None:
        """The parameter that few points cannot tell."""
        ...

    def pin_at(self, y: Array) -> float:
        """Its value then, for errors y."""
        ...

    def predict(self, theta: Array, x: Array) -> Array: ...

    def bounds(self, x: Array, y: Array) -> tuple[list[float], list[float]]: ...

    def starts(self, x: Array, y: Array) -> list[list[float]]: ...

    def describe(self, theta: Array, reference: float) -> dict[str, float]: ...


@dataclass(frozen=True)
class PowerLaw:
    """error = a·C^-b."""

    name: str = "power law"
    formula: str = "a·C^-b"
    parameters: tuple[str, ...] = ("log_a", "b")
    asymptote: str | None = None

    def pin_at(self, y: Array) -> float:
        """Nothing to hold: this form has no asymptote."""
        return 0.0

    def predict(self, theta: Array, x: Array) -> Array:
        """Error at x."""
        return np.exp(theta[..., 0, None] - theta[..., 1, None] * x)

    def bounds(self, x: Array, y: Array) -> tuple[list[float], list[float]]:
        """Lower and upper limits of theta."""
        return [-60.0, -3.0], [60.0, 3.0]

    def starts(self, x: Array, y: Array) -> list[list[float]]:
        """Where to begin."""
        return [[float(np.log(y).mean()) + s, b] for s, b in product((-0.5, 0.0, 0.5), (0.02, 0.1, 0.3, 1.0))]

    def describe(self, theta: Array, reference: float) -> dict[str, float]:
        """In units of FLOPs."""
        return {"a": float(np.exp(theta[0]) * reference ** theta[1]), "b": float(theta[1])}


@dataclass(frozen=True)
class SaturatingPowerLaw:
    """error = E + a·C^-b, with an error E that no compute removes."""

    name: str = "saturating power law"
    formula: str = "E + a·C^-b"
    parameters: tuple[str, ...] = ("E", "log_a", "b")
    asymptote: str | None = "E"

    def pin_at(self, y: Array) -> float:
        """No error that compute cannot remove."""
        return 0.0

    def predict(self, theta: Array, x: Array) -> Array:
        """Error at x."""
        return theta[..., 0, None] + np.exp(theta[..., 1, None] - theta[..., 2, None] * x)

    def bounds(self, x: Array, y: Array) -> tuple[list[float], list[float]]:
        """Lower and upper limits of theta: E lies between 0 and the lowest error seen."""
        return [0.0, -60.0, -3.0], [float(np.min(y)), 60.0, 3.0]

    def starts(self, x: Array, y: Array) -> list[list[float]]:
        """Where to begin."""
        low, mean = float(np.min(y)), float(np.mean(y))
        grid = product((0.01, 0.3, 0.6, 0.9), (0.02, 0.1, 0.3, 1.0))
        return [[share * low, float(np.log(mean - share * low * 0.99)), b] for share, b in grid]

    def describe(self, theta: Array, reference: float) -> dict[str, float]:
        """In units of FLOPs."""
        a = float(np.exp(theta[1]) * reference ** theta[2])
        return {"E": float(theta[0]), "a": a, "b": float(theta[2])}


@dataclass(frozen=True)
class SigmoidLogC:
    """error = top / (1 + (C / C_half)^k): from ``top`` down to nothing, steepest at C_half."""

    name: str = "sigmoid in log C"
    formula: str = "top / (1 + (C/C_half)^k)"
    parameters: tuple[str, ...] = ("top", "k", "x_half")
    asymptote: str | None = "top"

    def pin_at(self, y: Array) -> float:
        """An error of 1; for a loss, a little above the highest seen."""
        return max(1.0, 1.05 * float(np.max(y))) if np.max(y) > 1 else 1.0

    def predict(self, theta: Array, x: Array) -> Array:
        """Error at x."""
        slope = np.clip(theta[..., 1, None] * (x - theta[..., 2, None]), -60, 60)
        return theta[..., 0, None] / (1.0 + np.exp(slope))

    def bounds(self, x: Array, y: Array) -> tuple[list[float], list[float]]:
        """Lower and upper limits of theta: the top lies between the highest error seen and 1."""
        width = float(np.ptp(x)) + 1.0
        top = min(float(np.max(y)) * 0.999, 0.999)
        return [top, 0.0, float(x.min()) - 10 * width], [
            max(1.0, float(np.max(y)) * 1.5),
            20.0,
            x.max() + 10 * width,
        ]

    def starts(self, x: Array, y: Array) -> list[list[float]]:
        """Where to begin."""
        middle = float(x.mean())
        tops = (float(np.max(y)) * 1.01, max(1.0, float(np.max(y)) * 1.2))
        shifts = (-0.5, 0.0, 0.5, 1.0)
        width = float(np.ptp(x)) + 1.0
        return [[t, k, middle + s * width] for t, k, s in product(tops, (0.1, 0.3, 1.0), shifts)]

    def describe(self, theta: Array, reference: float) -> dict[str, float]:
        """In units of FLOPs."""
        return {"top": float(theta[0]), "k": float(theta[1]), "C_half": float(reference * np.exp(theta[2]))}


# the simplest first: forms that tie in extrapolation are ranked in this order
LAWS: tuple[Law, ...] = (PowerLaw(), SaturatingPowerLaw(), SigmoidLogC())
EXPONENT = {"power law": "b", "saturating power law": "b", "sigmoid in log C": "k"}
