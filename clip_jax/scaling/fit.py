"""Fitting a law to points, robustly and from many starts, with the evidence of how that went."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from clip_jax.config import UserError
from clip_jax.scaling.laws import Law

# Residuals of the logarithm beyond this are treated as outliers (Huber, 1964). Hoffmann et al. (2022) use 1e-3 for
# losses of hundreds of runs; errors of a few runs scatter by percents, and 1e-3 would fit two points and drop the rest.
HUBER_DELTA = 0.02
TINY = 1e-12  # a predicted error never goes below
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
        x = np.log(np.asarray(flops, float) / self.reference)
        return self.law.predict(self.theta, x.ravel()).reshape(x.shape)

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
        notes.append(f"asymptote not identified: {law.asymptote} pinned at {law.pin_at(y):g} with {len(c)} points")
    free = [i for i, p in enumerate(law.parameters) if not (pinned and p == law.asymptote)]
    if len(c) < len(free):
        raise UserError(f"fit: {law.name} needs at least {len(free)} points, there are {len(c)}")
    reference = float(np.exp(np.log(c).mean()))
    x, target = np.log(c / reference), np.log(y)
    low, high = (np.array(b, float) for b in law.bounds(x, y))

    def full(part: np.ndarray) -> np.ndarray:
        theta = np.full(len(law.parameters), law.pin_at(y))
        theta[free] = part
        return theta

    grid = starts if starts is not None else law.starts(x, y)
    begin = np.unique(np.clip(np.array([full(np.asarray(g, float)[free]) for g in grid]), low, high), axis=0)
    ends, costs, done = solve(law, x, np.broadcast_to(target, (len(begin), len(x))), begin, free, low, high, delta)
    first = int(np.argmin(costs))
    agree = int((costs <= costs[first] * (1 + 1e-4) + 1e-10).sum())
    theta = ends[first]
    hit = [law.parameters[i] for i in free if np.isclose(theta[i], (low[i], high[i]), rtol=1e-6, atol=1e-6).any()]
    status = "converged" if done[first] else "failed"
    if hit:
        status = f"bound hit: {', '.join(hit)}"
    spread = np.log(np.maximum(law.predict(theta, x), TINY)) - target
    degrees = max(len(c) - len(free), 1)
    sd = float(np.sqrt(np.sum(spread**2) / degrees))
    return Fit(
        law, theta, reference, status, len(begin), agree, float(costs[first]), len(c), sd, len(free), tuple(notes)
    )


def solve(
    law: Law, x: np.ndarray, target: np.ndarray, begin: np.ndarray, free: list[int], low: np.ndarray, high: np.ndarray,
    delta: float = HUBER_DELTA, iterations: int = 300,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:  # fmt: skip
    """Many small robust fits at once: Levenberg-Marquardt with Huber weights, inside bounds.

    Args:
      law: the form. x: float [n], ln(C / reference). target: float [R, n], ln(error).
      begin: float [R, p], all parameters; those not in ``free`` stay.
      low, high: float [p].

    Returns:
      (theta [R, p], sum of Huber losses [R], whether it converged [R]).
    """
    theta, damping = begin.copy(), np.full(len(begin), 1e-2)

    def residuals(theta: np.ndarray) -> np.ndarray:
        return np.log(np.maximum(law.predict(theta, x), TINY)) - target

    def cost(r: np.ndarray) -> np.ndarray:
        size = np.abs(r)
        return np.where(size <= delta, r * r / 2, delta * (size - delta / 2)).sum(axis=1)

    r = residuals(theta)
    now = cost(r)
    settled, converged = np.zeros(len(begin), int), np.zeros(len(begin), bool)
    for _ in range(iterations):
        jacobian = np.empty((*r.shape, len(free)))
        for k, i in enumerate(free):
            step = 1e-6 * (1 + np.abs(theta[:, i]))
            up, down = theta.copy(), theta.copy()
            up[:, i], down[:, i] = theta[:, i] + step, theta[:, i] - step
            jacobian[:, :, k] = (residuals(up) - residuals(down)) / (2 * step)[:, None]
        weight = np.minimum(1.0, delta / np.maximum(np.abs(r), 1e-300))
        slope = np.einsum("rnk,rn->rk", jacobian, weight * r)
        # a parameter that rests on a bound and is pushed outward stands still this time
        part = theta[:, free]
        stuck = ((part <= low[free]) & (slope > 0)) | ((part >= high[free]) & (slope < 0))
        jacobian = np.where(stuck[:, None, :], 0.0, jacobian)
        slope = np.where(stuck, 0.0, slope)
        normal = np.einsum("rnk,rnl,rn->rkl", jacobian, jacobian, weight)
        diagonal = np.einsum("rkk->rk", normal)
        diagonal += damping[:, None] * diagonal + 1e-14 + stuck
        new = theta.copy()
        new[:, free] = np.clip(part - np.linalg.solve(normal, slope[..., None])[..., 0], low[free], high[free])
        new_r = residuals(new)
        after = cost(new_r)
        better = after <= now
        small = better & (now - after <= 1e-12 * now + 1e-18)
        settled = np.where(small | (damping > 1e10), settled + 1, 0)
        converged |= small | (now < 1e-20)
        theta[better], r[better], now[better] = new[better], new_r[better], after[better]
        damping = np.clip(np.where(better, damping / 4, damping * 5), 1e-10, 1e12)
        if (settled >= 3).all():
            break
    return theta, now, converged
