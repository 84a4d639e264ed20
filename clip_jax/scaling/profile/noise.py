"""Independent estimates of the scatter of a fit's rows, beside its residuals."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Noise:
    """A standard deviation of the residuals that is known from elsewhere.

    sd: in the loss's space; 0: unknown. degrees: of freedom of its estimate (seeds); 0: it is exact and only a lower
    limit (the binomial scatter of a finite evaluation set). inflation: factor on the variance of a fit to points that
    scatter together, as those of runs that share a trunk do (the design effect; Kish, 1965); it widens intervals of the
    curve and leaves the scatter of a point as it is.
    """

    sd: float = 0.0
    degrees: int = 0
    inflation: float = 1.0


NO_NOISE = Noise()
SAME_SCATTER = 0.95  # quantile of F up to which residuals and seeds show one scatter


def pooled(variance: float, degrees: int, noise: Noise) -> tuple[float, int]:
    """Return (variance, degrees of freedom) of the residuals, from the fit and from the independent estimate.

    Where the residual variance does not exceed the known scatter (an F test at 5 %), both are pooled, and the result is
    never below the known one. Where it does, the fit alone counts: something else scatters too.
    """
    from scipy.stats import f

    known = noise.sd**2
    if not noise.degrees:
        return max(variance, known), degrees
    if variance > known * f.ppf(SAME_SCATTER, degrees, noise.degrees):
        return variance, degrees
    both = degrees + noise.degrees
    return max((degrees * variance + noise.degrees * known) / both, known), both
