"""Robust losses of residuals, always the sum over points, never the mean.

A mean divides the objective by the number of points, and an optimizer with absolute tolerances then stops early and
reports success. Here tolerances are relative, and objectives can be compared with published sums.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType
from typing import Literal, get_args

import numpy as np

from clip_jax.errors import UserError, one_of
from clip_jax.scaling.laws.base import Array

LossKind = Literal["huber", "squares", "absolute"]
Space = Literal["log", "linear", "log1p"]
TINY = 1e-12  # a prediction never goes below, so that its logarithm exists
# Residuals of the logarithm beyond this are treated as outliers (Huber, 1964). Hoffmann et al. (2022) use 1e-3 for
# losses of hundreds of runs; errors of a few runs scatter by percents, and 1e-3 would fit two points and drop the rest.
HUBER_DELTA = 0.02
ABSOLUTE_DELTA = 1e-7  # least absolute deviations are reached as Huber losses whose delta falls to this
NO_DELTA = 1e30


@dataclass(frozen=True)
class Loss:
    """The loss that a fit minimizes.

    kind: huber (r²/2 up to delta, then linear), squares (r²/2) or absolute (|r|).
    space: log (r = ln predicted - ln measured), linear (r = predicted - measured) or log1p (of 1 + y).
    under: weight, at most 1, of rows whose measurement lies above the prediction (r < 0). A run can lie above the
      frontier because it was badly tuned, but below it only by noise; a weight below 1 lets the fit follow the lower
      edge of a cloud. Where the frontier lies within it depends on how runs were tuned, which no row shows, so there is
      no interval below 1 (`benchmarks/fit_under.py`: such intervals held the frontier in 11 to 100 % of clouds).
    """

    kind: LossKind = "huber"
    space: Space = "log"
    delta: float = HUBER_DELTA
    under: float = 1.0

    def __post_init__(self) -> None:
        one_of("loss.kind", self.kind, get_args(LossKind))
        one_of("loss.space", self.space, get_args(Space))
        if not self.delta > 0:
            raise UserError(field="loss.delta", value=self.delta, reason="must be above 0")
        if not 0 < self.under <= 1:
            raise UserError(field="loss.under", value=self.under, reason="must be above 0 and at most 1")
        if self.under < 1 and self.kind == "absolute":
            reason, hint = "needs kind huber or squares", "huber with a small delta is nearly absolute"
            raise UserError(field="loss.under", value=self.under, reason=reason, hint=hint)

    @property
    def deltas(self) -> tuple[float, ...]:
        """The Huber deltas that are solved one after the other; the last one counts."""
        if self.kind == "absolute":
            return tuple(float(d) for d in np.geomspace(1e-2, ABSOLUTE_DELTA, 6))
        return (self.delta,) if self.kind == "huber" else (NO_DELTA,)

    @property
    def symmetric(self) -> bool:
        """True if both sides have the same weight; if not, intervals are open."""
        return self.under == 1

    def values(self, r: np.ndarray) -> np.ndarray:
        """Return the loss of each residual, same shape."""
        size = np.abs(r)
        if self.kind == "absolute":
            return size
        if self.kind == "squares":
            return r * r / 2 * self.sides(r)
        return np.where(size <= self.delta, r * r / 2, self.delta * (size - self.delta / 2)) * self.sides(r)

    def sides(self, r: np.ndarray) -> np.ndarray | float:
        """Return the weight of each residual's side, same shape or 1.0: ``under`` for residuals below 0, else 1."""
        return 1.0 if self.symmetric else np.where(r < 0, self.under, 1.0)

    def residuals(self, predicted: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Return predicted - measured in the loss's space; arguments broadcast."""
        return space_of(predicted, self.space, np) - space_of(y, self.space, np)


LOG_HUBER = Loss()


def space_of(y: Array, space: Space, xp: ModuleType) -> Array:
    """Transform y to the loss's space."""
    if space == "linear":
        return y
    return xp.log1p(y) if space == "log1p" else xp.log(xp.maximum(y, TINY))
