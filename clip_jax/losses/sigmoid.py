"""The sigmoid loss (Zhai et al., 2023, SigLIP): a binary classification of every image-text pair of the batch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from clip_jax.losses.ring import Axis, pairwise_softplus, sharded_loss

if TYPE_CHECKING:
    from jaxtyping import Array, Float


def dense_sigmoid_loss(
    image: Float[Array, "b e"], text: Float[Array, "b e"], logit_scale: Float[Array, ""], logit_bias: Float[Array, ""]
) -> Float[Array, ""]:
    """Compute the reference sigmoid loss, forming the whole [B, B] matrix of logits on every device.

    Args:
      image, text: embeddings [B, E] of unit length.
      logit_scale, logit_bias: [].

    Returns:
      The sum over all pairs divided by B, in nats, [].
    """
    logits = logit_scale * (image @ text.T) + logit_bias
    signs = 2 * jnp.eye(len(image), dtype=logits.dtype) - 1
    return -jnp.sum(jax.nn.log_sigmoid(signs * logits)) / len(image)


def gathered_sigmoid_loss(
    image: Float[Array, "b e"],
    text: Float[Array, "b e"],
    logit_scale: Float[Array, ""],
    logit_bias: Float[Array, ""],
    *,
    mesh: Mesh,
) -> Float[Array, ""]:
    """Compute `dense_sigmoid_loss` with each device gathering the texts and forming its [B/devices, B] rows.

    Args:
      image, text: embeddings [B, E] of unit length, split over all axes of ``mesh``.
      logit_scale, logit_bias: [].
      mesh: the devices.

    Returns:
      The loss over the global batch in nats, [].
    """

    def local(image: jax.Array, text: jax.Array, scale: jax.Array, bias: jax.Array) -> jax.Array:
        logits = scale * (image @ jax.lax.all_gather(text, mesh.axis_names, tiled=True).T) + bias
        positives = scale * jnp.sum(image * text, axis=-1) + bias
        return jax.lax.pmean(jnp.mean(jnp.sum(jax.nn.softplus(logits), axis=1) - positives), mesh.axis_names)

    return sharded_loss(local, mesh, image, text, logit_scale, logit_bias)


def ring_sigmoid_loss(
    image: Float[Array, "b e"],
    text: Float[Array, "b e"],
    logit_scale: Float[Array, ""],
    logit_bias: Float[Array, ""],
    *,
    mesh: Mesh,
    chunk: int = 256,
) -> Float[Array, ""]:
    """Compute `dense_sigmoid_loss` with texts passed around the ring and ``chunk`` rows of logits in memory at a time.

    With z the logit of a matching pair, -log σ(z) = softplus(-z) = softplus(z) - z. So all pairs are summed as
    negatives, and the logits of the diagonal are subtracted.

    Args:
      image, text: embeddings [B, E] of unit length, split over all axes of ``mesh``.
      logit_scale, logit_bias: [].
      mesh: the devices.
      chunk: rows of logits that a device holds at once.

    Returns:
      The loss over the global batch in nats, [].
    """

    def local(
        image: jax.Array, text: jax.Array, scale: jax.Array, bias: jax.Array, axis: Axis = mesh.axis_names
    ) -> jax.Array:
        positives = scale * jnp.sum(image * text, axis=-1) + bias
        mean = jnp.mean(pairwise_softplus(image, text, scale, bias, chunk=chunk, axis=axis) - positives)
        return mean if axis is None else jax.lax.pmean(mean, axis)

    if mesh.size == 1:
        return local(image, text, logit_scale, logit_bias, None)
    return sharded_loss(local, mesh, image, text, logit_scale, logit_bias)
