"""Intervals, and the confidence distribution of a curve or of a run at one point, from which they are computed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from clip_jax.scaling.laws.base import Array


@dataclass(frozen=True)
class Interval:
    """An interval low <= value <= high at ``level``; an open side is not bounded by the data."""

    value: float
    low: float
    high: float
    level: float
    open_low: bool = False
    open_high: bool = False

    @property
    def width(self) -> float:
        """The width, high - low."""
        return self.high - self.low

    @property
    def bounded_ends(self) -> tuple[float, float]:
        """The ends (low, high), infinite on a side that the data leave open."""
        return -np.inf if self.open_low else self.low, np.inf if self.open_high else self.high

    def at_most(self, ceiling: float) -> Interval:
        """Return the interval of a quantity that never exceeds ``ceiling``; a finite one closes the upper side."""
        value, low, high = (min(v, ceiling) for v in (self.value, self.low, self.high))
        return replace(self, value=value, low=low, high=high, open_high=self.open_high and bool(np.isinf(ceiling)))

    def around_at_most(self, ceiling: float) -> Interval:
        """Return the interval of a measurement around a curve that never exceeds ``ceiling``: a value above it is moved
        there and the ends by the same factor, so they may lie above by the scatter.
        """
        factor = 1.0 if self.value <= ceiling else ceiling / self.value
        return replace(self, value=min(self.value, ceiling), low=self.low * factor, high=self.high * factor)

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high


def student_cdf(root: Array, degrees: int) -> Array:
    """Return the probability of each signed root."""
    from scipy.stats import t

    return np.asarray(t.cdf(root, degrees))


@dataclass(frozen=True)
class Prediction:
    """The confidence distribution of a curve (or a run) at one point, from its profile.

    value: the point forecast. z: positions in the loss's space, rising, [K]; root: the signed root of the statistic
    at each, compared with Student's t of ``degrees``; lowest, highest: limits of every curve of the law, in the loss's
    space. log: whether that space is logarithmic. converged: of each side, whether its constrained fits did.
    """

    value: float
    z: Array
    root: Array
    degrees: int
    lowest: float
    highest: float
    log: bool
    converged: tuple[bool, bool] = (True, True)

    @property
    def center(self) -> float:
        """The value in the loss's space."""
        return float(np.log(max(self.value, 1e-300))) if self.log else self.value

    def position(self, root: Array) -> tuple[Array, Array]:
        """Return (position in the loss's space at each signed root, whether the data leave that side open)."""
        from scipy.interpolate import PchipInterpolator

        root = np.asarray(root, float)
        if len(self.z) < 2:
            ends = np.where(root < 0, self.lowest, self.highest)
            return np.where(root == 0, self.center, ends), root != 0
        keep = np.concatenate([[True], np.diff(self.root) > 1e-12])
        known, at = self.root[keep], self.z[keep]
        inside = (
            PchipInterpolator(known, at)(np.clip(root, known[0], known[-1])) if len(known) > 1 else at[0] + 0 * root
        )
        low_open = (root < known[0]) | ((root < 0) & (not self.converged[0]))
        high_open = (root > known[-1]) | ((root > 0) & (not self.converged[1]))
        return np.where(low_open, self.lowest, np.where(high_open, self.highest, inside)), low_open | high_open

    def cdf(self, z: Array) -> Array:
        """Return the probability of a position at or below each z [K]; the probability of an open side lies at its
        limit.
        """
        z = np.asarray(z, float)
        if len(self.z) < 2:
            return np.where(z >= self.highest, 1.0, np.where(z >= self.lowest, 0.5, 0.0))
        root = np.interp(z, self.z, self.root, left=self.root[0], right=self.root[-1])
        low, high = student_cdf(self.root[[0, -1]], self.degrees)
        if not self.converged[0]:
            root, low = np.where(z < self.center, 0.0, root), 0.5
        if not self.converged[1]:
            root, high = np.where(z > self.center, 0.0, root), 0.5
        inside = np.clip(student_cdf(root, self.degrees), low, high)
        return np.where(z >= self.highest, 1.0, np.where(z < self.lowest, 0.0, inside))

    def quantiles(self, probabilities: Array) -> tuple[Array, Array]:
        """Return (quantiles in the unit of y, whether each is open)."""
        from scipy.stats import t

        at, is_open = self.position(t.ppf(probabilities, self.degrees))
        return self._back(at), is_open

    def interval(self, level: float = 0.95) -> Interval:
        """Return the central interval."""
        (low, high), (open_low, open_high) = self.quantiles(np.array([(1 - level) / 2, (1 + level) / 2]))
        return Interval(self.value, float(low), float(high), level, bool(open_low), bool(open_high))

    def widened(self, other: Callable[[Array], Array]) -> Prediction:
        """Return the distribution whose every quantile is the further out of this one's and another's.

        Args:
          other: signed roots [K] -> positions in the loss's space [K].
        """
        if len(self.z) < 2:
            return self
        root = np.unique(np.concatenate([self.root, np.linspace(self.root[0], self.root[-1], 41)]))
        position, other_position = self.position(root)[0], other(root)
        z = np.where(
            root < 0,
            np.minimum(position, other_position),
            np.where(root > 0, np.maximum(position, other_position), position),
        )
        z = np.where(root < 0, np.minimum(z, self.center), np.maximum(z, self.center))
        keep = np.isfinite(z)
        return replace(self, z=np.maximum.accumulate(z[keep]), root=root[keep])

    def scattered(self, sd: float) -> Prediction:
        """Return the distribution of a new measurement: the scatter ``sd`` (in the loss's space) added in quadrature.

        On a straight line this is exact: curve and scatter are estimated from the same residuals.
        """
        aside = np.sign(self.root) * np.hypot(self.z - self.center, sd * self.root)
        return replace(self, z=self.center + aside, lowest=-np.inf, highest=np.inf)

    def _back(self, z: Array) -> Array:
        with np.errstate(over="ignore"):
            return np.exp(z) if self.log else np.asarray(z, float)


def unconverged_warnings(law: str, where: str, prediction: Prediction, ceiling: float = np.inf) -> list[str]:
    """Return a warning for each side of a band that is not bounded because its constrained fits did not converge.

    Args:
      law: name of the form.
      where: the point, in words.
      prediction: of the curve at the point.
      ceiling: the error of guessing, at which the band then ends above.
    """
    ends = ("is open below", "is open above" if np.isinf(ceiling) else "reaches up to guessing")
    return [
        f"the band of the {law} at {where} {end}: the fits behind it did not converge"
        for end, converged in zip(ends, prediction.converged, strict=True)
        if not converged
    ]
