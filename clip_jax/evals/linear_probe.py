"""Logistic regression on frozen features by L-BFGS on the device, for many regularization strengths at once.

The objective is scikit-learn's: the sum of cross-entropies plus λ/2 times the squared weights, without a penalty on the
intercept (its C is 1/λ). For multi-label sets, each class is a binary problem, as in scikit-learn's one-versus-rest. λ
is searched as in Radford et al., 2021, appendix A.3.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from clip_jax.evals.metrics import eleven_point_map, hits_at
from clip_jax.types import PyTree

L2_GRID = np.logspace(-6, 6, 97)  # 96 steps, eight per decade
COARSE_STEP = 16  # two decades
FLOAT32_TOLERANCE = 1e-5  # gradient tolerance of the float32 stage
LBFGS_MEMORY = 10  # update pairs, as in scipy


@dataclass(frozen=True)
class Probe:
    """Fits for K strengths, float64 on the host.

    ``weights`` [K, D, C], ``bias`` [K, C], ``l2`` [K], ``objective`` [K] (mean per example), ``iterations`` [K],
    ``converged`` bool [K].
    """

    weights: np.ndarray
    bias: np.ndarray
    l2: np.ndarray
    objective: np.ndarray
    iterations: np.ndarray
    converged: np.ndarray

    def scores(self, features: np.ndarray) -> np.ndarray:
        """Return the logits of features [N, D] for each strength: [K, N, C]."""
        return features.astype(self.weights.dtype) @ self.weights + self.bias[:, None]


def objective(weights: jax.Array, bias: jax.Array, features: jax.Array, labels: jax.Array, l2: jax.Array) -> jax.Array:
    """Return the mean cross-entropy plus λ/2N · |W|² in nats.

    Args:
      weights: [D, C].
      bias: [C].
      features: [N, D].
      labels: int [N] or bool [N, C].
      l2: scalar λ.
    """
    logits = features @ weights + bias[None]
    if labels.ndim == 2:
        losses = jnp.sum(jax.nn.softplus(jnp.where(labels, -logits, logits)), axis=1)
    else:
        label_logits = jnp.take_along_axis(logits, labels[:, None], axis=1)[:, 0]
        losses = jax.nn.logsumexp(logits, axis=1) - label_logits
    return jnp.mean(losses) + l2 / (2 * features.shape[0]) * jnp.sum(weights * weights)


@functools.partial(jax.jit, static_argnames=("max_iterations", "vmapped"))
def _solve(
    features: jax.Array, labels: jax.Array, l2: jax.Array, start: Any, tolerance: float, *, max_iterations: int,
    vmapped: bool,
) -> Any:  # fmt: skip
    solver = optax.lbfgs(memory_size=LBFGS_MEMORY)

    def fit(problem: tuple[jax.Array, tuple[jax.Array, jax.Array]]) -> PyTree:
        strength, start = problem

        def value(p: tuple[jax.Array, jax.Array]) -> jax.Array:
            return objective(p[0], p[1], features, labels, strength)

        value_and_grad = optax.value_and_grad_from_state(value)

        def more(carry: Any) -> jax.Array:
            _, _, _, count, slope = carry
            return (count < max_iterations) & (slope > tolerance)

        def step(carry: Any) -> Any:
            p, state, _, count, _ = carry
            loss, grad = value_and_grad(p, state=state)
            updates, state = solver.update(grad, state, p, value=loss, grad=grad, value_fn=value)
            p = optax.apply_updates(p, updates)
            slope = jnp.max(jnp.array([jnp.max(jnp.abs(g)) for g in jax.tree.leaves(optax.tree.get(state, "grad"))]))
            return p, state, optax.tree.get(state, "value"), count + 1, slope

        inf = jnp.asarray(jnp.inf, features.dtype)
        p, _, loss, count, slope = jax.lax.while_loop(more, step, (start, solver.init(start), inf, 0, inf))
        return p[0], p[1], loss, count, slope <= tolerance

    return jax.vmap(fit)((l2, start)) if vmapped else jax.lax.map(fit, (l2, start))


def fit_probe(
    features: np.ndarray, labels: np.ndarray, classes: int, l2: np.ndarray, *, tolerance: float = 1e-7,
    max_iterations: int = 1000, vmapped: bool | None = None,
) -> Probe:  # fmt: skip
    """Fit K probes in one call: first in float32, then to the tolerance in float64.

    Args:
      features: [N, D].
      labels: int [N], 0 to classes - 1; or bool [N, C].
      classes: C.
      l2: [K] strengths λ.
      tolerance: of the largest entry of the mean objective's gradient.
      max_iterations: of each of the two stages; a fit that reaches it is returned as it is, not converged.
      vmapped: fit all strengths in one vmapped batch (best on an accelerator) or in sequence (best on a CPU, where a
      batch that waits for its slowest member only costs time); None chooses by the device.
    """
    vmapped = jax.default_backend() != "cpu" if vmapped is None else vmapped
    shape = (len(l2), features.shape[1], classes)
    start: PyTree = (np.zeros(shape), np.zeros((len(l2), classes)))
    total = np.zeros(len(l2), int)
    with jax.enable_x64(True):
        for dtype, goal in ((jnp.float32, max(tolerance, FLOAT32_TOLERANCE)), (jnp.float64, tolerance)):
            outputs = _solve(
                jnp.asarray(features, dtype), jnp.asarray(labels, bool if labels.ndim == 2 else jnp.int32),
                jnp.asarray(l2, dtype),
                jax.tree.map(lambda x, dtype=dtype: jnp.asarray(x, dtype), start), jnp.asarray(goal, dtype),
                max_iterations=max_iterations, vmapped=vmapped,
            )  # fmt: skip
            weights, bias, loss, count, converged = (np.asarray(x) for x in outputs)
            total += count
            # the float32 stage may diverge to NaN; then the second stage starts from zero
            start = tuple(np.nan_to_num(x, nan=0.0, posinf=0.0, neginf=0.0) for x in (weights, bias))
    return Probe(weights, bias, np.asarray(l2, np.float64), loss, total, converged)


def search_l2(
    train: tuple[np.ndarray, np.ndarray], val: tuple[np.ndarray, np.ndarray], classes: int
) -> tuple[float, dict[float, float]]:
    """Search λ as in the paper.

    Seven strengths two decades apart, then half the step around the best, down to an eighth of a decade. Returns the
    best λ of `L2_GRID` by validation accuracy (multi-label: 11-point mAP; ties: the larger λ), and the score of each λ.
    """
    scores_by_index: dict[int, float] = {}

    def evaluate(wanted: list[int]) -> int:
        new = [i for i in wanted if 0 <= i < len(L2_GRID) and i not in scores_by_index]
        if new:
            probe = fit_probe(*train, classes, L2_GRID[new])
            scores_by_index.update(zip(new, (_quality(scores, val[1]) for scores in probe.scores(val[0])), strict=True))
        return max(scores_by_index, key=lambda i: (scores_by_index[i], i))

    best = evaluate(list(range(0, len(L2_GRID), COARSE_STEP)))
    step = COARSE_STEP // 2
    while step:
        best = evaluate([best - step, best + step])
        step //= 2
    return float(L2_GRID[best]), {float(L2_GRID[i]): scores_by_index[i] for i in sorted(scores_by_index)}


def _quality(scores: np.ndarray, labels: np.ndarray) -> float:
    if labels.ndim == 2:
        return eleven_point_map(scores, labels)
    return float(hits_at(scores, labels, 1).mean())


def split(labels: np.ndarray, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return indices of a stratified split (train, validation) with ``share`` of each class in validation.

    A class with at least two examples has at least one in validation. Multi-label sets are split without
    stratification.
    """
    rng = np.random.default_rng(seed)
    if labels.ndim == 2:
        rows = rng.permutation(len(labels))
        cut = max(1, round(share * len(rows)))
        return np.sort(rows[cut:]), np.sort(rows[:cut])
    held: list[int] = []
    for c in np.unique(labels):
        rows = rng.permutation(np.flatnonzero(labels == c))
        held += rows[: min(len(rows) - 1, max(1, round(share * len(rows))))].tolist()
    validation = np.sort(np.array(held, int))
    return np.setdiff1d(np.arange(len(labels)), validation), validation


def linear_probe(
    train: tuple[np.ndarray, np.ndarray], test_features: np.ndarray, classes: int, *,
    val: tuple[np.ndarray, np.ndarray] | None = None, val_share: float = 0.2, seed: int = 0,
) -> tuple[np.ndarray, float]:  # fmt: skip
    """Search λ on a validation split, refit on training and validation data, score the test set.

    Args:
      train: features [N, D] and labels int [N] or bool [N, C].
      test_features: [M, D].
      classes: C.
      val: features and labels of a validation split; None cuts ``val_share`` from ``train``.
      val_share: share of the training examples.
      seed: of that cut.

    Returns:
      Scores [M, C] and the chosen λ.
    """
    if val is None:
        first, second = split(train[1], val_share, seed)
        fit, check = (train[0][first], train[1][first]), (train[0][second], train[1][second])
        everything = train
    else:
        fit, check = train, val
        everything = (np.concatenate([train[0], val[0]]), np.concatenate([train[1], val[1]]))
    l2, _ = search_l2(fit, check, classes)
    return fit_probe(*everything, classes, np.array([l2])).scores(test_features)[0], l2
