"""Valleys over one set of sizes: the scatter of their points, and many lowest points at once."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from clip_jax.scaling.laws.base import Array


def third_differences(x: Array, y: Array) -> Array:
    """Return third divided differences of y with unit variance per unit variance of y: free of any local parabola.

    The difference-based scatter of Gasser, Sroka and Jennen-Steinmetz (1986), one order higher.
    """
    out = []
    for i in range(len(x) - 3):
        near = x[i : i + 4]
        weights = np.array([1 / np.prod([a - b for b in near if b != a]) for a in near])
        out.append(float(weights @ y[i : i + 4] / np.sqrt(weights @ weights)))
    return np.array(out)


def lowest_points(x: Array, ys: Array, way: str) -> Array:
    """Find x of the lowest point of many valleys over the same x, as `isoflop.lowest_point` does one by one.

    Args:
      x: distinct and rising, [n].
      ys: [draws, n].
      way: ``parabola``, ``cubic`` or ``akima``.

    Returns:
      [draws]; NaN where there is no lowest point inside.
    """
    if way == "akima":
        from scipy.interpolate import Akima1DInterpolator

        grid = np.concatenate([np.linspace(a, b, 25, endpoint=False) for a, b in pairwise(x)] + [x[-1:]])
        k = Akima1DInterpolator(x, ys.T)(grid).argmin(axis=0)
        return np.where((k > 0) & (k < len(grid) - 1), grid[k], np.nan)
    middle = x.mean()
    c = np.polyfit(x - middle, ys.T, 2 if way == "parabola" else 3)
    with np.errstate(divide="ignore", invalid="ignore"):
        if way == "parabola":
            low = np.where(c[0] > 0, -c[1] / (2 * c[0]), np.nan)
        else:
            low = (-c[1] + np.sqrt(c[1] ** 2 - 3 * c[0] * c[2])) / (3 * c[0])
        low = low + middle
        return np.where((low > x[0]) & (low < x[-1]), low, np.nan)
