"""The sigmoid loss (Zhai et al., 2023, SigLIP): every pair of the batch is a yes-or-no question of its own."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec

from clip_jax.parallel import BATCH_AXES


def dense_sigmoid_loss(image: jax.Array, text: jax.Array, logit_scale: jax.Array, logit_bias: jax.Array) -> jax.Array:
    """The reference: embeddings [B, E] of unit length, scale [], bias [] -> the sum over all pairs over B, nats []."""
    logits = logit_scale * (image @ text.T) + logit_bias
    signs = 2 * jnp.eye(len(image), dtype=logits.dtype) - 1
    return -jnp.sum(jax.nn.log_sigmoid(signs * logits)) / len(image)


def sharded_sigmoid_loss(
    image: jax.Array, text: jax.Array, logit_scale: jax.Array, logit_bias: jax.Array, *, mesh: Mesh
) -> jax.Array:
    """Equal to `dense_sigmoid_loss`; texts go round the ring of devices, so that each forms one [B/n, B/n] block at a
    time and nothing is gathered."""

    def local(image: jax.Array, text: jax.Array, scale: jax.Array, bias: jax.Array) -> jax.Array:
        mine, count = image.shape[0], jax.lax.axis_size(BATCH_AXES)
        ring = [(i, (i + 1) % count) for i in range(count)]

        def negatives(text: jax.Array) -> jax.Array:
            return -jnp.sum(jax.nn.log_sigmoid(-(scale * (image @ text.T) + bias)))

        own = scale * (image @ text.T) + bias
        signs = 2 * jnp.eye(mine, dtype=own.dtype) - 1
        total = -jnp.sum(jax.nn.log_sigmoid(signs * own))

        def turn(carry: tuple[jax.Array, jax.Array], _: None) -> tuple[tuple[jax.Array, jax.Array], None]:
            text, total = carry
            text = jax.lax.ppermute(text, BATCH_AXES, ring)
            return (text, total + jax.checkpoint(negatives)(text)), None

        (_, total), _ = jax.lax.scan(turn, (text, total), None, length=count - 1)
        return jax.lax.psum(total, BATCH_AXES) / (mine * count)

    if mesh.size == 1:
        return dense_sigmoid_loss(image, text, logit_scale, logit_bias)
    split, whole = PartitionSpec(BATCH_AXES), PartitionSpec()
    sharded = jax.shard_map(local, mesh=mesh, in_specs=(split, split, whole, whole), out_specs=whole)
    return sharded(image, text, logit_scale, logit_bias)
