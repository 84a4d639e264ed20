"""The softmax contrastive loss (InfoNCE; van den Oord et al., 2018; Radford et al., 2021, figure 3).

Every pair of the *global* batch is a negative of every other one, however many devices the batch is sharded over. Three
implementations give the same value: dense (the reference), gathered, and ring.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from clip_jax.losses.ring import Axis, pairwise_logsumexp, sharded_loss

if TYPE_CHECKING:
    from jaxtyping import Array, Float


def dense_contrastive_loss(
    image: Float[Array, "b e"], text: Float[Array, "b e"], logit_scale: Float[Array, ""]
) -> Float[Array, ""]:
    """Compute the reference contrastive loss, forming the whole [B, B] matrix of logits on every device.

    Args:
      image, text: embeddings [B, E] of unit length.
      logit_scale: [].

    Returns:
      The mean of both directions in nats, [].
    """
    logits = logit_scale * (image @ text.T)
    positives = jnp.diagonal(logits)
    rows, columns = (jax.nn.logsumexp(logits, axis=axis) for axis in (1, 0))
    return jnp.mean((rows + columns) / 2 - positives)


def gathered_contrastive_loss(
    image: Float[Array, "b e"], text: Float[Array, "b e"], logit_scale: Float[Array, ""], *, mesh: Mesh
) -> Float[Array, ""]:
    """Compute `dense_contrastive_loss` with each device forming only its [B/devices, B] rows and columns.

    The other side's embeddings are gathered, B·E numbers per device.

    Args:
      image, text: embeddings [B, E] of unit length, split over all axes of ``mesh``.
      logit_scale: [].
      mesh: the devices.

    Returns:
      The loss over the global batch in nats, [].
    """

    def local(image: jax.Array, text: jax.Array, scale: jax.Array) -> jax.Array:
        positives = scale * jnp.sum(image * text, axis=-1)
        all_image, all_text = (jax.lax.all_gather(x, mesh.axis_names, tiled=True) for x in (image, text))
        rows = jax.nn.logsumexp(scale * (image @ all_text.T), axis=1)
        columns = jax.nn.logsumexp(scale * (text @ all_image.T), axis=1)
        return jax.lax.pmean(jnp.mean((rows + columns) / 2 - positives), mesh.axis_names)

    return sharded_loss(local, mesh, image, text, logit_scale)


def ring_contrastive_loss(
    image: Float[Array, "b e"],
    text: Float[Array, "b e"],
    logit_scale: Float[Array, ""],
    *,
    mesh: Mesh,
    chunk: int = 256,
) -> Float[Array, ""]:
    """Compute `dense_contrastive_loss` with ``chunk`` rows of one [B/devices, B/devices] block in memory at a time.

    Texts are passed around the ring of devices in the forward pass and again in the backward pass, B/devices·E numbers
    per step; nothing is gathered and no logits are kept.

    Args:
      image, text: embeddings [B, E] of unit length, split over all axes of ``mesh``, ``tensor`` included.
      logit_scale: [].
      mesh: the devices.
      chunk: rows of logits that a device holds at once.

    Returns:
      The loss over the global batch in nats, [].
    """

    def local(image: jax.Array, text: jax.Array, scale: jax.Array, axis: Axis = mesh.axis_names) -> jax.Array:
        rows, columns = pairwise_logsumexp(image, text, scale, chunk=chunk, axis=axis)
        positives = scale * jnp.sum(image * text, axis=-1)
        mean = jnp.mean((rows + columns) / 2 - positives)
        return mean if axis is None else jax.lax.pmean(mean, axis)

    if mesh.size == 1:
        return local(image, text, logit_scale, None)
    return sharded_loss(local, mesh, image, text, logit_scale)
