"""The training loss of the predictive objectives."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from clip_jax.losses.predictive import vocabulary_loss
from clip_jax.models.clip import batch_statistics
from clip_jax.models.predictive import Prediction, Predictive


def predictive_loss(model: Predictive, said: Prediction, mesh: Mesh) -> tuple[jax.Array, tuple[jax.Array, Any]]:
    """What the model said of a batch -> (loss over the global batch, (logit scale, new running statistics)).

    The form that `step.make_loss` gives. A softmax over the vocabulary has no temperature, so its scale is 1.
    """
    loss = vocabulary_loss(*said, mesh=mesh, chunk=model.config.vocab_chunk)
    return loss, (jnp.ones((), loss.dtype), batch_statistics(model))
