"""Losses that predict the caption: cross-entropy over the vocabulary.

The logits over the vocabulary are the largest array of a predictive model. The losses therefore compute them from the
states, all at once or a few rows at a time, and never keep them for the backward pass.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec

from clip_jax.distributed.mesh import BATCH_AXES

if TYPE_CHECKING:
    from jaxtyping import Array, Float, Int

Head = tuple[jax.Array, jax.Array | None]  # kernel [D, V], bias [V] or None


def caption_loss(logits: Float[Array, "b t v"], labels: Int[Array, "b t"], pad_id: int = 0) -> Float[Array, ""]:
    """Compute CoCa's captioning loss (Yu et al., 2022): mean cross-entropy over non-padding tokens, nats [].

    Args:
      logits: [B, T, V]; row t predicts ``labels[:, t]``, so labels are the tokens shifted by one.
      labels: int32 [B, T].
      pad_id: the label that is ignored. A batch with no other label gives 0.
    """
    wide = logits.astype(jnp.promote_types(jnp.float32, logits.dtype))
    picked = jnp.take_along_axis(jax.nn.log_softmax(wide, axis=-1), labels[..., None], axis=-1)[..., 0]
    counts = (labels != pad_id).astype(wide.dtype)
    return -jnp.sum(picked * counts) / jnp.maximum(jnp.sum(counts), 1)


def log_softmax_rows(states: Float[Array, "*rows d"], head: Head) -> Float[Array, "*rows v"]:
    """Compute log-probabilities over the vocabulary from states, [..., D] -> [..., V], float32 or wider."""
    kernel, bias = head
    logits = jnp.matmul(states, kernel, preferred_element_type=jnp.promote_types(jnp.float32, states.dtype))
    if bias is not None:
        logits = logits + jnp.expand_dims(bias.astype(logits.dtype), tuple(range(logits.ndim - 1)))
    return jax.nn.log_softmax(logits, axis=-1)


def row_losses(
    states: Float[Array, "n d"], head: Head, labels: Int[Array, "n l"], weights: Float[Array, "n l"]
) -> Float[Array, " n"]:
    """Compute the weighted cross-entropy per row: states [N, D], labels int32 [N, L], weights [N, L] -> nats [N]."""
    picked = jnp.take_along_axis(log_softmax_rows(states, head), labels, axis=1)
    return -jnp.sum(weights.astype(picked.dtype) * picked, axis=1)


def chunked_row_losses(
    states: Float[Array, "n d"], head: Head, labels: Int[Array, "n l"], weights: Float[Array, "n l"], chunk: int
) -> Float[Array, " n"]:
    """Compute `row_losses` with the logits of ``chunk`` rows in memory at a time, recomputed in the backward pass."""
    rows = len(states)
    chunk = min(chunk, rows)
    missing = -rows % chunk

    def split(x: jax.Array) -> jax.Array:
        padded = jnp.pad(x, ((0, missing), *((0, 0),) * (x.ndim - 1)))  # rows of weight 0
        return padded.reshape(-1, chunk, *x.shape[1:])

    chunk_losses = jax.checkpoint(lambda part: row_losses(part[0], head, part[1], part[2]), prevent_cse=False)
    return jax.lax.map(chunk_losses, (split(states), split(labels), split(weights))).reshape(-1)[:rows]


def vocabulary_loss(
    states: Float[Array, "b r d"],
    head: Head,
    labels: Int[Array, "b r l"],
    weights: Float[Array, "b r l"],
    *,
    mesh: Mesh,
    chunk: int = 0,
) -> Float[Array, ""]:
    """Compute the weighted mean cross-entropy over the *global* batch, nats []; 0 if all weights are 0.

    Each token of a caption has weight 1, so the mean is over all tokens of the batch; the words of a bag share a weight
    of 1, so the mean is over the captions with words. Each device computes the logits of its own pairs only.

    Args:
      states, labels, weights: [B, R, D], int32 [B, R, L], float [B, R, L], split over the mesh by pairs.
      head: kernel [D, V] and bias [V] (or None), replicated on every device.
      mesh: the devices.
      chunk: rows of logits that a device computes at a time; 0 computes all.
    """

    def local(states: jax.Array, head: Head, labels: jax.Array, weights: jax.Array) -> tuple[jax.Array, jax.Array]:
        rows, row_labels, row_weights = (x.reshape(-1, x.shape[-1]) for x in (states, labels, weights))
        if chunk:
            return jnp.sum(chunked_row_losses(rows, head, row_labels, row_weights, chunk)), jnp.sum(weights)
        return jnp.sum(row_losses(rows, head, row_labels, row_weights)), jnp.sum(weights)

    def of_device(states: jax.Array, head: Head, labels: jax.Array, weights: jax.Array) -> tuple[jax.Array, jax.Array]:
        return jax.lax.psum(local(states, head, labels, weights), BATCH_AXES)

    split, whole = PartitionSpec(BATCH_AXES), PartitionSpec()
    sharded = jax.shard_map(of_device, mesh=mesh, in_specs=(split, whole, split, split), out_specs=whole)
    total, count = (local if mesh.size == 1 else sharded)(states, head, labels, weights)
    return total / jnp.maximum(count, 1)
