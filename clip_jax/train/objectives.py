"""The training loss of the predictive objectives."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from clip_jax.losses.predictive import vocabulary_loss
from clip_jax.models.clip import batch_statistics
from clip_jax.models.predictive import Predictive, TokenPrediction
from clip_jax.types import Params


def predictive_loss(
    model: Predictive, prediction: TokenPrediction, mesh: Mesh
) -> tuple[jax.Array, tuple[jax.Array, Params]]:
    """Return (loss over the global batch, (logit scale, new running statistics)), in the form of `step.make_loss`.

    The softmax over the vocabulary has no temperature, so the scale is 1.

    Args:
      model: the predictive model.
      prediction: its output for the batch.
      mesh: the mesh over which the batch is sharded.
    """
    loss = vocabulary_loss(*prediction, mesh=mesh, chunk=model.config.vocab_chunk)
    return loss, (jnp.ones((), loss.dtype), batch_statistics(model))
