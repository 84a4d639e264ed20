"""The sigmoid loss (Zhai et al., 2023, SigLIP): every pair of the batch is a yes-or-no question of its own."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec

from clip_jax.losses.ring import Axis, pairwise_softplus


def dense_sigmoid_loss(image: jax.Array, text: jax.Array, logit_scale: jax.Array, logit_bias: jax.Array) -> jax.Array:
    """The reference: embeddings [B, E] of unit length, scale [], bias [] -> the sum over all pairs over B, nats []."""
    logits = logit_scale * (image @ text.T) + logit_bias
    signs = 2 * jnp.eye(len(image), dtype=logits.dtype) - 1
    return -jnp.sum(jax.nn.log_sigmoid(signs * logits)) / len(image)


def gathered_sigmoid_loss(
    image: jax.Array, text: jax.Array, logit_scale: jax.Array, logit_bias: jax.Array, *, mesh: Mesh
) -> jax.Array:
    """Equal to `dense_sigmoid_loss`; each device gathers the texts and forms its own [B/devices, B] rows."""

    def local(image: jax.Array, text: jax.Array, scale: jax.Array, bias: jax.Array) -> jax.Array:
        logits = scale * (image @ jax.lax.all_gather(text, mesh.axis_names, tiled=True).T) + bias
        own = scale * jnp.sum(image * text, axis=-1) + bias
        return jax.lax.pmean(jnp.mean(jnp.sum(jax.nn.softplus(logits), axis=1) - own), mesh.axis_names)

    split, whole = PartitionSpec(mesh.axis_names), PartitionSpec()
    sharded = jax.shard_map(local, mesh=mesh, in_specs=(split, split, whole, whole), out_specs=whole)
    return sharded(image, text, logit_scale, logit_bias)


def ring_sigmoid_loss(
    image: jax.Array, text: jax.Array, logit_scale: jax.Array, logit_bias: jax.Array, *, mesh: Mesh, chunk: int = 256
) -> jax.Array:
    """Equal to `dense_sigmoid_loss`; texts go round the ring, and a device holds ``chunk`` rows of one block at once.

    With z the logit of a true pair, -log σ(z) = softplus(z) - z: all pairs count as negatives, then the diagonal's
    logits are taken off.
    """

    def local(
        image: jax.Array, text: jax.Array, scale: jax.Array, bias: jax.Array, axis: Axis = mesh.axis_names
    ) -> jax.Array:
        own = scale * jnp.sum(image * text, axis=-1) + bias
        mean = jnp.mean(pairwise_softplus(image, text, scale, bias, chunk=chunk, axis=axis) - own)
        return mean if axis is None else jax.lax.pmean(mean, axis)

    if mesh.size == 1:
        return local(image, text, logit_scale, logit_bias, None)
    split, whole = PartitionSpec(mesh.axis_names), PartitionSpec()
    sharded = jax.shard_map(local, mesh=mesh, in_specs=(split, split, whole, whole), out_specs=whole)
    return sharded(image, text, logit_scale, logit_bias)
