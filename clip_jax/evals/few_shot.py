"""Few-shot probes: a handful of examples a class, drawn several times (Radford et al., 2021, figure 6)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from clip_jax.errors import UserError
from clip_jax.evals.linear_probe import fit_probe
from clip_jax.evals.metrics import hits_at

SHOTS = (1, 2, 4, 8, 16)
L2 = 1 / 0.316  # of the released example's logistic regression; too few examples to search by


@dataclass(frozen=True)
class FewShot:
    """Accuracy over the draws of one number of shots."""

    shots: int
    mean: float
    std: float
    low: float
    high: float
    draws: int


def draw(labels: np.ndarray, classes: int, shots: int, seed: int) -> np.ndarray:
    """Indices of ``shots`` examples of each class. Raises UserError when a class has fewer."""
    rng = np.random.default_rng([seed, shots])
    out = []
    for c in range(classes):
        rows = np.flatnonzero(labels == c)
        if len(rows) < shots:
            raise UserError(f"few-shot: class {c} has {len(rows)} training examples, {shots} are needed")
        out.append(rng.choice(rows, shots, replace=False))
    return np.concatenate(out)


def few_shot(
    train: tuple[np.ndarray, np.ndarray], test: tuple[np.ndarray, np.ndarray], classes: int, *,
    shots: tuple[int, ...] = SHOTS, draws: int = 5, seed: int = 0, l2: float = L2,
) -> list[FewShot]:  # fmt: skip
    """Features [N, D] and labels [N] of both splits -> accuracy, spread over draws, for each number of shots.

    Numbers of shots that the smallest class cannot give are left out; raises UserError when that leaves none.
    """
    smallest = int(np.bincount(train[1], minlength=classes).min())
    out = []
    for k in shots:
        if k > smallest:
            break
        accuracies = []
        for s in range(draws):
            rows = draw(train[1], classes, k, seed + s)
            probe = fit_probe(train[0][rows], train[1][rows], classes, np.array([l2]))
            accuracies.append(float(hits_at(probe.scores(test[0])[0], test[1], 1).mean()))
        values = np.array(accuracies)
        std = float(values.std(ddof=1)) if draws > 1 else 0.0
        out.append(FewShot(k, float(values.mean()), std, float(values.min()), float(values.max()), draws))
    if not out:
        raise UserError(f"few-shot: the smallest class has {smallest} training examples, {min(shots)} are needed")
    return out
