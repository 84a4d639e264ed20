"""A validation loss that is comparable across batch sizes: fixed held-out pairs, a fixed number of negatives."""

from __future__ import annotations

import numpy as np

from clip_jax.evals.zero_shot import Row


def contrastive_loss(similarity: np.ndarray, log_scale: float) -> float:
    """Return InfoNCE in nats of cosine similarities [B, B], mean of both directions, at temperature exp(-log_scale)."""
    scale = np.exp(log_scale)
    # cosines differ by 2 at most, so one shift serves rows and columns up to a scale of 300 in float64
    powers = np.exp((similarity.astype(np.float64) - 1.0) * scale)
    rows, columns = np.log(powers.sum(axis=1)), np.log(powers.sum(axis=0))
    return float(np.mean((rows + columns) / 2 - (np.diagonal(similarity) - 1.0) * scale))


def validation_loss(images: np.ndarray, texts: np.ndarray, scale: float, pairs: int) -> list[Row]:
    """Compute the loss over partitions of ``pairs`` pairs, at the trained and at the best temperature.

    Chance is ln(pairs). The refitted value removes the effect of the temperature from comparisons between runs.

    Args:
      images, texts: embeddings [N, E] each.
      scale: the trained logit scale.
      pairs: number of pairs per partition.
    """
    from scipy.optimize import minimize_scalar

    parts = [images[i : i + pairs] @ texts[i : i + pairs].T for i in range(0, len(images) - pairs + 1, pairs)]

    def mean_loss(log_scale: float) -> float:
        return float(np.mean([contrastive_loss(part, log_scale) for part in parts]))

    best = minimize_scalar(mean_loss, bounds=(0.0, float(np.log(300.0))), method="bounded", options={"xatol": 1e-3})
    values = {"loss": mean_loss(float(np.log(scale))), "loss_refit": float(best.fun)}
    count, chance = pairs * len(parts), float(np.log(pairs))
    return [
        {"task": "validation", "metric": metric, "value": value, "examples": count, "chance": chance}
        for metric, value in values.items()
    ]
