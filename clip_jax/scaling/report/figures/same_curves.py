"""Group laws with the same curve, such as a saturating power law with E = 0 and a power law; each is drawn once."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from clip_jax.scaling.analysis.frontier_fit import FrontierFit

EQUAL = 1e-3  # relative difference below which two curves are one line on paper


def same_curves(fitted: Mapping[str, FrontierFit], grid: np.ndarray, first: str | None = None) -> list[tuple[str, ...]]:
    """Group laws by their curve.

    Args:
      fitted: a fit by the key of its law.
      grid: FLOPs at which curves are compared, [n].
      first: the key that leads its group, whatever its position; else the earliest does.

    Returns:
      Keys of each group, its leader first, in the order of ``fitted``.
    """
    groups: list[list[str]] = []
    values = {key: f.curve(np.asarray(grid, float)) for key, f in fitted.items()}
    for key, y in values.items():
        equal = next((g for g in groups if np.allclose(y, values[g[0]], rtol=EQUAL, atol=0)), None)
        if equal is None:
            groups.append([key])
        else:
            equal.append(key)
    return [tuple(sorted(g, key=lambda key: key != first)) for g in groups]


def joint_name(fitted: Mapping[str, FrontierFit], group: tuple[str, ...]) -> str:
    """Name a group: ``power law = saturating power law``."""
    return " = ".join(fitted[key].fit.law.name for key in group)
