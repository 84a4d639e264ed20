"""Losses that predict the caption."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def caption_loss(logits: jax.Array, labels: jax.Array, pad_id: int = 0) -> jax.Array:
    """CoCa's captioning loss (Yu et al., 2022): mean cross-entropy over the tokens that are no padding, nats [].

    Args:
      logits: [B, T, V]; row t predicts ``labels[:, t]``, so labels are the tokens shifted by one.
      labels: int32 [B, T].
      pad_id: the label that does not count. A batch of nothing else gives 0.
    """
    wide = logits.astype(jnp.promote_types(jnp.float32, logits.dtype))
    picked = jnp.take_along_axis(jax.nn.log_softmax(wide, axis=-1), labels[..., None], axis=-1)[..., 0]
    counts = (labels != pad_id).astype(wide.dtype)
    return -jnp.sum(picked * counts) / jnp.maximum(jnp.sum(counts), 1)
