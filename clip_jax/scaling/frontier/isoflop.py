"""IsoFLOP valleys (Hoffmann et al., 2022, approach 2) and the exponents of optimal size and data."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from clip_jax.errors import one_of
from clip_jax.scaling.data.records import ValleyRecord
from clip_jax.scaling.frontier.frontier import by_size

if TYPE_CHECKING:
    import pandas as pd

SIZES_FOR_PARABOLA = 4
BUDGETS_FOR_EXPONENT = 3
Way = Literal["parabola", "cubic", "akima"]
ValleySpace = Literal["log", "linear"]


@dataclass(frozen=True)
class Valley:
    """The lowest point of y over x, or why it is not known.

    ``coefficients``: of a polynomial in x - ``middle``, highest power first.
    """

    status: str
    x: float | None = None
    y: float | None = None
    coefficients: tuple[float, ...] | None = None
    middle: float = 0.0


def lowest_point(x: np.ndarray, y: np.ndarray, way: Way = "parabola") -> Valley:
    """Find the lowest y along x (both [n], usually logarithms).

    A parabola is symmetric and valleys are not: it is biased where the sizes tried lie to one side. ``cubic`` may be
    asymmetric; ``akima`` is a local interpolation through every point. No way extrapolates: a lowest point at or beyond
    the edge of the data is refused, and so is a parabola that opens downward.

    Raises UserError for an unknown way.
    """
    one_of("isoflop.way", way, get_args(Way))
    needed = SIZES_FOR_PARABOLA + (way == "cubic")
    order = np.argsort(x)
    x, y = np.asarray(x, float)[order], np.asarray(y, float)[order]
    if len(np.unique(x)) < needed:
        return Valley(f"not identified: {len(np.unique(x))} sizes, {needed} are needed")
    if way == "akima":
        return _akima(x, y)
    middle = float(x.mean())
    c = np.polyfit(x - middle, y, 2 if way == "parabola" else 3)
    known = tuple(float(v) for v in c)
    if way == "parabola":
        if c[0] <= 0:
            return Valley("not identified: the parabola opens downward", None, None, known, middle)
        lowest = [middle - c[1] / (2 * c[0])]
    else:
        turns = np.roots(np.polyder(c))
        turns = turns[np.isreal(turns)].real
        lowest = [middle + t for t in turns if np.polyval(np.polyder(c, 2), t) > 0]
        if not lowest:
            return Valley("not identified: the cubic has no minimum", None, None, known, middle)
    if not x[0] < lowest[0] < x[-1]:
        return Valley("not identified: the lowest point lies outside the sizes tried", None, None, known, middle)
    return Valley("accepted", float(lowest[0]), float(np.polyval(c, lowest[0] - middle)), known, middle)


def _akima(x: np.ndarray, y: np.ndarray, steps: int = 25) -> Valley:
    from scipy.interpolate import Akima1DInterpolator

    x, first = np.unique(x, return_index=True)
    grid = np.concatenate([np.linspace(a, b, steps, endpoint=False) for a, b in pairwise(x)] + [x[-1:]])
    along = Akima1DInterpolator(x, y[first])(grid)
    k = int(np.argmin(along))
    if k in (0, len(grid) - 1):
        return Valley("not identified: the lowest point lies outside the sizes tried")
    return Valley("accepted", float(grid[k]), float(along[k]))


def isoflop(df: pd.DataFrame, metric: str, *, way: Way = "parabola", space: ValleySpace = "log") -> list[ValleyRecord]:
    """Fit the valley of each budget: ln(error) over ln(params).

    ``status`` is ``accepted`` or the reason of refusal (see `lowest_point`). Accepted ones carry ``params``,
    ``samples_seen`` and ``error`` at the lowest point. ``space``: ``linear`` fits the error itself.
    """
    one_of("isoflop.space", space, get_args(ValleySpace))
    forward, back = (np.log, np.exp) if space == "log" else (np.asarray, float)
    out = []
    for budget, group in by_size(df, metric).groupby("budget", sort=True):
        x, y = np.log(group["params"].to_numpy(float)), forward(group["error"].to_numpy(float))
        lowest = lowest_point(x, y, way)
        row: ValleyRecord = {
            "budget": float(np.float64(budget)),  # type: ignore[arg-type]
            "sizes": len(x),
            "coefficients": None,
            "status": lowest.status,
        }
        if lowest.coefficients is not None:
            row["coefficients"] = [*lowest.coefficients, lowest.middle]
        if lowest.x is not None and lowest.y is not None:
            samples = np.interp(lowest.x, x, np.log(group["samples_seen"].to_numpy(float)))
            row |= {
                "params": float(np.exp(lowest.x)),
                "samples_seen": float(np.exp(samples)),
                "error": float(back(lowest.y)),
            }
        out.append(row)
    return out


@dataclass(frozen=True)
class AllocationExponents:
    """Powers N* = G·C^a and D* = H·C^b of the budget in FLOPs, or why they are not known.

    params, samples: a and b, with standard errors ``_se``. params_intercept, samples_intercept: ln G and ln H.
    """

    status: str
    params: float | None = None
    params_se: float | None = None
    samples: float | None = None
    samples_se: float | None = None
    params_intercept: float | None = None
    samples_intercept: float | None = None


def allocation(parabolas: list[ValleyRecord]) -> AllocationExponents:
    """Return the exponents of the optimal size and number of samples, from the accepted parabolas."""
    accepted = [p for p in parabolas if p["status"] == "accepted"]
    if len(accepted) < BUDGETS_FOR_EXPONENT:
        return AllocationExponents(
            f"not identified: {len(accepted)} budgets have an accepted parabola, {BUDGETS_FOR_EXPONENT} are needed"
        )
    x = np.log([p["budget"] for p in accepted])
    (a, a_se, g), (b, b_se, h) = (_line(x, np.log([p[key] for p in accepted])) for key in ("params", "samples_seen"))
    return AllocationExponents("identified", a, a_se, b, b_se, g, h)


def _line(x: np.ndarray, y: np.ndarray) -> tuple[float, float, float]:
    """Return (slope, its standard error, intercept)."""
    from scipy.stats import linregress

    regression = linregress(x, y)
    return float(regression.slope), float(regression.stderr), float(regression.intercept)
