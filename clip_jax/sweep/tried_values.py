"""Judge the values of one setting that were tried in one cell: is the best of them inside what was tried?

The report's verdict on learning rates and the bests that `rules` fits powers to are this one judgment.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from clip_jax.scaling.data.runs_table import is_check
from clip_jax.scaling.frontier.frontier import seed_noise

if TYPE_CHECKING:
    import pandas as pd

LEAST_VALUES = 3  # of the setting, in one cell
NOISE_SDS = 2.0  # standard deviations between seeds that a difference must exceed
INSIDE, FLAT, EDGE, FEW = "inside", "flat", "edge", "too few"


@dataclass(frozen=True)
class Judgment:
    """kind: ``inside``, ``flat``, ``edge`` or ``too few``; reason: in words, empty for ``inside``.

    values, errors: what was tried, rising, and the mean error of each over the seeds that all values have.
    """

    kind: str
    reason: str
    values: tuple[float, ...]
    errors: tuple[float, ...]

    @property
    def text(self) -> str:
        """Return kind and reason."""
        return f"{self.kind}: {self.reason}" if self.reason else self.kind


def noise_of(runs: pd.DataFrame, metric: str) -> float:
    """Return the relative difference that seeds alone explain, from the cells with several; 0 where there are none.

    Args:
      runs: finished runs; checks of other values do not count.
      metric: a column.
    """
    usual = runs[~is_check(runs["kind"])] if "kind" in runs else runs
    if not (usual[metric] > 0).all():
        return 0.0
    return NOISE_SDS * seed_noise(usual, metric)[0]


def judge(cell: pd.DataFrame, setting: str, metric: str, noise: float) -> Judgment:
    """Judge the values of ``setting`` tried in a cell.

    Args:
      cell: runs that agree in everything but the setting and the seed. The usual value is that of the runs that are no
        checks.
      setting: a column.
      metric: a column, lower is better.
      noise: see `noise_of`.

    Returns:
      ``inside``: the best lies between others. ``flat``: it lies at an edge but beats the usual value by no more than
      the noise. ``edge``: another value beyond may be better still. ``too few``: fewer than three values.
    """
    seeds = set.intersection(*(set(part["seed"]) for _, part in cell.groupby(setting)))
    fair = cell[cell["seed"].isin(seeds)] if seeds else cell
    means = fair.groupby(setting)[metric].mean()
    values, errors = means.index.to_numpy(float), means.to_numpy(float)

    def found(kind: str, reason: str = "") -> Judgment:
        return Judgment(kind, reason, tuple(map(float, values)), tuple(map(float, errors)))

    if len(values) < LEAST_VALUES:
        return found(FEW, f"{len(values)} values tried, {LEAST_VALUES} are needed")
    k = int(np.argmin(errors))
    if 0 < k < len(values) - 1:
        return found(INSIDE)
    side = "lower" if k == 0 else "higher"
    own = cell.loc[~is_check(cell["kind"]), setting] if "kind" in cell else cell[setting].iloc[:0]
    usual = np.flatnonzero(np.isclose(values, float(own.iloc[0]))) if len(own) else np.zeros(0, int)
    if len(usual) and usual[0] != k and errors[usual[0]] - errors[k] <= noise * errors[k]:
        return found(FLAT, f"{side} is better by less than the noise")
    return found(EDGE, f"{side} is better, and the best is the {'lowest' if k == 0 else 'highest'} value tried")
