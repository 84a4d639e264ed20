"""Losses that predict the caption: cross-entropy over the vocabulary.

The vocabulary's logits are the largest array of a predictive model, so the losses here form them from the states
themselves: all at once, or a few rows at a time, never keeping them for the backward pass.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec

from clip_jax.distributed.mesh import BATCH_AXES

Head = tuple[jax.Array, jax.Array | None]  # kernel [D, V], bias [V] or None


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


def log_softmax_rows(states: jax.Array, head: Head) -> jax.Array:
    """States [..., D] -> log-probabilities over the vocabulary [..., V], float32 or more."""
    kernel, bias = head
    logits = jnp.matmul(states, kernel, preferred_element_type=jnp.promote_types(jnp.float32, states.dtype))
    if bias is not None:
        logits = logits + jnp.expand_dims(bias.astype(logits.dtype), tuple(range(logits.ndim - 1)))
    return jax.nn.log_softmax(logits, axis=-1)


def row_losses(states: jax.Array, head: Head, labels: jax.Array, weights: jax.Array) -> jax.Array:
    """Weighted cross-entropy of each row: states [N, D], labels int32 [N, L], weights [N, L] -> nats [N]."""
    picked = jnp.take_along_axis(log_softmax_rows(states, head), labels, axis=1)
    return -jnp.sum(weights.astype(picked.dtype) * picked, axis=1)


def chunked_row_losses(states: jax.Array, head: Head, labels: jax.Array, weights: jax.Array, chunk: int) -> jax.Array:
    """Equal to `row_losses`; the logits of ``chunk`` rows exist at a time, formed again in the backward pass."""
    rows = len(states)
    chunk = min(chunk, rows)
    missing = -rows % chunk

    def split(x: jax.Array) -> jax.Array:
        padded = jnp.pad(x, ((0, missing), *((0, 0),) * (x.ndim - 1)))  # rows of weight 0
        return padded.reshape(-1, chunk, *x.shape[1:])

    one = jax.checkpoint(lambda part: row_losses(part[0], head, part[1], part[2]), prevent_cse=False)
    return jax.lax.map(one, (split(states), split(labels), split(weights))).reshape(-1)[:rows]


def vocabulary_loss(
    states: jax.Array, head: Head, labels: jax.Array, weights: jax.Array, *, mesh: Mesh, chunk: int = 0
) -> jax.Array:
    """Weighted mean cross-entropy over the *global* batch, nats []; 0 when nothing counts.

    A caption's tokens count 1 each, so that the mean is over all tokens of the batch; the words of a bag share 1, so
    that it is over the captions with words. Each device forms the logits of its own pairs only.

    Args:
      states, labels, weights: [B, R, D], int32 [B, R, L], float [B, R, L], split over the mesh by pairs.
      head: kernel and bias, whole on every device.
      chunk: rows of logits formed at a time on a device; 0 forms all.
    """

    def local(states: jax.Array, head: Head, labels: jax.Array, weights: jax.Array) -> tuple[jax.Array, jax.Array]:
        rows, of_rows, counts = (x.reshape(-1, x.shape[-1]) for x in (states, labels, weights))
        if chunk:
            return jnp.sum(chunked_row_losses(rows, head, of_rows, counts, chunk)), jnp.sum(weights)
        return jnp.sum(row_losses(rows, head, of_rows, counts)), jnp.sum(weights)

    def of_device(states: jax.Array, head: Head, labels: jax.Array, weights: jax.Array) -> tuple[jax.Array, jax.Array]:
        return jax.lax.psum(local(states, head, labels, weights), BATCH_AXES)

    split, whole = PartitionSpec(BATCH_AXES), PartitionSpec()
    sharded = jax.shard_map(of_device, mesh=mesh, in_specs=(split, whole, split, split), out_specs=whole)
    total, count = (local if mesh.size == 1 else sharded)(states, head, labels, weights)
    return total / jnp.maximum(count, 1)
