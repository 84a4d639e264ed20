"""Judgment of the values of one setting that were tried in one cell: is the best of them bracketed?

The report's verdict on learning rates and the bests that `hyperparameter_scaling` fits powers to use it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

import numpy as np

from clip_jax.scaling.data.runs_table import is_check
from clip_jax.scaling.frontier.frontier import seed_noise

if TYPE_CHECKING:
    import pandas as pd

MIN_VALUES = 3  # values of the setting per cell
NOISE_SDS = 2.0  # standard deviations between seeds that a difference must exceed
INSIDE: Final = "inside"
FLAT: Final = "flat"
EDGE: Final = "edge"
FEW: Final = "too few"
JudgmentKind = Literal["inside", "flat", "edge", "too few"]


@dataclass(frozen=True)
class Judgment:
    """Judgment of the tried values.

    ``kind`` is explained in `judge`; ``reason`` explains this one, and is empty for ``inside``.
    ``values`` are the tried values, ascending, and ``errors`` the mean error of each over the seeds that all values
    have.
    """

    kind: JudgmentKind
    reason: str
    values: tuple[float, ...]
    errors: tuple[float, ...]

    @property
    def text(self) -> str:
        """Kind and reason as one text."""
        return f"{self.kind}: {self.reason}" if self.reason else self.kind


def noise_of(runs: pd.DataFrame, metric: str) -> float:
    """Return the relative difference that seeds alone explain, from the cells with several; 0 if there are none.

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

    def judgment(kind: JudgmentKind, reason: str = "") -> Judgment:
        return Judgment(kind, reason, tuple(map(float, values)), tuple(map(float, errors)))

    if len(values) < MIN_VALUES:
        return judgment(FEW, f"{len(values)} values tried, {MIN_VALUES} are needed")
    k = int(np.argmin(errors))
    if 0 < k < len(values) - 1:
        return judgment(INSIDE)
    side = "lower" if k == 0 else "higher"
    usual_values = cell.loc[~is_check(cell["kind"]), setting] if "kind" in cell else cell[setting].iloc[:0]
    usual = np.flatnonzero(np.isclose(values, float(usual_values.iloc[0]))) if len(usual_values) else np.zeros(0, int)
    if len(usual) and usual[0] != k and errors[usual[0]] - errors[k] <= noise * errors[k]:
        return judgment(FLAT, f"{side} is better by less than the noise")
    return judgment(EDGE, f"{side} is better, and the best is the {'lowest' if k == 0 else 'highest'} value tried")
