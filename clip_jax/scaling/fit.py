"""Fitting a law to points, robustly and from many starts, with the evidence of how that went."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from scipy.optimize import least_squares

from clip_jax.config import UserError
from clip_jax.scaling.laws import Law

# Residuals of the logarithm beyond this are treated as outliers (Huber, 1964). Hoffmann et al. (2022) use 1e-3 for
# losses of hundreds of runs; errors of a few runs scatter by percents, and 1e-3 would fit two points and drop the rest.
HUBER_DELTA = 0.02
SPARE_POINTS = 3  # points beyond the parameters that an asymptote needs to be told


@dataclass(frozen=True)
class Fit:
    """A fitted law. ``theta`` holds all parameters over ln(C / reference), pinned ones too."""

    law: Law
    theta: np.ndarray
    reference: float
    status: str  # converged | bound hit: NAME | failed
    starts: int
    agree: int  # starts that ended at the same objective
    objective: float  # sum of Huber losses of ln(error), not a mean
    points: int
    residual_sd: float  # of ln(error), over the points minus the free parameters
    free: int
    notes: tuple[str, ...] = field(default=())

    def predict(self, flops: np.ndarray | float) -> np.ndarray:
        """Error at ``flops``, same shape."""
        return self.law.predict(self.theta, np.log(np.asarray(flops, float) / self.reference))

    @property
    def values(self) -> dict[str, float]:
        """Parameters in units of FLOPs."""
        return self.law.describe(self.theta, self.reference)


def fit_law(
    law: Law,
    flops: np.ndarray,
    errors: np.ndarray,
    *,
    delta: float = HUBER_DELTA,
    starts: list[list[float]] | None = None,
    pin: bool | None = None,
) -> Fit:
    """Minimise the sum of Huber losses of ln(error) over a grid of starts.

    Args:
      law: the form.
      flops, errors: float [n], above 0.
      delta: where the Huber loss turns linear, in ln(error).
      starts: in place of the law's own grid (for resamples).
      pin: hold the asymptote at its default; None does so with fewer than parameters + 3 points, and says so.

    Raises:
      UserError: fewer points than free parameters, or a number that is not above 0.
    """
    c, y = np.asarray(flops, float), np.asarray(errors, float)
    if not (np.all(c > 0) and np.all(y > 0) and np.all(np.isfinite(y))):
        raise UserError("fit: FLOPs and errors must be above 0 and finite")
    notes: list[str] = []
    few = len(c) < len(law.parameters) + SPARE_POINTS
    pinned = law.asymptote is not None and (few if pin is None else pin)
    if pinned:
        notes.append(f"asymptote not identified: {law.asymptote} pinned at {law.pinned:g} with {len(c)} points")
    free = [i for i, p in enumerate(law.parameters) if not (pinned and p == law.asymptote)]
    if len(c) < len(free):
        raise UserError(f"fit: {law.name} needs at least {len(free)} points, there are {len(c)}")
    reference = float(np.exp(np.log(c).mean()))
    x, target = np.log(c / reference), np.log(y)
    low, high = (np.array(b, float) for b in law.bounds(x, y))

    def full(part: np.ndarray) -> np.ndarray:
        theta = np.full(len(law.parameters), law.pinned)
        theta[free] = part
        return theta

    def residuals(part: np.ndarray) -> np.ndarray:
        return np.log(np.maximum(law.predict(full(part), x), 1e-12)) - target

    ends = []
    grid = starts if starts is not None else law.starts(x, y)
    seen = {tuple(np.clip(np.asarray(s, float), low, high)[free].tolist()) for s in grid}
    for start in sorted(seen):
        inside = np.clip(start, low[free] + 1e-9, high[free] - 1e-9)
        done = least_squares(
            residuals, inside, bounds=(low[free], high[free]), loss="huber", f_scale=delta,
            xtol=1e-12, ftol=1e-12, gtol=1e-12, max_nfev=400,
        )  # fmt: skip
        ends.append((float(done.cost), done.success, done.x))
    best = min(ends, key=lambda e: e[0])
    agree = sum(e[0] <= best[0] * (1 + 1e-4) + 1e-12 for e in ends)
    theta = full(best[2])
    hit = [law.parameters[i] for i in free if np.isclose(theta[i], (low[i], high[i]), rtol=1e-6, atol=1e-6).any()]
    status = "converged" if best[1] else "failed"
    if hit:
        status = f"bound hit: {', '.join(hit)}"
    spread = residuals(best[2])
    degrees = max(len(c) - len(free), 1)
    sd = float(np.sqrt(np.sum(spread**2) / degrees))
    return Fit(law, theta, reference, status, len(ends), agree, best[0], len(c), sd, len(free), tuple(notes))
