"""The training loss of the predictive objectives."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from clip_jax.losses.predictive import vocabulary_loss
from clip_jax.models.clip import batch_statistics
from clip_jax.models.predictive import Predictive


def predictive_loss(
    model: Predictive, images: jax.Array, tokens: jax.Array, mesh: Mesh, *, train: bool, rng: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, Any]]:
    """-> (loss over the global batch, (logit scale, new running statistics)), as `step.make_loss` asks.

    A softmax over the vocabulary has no temperature, so its scale is 1.
    """
    said = model(images, tokens, train=train, rng=rng)
    loss = vocabulary_loss(*said, mesh=mesh, chunk=model.config.vocab_chunk)
    return loss, (jnp.ones((), loss.dtype), batch_statistics(model))
