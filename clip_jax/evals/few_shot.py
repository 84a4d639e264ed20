"""Few-shot linear probes: a few examples per class, drawn several times (Radford et al., 2021, figure 6)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from clip_jax.errors import UserError
from clip_jax.evals.linear_probe import fit_probe
from clip_jax.evals.metrics import hits_at

SHOTS = (1, 2, 4, 8, 16)
L2 = 1 / 0.316  # as in the released example; there are too few examples to search λ


@dataclass(frozen=True)
class FewShot:
    """Accuracy over the draws, for one number of shots."""

    shots: int
    mean: float
    std: float
    low: float
    high: float
    draws: int


def draw(labels: np.ndarray, classes: int, shots: int, seed: int) -> np.ndarray:
    """Return indices of ``shots`` random examples of each class. Raises UserError when a class has fewer."""
    rng = np.random.default_rng([seed, shots])
    out = []
    for c in range(classes):
        rows = np.flatnonzero(labels == c)
        if len(rows) < shots:
            raise UserError(field="shots", value=shots, reason=f"class {c} has {len(rows)} training examples")
        out.append(rng.choice(rows, shots, replace=False))
    return np.concatenate(out)


def few_shot(
    train: tuple[np.ndarray, np.ndarray], test: tuple[np.ndarray, np.ndarray], classes: int, *,
    shots: tuple[int, ...] = SHOTS, draws: int = 5, seed: int = 0, l2: float = L2,
) -> list[FewShot]:  # fmt: skip
    """Return the distribution of accuracy over draws for each number of shots.

    Numbers of shots larger than the smallest class are left out.

    Args:
      train: features [N, D] and labels int [N].
      test: features [M, D] and labels int [M].
      classes: number of classes.
      shots: examples per class, ascending.
      draws: random draws per number of shots.
      seed: of the first draw; each further one adds 1.
      l2: strength λ of the probe.

    Raises:
      UserError: the smallest class has fewer examples than every number of shots.
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
        raise UserError(field="shots", value=list(shots), reason=f"the smallest class has {smallest} training examples")
    return out
